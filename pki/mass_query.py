"""What mass revocation is asked to do, and what a step of it has done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from infra.errors import Rejected
from pki.algorithms import KeyType, algorithm_of, key_type_of
from pki.certificate import parse_certificate
from pki.record import Record, State
from pki.status import RevocationReason


@dataclass(frozen=True, slots=True)
class Query:
    """Which certificates are meant: all that is given must match, and something must be given.

    ``algorithm``: the name of that which the CA signed them with (``pki.algorithms``);
    ``issued_after``: inclusive; ``issued_before``: exclusive.
    """

    ca: str | None = None
    profile: str | None = None
    algorithm: str | None = None
    key_type: KeyType | None = None
    issued_after: datetime | None = None
    issued_before: datetime | None = None

    def __post_init__(self) -> None:
        if not self.chooses:
            raise Rejected(
                "empty-query",
                "say which certificates: a profile, an algorithm, a key type, when they were "
                "issued, or a list",
            )

    @property
    def chooses(self) -> bool:
        """Whether it says more than the CA."""
        chosen = (self.profile, self.algorithm, self.key_type)
        return any(one is not None for one in (*chosen, self.issued_after, self.issued_before))

    def matches(self, record: Record) -> bool:
        """Whether this certificate is meant, whatever its status."""
        if record.state is not State.issued or self.ca not in (None, record.ca):
            return False
        if self.profile not in (None, record.profile):
            return False
        at = record.issued_at
        if self.issued_after is not None and at < self.issued_after:
            return False
        if self.issued_before is not None and at >= self.issued_before:
            return False
        if self.algorithm is None and self.key_type is None:
            return True
        read = parse_certificate(record.certificate)
        if self.algorithm not in (None, algorithm_of(read.algorithm).name):
            return False
        return self.key_type in (None, key_type_of(read.public_key_info))


class ListKind(StrEnum):
    """What a list names: serial numbers, or keys by the SHA-256 of SubjectPublicKeyInfo."""

    serials = "serials"
    keys = "keys"


@dataclass(frozen=True, slots=True)
class Listed:
    """Certificates that a list names. ``items``: big-endian serial numbers, or hashes of keys;
    ``authorities``: the CAs that may have issued them."""

    kind: ListKind
    items: Sequence[bytes]
    authorities: Sequence[str]


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list that is kept in ``parts`` documents. ``digest``: SHA-256 of all of it, ``framed``,
    in hexadecimal."""

    kind: ListKind
    digest: str
    parts: int
    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to them. ``by``: who asks, for the log."""

    reason: RevocationReason
    invalidity_date: datetime | None
    by: str


@dataclass(slots=True)
class Growth:
    """What a CRL grows by."""

    entries: int = 0
    octets: int = 0


@dataclass(slots=True)
class Step:
    """What one step has done, or would do.

    ``revoked``: certificates; ``already``: that were revoked before; ``unknown``: serial numbers
    of a list that nobody has; ``position``: where the next step begins; ``end``: where the last
    one does, at present; ``growth``: by the name of the CRL's scope.
    """

    revoked: int = 0
    already: int = 0
    unknown: list[str] = field(default_factory=list)
    position: int = 0
    end: int = 0
    done: bool = False
    growth: dict[str, Growth] = field(default_factory=dict)


def framed(items: Iterable[bytes]) -> bytes:
    """Items one after the other, so that no two lists look the same: what a list's digest, its
    SHA-256 in hexadecimal, is made of."""
    return b"".join(len(item).to_bytes(2, "big") + item for item in items)
