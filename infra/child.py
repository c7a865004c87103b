"""A process of our own and the socket between us, which ends it when it is closed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable
from typing import Final, TypeAlias

_PATIENCE: Final = 5.0  # seconds for a process to end by itself

Started: TypeAlias = tuple[subprocess.Popen[bytes], socket.socket]


async def start(spawn: Callable[[int], subprocess.Popen[bytes]]) -> Started:
    """The process, and our end of a new socket; when this is cancelled, neither stays.

    ``spawn``: starts it, in a thread, with the descriptor of the other end. Errors: its own.
    """
    starting = asyncio.get_running_loop().run_in_executor(None, _start, spawn)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_discard)  # a thread is not cancelled: it may start it yet
        raise


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has ended, which after a while it is made to."""
    try:
        await asyncio.to_thread(process.wait, _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


def _start(spawn: Callable[[int], subprocess.Popen[bytes]]) -> Started:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = spawn(theirs.fileno())
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


def _discard(starting: asyncio.Future[Started]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        process, ours = starting.result()
        ours.close()
        process.kill()
        process.wait()
