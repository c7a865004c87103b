"""A series of CRLs that is killed, or loses its disk, token or turn, at each step.

The process is really killed, over a real store and folder; run as a program this file is the one
that dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from crl.encode import parse_crl
from crl.head import Turn
from crl.history import Kind, Publication, State
from crl.scope import Scope
from crl.series import COLLECTIONS, Series
from infra.clock import FixedClock
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Collection, Duplicate, Store, Stored
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType
from tests.contract import crl_fixtures
from tests.contract.crl_fixtures import authority
from tests.contract.crl_series_fixtures import House

ACTS = Collection("acts")
STEPS = [
    "reserved", "written", "intended", "signed", "closed", "checked", "kept",
    "completed", "logged", "published",
]  # fmt: skip
COMPLETE = STEPS[STEPS.index("completed") :]
INTENDED = STEPS[STEPS.index("intended") : STEPS.index("completed")]


class DurableActs:
    """A log in the same store: what was recorded is there after a crash."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None:
        try:
            await self._store.insert(ACTS, id, {"what": what, "hash": object_hash})
        except Duplicate:
            return

    async def all(self) -> list[tuple[str, bytes]]:
        return [
            (str(stored.body["what"]), bytes(stored.body["hash"]))  # type: ignore[arg-type]
            async for stored in self._store.scan(ACTS)
        ]


