"""The status table while it is changed, and after its writer died at any moment.

Run as a program this module is such a writer, or a reader that looks all the time.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from infra.errors import Broken, Failure, Unavailable
from ocsp.table import TableReader, TableWriter
from ocsp.table.layout import GENERATION_AT, RING, RING_AT, USED_SEGMENTS_AT
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
LIVES = 8
"""Certificates whose status changes all the time."""


def status_of(round: int) -> Good | Revoked:
    """A status whose every part tells the round, so that a torn one is seen."""
    if round % 4 == 0:
        return Good()
    at = START + timedelta(seconds=round)
    return Revoked(at, RevocationReason.certificateHold, at - timedelta(days=1), round)


def round_of(status: CertStatus) -> int:
    """0 for good. Fails on a status that was never put."""
    if status == Good():
        return 0
    assert isinstance(status, Revoked), status
    assert status == status_of(status.sequence)
    return status.sequence


def write(path: Path, first: int, rounds: int, fresh: int, answered: bool) -> None:
    """Change the status of each life in each round and issue ``fresh`` certificates; tell of every
    change that has returned, and wait for a word if they are ``answered``."""
    writer = TableWriter.open(path, room=1 << 30, slots=16)
    writer.issuer("root", complete=True, live=True)
    for round in range(first, first + rounds):
        for life in range(LIVES):
            writer.put("root", life, status_of(round))
            os.write(1, b"%d %d\n" % (life, round))
            if answered:
                os.read(0, 1)
        for serial in range(round * 1000, round * 1000 + fresh):
            writer.put("root", serial, Good())
        writer.applied = round
    writer.close()


def watch(path: Path) -> None:
    """Look at all lives until the input ends; rounds never go back, and nothing is ever torn."""
    with closing(TableReader.open(path, most_lag=None)) as reader:
        latest = [0] * LIVES
        looks = 0
        os.write(1, b"watching\n")
        os.set_blocking(0, False)
        while True:
            for life in range(LIVES):
                round = round_of(reader.status("root", life))
                assert round == 0 or round >= latest[life]
                latest[life] = max(round, latest[life])
                assert reader.status("root", -5) == Unknown()
            looks += 1
            if looks % 100 == 0:
                try:
                    if not os.read(0, 1):
                        break
                except BlockingIOError:
                    pass
    sys.stdout.write(f"{looks}\n")


def child(*arguments: object, **pipes: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **pipes,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(TableWriter.open(tmp_path / "table", room=1 << 30, slots=16)) as writer:
        writer.issuer("root", complete=True)
        for life in range(LIVES):
            writer.put("root", life, Good())
    return tmp_path / "table"


def test_what_the_writer_returned_from_every_process_sees(path: Path) -> None:
    watchers = [child("watch", path, stdin=subprocess.PIPE) for _ in range(2)]
    for watcher in watchers:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"watching\n"
    with closing(TableReader.open(path, most_lag=None)) as reader:
        with child("write", path, 1, 200, 30, "answered", stdin=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdin is not None
            told = 0
            for line in writer.stdout:
                life, round = map(int, line.split())
                assert reader.status("root", life) == status_of(round)
                told += 1
                os.write(writer.stdin.fileno(), b".")
        assert (writer.returncode, told) == (0, 200 * LIVES)
        assert reader.size == LIVES + 200 * 30
        assert all(reader.status("root", serial) == Good() for serial in range(9000, 9030))
    for watcher in watchers:
        output, _ = watcher.communicate()
        assert watcher.returncode == 0
        assert int(output) > 0


def test_a_writer_that_is_killed_leaves_what_it_returned_from(path: Path) -> None:
    random = Random(7)
    latest = [0] * LIVES
    applied = 0
    with closing(TableReader.open(path, most_lag=timedelta(seconds=5))) as reader:
        for _ in range(8):
            counter = reader.counter
            first = max(latest) + 1
            with child("write", path, first, 1000, 20) as writer:
                assert writer.stdout is not None
                for _ in range(random.randrange(1, 400)):
                    life, round = map(int, writer.stdout.readline().split())
                    latest[life] = round
                assert reader.horizon("root", START) is not None
                writer.send_signal(signal.SIGKILL)
                for line in writer.stdout:
                    life, round = map(int, line.split())
                    latest[life] = round
            assert writer.returncode == -signal.SIGKILL
            with pytest.raises(Unavailable, match=r"^status-source-cut-off: "):
                reader.horizon("root", START + timedelta(seconds=6))
            with closing(TableWriter.open(path)) as following:
                # It may have to catch up, so it is not live for the mark that its predecessor left.
                with pytest.raises(Unavailable, match=r"^status-source-cut-off: "):
                    reader.horizon("root", START + timedelta(seconds=6))
                assert following.applied >= max(applied, max(latest) - 1, 0)
                applied = following.applied
                assert reader.changed_since(counter)[1] is None
                for life, round in enumerate(latest):
                    # Its last call may have taken effect without its return being seen.
                    assert reader.status("root", life) in (status_of(round), status_of(round + 1))
                for serial in range(first * 1000, first * 1000 + 20 * (applied >= first)):
                    assert reader.status("root", serial) == Good()
            latest = [max(latest)] * LIVES


class Died(Exception):
    """In the place of SIGKILL."""


class Watched:
    """A view of the table in which each store is told of before it is made.

    ``sparse``: of the many stores over the directory, some.
    """

    def __init__(self, view: Any, before: Callable[[], None], *, sparse: bool) -> None:
        self.view, self.before, self.sparse = view, before, sparse

    def __getattr__(self, name: str) -> Any:
        return getattr(self.view, name)

    def __getitem__(self, at: Any) -> Any:
        return self.view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        if not self.sparse or at % 24576 in (0, 1, 24575):
            self.before()
        self.view[at] = value


def tell_stores(writer: TableWriter, before: Callable[[], None]) -> None:
    for name in ("words", "signed", "directory", "counts"):
        view = Watched(getattr(writer._table, name), before, sparse=name == "directory")
        setattr(writer._table, name, view)


def leave(writer: TableWriter) -> None:
    """As the kernel does when a process is gone."""
    for name in ("words", "signed", "directory", "counts"):
        view = getattr(writer._table, name)
        setattr(writer._table, name, getattr(view, "view", view))
    writer._table.close()
    os.close(writer._lock)


CHANGES = {
    "hold": (3, status_of(1)),
    "release": (1, Good()),
    "issue": (50, Good()),
    "issue and hold": (50, status_of(2)),
}


@pytest.mark.parametrize("entries", [7, 40], ids=lambda n: f"{n}-entries")
@pytest.mark.parametrize("change", CHANGES)
def test_each_state_between_two_stores_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, entries: int
) -> None:
    """The writer dies before its first store, its second and so on, with 8 slots a segment;
    whatever it was at, a reader finds all else unchanged, and so does the next writer."""
    monkeypatch.setattr(secrets, "token_bytes", bytes)  # every time the same splits
    serial, after = CHANGES[change]
    splits = survived = 0
    while True:
        path = tmp_path / str(survived)
        writer = TableWriter.open(path, room=1 << 24, slots=8)
        writer.issuer("root", complete=True)
        model: dict[int, CertStatus] = {n: status_of(n % 2 * n) for n in range(entries)}
        writer.put_many("root", ((n, status_of(n % 2 * n)) for n in range(entries)))
        before = model.get(serial, Unknown())
        reader = TableReader.open(path, most_lag=None)
        counter = reader.counter
        stores = 0

        def look() -> None:
            nonlocal stores
            for other, status in model.items():  # noqa: B023
                assert other == serial or reader.status("root", other) == status  # noqa: B023
            assert reader.status("root", serial) in (before, after)  # noqa: B023
            if reader.counter != counter:  # noqa: B023
                assert reader.status("root", serial) == after  # noqa: B023
                changed = reader.changed_since(counter)[1]  # noqa: B023
                assert changed == [reader.key("root", serial)]  # noqa: B023
            if stores == survived:  # noqa: B023
                raise Died
            stores += 1

        tell_stores(writer, look)
        with suppress(Died):
            writer.put("root", serial, after)
        died = stores == survived
        leave(writer)
        with closing(TableWriter.open(path)) as following:
            assert not any(following._table.counts[segment] for segment in following._free)
            splits += following._table.words[USED_SEGMENTS_AT] > 1
            for other, status in model.items():
                assert other == serial or reader.status("root", other) == status
            assert reader.changed_since(counter)[1] is None
            following.put("root", serial, after)
            for other in range(100, 160):
                following.put("root", other, Good())
            model[serial] = after
            for other, status in model.items():
                assert reader.status("root", other) == status
            assert all(reader.status("root", n) == Good() for n in range(100, 160))
        reader.close()
        path.unlink()
        if not died:
            break
        survived += 1
    assert survived >= 2
    assert splits or not (entries == 7 and change.startswith("issue"))


def test_a_table_not_closed_before_the_machine_went_down_begins_anew(path: Path) -> None:
    lost = TableWriter.open(path, boot=b"1" * 16)
    lost.applied = 9
    leave(lost)
    lost = TableWriter.open(path, boot=b"1" * 16)
    assert lost.applied == 9
    leave(lost)
    with closing(TableWriter.open(path, boot=b"2" * 16)) as writer:
        assert writer.applied == 0
        with closing(writer.reader()) as reader, pytest.raises(Unavailable, match="source-empty"):
            reader.status("root", 1)


def test_another_process_cannot_write_too(path: Path) -> None:
    with closing(TableWriter.open(path)), child("write", path, 1, 1, 1, stderr=-1) as second:
        _, told = second.communicate()
        assert second.returncode == 1
        assert b"state-locked" in told


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_refuses_and_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(TableWriter.open(path)) as writer, closing(writer.reader()) as reader:
        counter, serials = reader.counter, iter(range(100, 200))
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full_disk)
            with pytest.raises(Unavailable, match=r"^storage-full: "):
                writer.put("root", 1, status_of(1))
            with pytest.raises(Unavailable, match=r"^storage-full: "):
                writer.put_many("root", ((serial, Good()) for serial in serials))
        refused = next(serials) - 1
        assert reader.changed_since(counter) == (counter, [])
        assert reader.size == LIVES + refused - 100
        assert reader.status("root", 1) == Good()
        assert reader.status("root", refused) == Unknown()
        writer.put_many("root", [(1, status_of(1)), *((n, Good()) for n in range(100, 200))])
        assert reader.status("root", 1) == status_of(1)
        assert {reader.status("root", n) for n in range(100, 200)} == {Good()}


@pytest.mark.parametrize("status", [Good(), status_of(1)], ids=["good", "held"])
def test_a_table_without_room_says_so_and_goes_on(tmp_path: Path, status: Good | Revoked) -> None:
    room = (2 << 20) + 3 * 4096 * 16
    with closing(TableWriter.open(tmp_path / "t", room=room)) as writer:
        writer.issuer("root", complete=True)
        serials = iter(range(100_000))
        with pytest.raises(Broken, match=r"^status-table-full: "):
            writer.put_many("root", ((serial, status) for serial in serials))
        put = next(serials) - 1
        with closing(writer.reader()) as reader:
            assert put > 2000
            assert all(reader.status("root", serial) == status for serial in range(put))
            assert reader.status("root", put) == Unknown()


def test_segments_and_revocations_that_meet_keep_out_of_each_other(tmp_path: Path) -> None:
    room = (2 << 20) + 2048 * 32 + 20 * 64 * 16
    with closing(TableWriter.open(tmp_path / "t", room=room, slots=64)) as writer:
        writer.issuer("root", complete=True)
        writer.put("root", 0, status_of(1))
        serials = iter(range(1, 10_000))
        with pytest.raises(Broken, match=r"^status-table-full: "):
            writer.put_many("root", ((serial, Good()) for serial in serials))
        last = next(serials) - 2
        writer.put_many("root", ((serial, status_of(2)) for serial in range(2, last, 2)))
        with closing(writer.reader()) as reader:
            assert reader.status("root", 0) == status_of(1)
            for serial in range(1, last):
                assert reader.status("root", serial) == (Good() if serial % 2 else status_of(2))


def test_a_file_that_does_not_hold_together_is_broken_not_endless(path: Path) -> None:
    with closing(TableWriter.open(path)) as writer, closing(writer.reader()) as reader:
        table = writer._table
        writer.put("root", 1, status_of(1))
        table.signed[table.top - 1] += 1  # whose revocation it is
        assert refusal(lambda: reader.status("root", 1)) == "status-table-corrupt"
        start = table.segment(0)
        for at in range(start, start + table.span, 2):
            table.words[at] = 1
        assert refusal(lambda: reader.status("root", 1)) == "status-table-corrupt"
        for at in range(len(table.directory)):
            table.directory[at] = 0xFFFF_FFFF
        assert refusal(lambda: reader.status("root", 1)) == "status-table-corrupt"


@pytest.mark.parametrize("life", range(LIVES))
def test_a_reader_that_splits_overtake_reads_again(path: Path, life: int) -> None:
    """Between its look at the directory and that at the segment, others took the segment's place
    and it was filled with something else."""
    with closing(TableWriter.open(path)) as writer, closing(writer.reader()) as reader:
        writer.put("root", life, status_of(3))
        directory = reader._table.directory

        class Slow:
            first = True

            def __getitem__(self, at: int) -> int:
                segment = directory[at]
                if self.first:
                    self.first = False
                    writer.put_many("root", ((n, Good()) for n in range(1000, 1400)))
                    writer.put("root", life, status_of(5))
                return segment

            def release(self) -> None:
                directory.release()

        reader._table.directory = Slow()  # type: ignore[assignment]
        assert reader.status("root", life) == status_of(5)


def test_a_reader_whom_the_ring_overtakes_says_so(path: Path) -> None:
    with closing(TableWriter.open(path)) as writer, closing(writer.reader()) as reader:
        counter, words = reader.counter, reader._words
        writer.put("root", 1, status_of(1))

        class Slow:
            def __getitem__(self, at: int) -> int:
                if at == RING_AT + counter % RING:
                    writer.put_many("root", ((n, status_of(1)) for n in range(100, 100 + RING)))
                return words[at]

        reader._words = Slow()  # type: ignore[assignment]
        assert reader.changed_since(counter)[1] is None


def test_a_reader_does_not_wait_for_ever(path: Path) -> None:
    with closing(TableReader.open(path, most_lag=None)) as reader:
        words = reader._table.words

        class Restless:
            looks = 0

            def __getitem__(self, at: int) -> int:
                self.looks += at == GENERATION_AT
                return self.looks if at == GENERATION_AT else words[at]

            def release(self) -> None:
                words.release()

        reader._table.words = Restless()  # type: ignore[assignment]
        assert refusal(lambda: reader.status("root", 1)) == "status-table-busy"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Failure) as caught:
        call()
    return caught.value.code


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(Path(sys.argv[2]))
    else:
        write(Path(sys.argv[2]), *map(int, sys.argv[3:6]), answered=len(sys.argv) > 6)
