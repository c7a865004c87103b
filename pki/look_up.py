"""What the CA has issued and revoked, to look it up: the side of the ledger that writes nothing."""

from __future__ import annotations

from typing import Final

from infra.errors import Rejected
from infra.store.port import Store
from pki.record import (
    CERTIFICATES,
    KeyUse,
    Record,
    State,
    document_id,
    integer_of,
    part_name,
    status_of,
)
from pki.serial import SerialNumber, format_serial
from pki.status import CertStatus, Unknown

KEY_HISTORY: Final = 64
"""Certificates of one key that are looked at before it gets another."""


class LookUp:
    """The certificates of every CA in this process, as the store has them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, ca: str, serial: SerialNumber) -> Record:
        """One certificate. Errors: ``no-such-certificate``."""
        stored = await self._store.get(CERTIFICATES, document_id(ca, serial))
        if stored is None:
            raise Rejected(
                "no-such-certificate", f"{ca} never issued a certificate {format_serial(serial)}"
            )
        return Record(stored)

    async def by_request(self, ca: str, request_id: str) -> Record | None:
        """What this request id has led to."""
        found = await self._store.find(CERTIFICATES, "request", (f"{ca}/{request_id}",), limit=1)
        return Record(found[0]) if found else None

    async def key_use(self, key_hash: bytes) -> KeyUse:
        """What is known of a public key (SHA-256 of its SubjectPublicKeyInfo) that is in use."""
        found = await self._store.find(
            CERTIFICATES, "key", (key_hash,), reverse=True, limit=KEY_HISTORY
        )
        compromised = await self._store.find(CERTIFICATES, "compromised", (key_hash,), limit=1)
        known = [Record(stored) for stored in found]
        return KeyUse(
            subjects=frozenset(
                record.subject for record in known if record.state is not State.void
            ),
            compromised=bool(compromised),
            next_number=integer_of(found[0].body["key_number"]) + 1 if found else 0,
        )

    async def by_subject(self, subject: str, *, limit: int) -> list[Record]:
        """Certificates of this subject (RFC 4514), newest last."""
        found = await self._store.find(CERTIFICATES, "subject", (subject,), limit=limit)
        return [Record(stored) for stored in found]

    async def changed(self, after: int, *, limit: int = 1000) -> list[Record]:
        """Certificates whose newest change has a sequence number beyond ``after``, in order."""
        found = await self._store.find(CERTIFICATES, "sequence", low=after + 1, limit=limit)
        return [Record(stored) for stored in found]

    async def status(self, ca: str, serial: int) -> CertStatus:
        """The status as OCSP tells it; ``Unknown`` for what was never issued, or is void."""
        stored = await self._store.get(CERTIFICATES, document_id(ca, serial))
        if stored is None or stored.body["state"] != State.issued:
            return Unknown()
        return status_of(stored.body)

    async def sequence(self) -> int:
        """The sequence number of the newest change that every look-up shows, 0 at first."""
        newest = await self._store.find(CERTIFICATES, "sequence", reverse=True, limit=1)
        return integer_of(newest[0].body["sequence"]) if newest else 0

    async def status_sequence(self, ca: str, partition: str | None = None) -> int:
        """The sequence number of the newest change of status of certificates that this CA issued
        into this partition, or into none; 0 if there was no change."""
        part = (part_name(ca, partition),)
        newest = await self._store.find(CERTIFICATES, "crl_change", part, reverse=True, limit=1)
        return integer_of(newest[0].body["sequence"]) if newest else 0
