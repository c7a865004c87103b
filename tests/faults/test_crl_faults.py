"""A CRL issuer that is killed, or loses its store or token, at each step.

The process is really killed, over a real store; run as a program this file is the one that dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from crl.encode import parse_crl
from crl.issuer import COLLECTIONS, CrlIssuer, IssuedCrl
from infra.clock import FixedClock
from infra.errors import Rejected, Unavailable
from infra.store.port import Collection, Duplicate, Store
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType
from tests.contract import crl_fixtures
from tests.contract.crl_fixtures import NOW, Statuses, authority

ACTS = Collection("acts")
STEPS = ["reserved", "checked", "signed", "completed", "logged", "published"]
BEFORE_COMPLETE = STEPS[:3]


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


async def opened(folder: Path) -> SqliteStore:
    return await SqliteStore.open(folder / "state.sqlite", (*COLLECTIONS, ACTS))


def make(store: Store, threads: ThreadPoolExecutor, revoked: list[int], **more: Any) -> CrlIssuer:
    ca = authority(threads)
    statuses = Statuses()
    for serial in revoked:
        statuses.revoke(serial)
    return CrlIssuer(
        ca.issuer,
        more.pop("signer", ca.signer),
        statuses,
        store,
        FixedClock(NOW),
        DurableActs(store),
        lifetime=timedelta(days=1),
        **more,
    )


def serials(crl: IssuedCrl) -> list[int]:
    return [entry.serial for entry in parse_crl(crl.der).tbs.entries()]


async def die(folder: Path, step: str, threads: ThreadPoolExecutor) -> None:
    """Take up what is there, make the second CRL, and be killed right after ``step``."""

    def kill(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    issuer = make(await opened(folder), threads, [1, 2], checkpoint=kill)
    await issuer.recover()
    await issuer.issue()


def crash(folder: Path, step: str) -> None:
    died = subprocess.run(
        [sys.executable, __file__, str(folder), step],
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
async def first(tmp_path: Path, threads: ThreadPoolExecutor) -> IssuedCrl:
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
    made = await make(store, threads, [1]).issue()
    await store.close()
    return made


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_each_step(
    first: IssuedCrl, tmp_path: Path, threads: ThreadPoolExecutor, step: str
) -> None:
    crash(tmp_path, step)
    store = await opened(tmp_path)
    issuer = make(store, threads, [1, 2])
    void = await issuer.recover()
    served = issuer.current()
    interrupted = first.number + 1
    if step in BEFORE_COMPLETE:
        # Nothing of it was seen: the previous one is served, and the log says what became of it.
        assert void == [interrupted]
        assert served == first
        with pytest.raises(Rejected, match="no-such-crl"):
            await issuer.by_number(interrupted)
    else:
        # It is complete, so it is finished rather than made again.
        assert void == []
        assert (served.number, serials(served)) == (interrupted, [1, 2])
    acts = [what for what, _ in await DurableActs(store).all()]
    assert acts.count("crl.issue") == (1 if step in BEFORE_COMPLETE else 2)
    assert acts.count("crl.void") == len(void)
    after = await issuer.issue()
    assert after.number > interrupted
    assert serials(after) == [1, 2]
    assert await make(store, threads, []).recover() == []
    await store.close()


async def test_a_kill_during_recovery(
    first: IssuedCrl, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    crash(tmp_path, "completed")
    crash(tmp_path, "logged")
    store = await opened(tmp_path)
    issuer = make(store, threads, [1, 2])
    assert await issuer.recover() == []
    assert issuer.current().number == first.number + 1
    hashes = [digest for what, digest in await DurableActs(store).all() if what == "crl.issue"]
    assert sorted(hashes) == sorted([first.sha256, issuer.current().sha256])
    await store.close()


class FullDisk:
    """A store whose disk is full from its n-th change on."""

    def __init__(self, store: Store, changes: int) -> None:
        self._store = store
        self.left = changes

    def __getattr__(self, name: str) -> Any:
        if name in ("insert", "insert_many", "replace"):
            self.left -= 1
            if self.left < 0:
                return self._refuse
        return getattr(self._store, name)

    async def _refuse(self, *parts: object) -> None:
        raise Unavailable("storage-full", "the disk is full; free some space")


async def test_a_disk_that_fills_at_each_change(
    first: IssuedCrl, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    store = await opened(tmp_path)
    highest = first.number
    served = first
    for changes in range(5):
        full = FullDisk(store, changes)
        issuer = make(full, threads, [1, 2])
        await issuer.recover()
        full.left = changes
        before = issuer.current()
        with pytest.raises(Unavailable, match="storage-full"):
            await issuer.issue()
        assert issuer.current() == before
        with pytest.raises(Unavailable, match="storage-full"):
            await issuer.issue()
        assert issuer.current() == before
        again = make(store, threads, [1, 2])
        await again.recover()
        assert again.current().number >= before.number
        served = await again.issue()
        assert served.number > highest
        highest = served.number
    assert serials(served) == [1, 2]
    await store.close()


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


async def test_a_token_that_is_away(
    first: IssuedCrl, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    store = await opened(tmp_path)
    issuer = make(store, threads, [1, 2], signer=AwayToken(threads))
    await issuer.recover()
    with pytest.raises(Unavailable, match="token-unavailable"):
        await issuer.issue()
    assert issuer.current() == first
    back = make(store, threads, [1, 2])
    assert await back.recover() == []
    assert (await back.issue()).number > first.number + 1
    await store.close()


async def test_octets_that_were_altered_are_not_served(
    first: IssuedCrl, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    store = await opened(tmp_path)
    octets = COLLECTIONS[1]
    [kept] = [stored async for stored in store.scan(octets)]
    await store.replace(octets, kept, {"der": first.der[:-1] + b"\x00"})
    with pytest.raises(Exception, match="storage-corrupt"):
        await make(store, threads, [1]).recover()
    await store.close()


def main(folder: Path, step: str) -> None:
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    crl_fixtures._KEYS[KeyType.P_256] = key
    with ThreadPoolExecutor(1) as threads:
        asyncio.run(die(folder, step, threads))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
