"""django-ca, in a process and a virtual environment of its own, installed when first asked for."""

from __future__ import annotations

import sys
import venv
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

from bench.peers import django_loop
from bench.peers.process import output, program, said

VERSION: Final = "3.2.0"
_PATIENCE: Final = 120.0  # seconds: the database is made first

Rate: TypeAlias = Callable[[int], Awaitable[float]]


async def install(folder: Path) -> Path | None:
    """The interpreter of an environment in ``folder`` that has django-ca; None, with the reason on
    the terminal, if it cannot be installed."""
    home = folder / f"django-ca-{VERSION}"
    python = home / "bin" / "python"
    done = home / "installed"
    if done.exists():
        return python
    print(f"installing django-ca {VERSION} into {home} …", file=sys.stderr)
    try:
        await to_thread(venv.create, home, with_pip=True, clear=True)
        await output(
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            f"django-ca=={VERSION}",
            within=300.0,
        )
    except (RuntimeError, OSError) as error:
        print(f"django-ca is left out: it cannot be installed ({error})", file=sys.stderr)
        return None
    done.touch()
    return python


@asynccontextmanager
async def issuing(python: Path, folder: Path, pems: Sequence[str]) -> AsyncIterator[Rate]:
    """``rate(count)``: certificates a second for the next ``count`` requests of ``pems``."""
    folder.mkdir()
    requests, log = folder / "requests.pem", folder / "django.log"
    requests.write_text("".join(pems))
    # Isolated: this folder, which the interpreter would look into first, has a django of its own.
    async with program(python, "-I", django_loop.__file__, folder, requests, log=log) as process:
        await said(process, "ready", _PATIENCE, log)

        async def rate(count: int) -> float:
            assert process.stdin is not None
            process.stdin.write(f"{count}\n".encode())
            await process.stdin.drain()
            return float((await said(process, "rate ", _PATIENCE, log)).removeprefix("rate "))

        yield rate
