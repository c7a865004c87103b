"""A CRL in a file, read with a library that knows nothing of how we write one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from cli import certificate, files
from cli.output import Json
from infra.errors import Rejected
from pki.serial import SerialNumber, format_serial

MAX_SIZE: Final = 2 << 30
"""Octets; a CRL of 10 million entries has some 400 million."""


@dataclass(frozen=True, slots=True)
class CrlFile:
    """A CRL and where it was found. ``crl``: cryptography's."""

    where: str
    crl: Any
    size: int

    def described(self) -> dict[str, Any]:
        """What it says of itself, in the shape in which the instance shows its own.

        Errors: ``bad-crl``.
        """
        following = self.crl.next_update_utc
        number, base = self._extension(x509.CRLNumber), self._extension(x509.DeltaCRLIndicator)
        point = self._extension(x509.IssuingDistributionPoint)
        name = None if point is None or point.full_name is None else point.full_name[0].value
        return {
            "ca": self.where,
            "issuer": self.crl.issuer.rfc4514_string(),
            "kind": "full" if base is None else "delta",
            "number": None if number is None else number.crl_number,
            "base": None if base is None else base.crl_number,
            "distribution_point": None if name is None else str(name),
            "this_update": certificate.text_of(self.crl.last_update_utc),
            "next_update": None
            if following is None or following == _NEVER
            else certificate.text_of(following),
            "entries": len(self.crl),
            "size": self.size,
            "sha256": self.crl.fingerprint(SHA256()).hex(),
        }

    def names_key_of(self, issuer: x509.Certificate) -> bool:
        """Whether its authority key identifier is that of this certificate (RFC 5280 §5.2.1)."""
        named = self._extension(x509.AuthorityKeyIdentifier)
        try:
            own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except (x509.ExtensionNotFound, ValueError):
            return False
        return named is not None and named.key_identifier == own.digest

    def entries(self) -> Iterator[Entry]:
        """Every entry, in its order. Errors: ``bad-crl``."""
        for one in self.crl:
            yield _entry(one, self.where)

    def page(self, offset: int, limit: int) -> list[Entry]:
        """``limit`` entries from the ``offset``-th on."""
        return [_entry(one, self.where) for one in islice(self.crl, offset, offset + limit)]

    def find(self, serial: int) -> Entry | None:
        """The entry of one certificate."""
        found = self.crl.get_revoked_certificate_by_serial_number(serial)
        return None if found is None else _entry(found, self.where)

    @property
    def der(self) -> bytes:
        """All of it."""
        return bytes(self.crl.public_bytes(Encoding.DER))

    def _extension(self, kind: Any) -> Any:
        try:
            return self.crl.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None
        except Exception as error:  # the library raises more kinds than it documents
            raise Rejected("bad-crl", f"{self.where}: an extension cannot be read") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """What a CRL says of one certificate; ``reason``: as in RFC 5280 §5.3.1."""

    serial: SerialNumber
    revoked_at: datetime
    reason: str

    def view(self) -> dict[str, Json]:
        """For ``--json``."""
        return {
            "serial": self.hex,
            "revoked_at": certificate.text_of(self.revoked_at),
            "reason": self.reason,
        }

    @property
    def hex(self) -> str:
        """The serial number as commands write it."""
        return format_serial(self.serial)


_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5


def load(path: Path, where: str | None = None) -> CrlFile:
    """Read a CRL, PEM or DER. Errors: ``bad-crl``, ``cannot-read``, ``too-large``."""
    content = files.read(path, limit=MAX_SIZE)
    where = where or str(path)
    try:
        if certificate.PEM_BEGIN in content[:4096]:
            crl = x509.load_pem_x509_crl(content)
            return CrlFile(where, crl, len(crl.public_bytes(Encoding.DER)))
        return CrlFile(where, x509.load_der_x509_crl(content), len(content))
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-crl", f"{where}: no CRL in PEM or DER") from error


def verify(crl: CrlFile, issuer: x509.Certificate, now: datetime) -> list[str]:
    """What is wrong with it, as sentences; none if it is the issuer's and holds now."""
    found: list[str] = []
    described = crl.described()
    if crl.crl.issuer != issuer.subject:
        found.append(f"it was issued by {described['issuer']}, not by this CA")
    try:
        signed = crl.crl.is_signature_valid(issuer.public_key())
    except Exception:  # another kind of key than the signature's
        signed = False
    if not signed:
        found.append("its signature is not by the key of this CA")
    if now < crl.crl.last_update_utc:
        found.append(f"it is from the future: thisUpdate {described['this_update']}")
    following = crl.crl.next_update_utc
    if following is None:
        found.append("it has no nextUpdate (RFC 5280 §5.1.2.5)")
    elif now > following:
        found.append(f"it is out of date since {described['next_update']}")
    if described["number"] is None:
        found.append("it has no CRL number (RFC 5280 §5.2.3)")
    delta = described["kind"] == "delta"
    known: set[int] = set()
    for entry in crl.entries():
        if entry.serial in known:
            found.append(f"it lists {entry.hex} twice")
            break
        if entry.reason == REMOVED and not delta:
            found.append(f"it is no delta CRL, but removes {entry.hex}")
            break
        known.add(entry.serial)
    return found


REMOVED: Final = x509.ReasonFlags.remove_from_crl.value


@dataclass(frozen=True, slots=True)
class Difference:
    """What is in the second CRL and not in the first, the other way round, and in both but
    otherwise."""

    added: list[Entry]
    removed: list[Entry]
    changed: list[Entry]


def diff(before: CrlFile, after: CrlFile) -> Difference:
    """What ``after`` changes; a delta CRL says nothing of what it does not list."""
    known = {entry.serial: entry for entry in before.entries()}
    difference = Difference([], [], [])
    delta = after.described()["kind"] == "delta"
    listed: set[int] = set()
    for entry in after.entries():
        listed.add(entry.serial)
        old = known.get(entry.serial)
        if entry.reason == REMOVED:
            if old is not None:
                difference.removed.append(old)
        elif old is None:
            difference.added.append(entry)
        elif old != entry:
            difference.changed.append(entry)
    if not delta:
        difference.removed.extend(e for serial, e in known.items() if serial not in listed)
    return difference


def _entry(found: Any, where: str) -> Entry:
    try:
        reason = found.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = "unspecified"
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-crl", f"{where}: an entry cannot be read") from error
    return Entry(SerialNumber(found.serial_number), found.revocation_date_utc, reason)
