"""The front page of a running instance: what there is, how it is, and where to go."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cli.output import counted
from infra.errors import Unavailable

if TYPE_CHECKING:
    from cli.service.parts import Instance

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #16202c; --soft: #5b6b7d; --line: #d8dfe7;
  --card: #ffffff; --back: #f3f6f9; --good: #0b7a4b; --bad: #b3261e; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7edf4; --soft: #9fb0c2; --line: #2f3b48;
  --card: #1a232d; --back: #10161d; --good: #4cc38a; --bad: #ff8a80; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.1rem; }
h3 { margin: 0 0 .75rem; font-size: 1rem; overflow-wrap: anywhere; }
p { margin: .25rem 0; color: var(--soft); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.1rem 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
a { color: var(--link); }
code, pre { font: .875rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1rem 1.25rem; overflow-x: auto; margin: 0; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .4rem .75rem .4rem 0; vertical-align: top; }
tr:first-child td { border-top: 0; }
td:first-child { white-space: nowrap; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'"
)


async def front_page(instance: Instance) -> web.Response:
    """The page, as HTML without scripts."""
    authorities = instance.hierarchy.authorities.items()
    amiss = [
        f"{what} {', '.join(failing)}"
        for what, failing in (
            ("no key for", instance.key_watch.failing),
            ("no new CRL for", instance.crls.failing),
            ("revoked:", [name for name, one in authorities if one.barred is not None]),
        )
        if failing
    ]
    state = (
        f'<span class="bad">{escape("; ".join(amiss))}</span>'
        if amiss
        else '<span class="good">in order</span>'
    )
    note = await instance.log.last_checkpoint()
    profiles = sorted(instance.profiles.values(), key=lambda profile: profile.name)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>DigitalID</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body><main>
<header><h1>DigitalID</h1><p>certificate authority, version {escape(instance.version)}, {state}</p>
</header>
<h2>Certificate authorities</h2>
<div class="cards">{"".join(_authority(instance, name) for name in instance.issuers)}</div>
<h2>Profiles</h2>
<div class="card"><table>{"".join(_row(p.name, p.description) for p in profiles)}</table></div>
<h2>Log</h2>
<p>{instance.log.size} acts. The newest checkpoint, for you to keep:</p>
<pre>{escape(note.decode()) if note else "none yet"}</pre>
<h2>Machines</h2>
<p>API under <code>/api/v1</code> with the operator's token; <a href="/api/v1/health">health</a>;
<a href="/metrics">metrics</a>.</p>
</main></body></html>"""
    return web.Response(
        text=page, content_type="text/html", headers={"Content-Security-Policy": _POLICY}
    )


def _authority(instance: Instance, name: str) -> str:
    issuer = instance.issuers[name]
    authority = instance.hierarchy.authorities[name]
    try:
        crl = instance.crls.of(name).series.current()
        entries = counted(crl.count, "entry", "entries")
        revocations = f"CRL {crl.number}, {entries}, until {_day(crl.next_update)}"
    except Unavailable as unavailable:
        revocations = unavailable.detail
    subject = instance.hierarchy.subject(name)
    links = " · ".join(
        f'<a href="{escape(url)}">{text}</a>'
        for text, url in (
            ("certificate", issuer.certificate_url),
            ("chain", issuer.certificate_url.removesuffix(".cer") + ".p7c"),
            ("CRL", issuer.crl_url),
        )
    )
    rows = [
        ("name", f"<code>{escape(name)}</code>"),
        ("key", escape(f"{authority.signer.key_type}, {authority.signer.algorithm.name}")),
        ("valid", f"{_day(issuer.not_before)} to {_day(issuer.not_after)}"),
        ("revocation", escape(revocations)),
        ("OCSP", f"<code>{escape(issuer.ocsp_url)}</code>"),
        ("download", links),
    ]
    if authority.barred is not None:
        why = f'<span class="bad">issues nothing more</span>: {escape(authority.barred)}'
        rows.append(("state", why))
    listed = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in rows)
    return f'<section class="card"><h3>{escape(subject)}</h3><dl>{listed}</dl></section>'


def _row(name: str, description: str) -> str:
    return f"<tr><td><code>{escape(name)}</code></td><td>{escape(description)}</td></tr>"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
