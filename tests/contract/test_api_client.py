"""The client against a real server on a unix socket: what each answer becomes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cli.client import ApiClient, segment
from cli.instance import answers, connect
from conf.load import load
from infra.errors import Broken, Rejected, Unavailable
from infra.unix_socket import reachable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, path: Path) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    path.parent.mkdir(parents=True, exist_ok=True)
    with reachable(path) as address:
        await web.UnixSite(runner, address).start()
        try:
            yield
        finally:
            await runner.cleanup()


def problem(status: int, headers: dict[str, str] | None = None, **members: object) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(
            status=status,
            text=json.dumps(members),
            content_type="application/problem+json",
            headers=headers,
        )

    return handler


async def echo(request: web.Request) -> web.Response:
    body = await request.json() if request.body_exists else None
    return web.json_response(
        {"method": request.method, "path": request.raw_path, "body": body},
        status=201 if request.method == "POST" else 200,
    )


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "s"


async def test_get_and_post_send_what_is_given_and_leave_none_out(path: Path) -> None:
    async with served(echo, path), ApiClient(str(path)) as client:
        got = await client.get("/certificates", {"subject": "CN=a b&c", "ca": None})
        assert got == {
            "method": "GET",
            "path": "/api/v1/certificates?subject=CN%3Da+b%26c",
            "body": None,
        }
        posted = await client.post("/certificates", {"profile": "p", "ca": None}, {"ca": "x"})
        assert posted == {
            "method": "POST",
            "path": "/api/v1/certificates?ca=x",
            "body": {"profile": "p"},
        }


@pytest.mark.parametrize("name", ["a/b", "../b", "a?b", "a#b", "é", "%2e"])
async def test_a_name_stays_one_segment_of_the_path(path: Path, name: str) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.match_info["rest"])
        return web.json_response({})

    async with served(handler, path), ApiClient(str(path)) as client:
        await client.get(f"/profiles/{segment(name)}")
    assert seen == [f"api/v1/profiles/{name}"]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_step_through_the_path_is_no_name(name: str) -> None:
    with pytest.raises(Rejected, match="bad-name"):
        segment(name)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
async def test_4xx_is_rejected_with_code_and_detail(path: Path, status: int) -> None:
    handler = problem(status, code="no-such-certificate", detail="do this")
    async with served(handler, path), ApiClient(str(path)) as client:
        with pytest.raises(Rejected) as caught:
            await client.get("/certificates/0a")
    assert (caught.value.code, caught.value.detail) == ("no-such-certificate", "do this")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_go_away_is_unavailable_with_its_wait(path: Path, status: int) -> None:
    handler = problem(status, {"Retry-After": "17"}, code="token-unavailable", detail="d")
    async with served(handler, path), ApiClient(str(path)) as client:
        with pytest.raises(Unavailable) as caught:
            await client.post("/certificates")
    assert (caught.value.code, caught.value.retry_after) == ("token-unavailable", 17.0)


@pytest.mark.parametrize("text", ["soon", "-1", "1e99", "٣", "9" * 400])
async def test_a_wait_that_is_no_number_is_the_usual_one(path: Path, text: str) -> None:
    handler = problem(503, {"Retry-After": text}, code="x")
    async with served(handler, path), ApiClient(str(path)) as client:
        with pytest.raises(Unavailable) as caught:
            await client.get("/log")
    assert caught.value.retry_after == 5.0


async def test_5xx_is_broken_with_the_incident_of_the_instance(path: Path) -> None:
    handler = problem(500, code="storage-corrupt", incident="ab12", title="Internal Server Error")
    async with served(handler, path), ApiClient(str(path)) as client:
        with pytest.raises(Broken) as caught:
            await client.get("/log")
    assert caught.value.code == "storage-corrupt"
    assert "ab12" in caught.value.detail


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b"[" * 100_000, b'"x"'])
async def test_answers_that_are_not_this_api_are_broken(path: Path, body: bytes) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, status=int(request.query["status"]))

    async with served(handler, path), ApiClient(str(path)) as client:
        for status, kind in (("200", Broken), ("500", Broken), ("404", Rejected)):
            with pytest.raises(kind) as caught:
                await client.get("/log", {"status": status})
            assert caught.value.code == "bad-reply"


async def test_nobody_there_is_unavailable(path: Path) -> None:
    async with ApiClient(str(path)) as client:
        with pytest.raises(Unavailable, match="instance-lost"):
            await client.get("/log")


async def test_a_connection_that_breaks_is_unavailable(path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        await asyncio.sleep(0)
        return web.Response()

    async with served(handler, path), ApiClient(str(path)) as client:
        with pytest.raises(Unavailable, match="instance-lost"):
            await client.post("/certificates")


async def test_an_instance_that_does_not_answer_is_unavailable(path: Path) -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with served(handler, path), ApiClient(str(path), answer_timeout=0.05) as client:
        with pytest.raises(Unavailable, match="instance-silent"):
            await client.get("/log")
        release.set()


async def test_lines_come_one_by_one(path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in (b'{"done":1,"total":2}\n{"do', b'ne":2,"total":2}\n\n', b'{"report":{}}\n'):
            await response.write(line)
        return response

    async with served(handler, path), ApiClient(str(path)) as client:
        lines = [line async for line in client.lines("/log/verify")]
    assert lines == [{"done": 1, "total": 2}, {"done": 2, "total": 2}, {"report": {}}]


async def test_lines_that_are_refused_or_no_json_are_errors(path: Path) -> None:
    refusal = problem(409, code="no", detail="d")
    async with served(refusal, path), ApiClient(str(path)) as client:
        with pytest.raises(Rejected, match="no: d"):
            _ = [line async for line in client.lines("/log/verify")]

    async def garbage(request: web.Request) -> web.Response:
        return web.Response(body=b"{}\nnonsense\n")

    other = path.with_name("t")
    async with served(garbage, other), ApiClient(str(other)) as client:
        with pytest.raises(Broken, match="bad-reply"):
            _ = [line async for line in client.lines("/log/verify")]


async def test_a_socket_under_a_long_path_is_reached(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / "admin.sock"
    async with served(echo, path):
        with reachable(path) as address:
            assert len(address) <= 107
            assert answers(address)
            async with ApiClient(address) as client:
                assert (await client.get("/log"))["path"] == "/api/v1/log"


def test_a_socket_that_a_killed_instance_left_does_not_answer(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    assert not answers(str(path))
    assert not answers(str(path.with_name("missing")))


async def test_connect_takes_the_running_instance(tmp_path: Path) -> None:
    notes: list[str] = []
    settings = load(tmp_path, {}, {}).settings
    async with (
        served(echo, tmp_path / "run" / "admin.sock"),
        connect(tmp_path, settings, notes.append) as client,
    ):
        assert (await client.get("/log"))["method"] == "GET"
    assert notes == [f"the running instance at {tmp_path}/run/admin.sock"]


def embedding(monkeypatch: pytest.MonkeyPatch, path: Path, refusals: list[Unavailable]) -> None:
    """Let ``cli.compose.embedded`` be a server at ``path``, after it has refused some times."""
    import sys
    from types import ModuleType

    @asynccontextmanager
    async def embedded(settings: object) -> AsyncIterator[Path]:
        if refusals:
            raise refusals.pop()
        async with served(echo, path):
            yield path

    module = ModuleType("cli.compose")
    module.__dict__["embedded"] = embedded
    monkeypatch.setitem(sys.modules, "cli.compose", module)


async def test_connect_makes_an_instance_when_none_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / f"{os.getpid()}.sock"
    embedding(monkeypatch, path, [])
    async with connect(tmp_path, load(tmp_path, {}, {}).settings) as client:
        assert (await client.get("/log"))["method"] == "GET"
    assert not answers(str(path))


async def test_connect_waits_for_another_command_to_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [Unavailable("state-locked", "in use") for _ in range(3)]
    embedding(monkeypatch, tmp_path / "s", busy)
    async with connect(tmp_path, load(tmp_path, {}, {}).settings) as client:
        assert (await client.get("/log"))["method"] == "GET"
    assert busy == []


async def test_connect_does_not_wait_for_other_failures_nor_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(tmp_path, {}, {}).settings
    embedding(monkeypatch, tmp_path / "s", [Unavailable("token-unavailable", "plug it in")])
    with pytest.raises(Unavailable, match="token-unavailable"):
        async with connect(tmp_path, settings):
            pass
    monkeypatch.setattr("cli.instance.PATIENCE", -1.0)
    embedding(monkeypatch, tmp_path / "s", [Unavailable("state-locked", "in use")])
    with pytest.raises(Unavailable, match="state-locked"):
        async with connect(tmp_path, settings):
            pass


async def test_a_failure_inside_is_not_taken_for_a_locked_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding(monkeypatch, tmp_path / "s", [])
    with pytest.raises(Unavailable, match="state-locked"):
        async with connect(tmp_path, load(tmp_path, {}, {}).settings):
            raise Unavailable("state-locked", "from inside")
