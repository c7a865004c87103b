"""``digitalid ocsp``: ask a responder as a relying party does, and who serves what."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.follower import follower
from cli.ocsp_ca import ca
from cli.output import BAD, DONE, GOOD, NEGATIVE, Answer, Fields, Json, Line
from infra.errors import Rejected
from pki.serial import format_serial

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from cli.ocsp_client import Said

NONCE_OCTETS = 32
"""RFC 9654 §2.1: clients send 32."""


@click.group(cls=Group)
def ocsp() -> None:
    """OCSP: query; followers of the status feed; other CAs that are served."""


ocsp.add_command(follower)
ocsp.add_command(ca)


@ocsp.command("accept-restored")
@click.pass_obj
def accept_restored(session: Session) -> Answer:
    """On a validation authority: accept that its CA has another history now.

    It was restored from a backup, or its database is a copy. Since the validation authority has
    noticed, health says feed-restored, and what was revoked stays so, whatever the CA says.
    Revoke at the CA what it has lost; then this, and a restart or SIGHUP, makes the validation
    authority forget what it knew and take over what the CA knows.

    \b
    Example:
      digitalid --home /srv/va ocsp accept-restored \\
          && systemctl reload digitalid-va
    """
    from cli.service.validation import TABLE
    from cli.service.validation_source import accept_restored

    folder = (session.settings.home / TABLE).parent
    accept_restored(folder)
    return Answer(
        {"folder": str(folder)},
        (Line("Accepted. A validation authority that runs takes it in at SIGHUP."),),
        DONE,
    )


@ocsp.command("query")
@click.argument("which", metavar="CERT")
@click.option(
    "--issuer",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The certificate of its CA; else CERT's next one, else fetched from CERT's AIA URL.",
)
@click.option("--url", metavar="URL", help="The responder, instead of the one that CERT names.")
@click.option(
    "--nonce/--no-nonce",
    default=True,
    show_default=True,
    help="Ask for a fresh answer; without it, one made in advance will do.",
)
@click.option(
    "--hash",
    "hash_name",
    type=click.Choice(["sha1", "sha256"]),
    default="sha1",
    show_default=True,
    help="The hash that names the issuer; every responder knows sha1.",
)
@click.pass_obj
async def query(
    session: Session, which: str, issuer: Path | None, url: str | None, nonce: bool, hash_name: str
) -> Answer:
    """Ask whether a certificate (file or serial number) is good, over HTTP.

    The answer's signature, signer, times and nonce are checked. Exit code 1: it is revoked, on
    hold, or unknown.

    \b
    Example:
      digitalid ocsp query web.pem
    """
    from cli import fetch
    from cli.ocsp_client import check, request_for
    from cli.progress import working

    asked, chain = await _certificates(session, which)
    with working("asking the responder"):
        above = certificate.read(issuer) if issuer else await issuer_of(asked, chain)
        responder = url or _responder(asked, which)
        session.note(f"asking {responder}")
        fresh = os.urandom(NONCE_OCTETS) if nonce else None
        request = request_for(asked, above, hash_name, fresh)
        content = await fetch.ocsp(responder, request)
        said = await check(content, request, asked, above, fresh, datetime.now(UTC))
    return _answer(asked, responder, said)


async def issuer_of(asked: Certificate, others: list[Certificate]) -> Certificate:
    """The certificate of the CA whose key signed ``asked``: one of ``others``, or what ``asked``
    points to. Errors: ``Rejected("no-issuer")`` and those of ``fetch.get``."""
    from cli import fetch

    for candidate in others:
        if _signed(asked, candidate):
            return candidate
    for url in access(asked, "1.3.6.1.5.5.7.48.2"):
        found = certificate.load(await fetch.get(url, limit=fetch.MAX_CERTIFICATE), url)
        if _signed(asked, found):
            return found
    raise Rejected("no-issuer", "the certificate of its CA is not known; name it with --issuer")


def access(asked: Certificate, method: str) -> list[str]:
    """The URLs of one access method, as its dotted OID (RFC 5280 §4.2.2.1)."""
    from cryptography import x509

    try:
        found = asked.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    return [
        description.access_location.value
        for description in found
        if description.access_method.dotted_string == method
        and isinstance(description.access_location, x509.UniformResourceIdentifier)
    ]


async def _certificates(session: Session, which: str) -> tuple[Certificate, list[Certificate]]:
    """The certificate that is asked about, and those that came with it."""
    from cryptography import x509

    if Path(which).is_file():
        content = files.read(Path(which), limit=certificate.MAX_CERTIFICATE)
        asked = certificate.load(content, which)
        if content.count(certificate.PEM_BEGIN + b"CERTIFICATE-----") < 2:
            return asked, []
        try:
            return asked, x509.load_pem_x509_certificates(content)[1:]
        except ValueError as error:
            raise Rejected("bad-certificate", f"{which}: not all of it is PEM") from error
    async with session.connect() as client:
        located = await certificate.locate(client, which, None)
        view = await client.get(located.path, located.query)
        authority = await client.get(f"/authorities/{view['ca']}")
    return certificate.load(view["pem"].encode(), which), [
        certificate.load(authority["pem"].encode(), str(view["ca"]))
    ]


def _responder(asked: Certificate, which: str) -> str:
    urls = access(asked, "1.3.6.1.5.5.7.48.1")
    if not urls:
        raise Rejected("no-responder", f"{which} names no OCSP responder; name one with --url")
    return urls[0]


def _signed(asked: Certificate, candidate: Certificate) -> bool:
    try:
        asked.verify_directly_issued_by(candidate)
    except Exception:  # a bad signature, another name, an algorithm that is not known
        return False
    return True


def _answer(asked: Certificate, url: str, said: Said) -> Answer:
    document: dict[str, Json] = {
        name: certificate.text_of(value) if isinstance(value, datetime) else value
        for name, value in asdict(said).items()
    }
    document |= {"serial": format_serial(asked.serial_number), "url": url}
    held = said.reason == "certificateHold"
    word = "on hold" if held else said.status
    meaning = {
        "good": "The CA issued it and has not revoked it.",
        "revoked": f"Do not rely on it since {document['revoked_at']}.",
        "unknown": "The responder does not know it: do not rely on it.",
    }[said.status]
    good = said.status == "good"
    nonce = {
        "echoed": "echoed: the answer was made for this question",
        "absent": "absent: the answer was made in advance",
        "not asked": "",
    }[said.nonce]
    rows = (
        ("reason", said.reason or ""),
        ("this update", str(document["this_update"])),
        ("next update", str(document["next_update"] or "")),
        ("produced at", str(document["produced_at"])),
        ("signed by", said.responder),
        ("", "delegated by the CA" if said.delegated else "the CA itself"),
        ("signature", f"{said.signature_algorithm}, verified"),
        ("nonce", nonce),
        ("responder", url),
    )
    verdict = Line(f"{word[0].upper()}{word[1:]}. {meaning}", GOOD if good else BAD)
    return Answer(document, (verdict, Fields(rows)), DONE if good else NEGATIVE)
