"""When a CRL is made: after a revocation, and before the current one runs out.

Decisions are taken on the clock that signs the CRLs; only waiting is asyncio's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from infra.clock import Clock
from infra.errors import Failure, Unavailable

_log = logging.getLogger(__name__)

LONGEST_SLEEP: Final = timedelta(minutes=1)
"""The clock is looked at again at least this often: it may be set, and machines are suspended."""


class Current(Protocol):
    """What a schedule needs to know of a CRL: it shows every change up to ``sequence``."""

    @property
    def sequence(self) -> int: ...

    @property
    def this_update(self) -> datetime: ...

    @property
    def next_update(self) -> datetime: ...


class Generator(Protocol):
    """What makes the CRLs of one CA, or of one scope."""

    @property
    def name(self) -> str: ...

    def current(self) -> Current: ...

    async def issue(self) -> Current: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """``overlap``: how long before nextUpdate the next CRL is made; ``debounce``: how long
    changes are gathered before one CRL is made for all of them, 0 for none; ``retry_first`` and
    ``retry_most``: the wait after a failure, which doubles from one to the other."""

    overlap: timedelta = timedelta(hours=12)
    debounce: timedelta = timedelta(0)
    retry_first: timedelta = timedelta(seconds=1)
    retry_most: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """Somebody who waits for a CRL that reaches ``sequence`` and is of this generation or later."""

    sequence: int
    generation: int
    done: asyncio.Future[None]


class Schedule:
    """Keeps the CRL of one CA current. ``start`` it, tell it of changes, ``stop`` it.

    ``failures``: attempts that failed since the start, for an alarm; ``failing``: the code of the
    last failure, or None when the last attempt went well.
    """

    def __init__(self, generator: Generator, clock: Clock, timing: Timing) -> None:
        self._generator = generator
        self._clock = clock
        self._timing = timing
        self._wanted = False
        self._urgent = False
        self._stopping = False
        # One event for all three: there may be thousands of schedules, most of them asleep.
        self._stirred = asyncio.Event()
        self._waiters: list[_Waiter] = []
        self._generation = 0
        self._generating = False
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        self.failing: str | None = None

    async def first(self) -> None:
        """Make a CRL now, unless there is one. Errors: those of making it."""
        if self._current() is None:
            await self._generator.issue()

    async def start(self, sequence: int) -> None:
        """Begin; at once, when the current CRL does not reach ``sequence``, the ledger's newest."""
        current = self._current()
        if current is None or current.sequence < sequence:
            self._wanted = True
        self._task = asyncio.create_task(self._run(), name=f"crl-schedule-{self._generator.name}")

    def changed(self, sequence: int = 0) -> None:
        """A certificate of this CA was revoked, held or released: a CRL is due; ``sequence``: the
        change of the ledger."""
        self._wanted = True
        self._stirred.set()

    async def caught_up(self, sequence: int) -> None:
        """Wait until a CRL is out that shows the ledger's change ``sequence``, and ask for it.

        Because somebody waits, no further changes are gathered.

        Errors: ``Unavailable("crl-schedule-stopped")`` when ``stop`` comes first.
        """
        # A ledger may count a change before a reader of its store can see it. So what was reported
        # through ``changed`` is in for certain only once a generation that began later has ended.
        needed = self._generation + (1 if self._wanted else 0)
        current = self._current()
        if current is None or current.sequence < sequence:
            self._wanted = True
        elif not self._wanted and not self._generating:
            return
        if self._stopping or self._task is None:
            raise _stopped(self._generator.name)
        self._urgent = True
        self._stirred.set()
        waiter = _Waiter(sequence, needed, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.done
        finally:
            self._waiters.remove(waiter)

    async def stop(self) -> None:
        """Finish the generation that is under way, begin no other, and let the waiters go."""
        self._stopping = True
        self._stirred.set()
        if self._task is not None:
            await self._task
        for waiter in self._waiters:
            if not waiter.done.done():
                waiter.done.set_exception(_stopped(self._generator.name))

    def _current(self) -> Current | None:
        try:
            return self._generator.current()
        except Unavailable:
            return None

    def _due_in(self) -> timedelta:
        current = self._current()
        if current is None:
            return timedelta(0)
        # A lifetime shorter than the overlap would make CRLs without a pause: half of it is left.
        lifetime = current.next_update - current.this_update
        overlap = min(self._timing.overlap, lifetime / 2)
        return current.next_update - overlap - self._clock.now()

    async def _run(self) -> None:
        while not self._stopping:
            if not self._wanted:
                due_in = self._due_in()
                if due_in > timedelta(0):
                    await self._wait(min(due_in, LONGEST_SLEEP), lambda: self._wanted)
                    continue
            elif self._timing.debounce:
                await self._wait(self._timing.debounce, lambda: self._urgent)
            self._generating = True
            await self._generate()
            self._generating = False

    async def _generate(self) -> None:
        """Make one CRL, trying until it is out or ``stop`` is called."""
        pause = self._timing.retry_first
        while not self._stopping:
            # Cleared before the ledger is read: what changes from here on asks for another one.
            self._wanted = self._urgent = False
            self._generation += 1
            try:
                crl = await self._generator.issue()
            except Failure as failure:
                self._failed(failure.code)
                _log.error(
                    "no new CRL for CA %s, the last one stays: %s", self._generator.name, failure
                )
            except Exception as error:
                self._failed("unexpected")
                _log.exception("no new CRL for CA %s: %s", self._generator.name, error)
            else:
                self.failing = None
                self._let_go(crl.sequence)
                return
            await self._wait(pause)
            pause = min(2 * pause, self._timing.retry_most)

    def _failed(self, code: str) -> None:
        self.failures += 1
        self.failing = code

    def _let_go(self, sequence: int) -> None:
        for waiter in self._waiters:
            if waiter.sequence > sequence or waiter.generation > self._generation:
                self._wanted = self._urgent = True
            elif not waiter.done.done():
                waiter.done.set_result(None)

    async def _wait(self, time: timedelta, sooner: Callable[[], bool] = lambda: False) -> None:
        """Wait for ``time``, or for ``stop``, or until something happened and ``sooner`` holds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(time.total_seconds()):
                while not (self._stopping or sooner()):
                    self._stirred.clear()
                    await self._stirred.wait()


def _stopped(name: str) -> Unavailable:
    return Unavailable("crl-schedule-stopped", f"CA {name} makes no more CRLs: it is stopping")
