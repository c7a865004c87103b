"""``openssl ocsp -port``: a responder of one process, which closes each connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from bench.peers.process import PATIENCE, free_port, program, said


@asynccontextmanager
async def serving(
    folder: Path, ca: Path, certificate: Path, key: Path, serials: Sequence[int], core: int
) -> AsyncIterator[str]:
    """It answers ``good`` for these serial numbers, while the block runs; yields its URL.

    ``ca``, ``certificate`` and ``key``: PEM, of the CA and of the responder.
    """
    index = folder / "index.txt"
    until = datetime(2036, 1, 1).strftime("%y%m%d%H%M%SZ")
    index.write_text(
        "".join(f"V\t{until}\t\t{serial:040X}\tunknown\t/CN={serial:x}\n" for serial in serials)
    )
    port = free_port()
    async with program(
        *("taskset", "-c", str(core), "openssl", "ocsp", "-port", str(port), "-index", index),
        *("-CA", ca, "-rsigner", certificate, "-rkey", key, "-nmin", "60"),
        log=(log := folder / "openssl-ocsp.log"),
    ) as process:
        # Not by connecting: it waits for ever on a connection that brings no request.
        await said(process, "ACCEPT", PATIENCE, log)
        yield f"http://127.0.0.1:{port}/"
