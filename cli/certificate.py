"""Certificates as commands take them, a serial number or a file, and as they show them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from cli import files
from cli.output import BAD, GOOD, WARNING, Block, Fields, Line
from infra.errors import Rejected
from pki.serial import format_serial
from pki.status import REVOCATION_REASONS

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from cli.client import ApiClient, Reply

MAX_CERTIFICATE: Final = 64 * 1024
SERIAL: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F:]{1,80}")
PEM_BEGIN: Final = b"-----BEGIN "

TONES: Final = {"good": GOOD, "revoked": BAD, "hold": WARNING, "expired": WARNING}


@dataclass(frozen=True, slots=True)
class Located:
    """A certificate at the instance: its path in the API, and the CA that issued it."""

    path: str
    ca: str | None

    @property
    def query(self) -> dict[str, str | None]:
        return {"ca": self.ca}


class Moment(click.ParamType[datetime]):
    """A time as an option takes it: RFC 3339, UTC where no zone is named; a date is its start."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            at = datetime.fromisoformat(value)
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time like 2026-11-22T18:00:00Z or 2026-11-22", param, ctx
            )


MOMENT: Final = Moment()


class Reason(click.ParamType[str]):
    """Why a certificate is revoked, as RFC 5280 §5.3.1 spells it, in any case."""

    name = "REASON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = [reason for reason in REASONS if reason.lower() == str(value).lower()]
        if not found:
            self.fail(f"{value!r} is none of {', '.join(REASONS)}", param, ctx)
        return found[0]

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"It is one of {', '.join(REASONS)}."

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        given = incomplete.lower()
        return [CompletionItem(name) for name in REASONS if name.lower().startswith(given)]


FILE: Final = click.Path(path_type=Path, allow_dash=True)
REASONS: Final = [reason.name for reason in REVOCATION_REASONS]
REASON: Final = Reason()

ca_option = click.option("--ca", metavar="NAME", help="The CA that issued it.")


def text_of(at: datetime) -> str:
    """A time in UTC as RFC 3339 writes it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def all_der(content: bytes, where: str) -> list[bytes]:
    """Every certificate that PEM holds, DER. Errors: ``Rejected("bad-certificate")``."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(content)]
    except ValueError as error:
        raise Rejected("bad-certificate", f"{where} holds no certificates in PEM") from error


def load(content: bytes, where: str) -> Certificate:
    """The one certificate, or the first of several, that PEM or DER holds.
    Errors: ``Rejected("bad-certificate")``, which names ``where``."""
    from cryptography import x509

    try:
        if PEM_BEGIN in content:
            found = x509.load_pem_x509_certificate(content)
        else:
            found = x509.load_der_x509_certificate(content)
        # Read now what is read later: the library looks into names and extensions only then.
        _ = found.subject, found.issuer, found.extensions, found.serial_number
        _ = found.not_valid_before_utc, found.not_valid_after_utc
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-certificate", f"{where}: no certificate in PEM or DER") from error
    return found


def read(path: Path) -> Certificate:
    """The certificate in a file. Errors: ``cannot-read``, ``too-large``, ``bad-certificate``."""
    return load(files.read(path, limit=MAX_CERTIFICATE), str(path))


async def locate(client: ApiClient, named: str, ca: str | None) -> Located:
    """Find out what ``SERIAL|FILE`` means: a file that exists is read as a certificate, and must
    be the very one that the instance issued; anything else is a serial number.

    Errors: ``no-such-file``, ``no-such-certificate``, ``bad-certificate``, ``bad-serial`` and those
    of the API.
    """
    from cli.client import segment

    if not Path(named).is_file():
        if not SERIAL.fullmatch(named):
            raise Rejected(
                "no-such-file",
                f"{named}: no file of that name, and no serial number in hexadecimal",
            )
        return Located(f"/certificates/{segment(named)}", ca)
    from cryptography.hazmat.primitives.hashes import SHA256

    certificate = read(Path(named))
    issuer = certificate.issuer.public_bytes()
    for authority in (await client.get("/authorities"))["authorities"]:
        if load(authority["pem"].encode(), authority["name"]).subject.public_bytes() == issuer:
            serial = format_serial(certificate.serial_number)
            located = Located(f"/certificates/{serial}", authority["name"])
            view = await client.get(located.path, located.query)
            # Serial numbers are anybody's to choose: only the whole certificate tells.
            if view.get("sha256") == certificate.fingerprint(SHA256()).hex():
                return located
    raise Rejected("no-such-certificate", f"{named} was not issued by a CA of this instance")


def blocks(view: Reply) -> tuple[Block, ...]:
    """A certificate of the instance for people."""
    status = str(view.get("status"))
    since = view.get("revoked_at")
    said = f"{status} since {since} ({view.get('reason')})" if since else status
    rows = (
        ("serial", view.get("serial")),
        ("status", said),
        ("suspect since", view.get("invalidity_date")),
        ("subject", view.get("subject")),
        ("issuer", view.get("issuer")),
        ("ca", view.get("ca")),
        ("profile", view.get("profile")),
        ("valid from", view.get("not_before")),
        ("valid to", view.get("not_after")),
        ("issued at", view.get("issued_at")),
        ("sha-256", view.get("sha256")),
        ("log entry", view.get("log_index")),
        ("request id", view.get("request_id")),
        ("change", view.get("sequence")),
    )
    return (Fields(tuple((name, "" if value is None else str(value)) for name, value in rows)),)


def changed(view: Reply, sentence: str) -> tuple[Block, ...]:
    """What a change of status has made of a certificate, for people."""
    return (Line(f"{view['serial']}: {sentence}", TONES.get(str(view.get("status")), "")),)
