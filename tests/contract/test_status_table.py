"""What the writer and the readers of a status table promise each other."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from infra.errors import Broken, Failure, Rejected, Unavailable
from ocsp.source import Horizon, StatusSource
from ocsp.table import TableReader, TableWriter
from ocsp.table.layout import RING
from pki.status import Good, RevocationReason, Revoked, Unknown

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
REVOKED = Revoked(
    NOW - timedelta(microseconds=1),
    RevocationReason.keyCompromise,
    datetime(1969, 7, 20, 20, 17, 40, 5, tzinfo=UTC),
    (1 << 56) - 1,
)
HELD = Revoked(NOW, RevocationReason.certificateHold, None, 1)
LARGEST = (1 << 160) - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ocsp" / "table"


@pytest.fixture
def writer(path: Path) -> Iterator[TableWriter]:
    with closing(TableWriter.open(path)) as writer:
        writer.issuer("root", complete=True)
        writer.issuer("foreign", complete=False)
        yield writer


@pytest.fixture
def reader(writer: TableWriter, path: Path) -> Iterator[TableReader]:
    with closing(TableReader.open(path, most_lag=timedelta(seconds=5))) as reader:
        yield reader


def refusal(code: str) -> pytest.RaisesExc[Failure]:
    return pytest.raises(Failure, match=f"^{code}: ")


def test_it_is_a_status_source(reader: TableReader) -> None:
    source: StatusSource = reader
    assert source.status("root", 1) == Unknown()


@pytest.mark.parametrize("serial", [1, 127, 1 << 64, LARGEST, LARGEST + 1, -1, 0, -(1 << 159)])
@pytest.mark.parametrize("status", [Good(), REVOKED, HELD], ids=["good", "revoked", "held"])
def test_what_is_put_is_read(
    writer: TableWriter, reader: TableReader, serial: int, status: Good | Revoked
) -> None:
    writer.put("root", serial, status)
    assert reader.status("root", serial) == status
    assert reader.status("root", -serial - 1) == Unknown()
    assert reader.status("foreign", serial) == Good()


def test_absence_means_what_the_issuer_is(writer: TableWriter, reader: TableReader) -> None:
    assert reader.status("root", 7) == Unknown()
    assert reader.status("foreign", 7) == Good()
    writer.issuer("root", complete=False)
    assert reader.status("root", 7) == Good()


def test_a_status_changes_as_often_as_it_does(writer: TableWriter, reader: TableReader) -> None:
    for status in (Good(), HELD, Good(), HELD, REVOKED, REVOKED):
        writer.put("root", 7, status)
        assert reader.status("root", 7) == status
    assert reader.size == 1


def test_an_issuer_that_comes_later_is_seen(writer: TableWriter, reader: TableReader) -> None:
    with refusal("status-source-empty"):
        reader.status("später", 7)
    with refusal("status-source-empty"):
        writer.put("später", 7, Good())
    writer.issuer("später", complete=True)
    writer.put("später", 7, HELD)
    assert reader.status("später", 7) == HELD


@pytest.mark.parametrize("name", ["", "x" * 65, "ü" * 33, "a\0b"])
def test_a_name_that_does_not_fit_is_refused(writer: TableWriter, name: str) -> None:
    with refusal("bad-issuer-name"):
        writer.issuer(name, complete=True)


def test_there_are_256_issuers(writer: TableWriter, reader: TableReader) -> None:
    for number in range(254):
        writer.issuer(f"{number:0>64}", complete=True)
    with refusal("too-many-issuers"):
        writer.issuer("one more", complete=True)
    writer.put(f"{253:0>64}", 1, HELD)
    assert reader.status(f"{253:0>64}", 1) == HELD
    assert reader.status(f"{252:0>64}", 1) == Unknown()


def test_the_counter_counts_changes_of_status(writer: TableWriter, reader: TableReader) -> None:
    start = reader.counter
    writer.put("root", 1, Good())  # issuance
    writer.put("foreign", 1, Good())  # was good before
    writer.put_many("root", ((n, Good()) for n in range(2, 9)))
    assert reader.changed_since(start) == (start, [])
    writer.put("root", 1, HELD)
    writer.put("root", 1, HELD)  # no change
    writer.put("root", 1, Good())
    writer.put("root", 1, Good())
    writer.put("foreign", 2, REVOKED)  # was good, though absent
    keys = [reader.key("root", 1), reader.key("root", 1), reader.key("foreign", 2)]
    assert reader.counter == start + 3
    assert reader.changed_since(start) == (start + 3, keys)
    assert reader.changed_since(start + 2) == (start + 3, keys[2:])


def test_a_key_names_one_certificate_to_every_reader(
    writer: TableWriter, reader: TableReader
) -> None:
    with closing(writer.reader()) as other:
        assert reader.key("root", 1) == other.key("root", 1)
    keys = {reader.key(issuer, serial) for issuer in ("root", "foreign") for serial in range(500)}
    assert len(keys) == 1000
    assert max(keys) < 1 << 64


def test_what_the_ring_cannot_tell_is_not_told(writer: TableWriter, reader: TableReader) -> None:
    start = reader.counter
    writer.put_many("root", ((n, HELD) for n in range(RING - 1)))
    _, keys = reader.changed_since(start)
    assert keys == [reader.key("root", n) for n in range(RING - 1)]
    writer.put("root", RING, HELD)
    assert reader.changed_since(start) == (start + RING, None)
    assert reader.changed_since(start + RING + 1) == (start + RING, None)  # of another table
    _, keys = reader.changed_since(start + 1)
    assert keys is not None and keys[-1] == reader.key("root", RING)


def test_the_horizon_is_what_was_said(writer: TableWriter, reader: TableReader) -> None:
    with refusal("status-source-empty"):
        reader.horizon("root", NOW)
    writer.set_horizon("root", NOW, NOW + timedelta(seconds=9))
    assert reader.horizon("root", NOW) == Horizon(NOW, NOW + timedelta(seconds=9))
    later = NOW + timedelta(seconds=5)
    assert reader.horizon("root", later).known_at == NOW
    writer.set_horizon("root", later)
    assert reader.horizon("root", later) == Horizon(later, None)
    early = NOW - timedelta(hours=1)  # by a clock that is late
    assert reader.horizon("root", early).known_at == early


def test_what_is_too_old_is_not_told(writer: TableWriter, reader: TableReader) -> None:
    writer.set_horizon("root", NOW)
    with refusal("status-source-cut-off") as caught:
        reader.horizon("root", NOW + timedelta(seconds=5, microseconds=1))
    assert isinstance(caught.value, Unavailable)
    with closing(writer.reader(most_lag=None)) as patient:
        assert patient.horizon("root", NOW + timedelta(days=9)) == Horizon(NOW, None)
        writer.set_horizon("root", NOW, NOW + timedelta(days=1))
        with refusal("status-source-cut-off"):
            patient.horizon("root", NOW + timedelta(days=1))


def test_live_ends_with_the_writer(path: Path) -> None:
    with closing(TableWriter.open(path)) as writer:
        writer.issuer("root", complete=True, live=True)
        reader = TableReader.open(path, most_lag=timedelta(seconds=5))
        assert reader.horizon("root", NOW) == Horizon(NOW, None)
    with closing(reader):
        second = timedelta(seconds=1)
        assert reader.horizon("root", NOW + second).known_at == NOW
        with closing(TableWriter.open(path)) as writer:
            # It has still to catch up with what happened meanwhile.
            assert reader.horizon("root", NOW + 2 * second).known_at == NOW
            with refusal("status-source-cut-off"):
                reader.horizon("root", NOW + 6 * second)
            writer.issuer("root", complete=True, live=True)
            assert reader.horizon("root", NOW + 7 * second).known_at == NOW + 7 * second


def test_it_grows_by_segments(path: Path) -> None:
    random = Random(3)
    serials = [random.getrandbits(127) for _ in range(20_000)]
    with closing(TableWriter.open(path, room=1 << 30, slots=64)) as writer:
        writer.issuer("root", complete=True)
        empty = path.stat().st_blocks * 512
        writer.put_many("root", ((serial, Good()) for serial in serials))
        grown = path.stat().st_blocks * 512 - empty
        assert path.stat().st_size == 1 << 30
        assert grown < 30 * len(serials)
        with closing(writer.reader()) as reader:
            assert reader.size == len(serials)
            assert {reader.status("root", serial) for serial in serials} == {Good()}
            assert reader.status("root", serials[0] ^ 1) == Unknown()


def test_it_is_there_after_a_clean_end(path: Path) -> None:
    with closing(TableWriter.open(path, boot=b"a" * 16)) as writer:
        writer.issuer("root", complete=True)
        writer.put("root", 1, REVOKED)
        writer.applied = 77
        with closing(writer.reader()) as reader:
            counter = reader.counter
        writer.sync()
    with closing(TableWriter.open(path, boot=b"b" * 16)) as writer:
        assert writer.applied == 77
        with closing(writer.reader()) as reader:
            assert reader.status("root", 1) == REVOKED
            assert reader.changed_since(counter) == (counter, [])


def test_only_its_owner_may_look(writer: TableWriter, path: Path) -> None:
    assert [stat.S_IMODE(file.stat().st_mode) for file in sorted(path.parent.iterdir())] == [
        0o600,
        0o600,
    ]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_holds_no_serial_number(writer: TableWriter, path: Path) -> None:
    serial = 0x5EED_0123_4567_89AB_CDEF_5EED
    writer.put("root", serial, HELD)
    with path.open("rb") as file:
        head = file.read(4 << 20)
        file.seek(-(1 << 20), 2)
        octets = head + file.read()
    for needle in (serial.to_bytes(12, "big"), serial.to_bytes(12, "little")):
        assert needle not in octets
        assert needle[:6] not in octets
    assert b"foreign" in octets  # it is the table that was searched


def test_there_is_one_writer(writer: TableWriter, path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^state-locked: "):
        TableWriter.open(path)


def test_a_new_table_takes_the_readers_along(path: Path) -> None:
    with closing(TableWriter.open(path)) as writer:
        writer.issuer("root", complete=True)
        writer.put("root", 1, HELD)
        writer.applied = 5
        reader = TableReader.open(path, most_lag=None)
        writer.issuer("root", complete=True, live=True)
        assert reader.horizon("root", NOW) == Horizon(NOW, None)
    with closing(reader):
        counter = reader.counter
        assert reader.status("root", 1) == HELD
        with closing(TableWriter.open(path, anew=True)) as writer:
            assert writer.applied == 0
            assert reader.counter != counter
            now, changed = reader.changed_since(counter)
            assert (now, changed) == (reader.counter, None)
            with refusal("status-source-empty"):
                reader.status("root", 1)
            writer.issuer("other", complete=True)  # has the number that root had
            writer.issuer("root", complete=True)
            assert reader.status("root", 1) == Unknown()
            with refusal("status-source-empty"):
                reader.horizon("root", NOW)  # what the old table was worth says nothing of this


def test_no_table_is_no_reason_to_fail_for_ever(path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^status-table-missing: "):
        TableReader.open(path, most_lag=None)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"x" * 8192])
def test_a_foreign_file_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Rejected, match=r"^not-a-status-table: "):
        TableWriter.open(path)
    with pytest.raises(Rejected, match=r"^not-a-status-table: "):
        TableWriter.open(path, anew=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("at", [24, 32, 40, 71, 72, 87])
def test_a_header_that_was_altered_is_seen(path: Path, at: int) -> None:
    TableWriter.open(path).close()
    with path.open("r+b") as file:
        file.seek(at)
        octet = file.read(1)[0]
        file.seek(at)
        file.write(bytes([octet ^ 1]))
    for opening in (TableWriter.open, lambda path: TableReader.open(path, most_lag=None)):
        with pytest.raises(Broken, match=r"^status-table-corrupt: "):
            opening(path)


def test_a_file_that_was_cut_is_seen(path: Path) -> None:
    TableWriter.open(path).close()
    with path.open("r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(Broken, match=r"^status-table-corrupt: "):
        TableReader.open(path, most_lag=None)


def test_another_version_begins_anew(path: Path) -> None:
    with closing(TableWriter.open(path)) as writer:
        writer.applied = 5
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\2")
    with pytest.raises(Unavailable, match=r"^status-table-version: "):
        TableReader.open(path, most_lag=None)
    with closing(TableWriter.open(path)) as writer:
        assert writer.applied == 0


@pytest.mark.parametrize(("room", "slots"), [(1 << 30, 100), (1 << 30, 1), (4097, 64), (8192, 64)])
def test_a_size_that_cannot_be_is_refused(path: Path, room: int, slots: int) -> None:
    with pytest.raises(Rejected, match=r"^bad-table-size: "):
        TableWriter.open(path, room=room, slots=slots)
    assert not path.exists()
