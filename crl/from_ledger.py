"""The ledger's documents as CRLs read them: straight from its indexes, no document decoded.

The ledger keeps, with each change of status, the entry as CRLs write it (``pki.crl_entry``) in
indexed fields, so a million revoked certificates are read in a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from crl.source import Part, Row
from infra.store.port import Collection, Key, Store
from pki.record import CERTIFICATES, document_id, part_name
from pki.serial import SerialNumber

_FIELDS: Final = ("crl_serial", "sequence", "crl_until", "crl_entry")


class Ledger(Protocol):
    """What of the ledger this needs besides its documents."""

    async def sequence(self) -> int: ...


class Keys(Store, Protocol):
    """A store that reads indexes alone."""

    def keys(
        self,
        collection: Collection,
        index: str,
        fields: Sequence[str],
        equal: Sequence[Key] = (),
        *,
        low: Key | None = None,
        high: Key | None = None,
        page: int = 1000,
    ) -> AsyncIterator[list[tuple[Key, ...]]]: ...


class FromLedger:
    """``crl.source.RevocationSource`` over the ledger's collection."""

    def __init__(self, ledger: Ledger, store: Keys) -> None:
        self._ledger = ledger
        self._store = store

    async def sequence(self) -> int:
        """The sequence number of the newest change that every reading shows."""
        return await self._ledger.sequence()

    def by_serial(self, part: Part, /) -> AsyncIterator[list[Row]]:
        """Every row, in order of the serial number's octets."""
        return self._read("crl_serial", part)

    def changed(self, part: Part, after: int, /) -> AsyncIterator[list[Row]]:
        """The rows whose newest change is beyond ``after``, in order of their changes."""
        return self._read("crl_change", part, low=after + 1)

    def expired(self, part: Part, low: int, high: int, /) -> AsyncIterator[list[Row]]:
        """The rows of certificates that end at ``low`` or later and before ``high``."""
        return self._read("crl_until", part, low=low, high=high)

    async def issued(self, part: Part, serial: int, /) -> bool:
        """Whether the CA has ever issued a certificate of this serial number."""
        id = document_id(part.issuer, SerialNumber(serial))
        return await self._store.get(CERTIFICATES, id) is not None

    def _read(
        self, index: str, part: Part, *, low: Key | None = None, high: Key | None = None
    ) -> AsyncIterator[list[Row]]:
        name = part_name(part.issuer, part.partition)
        # The fields are those of a row, in its order.
        return self._store.keys(  # type: ignore[return-value]
            CERTIFICATES, index, _FIELDS, (name,), low=low, high=high
        )
