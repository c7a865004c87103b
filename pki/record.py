"""A certificate's document in the ledger, and what it says as a typed value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never, cast

from infra.errors import Broken
from infra.store.port import Collection, Document, Index, Stored
from pki.serial import SerialNumber, format_serial
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

CERTIFICATES: Final = Collection(
    "certificates",
    (
        Index("request", ("request",), unique=True),
        Index("key", ("key_hash", "subject")),
        Index("compromised", ("compromised_key",)),
        Index("subject", ("subject",)),
        Index("sequence", ("sequence",), unique=True),
        Index("status", ("changed_by", "sequence")),
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

    ``tbs_certificate``: DER; ``key_hash``: SHA-256 of the SubjectPublicKeyInfo; ``request_hash``:
    SHA-256 of what was asked for, so that a request id cannot be used for something else;
    ``by``: who asked, for the log.
    """

    ca: str
    serial: SerialNumber
    profile: str
    tbs_certificate: bytes
    key_hash: bytes
    subject: str
    not_after: datetime
    by: str
    request_id: str | None
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A certificate as the ledger knows it. ``certificate`` is empty until it is issued."""

    stored: Stored
    ca: str
    serial: SerialNumber
    state: State
    profile: str
    subject: str
    tbs_certificate: bytes
    certificate: bytes
    key_hash: bytes
    issued_at: datetime
    not_after: datetime
    by: str
    request_id: str | None
    request_hash: bytes
    sequence: int
    status: CertStatus

    @property
    def act_id(self) -> str:
        """The log's name for the issuance of this certificate."""
        return f"issue/{self.ca}/{format_serial(self.serial)}"


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


def status_of(body: Document) -> CertStatus:
    revocation = body.get("revocation")
    if revocation is None:
        return Good()
    kept = cast(Document, revocation)
    suspect = kept["invalidity_date"]
    return Revoked(
        at=time_of(kept["at"]),
        reason=RevocationReason(int_of(kept["reason"])),
        invalidity_date=None if suspect is None else time_of(suspect),
        sequence=int_of(kept["sequence"]),
    )


def record_of(stored: Stored) -> Record:
    body = stored.body
    request = cast(str | None, body.get("request"))
    ca = str_of(body["ca"])
    return Record(
        stored=stored,
        ca=ca,
        serial=SerialNumber(int(str_of(body["serial"]), 16)),
        state=State(str_of(body["state"])),
        profile=str_of(body["profile"]),
        subject=str_of(body["subject"]),
        tbs_certificate=cast(bytes, body.get("tbs", b"")),
        certificate=cast(bytes, body.get("der", b"")),
        key_hash=cast(bytes, body.get("key_hash", b"")),
        issued_at=time_of(body.get("issued_at", body.get("unfinished_since", 0))),
        not_after=time_of(body["not_after"]),
        by=str_of(body["by"]),
        request_id=None if request is None else request[len(ca) + 1 :],
        request_hash=cast(bytes, body["request_hash"]),
        sequence=int_of(body.get("sequence", 0)),
        status=status_of(body),
    )


def micros(at: datetime) -> int:
    # 9999-12-31 (RFC 5280 §4.1.2.5) still fits 64 bits.
    return (at - _EPOCH) // _MICROSECOND


def time_of(value: object) -> datetime:
    return _EPOCH + int_of(value) * _MICROSECOND


def int_of(value: object) -> int:
    if not isinstance(value, int):
        raise Broken("ledger-corrupt", "a number in the ledger is none")
    return value


def str_of(value: object) -> str:
    if not isinstance(value, str):
        raise Broken("ledger-corrupt", "a text in the ledger is none")
    return value


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
