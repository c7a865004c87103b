"""Which keys could sign now: looked at again and again, so that whoever asks never waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from infra.errors import Broken, Failure, Unavailable
from pki.signer.port import Signer

PATIENCE: Final = timedelta(seconds=5)
"""How long a key may take to say whether it can sign, before that is what is wrong with it."""

_SOON: Final = 0.5  # seconds between two looks at the least, however often it is told

_log = logging.getLogger(__name__)


class KeyWatch:
    """Looks at each key, by its name, and signs nothing.

    ``signers``: those that are in use now; ``every``: from one look to the next, which is sooner
    where a key says when to come back.
    """

    def __init__(
        self,
        signers: Callable[[], Mapping[str, Signer]],
        every: timedelta,
        *,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._signers = signers
        self._every = every.total_seconds()
        self._patience = patience.total_seconds()
        self._found: dict[str, Failure | None] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._looked: float | None = None
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def found(self) -> Mapping[str, Failure | None]:
        """What keeps each key from signing, None for nothing, as of the last look."""
        return self._found

    @property
    def failing(self) -> dict[str, str]:
        """The keys that could not sign, with the codes of why."""
        return {name: why.code for name, why in self._found.items() if why is not None}

    @property
    def age(self) -> float | None:
        """Seconds since the last look ended; None before the first."""
        return None if self._looked is None else asyncio.get_running_loop().time() - self._looked

    async def start(self) -> None:
        """Look once, and from now on."""
        await self.look()
        self._task = asyncio.create_task(self._watch(), name="key-watch")

    async def stop(self) -> None:
        """End it, and what is under way."""
        tasks = [*self._under_way.values(), *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def soon(self) -> None:
        """Look before it is time to: something has failed, or may be well again."""
        self._told.set()

    async def look(self) -> None:
        """Look at every key now; one that does not answer is not waited for longer than that."""
        signers = self._signers()
        found = await asyncio.gather(*(self._look_at(*one) for one in signers.items()))
        before, self._found = self._found, dict(zip(signers, found, strict=True))
        self._looked = asyncio.get_running_loop().time()
        for name, why in self._found.items():
            known = before.get(name)
            if why is not None and (known is None or known.code != why.code):
                _log.error("key %s cannot sign: %s", name, why)
            elif why is None and known is not None:
                _log.info("key %s can sign again", name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SOON)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._told.wait()
            self._told.clear()
            await self.look()

    def _pause(self) -> float:
        """Seconds until the next look: no longer than until a key that is away may be back."""
        later = [why.retry_after for why in self._found.values() if isinstance(why, Unavailable)]
        return max(min([self._every, *later]) - _SOON, 0.0)

    async def _look_at(self, name: str, signer: Signer) -> Failure | None:
        # One that hangs is asked no second time before it has answered or was given up.
        task = self._under_way.get(name) or asyncio.create_task(signer.check())
        self._under_way[name] = task
        await asyncio.wait({task}, timeout=self._patience)
        if not task.done():
            return Unavailable(
                "token-silent",
                f"{signer.uri} has not said within {self._patience:g} s whether it can sign; see "
                "to the token and the way to it",
                retry_after=self._every,
            )
        if self._under_way.get(name) is task:  # else somebody looked at the same time
            del self._under_way[name]
        try:
            await task
        except Failure as failure:
            return failure
        except Exception:
            _log.exception("looking at key %s met a mistake in this program", name)
            return Broken("key-check-failed", "a fault of this program; see the service's log")
        return None
