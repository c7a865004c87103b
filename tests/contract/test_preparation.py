"""Preparing a certificate here and in processes of their own: one contract for both."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import Rejected, Unavailable
from infra.worker import Worker
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import parse_tbs
from pki.names import parse_rfc4514
from pki.preparation import Preparation, Prepare, Prepared, PrepareHere, Task, hash_of
from pki.profile import Order
from pki.request import assemble_request, build_request_info, parse_request
from pki.throwaway import Throwaway
from pki.weak_keys import parse_blocklist
from tests.unit.certificate_fixtures import ALGORITHM, ISSUING, NOW, PROFILES, SERIAL

KEY = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))


def request(subject: str = "CN=Alice Example,C=AQ") -> bytes:
    info = build_request_info(parse_rfc4514(subject).der, KEY.public_key_info, ())
    return assemble_request(info, KEY.algorithm, KEY.sign(info))


@pytest.fixture(params=["here", "processes"])
async def prepare(request: pytest.FixtureRequest) -> AsyncIterator[Prepare]:
    if request.param == "here":
        yield PrepareHere()
        return
    preparation = Preparation(2)
    yield preparation
    await preparation.close()


async def ask(
    prepare: Prepare,
    asked: bytes,
    profile: str = "citizen-authentication",
    order: Order | None = None,
) -> Prepared:
    return await prepare(
        Task(PROFILES[profile], ISSUING, ALGORITHM, asked, SERIAL, NOW, order or Order())
    )


async def test_what_is_prepared_says_what_was_asked(prepare: Prepare) -> None:
    prepared = await ask(prepare, request())
    said = parse_tbs(prepared.tbs_certificate)
    assert said.serial == SERIAL
    assert said.issuer.der == ISSUING.subject
    assert prepared.subject == said.subject.rfc4514() == "CN=Alice Example,C=AQ"
    assert prepared.not_after == said.not_after
    assert prepared.request.public_key_info == KEY.public_key_info


def test_the_hash_of_a_request_is_that_of_what_it_asks() -> None:
    profile, asked = PROFILES["citizen-authentication"], parse_request(request())
    first = hash_of(profile, asked, Order())
    assert hash_of(profile, parse_request(request()), Order()) == first
    others = [
        hash_of(profile, parse_request(request("CN=Bob,C=AQ")), Order()),
        hash_of(PROFILES["citizen-encryption"], asked, Order()),
        hash_of(profile, asked, Order(lifetime=timedelta(days=1))),
    ]
    assert len({first, *others}) == 4


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (b"", "bad-request"),
        (os.urandom(64), "bad-request"),
        (request()[:-3], "bad-request"),
        (b"0" + bytes(70_000), "request-too-large"),
        (request("CN=No Country"), "subject-attribute-missing"),
    ],
    ids=["nothing", "garbage", "cut", "large", "subject"],
)
async def test_what_is_refused_is_refused_alike(prepare: Prepare, asked: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        await ask(prepare, asked)
    assert refused.value.code == code
    assert (await ask(prepare, request())).subject == "CN=Alice Example,C=AQ"


async def test_many_at_once_each_get_their_own_answer(prepare: Prepare) -> None:
    names = [f"CN=Citizen {number},C=AQ" for number in range(50)]
    answers = await asyncio.gather(*(ask(prepare, request(name)) for name in names))
    assert [answer.subject for answer in answers] == names


async def test_a_process_that_died_is_replaced() -> None:
    preparation = Preparation(1)
    try:
        await ask(preparation, request())
        for _ in range(3):
            os.kill(_process(preparation), signal.SIGKILL)
            assert (await ask(preparation, request())).subject == "CN=Alice Example,C=AQ"
    finally:
        await preparation.close()


async def test_a_process_that_dies_while_it_is_asked_keeps_nobody_waiting() -> None:
    preparation = Preparation(1)
    try:
        await ask(preparation, request())
        os.kill(_process(preparation), signal.SIGSTOP)
        asked = [asyncio.create_task(ask(preparation, request())) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(_process(preparation), signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert {answer.subject for answer in answers} == {"CN=Alice Example,C=AQ"}
    finally:
        await preparation.close()


async def test_a_process_that_hangs_is_ended() -> None:
    worker = Worker("pki.preparation", patience=0.2)
    try:
        with pytest.raises(Unavailable):
            await worker.ask(b"not a question: it dies of it")
        await asyncio.sleep(0)
        line = await worker._start()
        os.kill(line._process.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable) as refused:
            await worker.ask(b"")
        assert refused.value.code == "worker-died"
    finally:
        await worker.close()


async def test_a_blocked_key_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "blocked"
    listed.write_text(f"# known\n{hashlib.sha256(KEY.public_key_info).hexdigest()}\n")
    preparation = Preparation(1, listed)
    try:
        for prepare in (preparation, PrepareHere(parse_blocklist(listed.read_text()))):
            with pytest.raises(Rejected) as refused:
                await ask(prepare, request())
            assert refused.value.code == "blocked-key"
    finally:
        await preparation.close()


def _process(preparation: Preparation) -> int:
    line = preparation._workers[0]._line
    assert line is not None
    return line._process.pid
