"""The log on the embedded store: order, durability of indices, proofs, checkpoints."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.clock import FixedClock
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import New
from infra.store.sqlite import SqliteStore
from pki.algorithms import KeyType
from pki.log.act import Act, encode, parse
from pki.log.audit import verify_log
from pki.log.checkpoint import open_checkpoint
from pki.log.log import COLLECTIONS, Log
from pki.log.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from pki.log.proof import prove
from pki.log.records import LEAVES, TILES, running
from tests.contract.log_fixtures import (
    NOW,
    ORIGIN,
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


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened_store(tmp_path / "log.db") as store:
        yield store


async def opened(store: SqliteStore) -> Log:
    return await Log.open(store, origin=ORIGIN, clock=FixedClock(NOW))


async def test_an_empty_log_has_the_empty_root(store: SqliteStore) -> None:
    log = await opened(store)
    assert (log.size, log.root()) == (0, EMPTY_ROOT)


async def test_leaves_lie_in_the_order_of_the_calls(store: SqliteStore) -> None:
    log = await opened(store)
    assert await append_all(log, range(700)) == list(range(700))
    assert [parse(await log.leaf(index)) for index in (0, 255, 256, 699)] == [
        act(0),
        act(255),
        act(256),
        act(699),
    ]
    assert log.root() == naive_root(await leaf_hashes(log))


async def test_one_caller_after_the_other(store: SqliteStore) -> None:
    log = await opened(store)
    for number in range(5):
        assert await log.append(act(number)) == number
        assert log.size == number + 1


async def test_an_act_keeps_its_index(store: SqliteStore) -> None:
    log = await opened(store)
    await append_all(log, range(10))
    again = await append_all(log, [3, 20, 3, 7, 21, 20])
    assert again == [3, 10, 3, 7, 11, 10]
    assert log.size == 12
    assert await log.find(act(7).id) == 7
    assert await log.find("issue/issuing/none") is None


async def test_an_act_whose_id_belongs_to_another_is_refused_alone(store: SqliteStore) -> None:
    log = await opened(store)
    await append_all(log, range(3))
    different = replace(act(1), who="operator:other")
    outcomes = await asyncio.gather(
        log.append(act(5)), log.append(different), log.append(act(6)), return_exceptions=True
    )
    assert outcomes[0] == 3
    assert isinstance(outcomes[1], Broken)
    assert outcomes[1].code == "log-act-differs"
    assert outcomes[2] == 4


async def test_two_acts_of_one_id_in_one_batch(store: SqliteStore) -> None:
    log = await opened(store)
    first = asyncio.create_task(log.append(act(1)))
    await asyncio.sleep(0)
    with pytest.raises(Broken, match="log-act-differs"):
        await log.append(replace(act(1), what="certificate.revoke"))
    assert await first == 0


@pytest.mark.parametrize("changed", [True, False])
async def test_who_comes_again_while_a_tile_is_written_is_answered(
    store: SqliteStore, changed: bool
) -> None:
    """The act is in the log by then, and those who waited for it have gone."""
    log = await opened(store)
    await append_all(log, range(256))
    async with asyncio.timeout(20):
        if changed:
            with pytest.raises(Broken, match="log-act-differs"):
                await log.append(replace(act(255), who="operator:other"))
        else:
            assert await log.append(act(255)) == 255
    assert log.size == 256


async def test_who_comes_after_the_writer_was_cancelled_is_answered(store: SqliteStore) -> None:
    log = await opened(store)
    tasks = [asyncio.create_task(log.append(act(number))) for number in range(300)]
    for _ in range(2):
        await asyncio.sleep(0)
    assert log._writer is not None
    log._writer.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    async with asyncio.timeout(20):
        await log.append(act(299))
        assert sorted(await append_all(log, range(300))) == list(range(300))


async def test_who_gives_up_closing_leaves_those_who_append_alone(store: SqliteStore) -> None:
    log = await opened(store)
    appending = asyncio.create_task(log.append(act(1)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing, appending])
    assert closing.cancelled()
    assert not appending.cancelled() and appending.result() == 0


async def test_a_caller_that_goes_away_leaves_the_others_alone(store: SqliteStore) -> None:
    log = await opened(store)
    tasks = [asyncio.create_task(log.append(act(number % 2))) for number in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [1, 0, 1]


async def test_what_the_log_does_not_take(store: SqliteStore) -> None:
    log = await opened(store)
    with pytest.raises(Rejected, match="bad-act"):
        await log.append(replace(act(1), object_hash=b"short"))
    assert log.size == 0


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
async def test_it_opens_as_it_was(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log.db"
    async with opened_log(path) as log:
        await append_all(log, range(size))
        root = log.root()
    async with opened_log(path) as log:
        assert (log.size, log.root()) == (size, root)
        assert await log.append(act(size)) == size
        assert log.root() == naive_root(await leaf_hashes(log))


async def test_it_opens_a_tall_log_from_its_tiles(store: SqliteStore) -> None:
    """70,000 leaves, so that a tile of level 1 is full (tlog-tiles, "Partial Tiles")."""
    log = await opened(store)
    for first in range(0, 70_000, 2_000):
        await append_all(log, range(first, first + 2_000))
    reopened = await opened(store)
    assert (reopened.size, reopened.root()) == (log.size, log.root())
    assert await store.count(TILES) == 70_000 // 256 + 1
    for index in (0, 65_535, 65_536, 69_887, 69_999):
        path = await reopened.inclusion(index, 70_000)
        verify_inclusion(leaf_hash(encode(act(index))), index, 70_000, path, log.root())
    for old in (1, 65_536, 65_537, 69_632, 70_000):
        proof = await reopened.consistency(old, 70_000)
        verify_consistency(old, await reopened.root_at(old), 70_000, log.root(), proof)


async def test_a_tile_that_was_lost_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened_store(path) as store:
        log = await opened(store)
        await append_all(log, range(256))
        await log.close()
        assert await store.count(TILES) == 1
        # As after a crash between the leaves and their tile.
        other = await SqliteStore.open(tmp_path / "copy.db", COLLECTIONS)
        documents = [document async for document in store.scan(LEAVES)]
        await other.insert_many(LEAVES, [New(d.id, d.body) for d in documents])
        log = await opened(other)
        assert log.size == 256
        await append_all(log, [256])
        await log.close()
        assert await other.count(TILES) == 1
        await other.close()
    assert (await verified(tmp_path / "copy.db")).ok


async def test_proofs_of_every_leaf_in_every_tree(store: SqliteStore) -> None:
    log = await opened(store)
    await append_all(log, range(40))
    all_hashes = await leaf_hashes(log)
    for size in range(1, 41):
        root = naive_root(all_hashes[:size])
        assert await log.root_at(size) == root
        for index in range(size):
            path = await log.inclusion(index, size)
            verify_inclusion(all_hashes[index], index, size, path, root)
        proof = await log.consistency(size, 40)
        verify_consistency(size, root, 40, log.root(), proof)


async def test_proofs_past_the_end_are_refused(store: SqliteStore) -> None:
    log = await opened(store)
    await append_all(log, range(3))
    for call, code in (
        (log.inclusion(3, 3), "no-such-leaf"),
        (log.inclusion(0, 4), "bad-tree-size"),
        (log.consistency(0, 3), "bad-tree-size"),
        (log.consistency(2, 4), "bad-tree-size"),
        (log.root_at(-1), "bad-tree-size"),
        (log.leaf(3), "no-such-leaf"),
        (log.leaf(-1), "no-such-leaf"),
    ):
        with pytest.raises(Rejected) as refused:
            await call
        assert refused.value.code == code


async def test_two_writers_share_a_log(store: SqliteStore) -> None:
    one, two = await opened(store), await opened(store)
    assert await append_all(one, range(300)) == list(range(300))
    assert await append_all(two, range(300, 310)) == list(range(300, 310))
    assert await append_all(one, [5, 400, 305]) == [5, 310, 305]
    assert await two.append(act(401)) == 311
    assert await one.leaf(311) == encode(act(401))
    assert one.root() == two.root() == naive_root(await leaf_hashes(one))


async def test_two_writers_at_once_lose_nothing(store: SqliteStore) -> None:
    """Whoever loses twice says so; its acts can be appended again."""
    logs = [await opened(store), await opened(store)]

    refusals: set[str] = set()

    async def write(log: Log, numbers: range) -> None:
        for number in numbers:
            while True:
                try:
                    await log.append(act(number))
                    break
                except Unavailable as busy:
                    refusals.add(busy.code)
                    await asyncio.sleep(0)

    await asyncio.gather(
        *(write(logs[n % 2], range(n * 100, n * 100 + 100)) for n in range(6)),
    )
    assert refusals <= {"log-busy"}
    log = await opened(store)
    assert log.size == 600
    assert {parse(await log.leaf(index)).id for index in range(600)} == {
        act(number).id for number in range(600)
    }
    assert log.root() == naive_root(await leaf_hashes(log))


@pytest.mark.parametrize("key_type", [KeyType.P_256, KeyType.ED25519])
async def test_a_checkpoint_signs_the_log(tmp_path: Path, key_type: KeyType) -> None:
    path = tmp_path / "log.db"
    async with log_key(tmp_path / "keys", key_type) as signer:
        async with opened_log(path) as log:
            assert await log.last_checkpoint() is None
            empty = open_checkpoint(await log.checkpoint(signer), [public(signer)])
            assert (empty.size, empty.root) == (0, EMPTY_ROOT)
            await append_all(log, range(300))
            note = await log.checkpoint(signer)
            head = open_checkpoint(note, [public(signer)])
            assert (head.origin, head.size, head.root) == (ORIGIN, 300, log.root())
            assert await log.checkpoint(signer) == note
            assert await log.last_checkpoint() == note
            await append_all(log, range(300, 302))
            newer = open_checkpoint(await log.checkpoint(signer), [public(signer)])
            assert newer.size == 302
        report = await verified(path, public(signer))
        assert (report.ok, report.size, report.covered, report.checkpoints) == (True, 302, 302, 3)


async def test_a_new_log_key_signs_the_same_size_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with (
        log_key(tmp_path / "old") as old,
        log_key(tmp_path / "new", KeyType.ED25519) as new,
    ):
        async with opened_log(path) as log:
            await append_all(log, range(3))
            first = await log.checkpoint(old)
            second = await log.checkpoint(new)
            assert first != second
            assert open_checkpoint(second, [public(new)]).size == 3
        assert (await verified(path, public(old), public(new))).ok


async def test_a_key_that_notes_have_no_type_for(tmp_path: Path) -> None:
    async with (
        log_key(tmp_path / "keys", KeyType.P_384) as signer,
        opened_log(tmp_path / "log.db") as log,
    ):
        with pytest.raises(Rejected, match="bad-log-key"):
            await log.checkpoint(signer)


async def test_a_shorter_log_is_never_signed(tmp_path: Path) -> None:
    """The store went back to an older copy: its checkpoint knows more leaves than there are."""
    async with log_key(tmp_path / "keys") as signer:
        async with opened_log(tmp_path / "log.db") as log:
            await append_all(log, range(10))
            await log.checkpoint(signer)
        async with opened_store(tmp_path / "log.db") as full, opened_store(tmp_path / "b") as cut:
            for collection in COLLECTIONS:
                documents = [New(d.id, d.body) async for d in full.scan(collection)]
                kept = documents[:8] if collection is LEAVES else documents
                await cut.insert_many(collection, kept)
            with pytest.raises(Broken, match="log-truncated"):
                await opened(cut)


async def test_another_past_is_never_signed(tmp_path: Path) -> None:
    """Two stores that differ in leaf 1, and the checkpoint of one in the other."""
    async with (
        log_key(tmp_path / "keys") as signer,
        opened_store(tmp_path / "a") as a,
        opened_store(tmp_path / "b") as b,
    ):
        one, two = await opened(a), await opened(b)
        await append_all(one, [0, 1, 2])
        await append_all(two, [0, 5, 2])
        await one.checkpoint(signer)
        checkpoints = COLLECTIONS[2]
        await b.insert_many(checkpoints, [New(d.id, d.body) async for d in a.scan(checkpoints)])
        with pytest.raises(Broken, match="log-split"):
            await two.checkpoint(signer)
        await append_all(two, [6])
        with pytest.raises(Broken, match="log-split"):
            await two.checkpoint(signer)
        with pytest.raises(Broken, match="log-split"):
            await opened(b)


async def test_progress_and_an_unsigned_log(tmp_path: Path) -> None:
    async with opened_store(tmp_path / "log.db") as store:
        log = await opened(store)
        await append_all(log, range(600))
        await log.close()
    seen: list[tuple[int, int]] = []
    async with opened_store(tmp_path / "log.db") as store:
        report = await verify_log(
            store, origin=ORIGIN, keys=[], progress=lambda done, total: seen.append((done, total))
        )
    assert report.ok
    assert (report.size, report.root, report.covered) == (600, log.root(), 0)
    assert seen[-1] == (600, 600)


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "proof")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


@pytest.mark.parametrize("key_type", [KeyType.P_256, KeyType.ED25519])
async def test_the_separate_verifier_checks_a_proof(tmp_path: Path, key_type: KeyType) -> None:
    der = certificate()
    issued = Act("issue/issuing/7", "certificate.issue", "system", NOW, sha256(der).digest())
    async with (
        log_key(tmp_path / "keys", key_type) as signer,
        opened_log(tmp_path / "log.db") as log,
    ):
        await append_all(log, range(10, 20))
        too_old = await log.checkpoint(signer)
        await log.append(issued)
        await append_all(log, range(30, 300))
        note = await log.checkpoint(signer)
        proof = await prove(log, issued.id, der, note)
        for arguments, code in (
            (("nothing", der, note), "no-such-act"),
            ((issued.id, der + b"x", note), "certificate-differs"),
            ((issued.id, der, too_old), "checkpoint-too-old"),
            ((issued.id, der, b"garbage"), "bad-note"),
        ):
            with pytest.raises(Rejected) as refused:
                await prove(log, *arguments)
            assert refused.value.code == code
        spki = serialization.load_der_public_key(signer.public_key_info)
    pem = spki.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "log.pem").write_bytes(pem)
    other_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other.pem").write_bytes(
        other_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    cert_pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(cert_pem)
    (tmp_path / "other-cert.pem").write_bytes(
        x509.load_der_x509_certificate(certificate()).public_bytes(serialization.Encoding.PEM)
    )

    # Alone in an empty folder: it may import nothing of ours.
    alone = tmp_path / "alone"
    alone.mkdir()
    source = Path(__file__).parents[2] / "pki/log/verifier.py"
    (alone / "verifier.py").write_bytes(source.read_bytes())

    def run(document: object, *options: str, key: str = "log.pem") -> tuple[int, str]:
        (tmp_path / "proof.json").write_text(json.dumps(document))
        command = [sys.executable, "-I", "verifier.py", str(tmp_path / "proof.json")]
        done = subprocess.run(
            [*command, "--log-key", str(tmp_path / key), *options],
            cwd=alone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, text = run(proof, "--certificate", str(tmp_path / "cert.pem"))
    assert status == 0
    assert "PROVEN" in text and "leaf 10" in text and sha256(der).hexdigest() in text
    status, text = run(proof, "--json")
    answer = json.loads(text)
    assert (status, answer["proven"], answer["index"], answer["size"]) == (0, True, 10, 281)

    leaf = str(proof["leaf"])
    path = list(proof["path"])  # type: ignore[arg-type]
    for wrong in (
        proof | {"leaf": leaf.replace("system", "nobody")},
        proof | {"index": 11},
        proof | {"size": 280},
        proof | {"path": path[:-1]},
        proof | {"path": [*path, path[0]]},
        proof | {"path": [path[1], path[0], *path[2:]]},
        proof | {"certificate": base64.b64encode(der + b"x").decode()},
        proof | {"checkpoint": too_old.decode()},
        proof | {"checkpoint": str(proof["checkpoint"]).replace("\n281\n", "\n282\n")},
        proof | {"format": "other/1"},
        proof | {"index": True},
        [],
        7,
    ):
        status, text = run(wrong)
        assert (status, text[:11]) == (1, "NOT PROVEN:")
    assert run(proof, key="other.pem")[0] == 1
    assert run(proof, "--certificate", str(tmp_path / "other-cert.pem"))[0] == 1
    assert run(proof, key="missing.pem")[0] == 1
    assert run(proof | {"padding": "x" * 1_000_000})[0] == 1


def test_the_running_hash_is_what_the_documentation_says() -> None:
    assert running(bytes(32), leaf_hash(b"x")) == sha256(bytes(32) + leaf_hash(b"x")).digest()
