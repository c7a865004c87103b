"""Who calls: what an Authorization field lets in, and what it never does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from infra.errors import Rejected
from infra.http.app import make_app, serve_app
from infra.http.auth import WHO, Callers, Scope, TokenFolder, authenticate

TOKEN = "operator-" * 5


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "bearer  ", "Bearer \t", "Basic ", " "])
@pytest.mark.parametrize("token", ["", " ", TOKEN])
def test_an_empty_token_is_nobody_s_even_where_one_was_set(shown: str, token: str) -> None:
    with pytest.raises(Rejected, match="not-authenticated"):
        Callers(token).bearer(shown)


def test_a_token_of_the_right_scheme() -> None:
    for shown in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        assert Callers(TOKEN).bearer(shown).who == "token:operator"
    for shown in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN}, Bearer {TOKEN}"):
        with pytest.raises(Rejected, match="not-authenticated"):
            Callers(TOKEN).bearer(shown)


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async def who(request: web.Request) -> web.Response:
        return web.Response(text=request[WHO])

    scope = Scope("follower", TokenFolder(tmp_path), frozenset())
    app = make_app(
        {"not-authenticated": 401}, private=True, middlewares=[authenticate(TOKEN, scopes=[scope])]
    )
    app.router.add_get("/who", who)
    serving = await serve_app(app, "127.0.0.1", 0)
    yield f"{serving.urls[0]}/who"
    await serving.stop()


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ([f"Bearer {TOKEN}"], 200),
        ([], 401),
        (["Bearer "], 401),
        (["Bearer x", f"Bearer {TOKEN}"], 401),
        ([f"Bearer {TOKEN}", "Bearer x"], 401),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], 401),
        ([f"Bearer {TOKEN}", ""], 401),
    ],
)
async def test_there_is_one_authorization_field(url: str, shown: list[str], status: int) -> None:
    """RFC 9110 §5.3 and §11.6.2."""
    headers = CIMultiDict[str]([("Authorization", one) for one in shown])
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        assert response.status == status
