"""A certificate's document in the ledger, and what it says as a typed value."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never, cast

from infra.errors import Broken
from infra.store.port import Collection, Document, Index, Stored
from pki.crl_entry import Entry, encode_entry
from pki.log.act import Act
from pki.serial import SerialNumber, format_serial
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

# What CRLs are made of, in the three orders that they are read in. A certificate has these fields
# once its status has changed, and not before: issuance writes none of these indexes.
_CRL_SERIAL: Final = ("crl_serial", "sequence", "crl_until", "crl_entry")
_CRL_CHANGE: Final = ("sequence", "crl_serial", "crl_until", "crl_entry")
_CRL_UNTIL: Final = ("crl_until", "crl_serial", "sequence", "crl_entry")

CERTIFICATES: Final = Collection(
    "certificates",
    (
        Index("request", ("request",), unique=True, lasting=True),
        Index("key", ("key_hash", "key_number"), unique=True, lasting=True),
        Index("compromised", ("compromised_key",)),
        Index("subject", ("subject",), lasting=True),
        Index("sequence", ("sequence",), unique=True),
        Index("crl_serial", ("crl_part", *_CRL_SERIAL), lasting=True),
        Index("crl_change", ("crl_part", *_CRL_CHANGE), lasting=True),
        Index("crl_until", ("crl_part", *_CRL_UNTIL), lasting=True),
        Index("unfinished", ("unfinished_since",)),
    ),
)


class State(StrEnum):
    """How far a certificate has come."""

    intended = "intended"
    issued = "issued"
    void = "void"


@dataclass(frozen=True, slots=True)
class Intent:
    """A certificate that is about to be signed.

    ``tbs_certificate``: DER; ``key_hash``: SHA-256 of the SubjectPublicKeyInfo; ``key_number``: 0
    for the first certificate of this key, then one more each; ``request_hash``:
    SHA-256 of what was asked for, so that a request id cannot be used for something else (empty
    without one);
    ``by``: who asked, for the log; ``partition``: whose CRL will list it, None for that of the
    whole CA; ``consent``: whether its holder agreed that the directory shows it.
    """

    ca: str
    serial: SerialNumber
    profile: str
    tbs_certificate: bytes
    key_hash: bytes
    key_number: int
    subject: str
    not_before: datetime
    not_after: datetime
    by: str
    request_id: str | None
    request_hash: bytes
    partition: str | None = None
    consent: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A certificate as the ledger knows it: a typed view of its document.

    ``log_index``: where its leaf is in the log, if whoever made this knew.
    """

    stored: Stored
    log_index: int | None = None

    @property
    def ca(self) -> str:
        """The name of the CA that issues it."""
        return _text(self.stored.body["ca"])

    @property
    def serial(self) -> SerialNumber:
        """Its serial number."""
        return SerialNumber(int(_text(self.stored.body["serial"]), 16))

    @property
    def state(self) -> State:
        """How far it has come."""
        return State(_text(self.stored.body["state"]))

    @property
    def profile(self) -> str:
        """The name of its profile."""
        return _text(self.stored.body["profile"])

    @property
    def subject(self) -> str:
        """Its subject (RFC 4514)."""
        return _text(self.stored.body["subject"])

    @property
    def tbs_certificate(self) -> bytes:
        """What is to be signed, DER; empty once it is issued."""
        return _octets(self.stored.body.get("tbs", b""))

    @property
    def certificate(self) -> bytes:
        """The certificate, DER; empty until it is issued."""
        return _octets(self.stored.body.get("der", b""))

    @property
    def issued_at(self) -> datetime:
        """When it was issued, to the microsecond; the beginning of 1970 until then."""
        return time_of(self.stored.body.get("issued_at", 0))

    @property
    def changed_at(self) -> datetime:
        """When its newest change was made."""
        return time_of(self.stored.body.get("changed_at", 0))

    @property
    def not_before(self) -> datetime:
        """The beginning of its validity."""
        return time_of(self.stored.body["not_before"])

    @property
    def not_after(self) -> datetime:
        """The end of its validity."""
        return time_of(self.stored.body["not_after"])

    @property
    def by(self) -> str:
        """Who asked for it."""
        return _text(self.stored.body["by"])

    @property
    def request_id(self) -> str | None:
        """The asker's own name for the application."""
        request = self.stored.body.get("request")
        return None if request is None else _text(request).removeprefix(f"{self.ca}/")

    @property
    def request_hash(self) -> bytes:
        """SHA-256 of what was asked for."""
        return _octets(self.stored.body["request_hash"])

    @property
    def sequence(self) -> int:
        """The number of its newest change, 0 for none."""
        return integer_of(self.stored.body.get("sequence", 0))

    @property
    def partition(self) -> str | None:
        """The partition that it was issued into, None for none."""
        partition = self.stored.body.get("partition")
        return None if partition is None else _text(partition)

    @property
    def consent(self) -> bool:
        """Whether its holder agreed that the directory shows it."""
        return self.stored.body.get("consent") is True

    @property
    def void_because(self) -> str:
        """Why it is void, empty if it is not."""
        return _text(self.stored.body.get("void", ""))

    @property
    def status(self) -> CertStatus:
        """What OCSP and CRLs say of it."""
        return status_of(self.stored.body)

    @property
    def act_id(self) -> str:
        """The log's name for its issuance, or for its becoming void."""
        return f"{'void' if self.state is State.void else 'issue'}/{self.stored.id}"


