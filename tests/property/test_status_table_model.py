"""The status table against a dictionary: any sequence of changes, however it grows, splits and is
closed or left behind, reads the same."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ocsp.table import TableReader, TableWriter
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

COMPLETE = {"root": True, "issuing": True, "foreign": False}

issuers = st.sampled_from(sorted(COMPLETE))
# Few serials, so that they meet often, and many, so that segments of 8 slots split.
serials = st.integers(0, 20) | st.integers(0, (1 << 160) - 1)
moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))
statuses = st.just(Good()) | st.builds(
    Revoked,
    moments,
    st.sampled_from(RevocationReason),
    st.none() | moments,
    st.integers(1, (1 << 56) - 1),
)


class StatusTable(RuleBasedStateMachine):
    """One writer, a reader that stays open, and one that follows what changes like a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "table")
        self.model: dict[tuple[str, int], Good | Revoked] = {}
        self.cache: dict[int, CertStatus] = {}

    @initialize()
    def begin(self) -> None:
        self.writer = TableWriter.open(self.path, room=1 << 24, slots=8)
        for issuer, complete in COMPLETE.items():
            self.writer.issuer(issuer, complete=complete)
        self.reader = TableReader.open(self.path, most_lag=None)
        self.counter = self.reader.counter

    def known(self, issuer: str, serial: int) -> CertStatus:
        return self.model.get((issuer, serial), Unknown() if COMPLETE[issuer] else Good())

    def look(self, issuer: str, serial: int) -> None:
        status = self.reader.status(issuer, serial)
        assert status == self.known(issuer, serial)
        if not isinstance(status, Unknown):
            self.cache[self.reader.key(issuer, serial)] = status

    @rule(issuer=issuers, serial=serials, status=statuses)
    def put(self, issuer: str, serial: int, status: Good | Revoked) -> None:
        self.writer.put(issuer, serial, status)
        self.model[issuer, serial] = status
        self.look(issuer, serial)

    @rule(issuer=issuers, many=st.lists(st.tuples(serials, statuses), max_size=60))
    def put_many(self, issuer: str, many: list[tuple[int, Good | Revoked]]) -> None:
        self.writer.put_many(issuer, iter(many))
        self.model |= {(issuer, serial): status for serial, status in many}

    @rule(issuer=issuers, serial=serials)
    def read(self, issuer: str, serial: int) -> None:
        self.look(issuer, serial)

    @rule(sequence=st.integers(0, (1 << 63) - 1), clean=st.booleans())
    def next_writer(self, sequence: int, clean: bool) -> None:
        self.writer.applied = sequence
        if clean:
            self.writer.close()
        else:  # as after kill -9: nothing is said to the file
            self.writer._table.close()
            os.close(self.writer._lock)
        self.writer = TableWriter.open(self.path)
        assert self.writer.applied == sequence

    @invariant()
    def a_cache_that_follows_is_right(self) -> None:
        if not hasattr(self, "reader"):
            return
        self.counter, changed = self.reader.changed_since(self.counter)
        if changed is None:
            self.cache.clear()
        else:
            for key in changed:
                self.cache.pop(key, None)
        for issuer, serial in self.model:
            status = self.cache.get(self.reader.key(issuer, serial))
            assert status is None or status == self.model[issuer, serial]

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            assert self.reader.size == len(self.model)
            for issuer, serial in self.model:
                assert self.reader.status(issuer, serial) == self.model[issuer, serial]
            self.reader.close()
            self.writer.close()
        self.folder.cleanup()


TestStatusTable = StatusTable.TestCase
TestStatusTable.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
