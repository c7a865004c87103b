"""Who may make the CRLs of a scope now, which number was given out last, which CRL is current.

All of it is one document, changed by compare-and-set. So a process that lost its turn, because it
was suspended or its clock stood still, cannot give out a number or put a CRL in front: the
document has another version by then.

Invariants:

- ``number`` only grows, and grows before anything is signed under it;
- ``full`` and ``delta``, the current CRLs, only grow, and ``this_update`` with them;
- one ``holder`` at a time, until it lets go or its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crl.former import former_crls
from infra.clock import Clock
from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import (
    Collection,
    Conflict,
    Document,
    Duplicate,
    Event,
    Store,
    Stored,
)

CRL_HEADS: Final = Collection("crl_heads")


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a scope: numbers are 0 when there is none; times in milliseconds since 1970.

    ``ended``: the number of the final CRL.
    """

    holder: str = ""
    until: int = 0
    number: int = 0
    full: int = 0
    delta: int = 0
    this_update: int = 0
    ended: int = 0


class Turn:
    """The exclusive right to make CRLs of a scope; a task renews it until the block ends."""

    def __init__(
        self, store: Store, clock: Clock, scope: str, holder: str, lease: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._scope = scope
        self._holder = holder
        self._lease = lease
        self._stored: Stored | None = None
        self._changing = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Turn:
        """Errors: ``Unavailable("crl-signer-elsewhere")`` while somebody else has it."""
        stored = await self._store.get(CRL_HEADS, self._scope)
        now = milliseconds(self._clock.now())
        head = await self._first() if stored is None else read_head(stored)
        if head.holder not in ("", self._holder) and head.until > now:
            raise self._elsewhere((head.until - now) / 1000)
        body = _body(head) | {"holder": self._holder, "until": self._until()}
        try:
            if stored is None:
                self._stored = await self._store.insert(CRL_HEADS, self._scope, body)
            else:
                self._stored = await self._store.replace(CRL_HEADS, stored, body)
        except (Conflict, Duplicate) as error:
            raise self._elsewhere(1.0) from error
        self._renewing = asyncio.create_task(self._renew(), name=f"crl-turn-{self._scope}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._renewing is not None  # noqa: S101 - only after the block
        try:
            # Not while it writes: it would not tell which version the document has then.
            async with self._changing:
                pass
        finally:
            self._renewing.cancel()
        await asyncio.wait([self._renewing])
        # Whatever keeps this from being written down, the time of the lease ends it.
        with suppress(Failure):
            await self._change(lambda head: {"holder": "", "until": 0})

    @property
    def head(self) -> Head:
        """The document as this turn left it."""
        assert self._stored is not None  # noqa: S101 - only inside the block
        return read_head(self._stored)

    async def reserve(self, now: datetime) -> int:
        """The next CRL number: the time in milliseconds, or one more than the last where that is
        greater; durable when this returns. Errors: ``crl-turn-lost``."""

        def next_number(head: Head) -> Document:
            return {"number": max(milliseconds(now), head.number + 1)}

        return (await self._change(next_number)).number

    async def claim(self, number: int) -> None:
        """Take this number, which a CRL that was signed elsewhere has. Errors:
        ``crl-number-used``, ``crl-turn-lost``."""

        def higher(head: Head) -> Document:
            if number <= head.number:
                raise Rejected(
                    "crl-number-used",
                    f"number {head.number} was given out already; {number} must be greater",
                )
            return {"number": number}

        await self._change(higher)

    async def put_in_front(
        self, kind: str, number: int, this_update: datetime, events: Sequence[Event], *, end: bool
    ) -> Head:
        """Make this the current CRL of its kind (``full`` or ``delta``), durably; ``end``: no
        other one follows. Errors: ``crl-turn-lost``."""

        def change(head: Head) -> Document:
            at = milliseconds(this_update)
            newer = number > max(head.full, head.delta)
            if not newer or at < head.this_update or head.ended:
                raise Broken("crl-order", f"CRL {number} is older than the current one")
            changes: Document = {kind: number, "this_update": at}
            return changes | ({"ended": number} if end else {})

        return await self._change(change, events)

    async def _change(
        self, change: Callable[[Head], Document], events: Sequence[Event] = ()
    ) -> Head:
        async with self._changing:
            assert self._stored is not None  # noqa: S101 - only inside the block
            head = read_head(self._stored)
            body = _body(head) | {"until": self._until()} | change(head)
            try:
                self._stored = await self._store.replace(CRL_HEADS, self._stored, body, events)
            except Conflict as error:
                raise Unavailable(
                    "crl-turn-lost",
                    f"another process has taken over the CRLs of {self._scope}",
                    retry_after=1,
                ) from error
            return read_head(self._stored)

    async def _renew(self) -> None:
        """Prolong the lease; when that fails, the next change of the document says so."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            with suppress(Failure):
                await self._change(lambda head: {})

    async def _first(self) -> Head:
        """Where a scope begins: behind the CRLs that an earlier version made for it."""
        found = await former_crls(self._store, self._scope, limit=1)
        if not found:
            return Head()
        number, this_update = found[0].body["number"], found[0].body["this_update"]
        if not isinstance(number, int) or not isinstance(this_update, int):
            raise Broken("storage-corrupt", f"crls: {found[0].id} is no CRL")
        return Head(number=number, this_update=this_update * 1000)

    def _until(self) -> int:
        return milliseconds(self._clock.now() + self._lease)

    def _elsewhere(self, seconds: float) -> Unavailable:
        return Unavailable(
            "crl-signer-elsewhere",
            f"another process makes the CRLs of {self._scope} now; one at a time can",
            retry_after=max(seconds, 0.1),
        )


async def current_head(store: Store, scope: str) -> Head:
    """The state of a scope, for whoever only reads."""
    stored = await store.get(CRL_HEADS, scope)
    return Head() if stored is None else read_head(stored)


def read_head(stored: Stored) -> Head:
    """The document as a value. Errors: ``Broken("storage-corrupt")``."""
    try:
        return Head(**stored.body)  # type: ignore[arg-type]
    except TypeError as error:
        raise Broken("storage-corrupt", f"crl_heads: {stored.id} is no head") from error


def milliseconds(at: datetime) -> int:
    """Since 1970."""
    return int(at.timestamp() * 1000)


def _body(head: Head) -> Document:
    return {name: getattr(head, name) for name in Head.__slots__}