COMPROMISE: Final = (RevocationReason.keyCompromise, RevocationReason.cACompromise)
"""Reasons after which a key is never certified again."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What a key was certified for.

    ``subjects``: of its newest certificates, of which there is one as long as nobody is let have
    another's key; ``compromised``: whether one was ever revoked for that; ``next_number``: what
    its next certificate takes.
    """

    subjects: frozenset[str]
    compromised: bool
    next_number: int


def act_of(record: Record) -> Act:
    """The act that made a certificate what it is: the same whenever it is asked for."""
    body = record.stored.body
    detail: dict[str, str | int] = {
        "issuer": _text(body["ca"]),
        "serial": _text(body["serial"]),
        "profile": _text(body["profile"]),
    }
    if record.consent:
        detail["consent"] = "publication"
    if record.state is State.void:
        detail["why"] = record.void_because
        what, when, octets = "certificate.void", record.changed_at, record.tbs_certificate
    else:
        what, when, octets = "certificate.issue", record.issued_at, record.certificate
    return Act(record.act_id, what, record.by, when, hashlib.sha256(octets).digest(), detail)


def document_id(ca: str, serial: int) -> str:
    return f"{ca}/{format_serial(SerialNumber(serial))}"


def revocation_body(status: CertStatus) -> Document | None:
    match status:
        case Revoked(at, reason, invalidity_date):
            return {
                "at": micros(at),
                "reason": int(reason),
                "invalidity_date": None if invalidity_date is None else micros(invalidity_date),
            }
        case Good():
            return None
        case Unknown():
            raise Broken("status-unknown", "an unknown certificate has no status to keep")
        case _:
            assert_never(status)


def intent_mac(key: bytes, id: str, tbs_certificate: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) over what an intent is about: its document, and what is to be signed.

    ``id``: of the document; it holds no NUL.
    """
    return hmac.digest(key, id.encode() + b"\0" + tbs_certificate, "sha256")


def crl_fields(body: Document, status: CertStatus, at: datetime) -> Document:
    """The certificate as CRLs list it from now on, in the fields that they are made from.

    ``body``: of its document; ``at``: when its status changed.
    """
    serial = int(_text(body["serial"]), 16)
    match status:
        case Revoked(since, reason, invalidity_date):
            suspect = invalidity_date and invalidity_date.replace(microsecond=0)
            entry = Entry(serial, since.replace(microsecond=0), reason, suspect)
        case _:
            entry = Entry(serial, at.replace(microsecond=0), RevocationReason.removeFromCRL)
    partition = body.get("partition")
    return {
        "crl_part": part_name(_text(body["ca"]), None if partition is None else _text(partition)),
        "crl_serial": serial.to_bytes(serial.bit_length() // 8 + 1, "big"),
        "crl_until": integer_of(body["not_after"]) // 1_000_000,
        "crl_entry": encode_entry(entry),
    }


def part_name(ca: str, partition: str | None) -> str:
    """The ledger's name for the certificates that one series of CRLs covers: those of a CA that
    were issued into a partition, or those that were issued into none."""
    return ca if partition is None else f"{ca}/{partition}"


def status_of(body: Document) -> CertStatus:
    revocation = body.get("revocation")
    if revocation is None:
        return Good()
    kept = cast(Document, revocation)
    suspect = kept["invalidity_date"]
    return Revoked(
        at=time_of(kept["at"]),
        reason=RevocationReason(integer_of(kept["reason"])),
        invalidity_date=None if suspect is None else time_of(suspect),
        sequence=integer_of(kept["sequence"]),
    )


def micros(at: datetime) -> int:
    # 9999-12-31 (RFC 5280 §4.1.2.5) still fits 64 bits.
    return (at - _EPOCH) // _MICROSECOND


def time_of(value: object) -> datetime:
    return _EPOCH + integer_of(value) * _MICROSECOND


def integer_of(value: object) -> int:
    if not isinstance(value, int):
        raise Broken("ledger-corrupt", "a number in the ledger is none")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Broken("ledger-corrupt", "a text in the ledger is none")
    return value


def _octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Broken("ledger-corrupt", "octets in the ledger are none")
    return value


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
