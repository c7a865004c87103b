"""What CRLs need of the ledger: encoded entries, by serial number, by change and by expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

Row: TypeAlias = tuple[bytes, int, int, bytes]
"""One certificate whose status has ever changed: the content octets of its serial number, the
sequence number of its newest change, the last second of its validity since 1970, and its entry
(``pki.crl_entry``); a certificate that was released has one of the reason removeFromCRL.

A plain tuple: there are millions of them, and they come from the database as they are.
"""

RELEASED: Final = b"\x0a\x01\x08"  # ENUMERATED removeFromCRL; nothing follows a release's reason


@dataclass(frozen=True, slots=True)
class Part:
    """Certificates of one CA: those that were issued into a partition, or into none.

    ``issuer``: the short name of the CA; ``subject``: its Name in DER.
    """

    issuer: str
    subject: bytes
    partition: str | None = None


class RevocationSource(Protocol):
    """The ledger as CRLs read it: rows, a page at a time.

    When a certificate changes while a reading is under way, the row may come as it was or as it
    is; it comes as it is to whoever reads ``changed`` afterwards.
    """

    async def sequence(self) -> int:
        """The sequence number of the newest change that every reading already shows."""

    def by_serial(self, part: Part, /) -> AsyncIterator[list[Row]]:
        """Every row, in order of the serial number's content octets."""

    def changed(self, part: Part, after: int, /) -> AsyncIterator[list[Row]]:
        """The rows whose newest change is beyond ``after``, in order of their changes."""

    def expired(self, part: Part, low: int, high: int, /) -> AsyncIterator[list[Row]]:
        """The rows of certificates that end at ``low`` or later and before ``high``, in order of
        their end; seconds since 1970."""

    async def issued(self, part: Part, serial: int, /) -> bool:
        """Whether the CA has ever issued a certificate of this serial number, whatever its part."""


def is_release(entry: bytes) -> bool:
    """Whether this is the entry of a certificate that was on hold and is good again."""
    return entry.endswith(RELEASED)
