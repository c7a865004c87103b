"""The report of a ceremony: one HTML file, to be read on a screen, printed, and signed by hand.

It is made of the transcript alone and of what verifying it has found, and fetches nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, Final

from cli.ceremony.qr import qr_svg
from infra.errors import Failure, Rejected, Unavailable
from pki.ceremony.acts import act_of
from pki.ceremony.decoded import moment
from pki.ceremony.desk import Shown
from pki.ceremony.people_acts import fingerprint
from pki.ceremony.replay import Replay
from pki.ceremony.script import Script, step_name
from pki.ceremony.text import name_of_fact, say
from pki.ceremony.transcript import Entry, Kind
from pki.ceremony.verify import Verdict
from pki.ceremony.words import in_groups

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")

_REHEARSAL: Final = "THIS IS A REHEARSAL: its keys and certificates are worthless."
_DIGITS: Final = re.compile(r"[0-9A-Fa-f ]{16,}")

_STYLE: Final = """
:root { --ink: #16202c; --soft: #56677a; --line: #cfd8e1; --good: #0b6b42; --bad: #a3201a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 50rem; padding: 2.5rem 1.5rem; color: var(--ink);
  font: 15px/1.5 "Noto Sans", "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC",
  "Microsoft YaHei", system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 2px solid var(--ink);
  font-size: 1.2rem; }
