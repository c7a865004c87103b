"""ab: a new connection for each request, which it closes as soon as it has its answer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from bench.peers.process import output

REQUESTS: Final = 3000


def installed() -> bool:
    """Whether there is an ab."""
    return shutil.which("ab") is not None


async def rate(url: str, body: Path, media_type: str, *, at_once: int, core: int) -> float:
    """Answers a second to ``REQUESTS`` posts of this file. Errors: ``RuntimeError`` when one was
    no 2xx or had no answer. (What ab calls failed is an answer of another length than the first:
    ECDSA signatures have several.)"""
    printed = await output(
        *("taskset", "-c", str(core), "ab", "-q", "-n", str(REQUESTS), "-c", str(at_once)),
        *("-p", body, "-T", media_type, url),
        within=60.0,
    )
    found = re.search(r"Requests per second: +([0-9.]+)", printed)
    whole = re.search(r"Connect: (\d+), Receive: (\d+), Length: \d+, Exceptions: (\d+)", printed)
    lost = sum(map(int, whole.groups())) if whole else 0
    if found is None or "Non-2xx" in printed or lost:
        raise RuntimeError(f"ab was not answered well: {printed[-500:]}")
    return float(found[1])
