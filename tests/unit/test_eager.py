"""Coroutines that are begun at once, on both event loops."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from infra.eager import begin

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    def runs(test: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with asyncio.timeout(20):
                return await test()

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())

    return runs


def test_what_never_waits_has_no_task(run: Any) -> None:
    async def answer() -> int:
        return 7

    async def test() -> None:
        before = asyncio.all_tasks()
        assert begin(answer()) == 7
        assert asyncio.all_tasks() == before

    run(test)


def test_what_fails_without_waiting_raises_at_once(run: Any) -> None:
    async def fail() -> int:
        raise ValueError("mine")

    async def test() -> None:
        with pytest.raises(ValueError, match="mine"):
            begin(fail())

    run(test)


def test_several_waits_of_every_kind(run: Any) -> None:
    steps: list[str] = []

    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    async def work(future: asyncio.Future[str]) -> str:
        steps.append("begun")
        steps.append(await future)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        steps.append(await asyncio.create_task(inner()))
        async with asyncio.timeout(20):
            steps.append(await inner())
        return "result"

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        task = begin(work(future))
        assert isinstance(task, asyncio.Task)
        assert steps == ["begun"]
        future.set_result("future")
        assert await task == "result"
        assert steps == ["begun", "future", "inner", "inner"]

    run(test)


def test_a_first_wait_that_yields_only(run: Any) -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "result"

    async def test() -> None:
        assert await begin(work()) == "result"  # type: ignore[misc]

    run(test)


def test_the_exception_of_what_is_waited_for_arrives(run: Any) -> None:
    async def work(future: asyncio.Future[str]) -> str:
        try:
            return await future
        except KeyError:
            await asyncio.sleep(0)
            return "handled"

    async def pass_on(future: asyncio.Future[str]) -> str:
        return await future

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        one, two = begin(work(future)), begin(pass_on(future))
        assert isinstance(one, asyncio.Task) and isinstance(two, asyncio.Task)
        future.set_exception(KeyError("x"))
        assert await one == "handled"
        with pytest.raises(KeyError):
            await two

    run(test)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_cancelled_one_cleans_up_and_cancels_what_it_waits_for(run: Any, at_once: bool) -> None:
    cleaned: list[str] = []

    async def work(future: asyncio.Future[str]) -> str:
        try:
            return await future
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        task = begin(work(future))
        assert isinstance(task, asyncio.Task)
        if not at_once:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()
        assert cleaned == ["up"]

    run(test)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_cancelled_one_may_still_have_a_result(run: Any, at_once: bool) -> None:
    async def work() -> str:
        try:
            await asyncio.sleep(0 if at_once else 10)
        except asyncio.CancelledError:
            return "stubborn"
        return "undisturbed"

    async def test() -> None:
        task = begin(work())
        assert isinstance(task, asyncio.Task)
        if not at_once:
            await asyncio.sleep(0)
        task.cancel()
        assert await task == "stubborn"

    run(test)


def test_what_is_done_when_it_is_cancelled_at_once(run: Any) -> None:
    """The future is there already, so there is nothing to cancel but the coroutine."""

    async def work(future: asyncio.Future[str]) -> str:
        return await future

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        task = begin(work(future))
        assert isinstance(task, asyncio.Task)
        future.set_result("there")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_it_has_a_context_of_its_own_all_the_way(run: Any) -> None:
    async def work() -> str:
        token = COLOUR.set("red")
        await asyncio.sleep(0)
        seen = COLOUR.get()
        COLOUR.reset(token)
        return seen + COLOUR.get()

    async def test() -> None:
        task = begin(work())
        assert COLOUR.get() == "none"
        assert await task == "rednone"  # type: ignore[misc]
        assert COLOUR.get() == "none"

    run(test)


def test_one_that_is_never_finished_is_closed() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            closed.append(True)

    loop = asyncio.new_event_loop()
    try:

        async def test() -> None:
            begin(work())

        loop.run_until_complete(test())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    gc.collect()
    assert closed == [True]


def test_many_wait_for_the_same(run: Any) -> None:
    async def work(future: asyncio.Future[str]) -> str:
        return await asyncio.shield(future) + await future

    async def plain(future: asyncio.Future[str]) -> str:
        return await future

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [begin(plain(future)), begin(work(future)), begin(plain(future))]
        ordinary = asyncio.create_task(plain(future))
        await asyncio.sleep(0)
        future.set_result("x")
        assert [await task for task in tasks] == ["x", "xx", "x"]  # type: ignore[misc]
        assert await ordinary == "x"

    run(test)


def test_what_is_done_before_the_first_step(run: Any) -> None:
    async def work(future: asyncio.Future[str]) -> str:
        return await future

    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        task = begin(work(future))
        future.set_result("x")
        assert await task == "x"  # type: ignore[misc]

    run(test)