class AwayToken:
    """A token that was pulled out."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        signer = authority(threads).signer
        self.uri = "pkcs11:object=away"
        self.key_type = signer.key_type
        self.algorithm = signer.algorithm
        self.public_key_info = signer.public_key_info

    async def sign(self, message: bytes) -> bytes:
        raise Unavailable("token-unavailable", "the token is away; plug it in")

    async def close(self) -> None:
        """There is nothing to let go of."""


async def opened(folder: Path) -> SqliteStore:
    return await SqliteStore.open(folder / "state.sqlite", (*COLLECTIONS, ACTS))


def house(folder: Path, store: Store, threads: ThreadPoolExecutor, revoked: list[int]) -> House:
    made = House(authority(threads), store, folder / "crl", acts=DurableActs(store))  # type: ignore[arg-type]
    for serial in revoked:
        made.ledger.revoke(serial)
    return made


def scope(of: House) -> Scope:
    return of.scope(delta_url="http://crl.test/issuing.delta.crl")


def serials(crl: Publication) -> list[int]:
    return [entry.serial for entry in parse_crl(crl.read()).tbs.entries()]


async def issue(series: Series, kind: str) -> Publication:
    return await (series.issue_full() if kind == "full" else series.issue_delta())


async def die(folder: Path, step: str, kind: str, threads: ThreadPoolExecutor) -> None:
    def kill(done: str) -> None:
        if f"wait-{done}" == step:
            print("waiting", flush=True)
            sys.stdin.read()
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    of = house(folder, await opened(folder), threads, [1, 2])
    series = of.series(scope(of), checkpoint=kill)
    await series.recover()
    await issue(series, kind)


def crash(folder: Path, step: str, kind: str) -> None:
    died = subprocess.run(
        [sys.executable, __file__, str(folder), step, kind],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
async def first(tmp_path: Path, threads: ThreadPoolExecutor) -> Publication:
    """A CRL that was published before the crash, by the key that stands in the folder."""
    key = crl_fixtures.private_key(KeyType.P_256)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    store = await opened(tmp_path)
    of = house(tmp_path, store, threads, [1])
    made = await of.series(scope(of)).issue_full()
    await store.close()
    return made


@pytest.fixture
async def store(first: Publication, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = await opened(tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_each_step(
    first: Publication, tmp_path: Path, threads: ThreadPoolExecutor, step: str, kind: Kind
) -> None:
    crash(tmp_path, step, kind)
    store = await opened(tmp_path)
    of = house(tmp_path, store, threads, [1, 2])
    of.clock.at += timedelta(minutes=2)  # the lease of the dead process is over
    series = of.series(scope(of), holder="again")
    void = await series.recover()
    interrupted = first.number + 1
    acts = [what for what, _ in await DurableActs(store).all()]
    if step in COMPLETE:
        # It is complete, so it is finished rather than made again.
        assert void == []
        assert series.current(kind).number == interrupted
        assert acts == ["crl.issue", "crl.issue"]
    else:
        # Nothing of it was seen, and the log says what became of what was to be signed.
        assert void == ([interrupted] if step in INTENDED else [])
        assert acts.count("crl.void") == len(void)
        with pytest.raises(Rejected, match="no-such-crl"):
            await series.by_number(interrupted)
        with pytest.raises(Unavailable, match="no-crl-yet"):
            series.current(Kind.delta)
        assert series.current() == first
    after = await series.issue_full()
    assert after.number > interrupted
    assert serials(after) == [1, 2]
    files = {file.name for file in (tmp_path / "crl" / "issuing").iterdir()}
    assert not [name for name in files if name.startswith(".")]
    kept = {f"{first.number}.crl", f"{after.number}.crl"}
    assert {name for name in files if name.endswith(".crl")} == kept | (
        {f"{interrupted}.crl"} if step in COMPLETE else set()
    )
    assert await of.series(scope(of), holder="third").recover() == []
    await store.close()


async def test_a_token_that_is_away(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    class Away(AwayToken):
        async def sign_digest(self, digest: bytes) -> bytes:
            return await self.sign(digest)

    of = house(tmp_path, store, threads, [1, 2])
    series = of.series(signer=Away(threads))
    await series.recover()
    with pytest.raises(Unavailable, match="token-unavailable"):
        await series.issue_full()
    assert series.current() == first
    back = of.series()
    assert await back.recover() == []  # it was voided at once
    assert (await back.issue_full()).number > first.number + 1


async def test_a_signature_that_does_not_verify(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    of = house(tmp_path, store, threads, [1, 2])
    right = of.authority.signer

    class Bad(AwayToken):
        async def sign_digest(self, digest: bytes) -> bytes:
            return await right.sign_digest(bytes(len(digest)))

    series = of.series(signer=Bad(threads))
    await series.recover()
    with pytest.raises(Broken, match="crl-check"):
        await series.issue_full()
    assert series.current() == first
    assert not (tmp_path / "crl" / "issuing" / f"{first.number + 1}.crl").exists()


async def test_a_file_that_was_altered_is_not_served(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    octets = bytearray(first.path.read_bytes())
    octets[-1] ^= 1
    first.path.write_bytes(octets)
    series = house(tmp_path, store, threads, [1, 2]).series()
    await series.recover()
    with pytest.raises(Unavailable, match="no-crl-yet"):
        series.current()
    assert serials(await series.issue_full()) == [1, 2]


async def test_a_layout_that_was_altered_is_not_used(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    # Both files altered to fit each other: the entry of serial 1 is to be forgotten.
    of = house(tmp_path, store, threads, [1, 2])
    series = of.series()
    await series.recover()
    from crl import blocks

    layout = series.history.layout(first.number, None)
    [block] = layout.blocks
    octets = bytearray(first.path.read_bytes())
    octets[layout.start + 4] = 9
    inside = bytes(octets[layout.start : layout.start + block.size])
    forged = blocks.Block(0, b"\x09", block.size, 1, blocks.digest(inside))
    first.path.write_bytes(octets)
    first.path.with_suffix(".layout").write_bytes(
        blocks.encode_layout(blocks.Layout(1, "issuing", first.number, layout.start, [forged]))
    )
    assert serials(await series.issue_full()) == [1, 2]


async def test_a_disk_that_is_full(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    series = house(tmp_path, store, threads, [1, 2]).series()
    await series.recover()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_tbs", "close_with", "sync"):
        with monkeypatch.context() as patched:
            patched.setattr(f"crl.making.{name}", full)
            with pytest.raises(Unavailable, match="storage-full"):
                await series.issue_full()
        assert series.current() == first
    assert serials(await series.issue_full()) == [1, 2]


async def test_two_processes_take_turns(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    of = house(tmp_path, store, threads, [1, 2])
    other_refused = []

    def meanwhile(step: str) -> None:
        if step == "reserved":
            other_refused.append(asyncio.ensure_future(other.issue_full()))

    other = of.series(holder="other")
    assert await other.recover() == []
    series = of.series(holder="one", checkpoint=meanwhile)
    await series.recover()
    made = await series.issue_full()
    with pytest.raises(Unavailable, match="crl-signer-elsewhere"):
        await other_refused[0]
    assert (await other.issue_full()).number > made.number
    await series.refresh()
    assert series.current().number > made.number


async def test_the_last_crl_is_served_while_that_of_another_process_is_checked(
    first: Publication,
    store: SqliteStore,
    tmp_path: Path,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = house(tmp_path, store, threads, [1, 2])
    series, other = of.series(holder="one"), of.series(holder="other")
    await series.recover()
    made = await other.issue_full()
    verify, served = series.history.verify_file, list[int]()

    def slowly(publication: Publication) -> None:
        served.append(series.current().number)
        verify(publication)

    monkeypatch.setattr(series.history, "verify_file", slowly)
    await series.refresh()
    assert served == [first.number]
    assert series.current() == made


async def test_while_another_process_signs_nobody_else_does(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    of = house(tmp_path, store, threads, [1, 2])
    series = of.series(scope(of), holder="parent")
    await series.recover()
    with subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), "wait-signed", "full"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"waiting\n"
        with pytest.raises(Unavailable, match="crl-signer-elsewhere"):
            await series.issue_full()
        # The lease ends while the other one is still alive; what it has signed comes to nothing.
        of.clock.at += timedelta(minutes=2)
        made = await series.issue_full()
        assert child.stdin is not None
        child.stdin.close()
        assert await asyncio.to_thread(child.wait, 30) != 0
    assert made.number > first.number + 1
    again = of.series(scope(of), holder="again")
    assert await again.recover() == []
    assert again.current() == made
    assert serials(made) == [1, 2]


async def test_a_turn_is_given_back_though_its_lease_is_just_prolonged(store: SqliteStore) -> None:
    clock, lease = FixedClock(crl_fixtures.NOW), timedelta(milliseconds=30)
    writing, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        """Its answer comes late to what was written."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def replace(self, *change: Any) -> Stored:
            stored = await store.replace(*change)
            if not writing.is_set():
                writing.set()
                await go_on.wait()
            return stored

    slow: Any = Slow()
    turn = await Turn(slow, clock, "another", "one", lease).__aenter__()
    async with asyncio.timeout(20):
        await writing.wait()
        leaving = asyncio.create_task(turn.__aexit__())
        await asyncio.sleep(0)
        go_on.set()
        await leaving
    async with Turn(store, clock, "another", "other", lease):
        pass


async def test_a_process_that_slept_through_its_lease_publishes_nothing(
    first: Publication, store: SqliteStore, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    of = house(tmp_path, store, threads, [1, 2])
    made: list[Publication] = []
    loop = asyncio.get_running_loop()
    other = of.series(holder="other")

    class Sleepy(AwayToken):
        """Signs when another process has long since taken over."""

        async def sign_digest(self, digest: bytes) -> bytes:
            signature = await of.authority.signer.sign_digest(digest)
            of.clock.at += timedelta(minutes=5)
            made.append(await other.issue_full())
            return signature

    slow = of.series(holder="slow", signer=Sleepy(threads))
    with pytest.raises((Unavailable, Broken, Rejected)):
        await slow.issue_full()
    assert loop is asyncio.get_running_loop()
    reader = of.series(holder="reader")
    await reader.refresh()
    assert reader.current() == made[0]
    assert (await reader.issue_full()).number > made[0].number
    published = await reader.history.in_state(State.published)
    numbers = [stored.body["number"] for stored in published]
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]


def main(folder: Path, step: str, kind: str) -> None:
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    crl_fixtures._KEYS[KeyType.P_256] = key
    with ThreadPoolExecutor(1) as threads:
        asyncio.run(die(folder, step, kind, threads))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
