"""Processes that share a port: what they promise whoever asks, and whoever runs them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509

from infra.errors import Failure, Rejected
from infra.http.app import bind_shared, make_app, serve_unix
from infra.http.limits import Limits
from ocsp.worker import KeyAccess
from ocsp.workers import Workers
from pki.status import RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import NOW
from tests.contract.ocsp_worker_fixtures import (
    House,
    house,
    is_good,
    lives,
    pids,
    probing,
    read,
    signer_in,
    status_in,
)
from tests.unit.front_fixtures import calling

REVOKED = Revoked(NOW, RevocationReason.keyCompromise, None, 1)


@pytest.fixture(name="home")
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def counted(workers: Workers) -> list[int]:
    """How many answers each process has given."""
    found = []
    for line in workers._lines:
        alone = Workers([], workers._setup)
        alone._lines = [line]
        found.append(sum((await alone.measure()).answers.values()))
    return found


async def test_all_of_them_answer_on_one_port(home: House) -> None:
    async with home.workers(2) as (workers, port):
        asked = 0
        async with asyncio.timeout(60):
            while 0 in await counted(workers):
                for request in (home.get(), home.post(), home.get(nonce=b"n" * 32)):
                    async with calling(port) as caller:
                        assert status_in(await caller.ask(request)) == "GOOD"
                    asked += 1
        metrics = await workers.measure()
        assert metrics.answers == {"good": asked}
        assert asked == sum(await counted(workers))
        assert metrics.hits + metrics.signed == asked
        assert metrics.signed >= asked / 3  # each nonce, and the first of each process
        assert 1 <= metrics.kept <= 2
        assert len(set(pids(workers))) == 2


async def test_a_change_counts_in_every_process(home: House) -> None:
    async with home.workers(2) as (_, port):
        callers = [calling(port) for _ in range(12)]
        async with asyncio.timeout(60):
            opened = [await one.__aenter__() for one in callers]
            for caller in opened:
                assert status_in(await caller.ask(home.get())) == "GOOD"
            home.writer.put(home.ca.name, 1, REVOKED)
            for caller in opened:
                assert status_in(await caller.ask(home.get())) == "REVOKED"
                assert status_in(await caller.ask(home.post())) == "REVOKED"
            for one in callers:
                await one.__aexit__(None, None, None)


async def test_renewed_delegates_sign_in_every_process_without_a_gap(home: House) -> None:
    first = home.setup.delegates[0]
    renewed = await home.delegate("renewed")
    async with (
        home.workers(2) as (workers, port),
        probing(port, lambda: home.get(nonce=os.urandom(16)), is_good) as probes,
    ):
        await probes.more()
        async with calling(port) as caller:
            assert signer_in(await caller.ask(home.get())) == certificate(first.certificate)
        home.change(delegates=[renewed])
        await workers.install([renewed])
        for _ in range(10):
            async with calling(port) as caller:
                signed = signer_in(await caller.ask(home.get(nonce=b"now")))
                assert signed == certificate(renewed.certificate)
        await probes.more()


def certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


async def test_delegates_that_cannot_sign_are_refused_and_the_others_stay(home: House) -> None:
    lost = await home.delegate("lost")
    (home.folder / "keys" / "lost.pem").unlink()
    async with home.workers(2) as (workers, port):
        with pytest.raises(Rejected) as refused:
            await workers.install([lost])
        assert refused.value.code == "no-such-key"
        async with calling(port) as caller:
            assert status_in(await caller.ask(home.get(nonce=b"n"))) == "GOOD"


async def test_a_restart_loses_no_request(home: House) -> None:
    async with home.workers(2) as (workers, port):
        before = pids(workers)
        async with probing(port, home.get, is_good) as probes:
            await probes.more()
            for _ in range(2):
                await workers.restart(10.0)
                await probes.more()
        after = pids(workers)
        assert len(after) == 2
        assert not set(before) & set(after)
        assert not any(map(lives, before))


async def test_what_was_changed_stays_changed_across_a_restart(home: House) -> None:
    async with home.workers(2) as (workers, port):
        async with calling(port) as caller:
            await caller.ask(home.get())
        home.writer.put(home.ca.name, 1, REVOKED)
        restarting = asyncio.create_task(workers.restart(10.0))
        while not restarting.done():
            async with calling(port) as caller:
                assert status_in(await caller.ask(home.get())) == "REVOKED"
        await restarting


async def test_an_idle_connection_gets_one_more_answer_in_a_restart(home: House) -> None:
    async with home.workers(1) as (workers, port), calling(port) as caller:
        assert status_in(await caller.ask(home.get())) == "GOOD"
        restarting = asyncio.create_task(workers.restart(30.0))
        async with asyncio.timeout(60):
            while not restarting.done():
                status, head, _ = answer = await caller.ask(home.get())
                assert (status, status_in(answer)) == (200, "GOOD")
                if b"\r\nConnection: close\r\n" in head:
                    break
        assert await caller.rest() == b""
        await restarting


@pytest.mark.parametrize(
    ("access", "code"),
    [
        ({"folder": "elsewhere"}, "no-such-key"),
        ({"passphrase": b"another passphrase"}, "wrong-passphrase"),
    ],
)
async def test_a_key_that_cannot_be_opened_refuses_the_start(
    home: House, access: dict[str, object], code: str
) -> None:
    keys = {"folder": home.setup.keys.folder, "passphrase": home.setup.keys.passphrase, **access}
    home.change(keys=KeyAccess(**keys))
    workers = Workers(await bind_shared("127.0.0.1", 0, 2), lambda: home.setup)
    with pytest.raises(Rejected) as refused:
        await workers.start()
    assert refused.value.code == code
    assert pids(workers) == []


async def test_one_that_cannot_start_stops_the_others(home: House) -> None:
    setups = [home.setup]
    home.change(table=str(home.folder / "nowhere"))
    setups.append(home.setup)
    sockets = await bind_shared("127.0.0.1", 0, 2)
    port = sockets[0][0].getsockname()[1]
    workers = Workers(sockets, setups.pop)
    with pytest.raises(Failure) as refused:
        await workers.start()
    assert refused.value.code == "status-table-missing"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_stop_answers_what_is_under_way(home: House) -> None:
    sockets = await bind_shared("127.0.0.1", 0, 1)
    port = sockets[0][0].getsockname()[1]
    workers = Workers(sockets, lambda: home.setup)
    await workers.start()
    async with calling(port) as idle, calling(port) as busy:
        assert status_in(await idle.ask(home.get())) == "GOOD"
        whole = home.post()
        busy.writer.write(whole[:-1])
        # Once this is answered by the same process, the one before it has been read.
        assert status_in(await idle.ask(home.get())) == "GOOD"
        stopping = asyncio.create_task(workers.stop(30.0))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answer = await idle.ask(home.get())
                assert status_in(answer) == "GOOD"
        assert not stopping.done()
        busy.writer.write(whole[-1:])
        answer = await busy.answer()
        assert status_in(answer) == "GOOD"
        assert b"\r\nConnection: close\r\n" in answer[1]
        await stopping
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@asynccontextmanager
async def behind(home: House, limits: Limits) -> AsyncIterator[None]:
    """An application on a Unix socket, for all that is not OCSP."""
    app = make_app({}, private=False, limits=limits)

    async def crl(request: web.Request) -> web.Response:
        return web.Response(body=b"CRL " + await request.read())

    app.router.add_route("*", "/crl/{name}", crl)
    (home.folder / "run").mkdir()
    path = home.folder / "run" / "relay.sock"
    home.change(relay=str(path), limits=limits)
    serving = await serve_unix(app, path)
    try:
        yield
    finally:
        await serving.stop()


async def test_what_is_not_ocsp_is_brought_to_the_application(home: House) -> None:
    async with behind(home, Limits()), home.workers(2) as (_, port):
        url = f"http://127.0.0.1:{port}"

        async def mixed(client: aiohttp.ClientSession, number: int) -> None:
            large = bytes([number]) * 300_000
            async with client.post(f"{url}/crl/x", data=large) as response:
                assert (response.status, await response.read()) == (200, b"CRL " + large)
            async with client.get(f"{url}/nowhere") as response:
                assert response.status == 404
            async with calling(port) as caller:
                assert status_in(await caller.ask(home.get())) == "GOOD"
                # The same connection, which from here on is the application's.
                answer = await caller.ask(b"GET /crl/y HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (answer[0], answer[2]) == (200, b"CRL ")

        async with aiohttp.ClientSession() as client, asyncio.timeout(60):
            await asyncio.gather(*(mixed(client, number) for number in range(20)))


async def test_without_its_application_the_rest_still_answers(home: House) -> None:
    home.change(relay=str(home.folder / "nobody.sock"))
    async with home.workers(1) as (_, port):
        async with calling(port) as caller:
            answer = await caller.ask(b"GET /crl/y HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer[0] == 503
        async with calling(port) as caller:
            assert status_in(await caller.ask(home.get())) == "GOOD"


async def test_measures_add_up(home: House) -> None:
    home.writer.put(home.ca.name, 2, replace(REVOKED, reason=RevocationReason.certificateHold))
    async with home.workers(2) as (workers, port):
        for serial, times in ((1, 5), (2, 4), (99, 3)):
            for _ in range(times):
                async with calling(port) as caller:
                    read(await caller.ask(home.get(serial)))
        async with calling(port) as caller:
            await caller.ask(home.get().replace(b"/ocsp/", b"/ocsp/x"))
            metrics = await workers.measure()
            assert metrics.answers == {"good": 5, "hold": 4, "unknown": 3, "malformedRequest": 1}
            assert metrics.refusals == {"bad-path": 1}
            assert metrics.signed + metrics.hits == 12
            assert sum(metrics.signing) == metrics.signed
            assert metrics.signing_seconds > 0
            assert metrics.lag == 0.0
            assert metrics.connections >= 1
            assert 0.0 <= metrics.oldest < 3600.0
