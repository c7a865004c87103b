"""What someone with the database file can do to the log, and what a crash can: it is named."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from infra.clock import FixedClock
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Collection, New, Replacement, Stored
from infra.store.sqlite import SqliteStore
from pki.log.act import encode, parse
from pki.log.audit import verify_log
from pki.log.checkpoint import VerifierKey, assemble, parse_note
from pki.log.evidence import Report
from pki.log.log import COLLECTIONS, Log
from pki.log.merkle import leaf_hash, root_of
from pki.log.records import CHECKPOINTS, LEAVES, PARTIAL, START, TILES, record_id, running
from tests.contract.log_fixtures import (
    NOW,
    ORIGIN,
    Tampering,
    act,
    append_all,
    leaf_hashes,
    log_key,
    naive_root,
    opened_log,
    opened_store,
    public,
    verified,
)

SIZE = 600  # two full tiles and 88 leaves
SIGNED = (300, 600)
TILE_0, TILE_1 = "00/000000000000", "00/000000000001"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VerifierKey, list[bytes]]:
    """A log with two checkpoints, its key, and the notes as they were handed out."""
    folder = tmp_path_factory.mktemp("written")

    async def write() -> tuple[VerifierKey, list[bytes]]:
        notes = []
        async with log_key(folder / "keys") as signer, opened_log(folder / "log.db") as log:
            for first, size in zip((0, *SIGNED), SIGNED, strict=False):
                await append_all(log, range(first, size))
                notes.append(await log.checkpoint(signer))
            return public(signer), notes

    key, notes = asyncio.run(write())
    return folder / "log.db", key, notes


@pytest.fixture
def tampered(
    written: tuple[Path, VerifierKey, list[bytes]], tmp_path: Path
) -> tuple[Tampering, Callable[..., Report]]:
    path, key, _ = written
    copy = tmp_path / "log.db"
    shutil.copy(path, copy)

    def verify(*trusted: bytes) -> Report:
        return asyncio.run(verified(copy, key, trusted=trusted))

    assert verify().ok
    return Tampering(copy), verify


def codes(report: Report) -> dict[str, tuple[int | None, int | None]]:
    return {finding.code: (finding.start, finding.end) for finding in report.findings}


def rewritten(tampering: Tampering, index: int, before: bytes | None = None) -> bytes:
    """Alter a leaf and its own running hashes to fit; the running hash after it."""
    body = tampering.leaf(index)
    leaf = bytes(body["leaf"]).replace(b"operator:clerk", b"operator:thief")  # type: ignore[arg-type]
    start: Any = before if before is not None else body["before"]
    after = running(start, leaf_hash(leaf))
    tampering.alter_leaf(index, leaf=leaf, before=start, after=after)
    return after


def altered_tile(tampering: Tampering, id: str, at: int, hash_: bytes) -> None:
    hashes = bytearray(bytes(tampering.body(TILES, id)["hashes"]))  # type: ignore[call-overload]
    hashes[32 * at : 32 * at + 32] = hash_
    tampering.alter(TILES, id, hashes=bytes(hashes))


def hash_of(tampering: Tampering, index: int) -> bytes:
    leaf: Any = tampering.leaf(index)["leaf"]
    return leaf_hash(leaf)


INDICES = [0, 1, 255, 256, 299, 300, 511, 512, 598, 599]


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("field", ["id", "what", "who", "when", "object_hash", "detail"])
def test_every_field_of_a_leaf(tampered: Any, index: int, field: str) -> None:
    tampering, verify = tampered
    leaf: bytes = tampering.leaf(index)["leaf"]
    at = leaf.index(b'"%s":' % field.encode()) + len(field) + 6
    altered = leaf[:at] + bytes((leaf[at] ^ 1,)) + leaf[at + 1 :]
    tampering.alter_leaf(index, leaf=altered)
    report = verify()
    assert codes(report) == {"leaf-altered": (index, index + 1)}
    assert report.first_altered == index
    # The other records still vouch for what it was.
    assert report.covered == SIZE


@pytest.mark.parametrize("index", INDICES)
def test_a_leaf_with_its_own_running_hash(tampered: Any, index: int) -> None:
    tampering, verify = tampered
    rewritten(tampering, index)
    assert verify().first_altered == index


@pytest.mark.parametrize("index", [0, 255, 256, 400, 511])
def test_a_leaf_and_its_tile(tampered: Any, index: int) -> None:
    tampering, verify = tampered
    leaf: bytes = tampering.leaf(index)["leaf"]
    tampering.alter_leaf(index, leaf=leaf.replace(b"operator:clerk", b"operator:thief"))
    altered_tile(tampering, [TILE_0, TILE_1][index // 256], index % 256, hash_of(tampering, index))
    report = verify()
    assert report.first_altered == index
    assert report.covered == (0 if index < 300 else 300)


@pytest.mark.parametrize("index", [0, 255, 256, 400, 511])
def test_a_leaf_its_running_hash_and_its_tile(tampered: Any, index: int) -> None:
    tampering, verify = tampered
    rewritten(tampering, index)
    altered_tile(tampering, [TILE_0, TILE_1][index // 256], index % 256, hash_of(tampering, index))
    assert verify().first_altered == index


@pytest.mark.parametrize("index", [520, 598])
def test_a_leaf_of_the_tail_and_the_partial_tile(tampered: Any, index: int) -> None:
    tampering, verify = tampered
    rewritten(tampering, index)
    altered_tile(tampering, PARTIAL, index % 256, hash_of(tampering, index))
    assert verify().first_altered == index


def rewrite_everything_from(tampering: Tampering, index: int) -> None:
    before = None
    for number in range(index, SIZE):
        body = tampering.leaf(number)
        if before is None:
            before = rewritten(tampering, number)
        else:
            leaf: Any = body["leaf"]
            after = running(before, leaf_hash(leaf))
            tampering.alter_leaf(number, before=before, after=after)
            before = after
    altered_tile(
        tampering,
        [TILE_0, TILE_1, PARTIAL][index // 256],
        index % 256,
        hash_of(tampering, index),
    )


@pytest.mark.parametrize("index,between", [(10, (0, 300)), (400, (300, 600)), (599, (300, 600))])
def test_everything_rewritten_but_the_signatures(
    tampered: Any, index: int, between: tuple[int, int]
) -> None:
    """Nothing but the signed roots is left: they say between which two checkpoints."""
    tampering, verify = tampered
    rewrite_everything_from(tampering, index)
    report = verify()
    assert codes(report) == {"leaves-altered": between}
    assert report.first_altered == between[0]


@pytest.mark.parametrize("index", [0, 1, 255, 256, 300, 550])
def test_a_leaf_removed(tampered: Any, index: int) -> None:
    tampering, verify = tampered
    tampering.remove(LEAVES, record_id(index))
    report = verify()
    assert codes(report) == {"leaf-missing": (index, index + 1)}
    assert report.covered == SIZE


@pytest.mark.parametrize("first,second", [(3, 4), (0, 599), (255, 256), (520, 530)])
def test_two_leaves_swapped(tampered: Any, first: int, second: int) -> None:
    tampering, verify = tampered
    tampering.rename(LEAVES, record_id(first), "aside")
    tampering.rename(LEAVES, record_id(second), record_id(first))
    tampering.rename(LEAVES, "aside", record_id(second))
    report = verify()
    assert report.first_altered == first
    assert {f.start for f in report.findings} == {first, second}


def test_two_swapped_leaves_say_where_they_belong(tampered: Any) -> None:
    tampering, verify = tampered
    three, four = tampering.leaf(3), tampering.leaf(4)
    tampering.alter_leaf(3, leaf=four["leaf"])
    tampering.alter_leaf(4, leaf=three["leaf"])
    assert [f.detail for f in verify().findings] == [
        "leaf 3 is the one that belongs at 4",
        "leaf 4 is the one that belongs at 3",
    ]


@pytest.mark.parametrize("left", [0, 1, 256, 512, 599])
def test_the_tail_cut_off(tampered: Any, left: int) -> None:
    tampering, verify = tampered
    for index in range(left, SIZE):
        tampering.remove(LEAVES, record_id(index))
    report = verify()
    assert report.first_altered == left
    assert codes(report)["leaf-missing"] == (left, SIZE)


def test_the_tail_and_all_that_speaks_of_it_cut_off(
    tampered: Any, written: tuple[Path, VerifierKey, list[bytes]]
) -> None:
    """Only a checkpoint that was kept elsewhere can tell."""
    tampering, verify = tampered
    for index in range(400, SIZE):
        tampering.remove(LEAVES, record_id(index))
    tampering.remove(TILES, TILE_1)
    tampering.remove(TILES, PARTIAL)
    tampering.remove(CHECKPOINTS, record_id(1))
    assert verify().ok
    assert codes(verify(written[2][1])) == {"leaf-missing": (400, 600)}


@pytest.mark.parametrize("first", [255, 300, 511])
async def test_what_is_appended_and_signed_after_the_last_leaf_was_read_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    async with log_key(tmp_path / "keys") as signer, opened_store(tmp_path / "log.db") as store:
        log = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
        await append_all(log, range(first))
        scan = store.scan

        async def scanned(collection: Collection, *, page: int = 1000) -> AsyncIterator[Stored]:
            async for stored in scan(collection, page=page):
                yield stored
            if collection is LEAVES:
                await append_all(log, range(first, first + 3))
                await log.checkpoint(signer)

        monkeypatch.setattr(store, "scan", scanned)
        report = await verify_log(store, origin=ORIGIN, keys=[public(signer)])
        assert (report.findings, report.size) == ((), first)
        await log.close()


@pytest.mark.parametrize("at", [0, 17, 255])
def test_an_entry_of_a_tile(tampered: Any, at: int) -> None:
    tampering, verify = tampered
    altered_tile(tampering, TILE_1, at, bytes(32))
    report = verify()
    assert codes(report) == {"tile-altered": (256 + at, 257 + at)}
    assert report.first_altered is None
    assert report.covered == SIZE


@pytest.mark.parametrize("body", [{"hashes": b""}, {"hashes": 3}, {"other": b""}])
def test_a_tile_that_is_none(tampered: Any, body: dict[str, Any]) -> None:
    tampering, verify = tampered
    tampering.write(TILES, TILE_0, body)
    assert set(codes(verify())) == {"tile-altered"}


def test_a_tile_removed(tampered: Any) -> None:
    tampering, verify = tampered
    tampering.remove(TILES, TILE_0)
    assert set(codes(verify())) == {"tile-missing"}


@pytest.mark.parametrize("field", ["before", "after"])
@pytest.mark.parametrize("index", [0, 255, 256, 598])
def test_a_running_hash(tampered: Any, index: int, field: str) -> None:
    tampering, verify = tampered
    tampering.alter_leaf(index, **{field: bytes(31) + b"x"})
    assert codes(verify()) == {"running-hash-altered": (index, index + 1)}


def test_the_act_that_a_leaf_is_filed_under(tampered: Any) -> None:
    tampering, verify = tampered
    tampering.alter_leaf(77, act="issue/issuing/other")
    assert codes(verify()) == {"act-altered": (77, 78)}


@pytest.mark.parametrize("body", [{}, {"leaf": "text"}, {"leaf": b"", "act": 3}])
def test_a_leaf_document_that_is_none(tampered: Any, body: dict[str, Any]) -> None:
    tampering, verify = tampered
    tampering.write(LEAVES, record_id(300), body)
    assert codes(verify()) == {"leaf-unreadable": (300, 301)}


@pytest.mark.parametrize("id", ["999999999999", "1", "zzz", "00000000010x"])
def test_a_document_that_is_no_leaf(tampered: Any, id: str) -> None:
    tampering, verify = tampered
    tampering.rename(LEAVES, record_id(599), id)
    assert {"leaf-foreign", "leaf-missing"} == set(codes(verify()))
    assert verify().first_altered == 599


@pytest.mark.parametrize(
    "changes",
    [{"size": 301}, {"root": bytes(32)}, {"number": 4}, {"note": b"no note"}, {"size": "x"}],
)
def test_a_field_of_a_checkpoint(tampered: Any, changes: dict[str, Any]) -> None:
    tampering, verify = tampered
    tampering.alter(CHECKPOINTS, record_id(0), **changes)
    report = verify()
    assert set(codes(report)) == {"checkpoint-altered"}
    assert report.covered == SIZE


def test_a_checkpoint_signed_by_another_key(tampered: Any) -> None:
    tampering, verify = tampered
    note: Any = tampering.body(CHECKPOINTS, record_id(1))["note"]
    text = parse_note(note).text.replace(b"\n600\n", b"\n599\n")
    signature = parse_note(note).signatures[0]
    key = VerifierKey(signature.name, 2, signature.key_id, b"")  # type: ignore[arg-type]
    tampering.alter(CHECKPOINTS, record_id(1), note=assemble(text, key, signature.signature))
    report = verify()
    assert set(codes(report)) == {"checkpoint-altered"}
    assert report.covered == 300


def test_a_checkpoint_removed(tampered: Any) -> None:
    tampering, verify = tampered
    tampering.remove(CHECKPOINTS, record_id(0))
    assert set(codes(verify())) == {"checkpoint-missing"}


def test_checkpoints_in_another_order(tampered: Any) -> None:
    tampering, verify = tampered
    zero = tampering.body(CHECKPOINTS, record_id(0))
    one = tampering.body(CHECKPOINTS, record_id(1))
    tampering.write(CHECKPOINTS, record_id(0), one | {"number": 0})
    tampering.write(CHECKPOINTS, record_id(1), zero | {"number": 1})
    assert set(codes(verify())) == {"checkpoint-altered"}


def test_a_leaf_more_in_front(tampered: Any) -> None:
    """All leaves from there on one place further: the first one is named, not a thousand."""
    tampering, verify = tampered
    bodies = [tampering.leaf(index) for index in range(99, SIZE)]
    for index, body in enumerate(bodies[:-1], 100):
        tampering.write(LEAVES, record_id(index), body)
    report = verify()
    assert report.first_altered == 100
    assert len(report.findings) <= 120


def test_a_trusted_checkpoint_of_another_log(tampered: Any) -> None:
    _, verify = tampered
    with pytest.raises(Rejected, match="bad-note"):
        verify(b"garbage")


@pytest.mark.parametrize("index", [512, 599])
async def test_an_altered_tail_is_not_built_upon(
    written: tuple[Path, VerifierKey, list[bytes]], tmp_path: Path, index: int
) -> None:
    path = tmp_path / "log.db"
    shutil.copy(written[0], path)
    leaf: Any = Tampering(path).leaf(index)["leaf"]
    Tampering(path).alter_leaf(index, leaf=leaf + b" ")
    async with opened_store(path) as store:
        with pytest.raises(Broken, match="log-altered"):
            await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))


async def test_a_missing_leaf_of_the_tail_stops_the_log(
    written: tuple[Path, VerifierKey, list[bytes]], tmp_path: Path
) -> None:
    path = tmp_path / "log.db"
    shutil.copy(written[0], path)
    Tampering(path).remove(LEAVES, record_id(550))
    async with opened_store(path) as store:
        with pytest.raises(Broken, match="log-incomplete"):
            await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))


class FailingStore(SqliteStore):
    """The real store, which fails after it has written a beginning of the next batches."""

    beginnings: list[int]

    async def write(self, changes: Sequence[tuple[Collection, New | Replacement]]) -> None:
        failing = getattr(self, "beginnings", [])
        if changes[-1][0] is not LEAVES or not failing:
            await super().write(changes)
            return
        await super().write(changes[: failing.pop(0)])
        raise Unavailable("storage-full", "free space on the disk")


@pytest.mark.parametrize("beginning", [0, 1, 20, 63, 64])
async def test_a_failed_write_fails_its_batch_and_nothing_else(
    tmp_path: Path, beginning: int
) -> None:
    store = await FailingStore.open(tmp_path / "log.db", COLLECTIONS)
    try:
        log = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
        await append_all(log, range(230))
        store.beginnings = [beginning]  # type: ignore[attr-defined]
        outcomes = await asyncio.gather(
            *(log.append(act(number)) for number in range(230, 294)), return_exceptions=True
        )
        assert {getattr(outcome, "code", None) for outcome in outcomes} == {"storage-full"}
        assert log.size == 230
        indices = await append_all(log, range(220, 300))
        assert sorted(indices) == list(range(220, 300))
        assert log.root() == naive_root(await leaf_hashes(log))
        await log.close()
    finally:
        await store.close()
    assert (await verified(tmp_path / "log.db")).ok


async def test_the_next_batch_goes_on_after_a_failed_one(tmp_path: Path) -> None:
    store = await FailingStore.open(tmp_path / "log.db", COLLECTIONS)
    try:
        log = await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))
        store.beginnings = [1]  # type: ignore[attr-defined]
        first = [asyncio.create_task(log.append(act(number))) for number in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = [asyncio.create_task(log.append(act(number))) for number in range(2, 4)]
        failed = await asyncio.gather(*first, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in failed)
        assert await asyncio.gather(*second) == [1, 2]
        assert await append_all(log, [0, 1]) == [0, 3]
    finally:
        await store.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.contract.log_fixtures import act, opened_log

async def main(path, first):
    numbers = iter(range(first, 10**9))
    async with opened_log(Path(path)) as log:
        async def caller():
            for number in numbers:
                index = await log.append(act(number))
                print(number, index, flush=True)
        await asyncio.gather(*(caller() for _ in range(32)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_killed_while_many_append(tmp_path: Path) -> None:
    """What was acknowledged is there after SIGKILL, and indices are dense, three times over."""
    path = tmp_path / "log.db"
    acknowledged: dict[int, int] = {}
    for run, lines in enumerate((40, 300, 700)):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(run * 1_000_000)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        with child, child.stdout as output:
            for _ in range(lines):
                number, index = map(int, output.readline().split())
                acknowledged[number] = index
            child.send_signal(signal.SIGKILL)
            for line in output:
                if line.endswith("\n"):
                    number, index = map(int, line.split())
                    acknowledged[number] = index
        async with opened_log(path) as log:
            leaves = [await log.leaf(index) for index in range(log.size)]
            assert log.root() == naive_root([leaf_hash(leaf) for leaf in leaves])
            for number, index in acknowledged.items():
                assert leaves[index] == encode(act(number))
            assert len({parse(leaf).id for leaf in leaves}) == len(leaves) >= len(acknowledged)
        assert (await verified(path)).ok


def test_the_records_are_what_an_auditor_reads(
    written: tuple[Path, VerifierKey, list[bytes]],
) -> None:
    """The format of docs/log.md, read without the log's own code."""
    tampering = Tampering(written[0])
    before, hashes = START, []
    for index in range(SIZE):
        body: Any = tampering.leaf(index)
        hashes.append(sha256(b"\x00" + body["leaf"]).digest())
        assert body["before"] == before
        before = sha256(before + hashes[-1]).digest()
        assert body["after"] == before
    assert tampering.body(TILES, TILE_1)["hashes"] == b"".join(hashes[256:512])
    assert tampering.body(TILES, PARTIAL) == {"number": 2, "hashes": b"".join(hashes[512:])}
    assert tampering.body(CHECKPOINTS, record_id(0))["root"] == root_of(hashes[:300])
