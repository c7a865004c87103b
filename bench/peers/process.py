"""Programs that run beside a benchmark: started, waited for, and ended whatever happens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

PATIENCE: Final = 15.0
"""Seconds for a program to end by itself before it is killed."""


@asynccontextmanager
async def program(*command: str | Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with pipes for its input and output while the block runs; ``log`` gets its errors.

    It sees no setting of ours in its environment.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DIGITALID", "SOFTHSM", "DJANGO"))
    }
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=clean,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            # Not wait() alone: it does not return while the pipe has octets that nobody reads.
            await asyncio.wait_for(process.communicate(), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()


async def said(process: asyncio.subprocess.Process, what: str, within: float, log: Path) -> str:
    """The first line of output with ``what`` in it. Errors: ``RuntimeError`` with the log when the
    program ends before, or after ``within`` seconds."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(within):
            while line := (await process.stdout.readline()).decode():
                if what in line:
                    return line.strip()
    except TimeoutError:
        pass
    raise RuntimeError(f"a program never said {what!r}; it wrote: {log.read_text()[-2000:]}")


async def output(*command: str | Path, within: float) -> str:
    """What a program prints. Errors: ``RuntimeError`` with its errors when its exit code is not 0,
    or after ``within`` seconds."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), within)
    except TimeoutError as error:
        raise RuntimeError(f"{command[0]} took longer than {within:g} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(
            f"{command[0]} ended with {process.returncode}: {errors.decode()[-2000:]}"
        )
    return printed.decode()


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    # Somebody may take it before the program does, which then does not come up: no figure.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(port: int) -> None:
    """Wait until somebody listens there. Errors: ``TimeoutError``."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
