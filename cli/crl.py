"""``digitalid crl``: certificate revocation lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.output import Answer, Fields, Json, Line, Table
from infra.errors import Rejected
from pki.serial import format_serial


@click.group(cls=Group)
def crl() -> None:
    """Revocation lists: issue, show."""


@crl.command("issue")
@click.argument("name", metavar="[CA]", required=False)
@click.pass_obj
async def issue(session: Session, name: str | None) -> Answer:
    """Make a CRL now, for one CA or for all of them.

    One is made after each revocation and on schedule without being asked for.

    \b
    Example:
      digitalid crl issue issuing
    """
    from cli.client import segment

    made: list[dict[str, Any]] = []
    async with session.connect() as client:
        names = [name] if name else [a["name"] for a in await _authorities(client)]
        for each in names:
            made.append(await client.post(f"/authorities/{segment(each)}/crl"))  # noqa: PERF401
    lines = tuple(
        Line(
            f"{view['ca']}: CRL {view['number']} with {view['entries']} entries, "
            f"until {view['next_update']}."
        )
        for view in made
    )
    return Answer({"crls": made}, lines)


@crl.command("show")
@click.argument("which", metavar="[CA|FILE]", required=False)
@click.option("--entries", is_flag=True, help="List what is revoked, too.")
@click.pass_obj
async def show(session: Session, which: str | None, entries: bool) -> Answer:
    """The current CRL of a CA or of all of them, or one in a file.

    \b
    Example:
      digitalid crl show issuing --entries
    """
    from cli.client import segment

    if which and Path(which).is_file():
        views = [_described(files.read(Path(which), limit=64 << 20), which)]
    else:
        async with session.connect() as client:
            names = [which] if which else [a["name"] for a in await _authorities(client)]
            views = [await client.get(f"/authorities/{segment(name)}/crl") for name in names]
    blocks: list[Fields | Table | Line] = []
    for view in views:
        if entries:
            view["revoked"] = _entries(_load(view["pem"].encode(), str(view["ca"])))
        shown = ("ca", "issuer", "number", "this_update", "next_update", "entries", "size")
        rows = tuple(
            (name.replace("_", " "), str(view[name]))
            for name in shown
            if view.get(name) is not None
        )
        blocks.append(Fields((*rows, ("sha-256", str(view["sha256"])))))
        if entries and view["revoked"]:
            listed = tuple((e["serial"], e["revoked_at"], e["reason"]) for e in view["revoked"])
            blocks.append(Table(("SERIAL", "REVOKED AT", "REASON"), listed))
    return Answer({"crls": views}, tuple(blocks) or (Line("There is no CA yet."),))


async def _authorities(client: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/authorities"))["authorities"]
    return found


def _load(content: bytes, where: str) -> Any:
    from cryptography import x509

    try:
        if certificate.PEM_BEGIN in content:
            return x509.load_pem_x509_crl(content)
        return x509.load_der_x509_crl(content)
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-crl", f"{where}: no CRL in PEM or DER") from error


def _described(content: bytes, where: str) -> dict[str, Any]:
    """A CRL in a file, in the shape in which the instance shows its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    found = _load(content, where)
    try:
        extensions = found.extensions
        number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = None
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-crl", f"{where}: an extension cannot be read") from error
    following = found.next_update_utc
    return {
        "ca": where,
        "issuer": found.issuer.rfc4514_string(),
        "number": number,
        "this_update": certificate.text_of(found.last_update_utc),
        "next_update": None if following is None else certificate.text_of(following),
        "entries": len(found),
        "size": len(found.public_bytes(Encoding.DER)),
        "sha256": found.fingerprint(SHA256()).hex(),
        "pem": found.public_bytes(Encoding.PEM).decode(),
    }


def _entries(found: Any) -> list[dict[str, Json]]:
    from cryptography import x509

    out: list[dict[str, Json]] = []
    for entry in found:
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except x509.ExtensionNotFound:
            reason = "unspecified"
        out.append(
            {
                "serial": format_serial(entry.serial_number),
                "revoked_at": certificate.text_of(entry.revocation_date_utc),
                "reason": reason,
            }
        )
    return out
