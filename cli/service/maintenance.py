"""What a running instance does by itself, again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from infra.errors import Failure

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do every so often; it must be safe to do it again after it failed."""

    name: str
    every: timedelta
    do: Callable[[], Awaitable[None]]


class Maintenance:
    """Does chores until it is stopped. A chore that fails is logged, and done again in its turn."""

    def __init__(self, chores: list[Chore]) -> None:
        self._chores = chores
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; each chore waits for its first turn."""
        self._tasks = [
            asyncio.create_task(self._repeat(chore), name=f"chore-{chore.name}")
            for chore in self._chores
        ]

    async def stop(self) -> None:
        """End what is under way, and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, chore: Chore) -> None:
        while True:
            await asyncio.sleep(chore.every.total_seconds())
            try:
                await chore.do()
            except Failure as failure:
                _log.error("%s will be tried again: %s", chore.name, failure)
            except Exception:
                _log.exception("%s met a mistake in this program", chore.name)
