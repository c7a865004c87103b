"""Coroutines that are begun at once, so that one which never waits costs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
    """Run ``coroutine`` as far as it goes without waiting.

    Returns its result, or raises its exception, when it ends there; else a task that goes on from
    where it stands. Until it first waits it is in no task of its own, so ``asyncio.timeout`` and
    ``asyncio.current_task`` have their place after that. It has its own copy of the context, as
    in a task.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as end:
        result: T = end.value
        return result
    return asyncio.get_running_loop().create_task(_Begun(coroutine, awaited), context=context)


class _Begun(Coroutine[Any, Any, T]):
    """A coroutine that waits for ``awaited`` already: the first step hands that out again.

    ``awaited`` is a future, or None from one that lets others go first. A future that has been
    handed out is marked until a task takes it; nobody else could wait for it meanwhile, so the
    mark is taken off it as a task would, and put on again at the first step.
    """

    __slots__ = ("_awaited", "_coroutine", "_stepped")

    def __init__(self, coroutine: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        self._stepped = False
        _mark(awaited, False)

    def send(self, value: Any) -> Any:
        if self._stepped:
            return self._coroutine.send(value)
        return self._hand_out()

    def throw(self, *error: Any) -> Any:
        if self._stepped:
            return self._coroutine.throw(*error)
        # Cancelled before the task's first step: as in any task, what it waits for is cancelled,
        # and the coroutine learns of it from there.
        if asyncio.isfuture(self._awaited) and self._awaited.cancel():
            return self._hand_out()
        self._stepped = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise RuntimeError("this is for a task alone")

    def _hand_out(self) -> Any:
        awaited, self._awaited, self._stepped = self._awaited, None, True
        _mark(awaited, True)
        return awaited


def _mark(awaited: Any, handed_out: bool) -> None:
    """The protocol between a future and the task that takes it (asyncio/futures.py)."""
    if asyncio.isfuture(awaited):
        awaited._asyncio_future_blocking = handed_out
