"""Followers that share what is looked up for them, at the worst moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ocsp.feed import WITHOUT_LOG
from tests.contract.feed_fixtures import until, world


async def test_who_comes_as_an_older_look_up_ends_gets_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as ca:
        await ca.issue()
        await ca.start()
        feed = ca.feed
        assert feed is not None
        sign, signing, gate, go = (
            feed._signer.sign,
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )

        async def slowly(message: bytes) -> bytes:
            signing.set()
            await gate.wait()
            return await sign(message)

        monkeypatch.setattr(feed._signer, "sign", slowly)
        older = asyncio.create_task(feed._beyond(WITHOUT_LOG, 1, leaves=0))
        await until(signing.is_set)
        now = ca.ledger.now()

        async def come() -> bool:
            await go.wait()
            return (await feed._beyond(WITHOUT_LOG, 1, leaves=0, at=now)).at >= now

        newer = asyncio.create_task(come())
        await asyncio.sleep(0)
        gate.set()
        go.set()  # so it comes right after the older one has ended
        assert (await older).at < now
        assert await newer
