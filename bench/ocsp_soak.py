"""OCSP for long, at half of what one process can: whether its memory stays what it was.

``DIGITALID_SOAK_SECONDS`` says how long, else five minutes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench._status_table import ISSUER, simulate
from bench.issue import scratch
from bench.ocsp import make_scene, serving, write_questions
from bench.peers import wrk
from bench.peers.wrk import Answered, Asking
from ocsp.table import TableWriter
from ocsp.workers import Workers
from pki.serial import SerialNumber
from pki.status import Good, RevocationReason, Revoked

_SECONDS: Final = 300
_PAUSE: Final = 8  # milliseconds between two requests on a connection
_KEPT, _SIGNED = 0.4, 0.1  # of the most that there can be of each
_WARM: Final = 0.1  # the share of the time after which memory is looked at first


async def run(quick: bool) -> list[dict[str, Any]]:
    """Errors end it; ``ocsp-soak-memory``: anonymous memory at the end against that after a tenth
    of the time. Kept answers live for a minute, so all are refreshed every half, and twice a
    second a certificate is held or released."""
    if not wrk.installed():
        print("ocsp_soak is left out: there is no wrk here (apt install wrk)", file=sys.stderr)
        return []
    seconds = 20 if quick else int(os.environ.get("DIGITALID_SOAK_SECONDS", _SECONDS))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        scene = await make_scene(folder)
        serials = [serial for _, serial in simulate(folder / "table", 1_000_000)]
        write_questions(scene, serials)
        table = TableWriter.open(folder / "table")
        stack.callback(table.close)
        table.issuer(ISSUER, complete=True, live=True)
        url, workers = await stack.enter_async_context(
            serving(scene, folder / "table", 1, lifetime=timedelta(minutes=1))
        )
        kept, signed = folder / "many.get", folder / "nonce.post"
        most = [
            (await wrk.ask(url, method, lines, Asking(seconds=3))).rate
            for method, lines in (("GET", kept), ("POST", signed))
        ]
        changing = asyncio.create_task(_change(table, serials))
        measuring = asyncio.create_task(_memory(workers, seconds))
        answered = await asyncio.gather(
            wrk.ask(url, "GET", kept, _paced(most[0] * _KEPT, seconds)),
            wrk.ask(url, "POST", signed, _paced(most[1] * _SIGNED, seconds)),
        )
        changing.cancel()
        first, last = await measuring
        metrics = await workers.measure()
    wrong = {name for name in metrics.answers if name not in ("good", "revoked", "hold")}
    if wrong:
        raise RuntimeError(f"some answers were {', '.join(sorted(wrong))}")
    return [_figure(seconds, first, last, answered, metrics.refreshed)]


def _paced(rate: float, seconds: float) -> Asking:
    connections = max(1, round(rate * _PAUSE / 1000))
    return Asking(connections=connections, seconds=seconds, pause=_PAUSE)


async def _change(table: TableWriter, serials: list[int]) -> None:
    """Hold and release, one after the other."""
    number = 0
    while True:
        number += 1
        serial = SerialNumber(serials[4 * (number // 2) % len(serials)])  # one that is good
        held = Revoked(datetime.now(UTC), RevocationReason.certificateHold, None, number)
        table.put(ISSUER, serial, held if number % 2 else Good())
        await asyncio.sleep(0.5)


async def _memory(workers: Workers, seconds: float) -> tuple[float, float]:
    """Megabytes of anonymous memory of the process, early and near the end."""
    await asyncio.sleep(seconds * _WARM)
    first = _anonymous(workers.pids[0])
    await asyncio.sleep(seconds * (1 - _WARM) - 2)
    return first, _anonymous(workers.pids[0])


def _anonymous(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def _figure(
    seconds: float, first: float, last: float, answered: tuple[Answered, Answered], refreshed: int
) -> dict[str, Any]:
    kept, signed = answered
    return {
        "name": "ocsp-soak-memory",
        "unit": "MB",
        "ours": round(last, 1),
        "reference": "after a tenth of the time",
        "reference_value": round(first, 1),
        "ratio": round(last / first, 3),
        "limit": 1.1,
        "seconds": seconds,
        "kept_per_second": round(kept.rate),
        "kept_p99_ms": round(1e3 * kept.p99, 2),
        "signed_per_second": round(signed.rate),
        "signed_p99_ms": round(1e3 * signed.p99, 2),
        "refreshed": refreshed,
    }
