"""Reading the status table, in any process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Final

from infra.errors import Unavailable
from infra.state import unusable
from ocsp.source import Horizon
from ocsp.table.layout import (
    COUNTER_AT,
    FLAGS,
    KNOWN_AT,
    LIVE,
    RETIRED_AT,
    RING,
    RING_AT,
    UNTIL,
    Missing,
    Table,
    empty,
    fence,
    lock_path,
    moment,
)
from pki.status import CertStatus

_FLOCK: Final = Struct("hhqqi0q")
"""struct flock: type, whence, start, length, process."""
WHOLE_FILE: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class TableReader:
    """A ``StatusSource`` that is as fresh as its writer: a change is seen once its call returns.

    When the writer replaces the whole file, the reader turns to the new one by itself.
    Not for several threads at a time.
    """

    def __init__(self, table: Table, lock: int, most_lag: timedelta | None) -> None:
        self._table = table
        self._words = table.words
        self._lock = lock
        self._most_lag = most_lag
        self._seen_live: dict[str, datetime] = {}

    @classmethod
    def open(cls, path: Path, *, most_lag: timedelta | None) -> TableReader:
        """Map the table of a writer in this or another process.

        ``most_lag``: statuses that are known no later than this before now are not told any more,
        but for those that may be relied on until a time that was said; None for no such limit.
        Errors: ``status-table-missing``, ``status-table-version``,
        ``not-a-status-table``, ``status-table-corrupt`` and those of the state folder.
        """
        try:
            lock = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Missing(path) from error
        except OSError as error:
            raise unusable(path, error) from error
        try:
            return cls(Table.open(path), lock, most_lag)
        except BaseException:
            os.close(lock)
            raise

    def status(self, issuer: str, serial: int, /) -> CertStatus:
        """The status now; for an issuer that is not complete, ``Good`` unless known otherwise.

        Errors: ``Unavailable`` with ``status-source-empty`` for an issuer that was never filled,
        ``status-table-busy``; ``Broken`` with ``status-table-corrupt``.
        """
        return self._table.status(issuer, serial)

    def horizon(self, issuer: str, now: datetime, /) -> Horizon:
        """What the statuses of this CA are worth now: known at ``now`` while a live writer is
        there, else when it last was, or said so.

        Errors: ``Unavailable`` with ``status-source-cut-off``, ``status-source-empty``.
        """
        if self._words[RETIRED_AT]:
            self._renew()
        table, words = self._table, self._words
        number = table.issuer(issuer)
        said = words[table.of_issuer(number, KNOWN_AT)]
        if words[table.of_issuer(number, FLAGS)] & LIVE and self._writer_lives():
            self._seen_live[issuer] = known_at = now
        elif said or issuer in self._seen_live:
            known_at = min(now, max(moment(said), self._seen_live.get(issuer, moment(said))))
        else:
            raise empty(issuer)
        last = words[table.of_issuer(number, UNTIL)]
        if last:
            until = moment(last)
            if until <= now:
                raise _cut_off(f"what is known about CA {issuer} was good until {until:%FT%TZ}")
            return Horizon(known_at, until)
        lag = now - known_at
        if self._most_lag is not None and lag > self._most_lag:
            raise _cut_off(f"what is known about CA {issuer} is {lag} old")
        return Horizon(known_at)

    def key(self, issuer: str, serial: int) -> int:
        """What ``changed_since`` calls this certificate: 64 bits, under a key of this file.
        Errors: ``status-source-empty``."""
        return self._table.fingerprint(issuer, serial)[0]

    @property
    def counter(self) -> int:
        """Rises after each change of a status: an answer that was made since the counter was
        read stays right while it stands. What becomes good that was ``Unknown`` does not count,
        as with each certificate that is issued."""
        return self._words[COUNTER_AT]

    def changed_since(self, counter: int) -> tuple[int, Sequence[int] | None]:
        """The counter now, and the keys of what has changed since it stood at ``counter``; None
        when that cannot be told any more and anything may have."""
        words = self._words
        if words[RETIRED_AT]:
            with suppress(Unavailable):  # then `horizon` says so
                self._renew()
            return self.counter, None
        now = words[COUNTER_AT]
        if not 0 <= now - counter < RING:
            return now, None
        fence()
        keys = [words[RING_AT + change % RING] for change in range(counter, now)]
        fence()
        # The change that is being made now writes over what was RING before it.
        return now, keys if words[COUNTER_AT] - counter < RING else None

    @property
    def size(self) -> int:
        """How many certificates have an entry; a few more after a writer died at a split."""
        return sum(self._table.counts)

    def close(self) -> None:
        os.close(self._lock)
        self._table.close()

    def _writer_lives(self) -> bool:
        """Whether a process holds the writer's lock."""
        answer = fcntl.fcntl(self._lock, fcntl.F_OFD_GETLK, WHOLE_FILE)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _renew(self) -> None:
        table = Table.open(self._table.path)
        self._table.close()
        self._table, self._words = table, table.words
        self._seen_live.clear()


def _cut_off(detail: str) -> Unavailable:
    return Unavailable("status-source-cut-off", f"{detail}; see to what feeds the status table")
