"""Changes of status that are asked for at the same moment: each is made, or told why not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from crl.history import Kind
from infra.errors import Rejected, Unavailable
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.names import parse_rfc4514
from pki.record import Record
from pki.request import assemble_request, build_request_info
from pki.status import RevocationReason, Revoked
from pki.throwaway import Throwaway

PROFILE = "citizen-authentication"


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    settings = load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings
    async with running(settings, create=True, serving=False) as made:
        yield made


def request(key: Throwaway | None = None) -> bytes:
    key = key or Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514("CN=A,C=AQ").der, key.public_key_info, ())
    return assemble_request(info, key.algorithm, key.sign(info))


async def issued(instance: Instance) -> Record:
    authority = instance.hierarchy.authority("issuing")
    return await authority.issue(Application(PROFILE, request(), "test"))


async def revoke(instance: Instance, record: Record) -> str:
    try:
        await instance.ledger.revoke(
            record.ca, record.serial, reason=RevocationReason.keyCompromise, by="clerk"
        )
    except Rejected as rejected:
        return rejected.code
    return "revoked"


async def hold(instance: Instance, record: Record) -> str:
    try:
        await instance.ledger.hold(record.ca, record.serial, by="holder")
    except Rejected as rejected:
        return rejected.code
    return "held"


@pytest.mark.parametrize("number", range(12))
async def test_a_revocation_is_made_whatever_else_is_asked_for_meanwhile(
    instance: Instance, number: int
) -> None:
    record = await issued(instance)
    acts = [hold, revoke, hold] if number % 2 else [revoke, hold]
    answers = await asyncio.gather(*(act(instance, record) for act in acts))
    assert "revoked" in answers
    assert set(answers) <= {"revoked", "held", "already-on-hold", "already-revoked"}
    status = await instance.ledger.status(record.ca, record.serial)
    assert isinstance(status, Revoked)
    assert status.reason is RevocationReason.keyCompromise


async def test_of_many_who_revoke_at_once_one_is_told_that_it_did(instance: Instance) -> None:
    record = await issued(instance)
    answers = Counter(await asyncio.gather(*(revoke(instance, record) for _ in range(20))))
    assert answers == {"revoked": 1, "already-revoked": 19}


async def test_a_change_is_told_though_who_asked_for_it_goes_away_while_it_is_made(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, record, told = instance.ledger, await issued(instance), list[Record]()
    ledger.follow(told.append)
    asking = asyncio.create_task(revoke(instance, record))
    loop = asyncio.get_running_loop()

    def step(done: str) -> None:
        if done == "pending-logged":
            loop.call_soon(asking.cancel)

    monkeypatch.setattr(ledger, "_step", step)
    await asyncio.wait([asking])
    assert asking.cancelled()
    async with asyncio.timeout(20):
        while not told:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    assert isinstance(told[0].status, Revoked)
    assert ledger.reached == told[0].sequence == await ledger.sequence()


async def test_a_change_that_a_follower_cannot_take_is_told_again(instance: Instance) -> None:
    ledger, record = instance.ledger, await issued(instance)
    told, heard, full = list[Record](), list[Record](), True

    def follower(record: Record) -> None:
        if full:
            raise Unavailable("storage-full", "free space on the disk")
        told.append(record)

    ledger.follow(follower)
    ledger.subscribe(heard.append)
    before = ledger.reached
    with pytest.raises(Unavailable):
        await issued(instance)
    with pytest.raises(Unavailable):
        await revoke(instance, record)
    assert len(heard) == 1  # CRLs and the feed know nothing of that disk
    with pytest.raises(Unavailable):
        await ledger.remember()
    assert ledger.reached == before
    full = False
    await ledger.remember()
    assert told[1].serial == record.serial
    assert isinstance(told[1].status, Revoked)
    assert [one.sequence for one in told] == [before + 1, before + 2]
    assert ledger.reached == await ledger.sequence() == before + 2


async def test_no_other_certificate_follows_a_compromise(instance: Instance) -> None:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    authority, ledger = instance.hierarchy.authority("issuing"), instance.ledger
    first = await authority.issue(Application(PROFILE, request(key), "test"))

    async def another() -> str:
        try:
            return (await authority.issue(Application(PROFILE, request(key), "test"))).state.value
        except Rejected as rejected:
            return rejected.code

    *answers, revoked = await asyncio.gather(
        *(another() for _ in range(10)), revoke(instance, first)
    )
    assert revoked == "revoked"
    assert set(answers) <= {"issued", "key-compromised"}
    assert await another() == "key-compromised"
    assert await ledger.unfinished() == []


@pytest.mark.parametrize("year", [1, 26, 999, 1949])
async def test_an_invalidity_date_that_no_key_can_have_is_refused(
    instance: Instance, year: int
) -> None:
    record = await issued(instance)
    when = (await instance.ledger.record(record.ca, record.serial)).issued_at.replace(year=year)
    with pytest.raises(Rejected) as refused:
        await instance.ledger.revoke(
            record.ca,
            record.serial,
            reason=RevocationReason.keyCompromise,
            invalidity_date=when,
            by="clerk",
        )
    assert refused.value.code == "bad-invalidity-date"


async def test_the_earliest_invalidity_date_stands_in_the_crl(instance: Instance) -> None:
    record = await issued(instance)
    when = record.issued_at.replace(year=1950, month=1, day=1, microsecond=0)
    await instance.ledger.revoke(
        record.ca,
        record.serial,
        reason=RevocationReason.keyCompromise,
        invalidity_date=when,
        by="clerk",
    )
    [made] = await instance.crls.issue("issuing", Kind.full, final=False)
    crl = x509.load_der_x509_crl(made.path.read_bytes())
    entry = crl.get_revoked_certificate_by_serial_number(record.serial)
    assert entry is not None
    found = entry.extensions.get_extension_for_class(x509.InvalidityDate).value
    assert found.invalidity_date_utc == when