h3 { margin: 1.5rem 0 .4rem; font-size: 1rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.rehearsal { border: 3px solid var(--bad); color: var(--bad); padding: .6rem 1rem;
  font-weight: 700; text-align: center; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-size: .85rem; color: var(--soft); font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem;
  margin: .3rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
dl { align-items: baseline; }
.mono, dd.mono { font-family: "Noto Sans Mono", ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: .85em; }
.role { white-space: nowrap; }
.sign .role { width: 18%; } .sign .date { width: 18%; } .sign .hand { width: 38%; }
.seal { display: flex; gap: 1.25rem; align-items: flex-start; margin: .6rem 0; }
.seal svg { flex: none; border: 1px solid var(--line); }
.object, .seal, tr, dt, dd, p { break-inside: avoid; } h2, h3 { break-after: avoid; }
.sign td { height: 4.2rem; vertical-align: bottom; }
.sign td + td + td { border-left: 1px solid var(--line); padding-left: .8rem; }
:lang(zh) em { font-style: normal; font-weight: 600; }
@media print { body { padding: 0; max-width: none; font-size: 10pt; line-height: 1.4; }
  h2 { margin-top: 1.6rem; } h3 { margin-top: 1rem; }
  .page { break-before: page; } }
"""

# At the foot of each page, so that none can be exchanged unseen: how the head begins, which page.
_PAGES: Final = """
@page { size: A4; margin: 18mm 16mm 22mm; font: 8.5pt "Noto Sans", "Noto Sans CJK SC", sans-serif;
  @top-center { content: "%s"; color: #a3201a; font-weight: 700; }
  @bottom-left { content: "%s"; color: #56677a; }
  @bottom-right { content: counter(page) " / " counter(pages); color: #56677a; } }
"""


def report_html(verdict: Verdict, language: str) -> str:
    """The report in ``language``. What people were shown stays in the words that they saw."""
    told, script = verdict.told, verdict.told.script

    def words(text: str, **values: object) -> str:
        return escape(say(language, text, **values))

    title = script.title.of(language) if script is not None else say(language, "Key ceremony")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{words("Report of a key ceremony")}</p>',
        _rehearsal(told, language),
        _verdict(verdict, language),
    ]
    # Of entries that do not hold, nothing is told: they might say anything.
    if script is not None and all(found.entry < 0 for found in verdict.wrong):
        parts += [
            f"<h2>{words('Participants')}</h2>",
            _participants(verdict, language),
            _notes(verdict, language),
            f"<h2>{words('Certificates and revocation lists')}</h2>",
            *_objects(told, language),
            f"<h2>{words('Steps')}</h2>",
            *_steps(verdict, script, language),
        ]
    parts += [
        f'<h2 class="page">{words("Signatures")}</h2>',
        f"<p>{words('By hand, on the printed report: that it tells what happened.')}</p>",
        _signatures(told, language),
    ]
    body = "\n".join(parts)
    warning = say(language, _REHEARSAL) if told.rehearsal else ""
    head = (
        f"{say(language, 'Head of the transcript')}: {in_groups(bytes.fromhex(told.head))[:19]} …"
    )
    return (
        f'<!doctype html>\n<html lang="{"zh-Hans" if language == "zh" else "en"}">'
        f'<head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}{_PAGES % (warning, head)}</style></head><body>\n{body}\n</body></html>\n"
    )


def _rehearsal(told: Replay, language: str) -> str:
    if not told.rehearsal:
        return ""
    text = say(language, _REHEARSAL)
    return f'<p class="rehearsal">{escape(text)}</p>'


def _verdict(verdict: Verdict, language: str) -> str:
    told = verdict.told
    begun, ended = verdict.entries[:1], verdict.entries[-1:]
    times = [moment(entry.at) for entry in (*begun, *ended)]
    rows: Shown = [
        [say(language, "from"), times[0] if times else ""],
        [say(language, "to"), times[-1] if times else ""],
        [say(language, "entries"), str(len(verdict.entries))],
    ]
    facts = told.begun.get("facts", {})
    rows += [
        [name_of_fact(language, name), str(value)]
        for name, value in facts.items()
        if name != "time"
    ]
    if verdict.good:
        good = say(language, "The transcript was verified: it is whole and unaltered.")
        state = f'<p class="good">{escape(good)}</p>'
    else:
        state = (
            f'<p class="bad">{escape(say(language, "The transcript does NOT verify."))}</p><ul>'
            + "".join(
                f"<li>{escape(found.code)}: {escape(found.detail)} ({found.entry})</li>"
                for found in verdict.wrong[:50]
            )
            + "</ul>"
        )
    head = _seal(bytes.fromhex(told.head), say(language, "Head of the transcript"), language)
    return f"{_fields(rows)}{state}{head}"


def _participants(verdict: Verdict, language: str) -> str:
    head = "".join(
        f"<th>{escape(say(language, text))}</th>"
        for text in ("role", "name", "key", "SHA-256 of the key")
    )
    rows = "".join(
        f'<tr><td class="role">{escape(say(language, f"role:{person.role.value}"))}</td>'
        f"<td>{escape(person.name)}</td>"
        f'<td class="role">{escape(say(language, f"way:{person.how}"))}</td>'
        f'<td class="mono">{hashlib.sha256(person.public_key_info).hexdigest()}</td></tr>'
        for person in verdict.told.state.people.values()
    )
    return f"<table><thead><tr>{head}</tr></thead>{rows}</table>"


def _notes(verdict: Verdict, language: str) -> str:
    rows = []
    for entry in verdict.entries:
        body = entry.body
        match entry.kind:
            case Kind.note:
                about = say(language, f"about:{body['about']}")
                name = _name(verdict.told, str(body["person"]))
                text = f"{about}, {name}: {body['text']}"
            case Kind.pause:
                text = say(language, "The ceremony was paused.")
            case Kind.resume:
                text = say(language, "The ceremony went on.")
            case _:
                continue
        rows.append(f"<tr><td>{moment(entry.at)}</td><td>{escape(text)}</td></tr>")
    heading = f"<h2>{escape(say(language, 'Comments, deviations, interruptions'))}</h2>"
    if not rows:
        return f"{heading}<p>{escape(say(language, 'None.'))}</p>"
    return f"{heading}<table>{''.join(rows)}</table>"


def _objects(told: Replay, language: str) -> Iterator[str]:
    """Each file that people may compare years later: its fingerprint, in words and as QR."""
    for name, content in told.state.files.items():
        if name.endswith(".pem"):
            continue  # the same certificate in another coat
        digest = hashlib.sha256(content).digest()
        yield f'<div class="object"><h3>{escape(name)}</h3>{_seal(digest, "", language)}</div>'
    if not told.state.files:
        yield f"<p>{escape(say(language, 'None.'))}</p>"


def _steps(verdict: Verdict, script: Script, language: str) -> Iterator[str]:
    told = verdict.told
    entries = list(verdict.entries)
    shown = _translated(entries, language) if language != told.language else {}
    for number, step in enumerate(script.step):
        title = say(language, f"act:{step_name(step)}")
        intend = _find(entries, Kind.intend, number)
        yield f'<section class="step"><h3>{number + 1}. {escape(title)}</h3>'
        if step.say is not None:
            yield f"<p><em>{escape(step.say.of(language))}</em></p>"
        if intend is None:
            yield f'<p class="bad">{escape(say(language, "Not done."))}</p></section>'
            continue
        yield _fields(shown.get(intend.number, intend.body.get("shown", ())))
        confirmed = [
            f"{_name(told, str(entry.body['person']))} ({entry.at:%H:%M:%S})"
            for entry in entries
            if entry.kind is Kind.confirm and entry.body.get("step") == number
        ]
        if confirmed:
            yield f"<p>{escape(say(language, 'confirmed by'))}: {escape(', '.join(confirmed))}</p>"
        done = _find(entries, Kind.done, number)
        if done is not None:
            yield f'<p class="soft">{escape(say(language, "done"))}: {moment(done.at)}</p>'
            yield _opened(entries, intend.number, done.number, language)
        yield "</section>"


def _translated(entries: Iterable[Entry], language: str) -> dict[int, Shown]:
    """What each step showed, in another language, by the number of its entry."""
    told, shown = Replay(), {}
    for entry in entries:
        if entry.kind is Kind.intend and told.script is not None:
            with suppress(Failure, KeyError, TypeError, ValueError):  # as far as it can be read
                step = told.current()
                shown[entry.number] = act_of(step).show(
                    step, entry.body["intent"], told.state, language
                )
        told.feed(entry)
    return shown


def _opened(entries: Iterable[Entry], first: int, last: int, language: str) -> str:
    who = [
        f"{custodian} ({place})"
        for entry in entries
        if entry.kind is Kind.unlock and first < entry.number < last
        for place, custodian in entry.body["shares"]
    ]
    if not who:
        return ""
    return f"<p>{escape(say(language, 'opened by the shares of'))}: {escape(', '.join(who))}</p>"


def _signatures(told: Replay, language: str) -> str:
    columns = (("role", "role"), ("", "name"), ("date", "date"), ("hand", "signature"))
    head = "".join(f'<th class="{css}">{escape(say(language, text))}</th>' for css, text in columns)
    rows = "".join(
        f'<tr><td class="role">{escape(say(language, f"role:{person.role.value}"))}</td>'
        f"<td>{escape(person.name)}</td><td></td><td></td></tr>"
        for person in told.state.people.values()
    )
    return f'<table class="sign"><thead><tr>{head}</tr></thead>{rows}</table>'


def _seal(digest: bytes, title: str, language: str) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    qr = qr_svg(f"sha256:{digest.hex()}".encode(), "30mm")
    return (
        f'{heading}<div class="seal">{qr}<div>{_fields(fingerprint(digest, language))}</div></div>'
    )


def _fields(shown: Iterable[Any]) -> str:
    """Sentences as paragraphs, names and values as a list."""
    out: list[str] = []
    listed: list[str] = []
    for item in (*shown, None):
        if item is not None and len(item) == 2:
            mono = ' class="mono"' if _DIGITS.fullmatch(item[1]) else ""
            listed.append(f"<dt>{escape(item[0])}</dt><dd{mono}>{escape(item[1])}</dd>")
            continue
        if listed:
            out.append(f"<dl>{''.join(listed)}</dl>")
            listed = []
        if item is not None:
            out.append(f"<p>{escape(item[0])}</p>")
    return "".join(out)


def _find(entries: Iterable[Entry], kind: Kind, step: int) -> Entry | None:
    return next((e for e in entries if e.kind is kind and e.body.get("step") == step), None)


def _name(told: Replay, person: str) -> str:
    known: Mapping[str, Any] = told.state.people
    return str(known[person].name) if person in known else person


def report_pdf(page: str) -> bytes:
    """The same on paper of A4, laid out by Chromium, which is shown this page and no network.

    Errors: ``no-pdf-printer``, ``Unavailable("pdf-failed")``.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise Rejected(
            "no-pdf-printer",
            "a PDF is laid out by Chromium: install it, or write an .html file and print that",
        )
    with tempfile.TemporaryDirectory(prefix="ceremony-") as folder:
        source, target = Path(folder, "report.html"), Path(folder, "report.pdf")
        source.write_text(page)
        command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer",
                   "--proxy-server=127.0.0.1:9", f"--user-data-dir={folder}/profile",
                   f"--print-to-pdf={target}", source.as_uri()]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # it refuses root otherwise; the page is our own
        try:
            subprocess.run(command, capture_output=True, timeout=120, check=True)
            return target.read_bytes()
        except (subprocess.SubprocessError, OSError) as error:
            raise Unavailable(
                "pdf-failed", f"{browser} made no PDF; try again, or print an .html"
            ) from error
