"""Mass revocation over a real ledger: whom it means, what it leaves alone, how it goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from infra.errors import Rejected, Unavailable
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.ledger import Ledger
from pki.mass_query import KeptList, Listed, ListKind, Order, Query, Step, framed
from pki.mass_revocation import USUAL_RATE, MassRevocation
from pki.names import parse_rfc4514
from pki.profile import parse_profile
from pki.profile_check import check_all
from pki.record import Record
from pki.request import assemble_request, build_request_info
from pki.status import RevocationReason, Revoked
from pki.throwaway import Throwaway

PROFILE = "citizen-authentication"
ORDER = Order(RevocationReason.keyCompromise, None, "test")
BATCH = 5


@pytest.fixture
async def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Instance]:
    monkeypatch.setattr("pki.mass_revocation.BATCH", BATCH)
    settings = load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings
    async with running(settings, create=True, serving=False) as made:
        yield made


async def issue(instance: Instance, count: int, key_type: KeyType = KeyType.P_256) -> list[Record]:
    authority = instance.hierarchy.authority("issuing")
    made = []
    for number in range(count):
        key = Throwaway.of(key_type, usual_algorithm(key_type))
        info = build_request_info(parse_rfc4514("CN=A,C=AQ").der, key.public_key_info, ())
        request = assemble_request(info, key.algorithm, key.sign(info))
        made.append(
            await authority.issue(Application(PROFILE, request, "test", f"{key_type}{number}"))
        )
    return made


async def advance(jobs: MassRevocation, what: Query | KeptList) -> Step:
    return await jobs.advance(await jobs.begin(what, ORDER))


async def to_the_end(jobs: MassRevocation, what: Query | KeptList) -> Step:
    async with asyncio.timeout(60):
        job = await jobs.begin(what, ORDER)
        while not (step := await jobs.advance(job)).done:
            pass
    return step


async def statuses(instance: Instance, records: list[Record]) -> list[Any]:
    return [await instance.ledger.status(record.ca, record.serial) for record in records]


async def test_all_of_a_profile_and_nobody_else(instance: Instance) -> None:
    made = await issue(instance, 12)
    ledger = instance.ledger
    await ledger.revoke("issuing", made[0].serial, reason=RevocationReason.superseded, by="test")
    await ledger.hold("issuing", made[1].serial, by="test")
    before = (await statuses(instance, made))[0]
    step = await to_the_end(instance.mass_revocation, Query(profile=PROFILE))
    assert (step.revoked, step.already) == (11, 1)
    found = await statuses(instance, made)
    assert found[0] == before
    assert {status.reason for status in found[1:]} == {RevocationReason.keyCompromise}
    # Once more: nothing is left to do.
    again = await to_the_end(instance.mass_revocation, Query(profile=PROFILE))
    assert (again.revoked, again.already) == (0, 12)
    acts = [await instance.log.find(f"revoke/{r.stored.id}/2") for r in made[2:]]
    assert None not in acts


async def test_certificates_of_cas_and_responders_are_meant_only_by_name(
    instance: Instance,
) -> None:
    made = await issue(instance, 2)
    step = await to_the_end(instance.mass_revocation, Query(key_type=KeyType.P_256))
    assert step.revoked == len(made)
    assert (await to_the_end(instance.mass_revocation, Query(key_type=KeyType.RSA_3072))).done
    by_name = await to_the_end(instance.mass_revocation, Query(profile="subordinate-ca"))
    assert by_name.revoked == 1


async def test_by_the_time_of_issuance(instance: Instance) -> None:
    made = await issue(instance, 4)
    third = made[2].issued_at
    later = await instance.mass_revocation.rehearse(Query(issued_after=third), ORDER, 0)
    while not later.done:
        more = await instance.mass_revocation.rehearse(
            Query(issued_after=third), ORDER, later.position
        )
        more.revoked += later.revoked
        later = more
    assert later.revoked == 2
    early = Query(profile=PROFILE, issued_before=third)
    assert (await to_the_end(instance.mass_revocation, early)).revoked == 2
    assert [isinstance(one, Revoked) for one in await statuses(instance, made)] == [
        True, True, False, False,
    ]  # fmt: skip
    with pytest.raises(Rejected, match="empty-query"):
        Query(ca="issuing")


async def test_what_was_interrupted_goes_on(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await issue(instance, 12)
    query = Query(profile=PROFILE)
    while (step := await advance(instance.mass_revocation, query)).revoked == 0:
        assert not step.done
    # In the middle of the next step the disk is full.
    left = 2
    real = Ledger.revoke

    async def failing(self: Ledger, *words: Any, **more: Any) -> Record:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unavailable("storage-full", "the disk is full")
        return await real(self, *words, **more)

    monkeypatch.setattr(Ledger, "revoke", failing)
    with pytest.raises(Unavailable, match="storage-full"):
        await advance(instance.mass_revocation, query)
    monkeypatch.setattr(Ledger, "revoke", real)
    last = await to_the_end(instance.mass_revocation, query)
    assert all(isinstance(one, Revoked) for one in await statuses(instance, made))
    # It went on behind what it had done, and counts nothing of its own as revoked before.
    assert last.already == 0
    assert last.revoked >= 12 - 2


def octets(serial: int) -> bytes:
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


async def kept(jobs: MassRevocation, kind: ListKind, items: list[bytes]) -> KeptList:
    """A list of these, in parts of ``BATCH``."""
    digest = hashlib.sha256(framed(items)).hexdigest()
    parts = [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
    for _ in range(2):  # sent once more it is the same
        for number, part in enumerate(parts):
            await jobs.keep(digest, number, kind, part)
    return KeptList(kind, digest, len(parts), ("root", "issuing"))


async def test_a_list(instance: Instance) -> None:
    made = await issue(instance, 3)
    jobs, names = instance.mass_revocation, ("root", "issuing")
    wanted = [octets(one) for one in (made[0].serial, made[2].serial, made[0].serial, 0xBAD)]
    listed = Listed(ListKind.serials, wanted, names)
    rehearsed = await jobs.rehearse_list(listed, ORDER)
    assert (rehearsed.revoked, rehearsed.already, rehearsed.unknown) == (2, 0, ["0bad"])
    assert not any(isinstance(one, Revoked) for one in await statuses(instance, made))
    whole = await kept(jobs, ListKind.serials, wanted)
    done = await to_the_end(jobs, whole)
    assert (done.revoked, done.already, done.unknown) == (2, 0, ["0bad"])
    again = await to_the_end(jobs, whole)
    assert (again.revoked, again.already) == (0, 2)
    assert [isinstance(one, Revoked) for one in await statuses(instance, made)] == [
        True, False, True,
    ]  # fmt: skip


async def test_a_batch_of_keys_and_an_algorithm(instance: Instance) -> None:
    batch, others = await issue(instance, 2), await issue(instance, 3, KeyType.P_384)
    jobs = instance.mass_revocation
    none = await to_the_end(jobs, Query(algorithm="sha256-with-rsa"))
    assert (none.revoked, none.already) == (0, 0)
    key = batch[0].stored.body["key_hash"]  # both have it
    assert isinstance(key, bytes)
    done = await to_the_end(jobs, await kept(jobs, ListKind.keys, [key, bytes(32)]))
    assert (done.revoked, done.unknown) == (2, ["00" * 32])
    assert not any(isinstance(one, Revoked) for one in await statuses(instance, others))
    rest = await to_the_end(jobs, Query(algorithm="ecdsa-with-sha256"))
    assert (rest.revoked, rest.already) == (3, 2)
    # Of the CA and its responders nothing: they are meant by name only.
    known = await instance.ledger.changed(0)
    assert {one.profile for one in known if isinstance(one.status, Revoked)} == {PROFILE}


async def test_a_list_is_kept_with_its_job(instance: Instance) -> None:
    made = await issue(instance, 12)
    jobs = instance.mass_revocation
    whole = await kept(jobs, ListKind.serials, [octets(one.serial) for one in made])
    job = await jobs.begin(whole, ORDER)
    first = await jobs.advance(job)
    assert (first.revoked, first.done, first.position, first.end) == (BATCH, False, 1, 3)
    # Whoever comes after a crash has neither the file nor the order.
    [left] = await MassRevocation(instance.store, instance.ledger, instance.profiles).unfinished()
    assert (left.id, left.revoked, left.asked.listed) == (job, BATCH, whole)
    while not (step := await jobs.advance(left.id)).done:
        pass
    assert (step.revoked, step.already) == (12, 0)
    found = await statuses(instance, made)
    assert {status.reason for status in found} == {ORDER.reason}
    assert await jobs.unfinished() == []
    with pytest.raises(Rejected, match="no-such-job"):
        await jobs.advance(job)


async def test_a_list_that_is_not_whole_is_refused(instance: Instance) -> None:
    jobs, serial = instance.mass_revocation, b"\x01"
    digest = hashlib.sha256(framed([serial, b"\x02"])).hexdigest()
    await jobs.keep(digest, 0, ListKind.serials, [serial])
    for parts in (1, 2):
        with pytest.raises(Rejected, match="bad-list"):
            await jobs.begin(KeptList(ListKind.serials, digest, parts, ("root",)), ORDER)
    with pytest.raises(Rejected, match="bad-list"):
        await jobs.begin(KeptList(ListKind.keys, digest, 1, ("root",)), ORDER)
    with pytest.raises(Rejected, match="bad-list"):
        await jobs.keep(digest, 0, ListKind.serials, [b"\x02"])
    assert await jobs.unfinished() == []


async def test_a_rehearsal_says_how_large_the_crl_gets(instance: Instance) -> None:
    await issue(instance, 3)
    jobs, query, position = instance.mass_revocation, Query(profile=PROFILE), 0
    entries = octets = 0
    while True:
        step = await jobs.rehearse(query, ORDER, position)
        for growth in step.growth.values():
            entries, octets = entries + growth.entries, octets + growth.octets
        position = step.position
        if step.done:
            break
    series = instance.crls.of("issuing").series
    before = series.current()
    await to_the_end(jobs, query)
    after = await series.issue_full()
    assert after.count == before.count + entries == 3
    # Headers of the lists grow by a few octets, too.
    assert 0 <= after.size - before.size - octets < 16
    assert await jobs.rate() == (USUAL_RATE, False)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (Query(profile="citizen-authentification"), "unknown-profile"),
        (Query(profile=""), "unknown-profile"),
        (Query(profile="TYPO", ca="issuing"), "unknown-profile"),
        (Query(issued_after=datetime(2999, 1, 1, tzinfo=UTC)), "bad-time"),
        (
            Query(
                issued_after=datetime(2026, 1, 2, tzinfo=UTC),
                issued_before=datetime(2026, 1, 1, tzinfo=UTC),
            ),
            "bad-time",
        ),
    ],
)
async def test_what_nothing_can_match_is_refused(
    instance: Instance, query: Query, code: str
) -> None:
    jobs = instance.mass_revocation
    with pytest.raises(Rejected) as rejected:
        await jobs.begin(query, ORDER)
    assert rejected.value.code == code
    assert await jobs.unfinished() == []
    for after in (0, 7):
        with pytest.raises(Rejected) as rejected:
            await jobs.rehearse(query, ORDER, after)
        assert rejected.value.code == code


async def test_a_profile_that_was_removed_still_has_its_certificates(instance: Instance) -> None:
    made = await issue(instance, 2)
    left = {name: one for name, one in instance.profiles.items() if name != PROFILE}
    jobs = MassRevocation(instance.store, instance.ledger, left)
    assert (await to_the_end(jobs, Query(profile=PROFILE))).revoked == len(made)
    with pytest.raises(Rejected, match="unknown-profile"):
        await jobs.begin(Query(profile="never-there"), ORDER)


async def test_a_copy_of_a_profile_was_in_use_under_its_own_name(instance: Instance) -> None:
    content = dict(instance.profiles[PROFILE].content)
    copies = {"copy": parse_profile("copy", content)}
    await check_all(copies, instance.store, instance.linter, instance.ledger.now())
    jobs = MassRevocation(instance.store, instance.ledger, instance.profiles)
    assert (await to_the_end(jobs, Query(profile="copy"))).revoked == 0
    with pytest.raises(Rejected, match="unknown-profile"):
        await jobs.begin(Query(profile="name/copy"), ORDER)
