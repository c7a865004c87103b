"""The way to the instance of a home folder: the running one, or one made for this command.

Both are reached through a unix socket, so that a command has one path, whoever answers.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from cli.client import ApiClient
from conf.schema import Settings
from infra.errors import Rejected, Unavailable
from infra.state import ADMIN_SOCKET
from infra.unix_socket import reachable

PATIENCE: Final = 30.0
"""Seconds to wait for another command on the same state to finish, or an instance to come up."""

STATE_LOCKED: Final = "state-locked"


@asynccontextmanager
async def connect(
    home: Path,
    settings: Settings,
    note: Callable[[str], None] = lambda text: None,
    runs: Callable[[], None] = lambda: None,
) -> AsyncIterator[ApiClient]:
    """A client of the instance in ``home``.

    When nothing listens on its admin socket, an instance is composed in this process; while
    another command has the state, this waits for up to ``PATIENCE`` seconds. ``note`` is told
    which it is; ``runs`` is called when it is one that runs. Errors: what composing raises;
    ``Unavailable("state-locked")``.
    """
    deadline = time.monotonic() + PATIENCE
    admin = home / ADMIN_SOCKET
    async with AsyncExitStack() as held:
        while True:
            address = held.enter_context(reachable(admin))
            if await asyncio.to_thread(answers, address):
                note(f"the running instance at {admin}")
                runs()
                break
            try:
                # Compose imports everything there is: only a command that needs it pays for that.
                from cli.compose import embedded

                held.enter_context(_logged(home))
                own = await held.enter_async_context(embedded(settings))
                note(f"nothing runs in {home}: an instance for this command")
                address = held.enter_context(reachable(own))
                break
            except Unavailable as unavailable:
                if unavailable.code != STATE_LOCKED or time.monotonic() > deadline:
                    raise
                await held.aclose()
            await asyncio.sleep(0.1)
        yield await held.enter_async_context(ApiClient(address))


@contextmanager
def _logged(home: Path) -> Iterator[None]:
    """While the block runs, keep the log of the instance in this process away from the terminal."""
    import logging

    from cli.incident import IncidentLog

    handler = IncidentLog(home)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def answers(address: str) -> bool:
    """Whether somebody listens on the socket; a file that a killed instance left does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(address)
        except PermissionError as error:
            raise Rejected(
                "not-permitted", f"you may not use the instance at {address}; ask its operator"
            ) from error
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
