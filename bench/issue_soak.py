"""Issuance for long: whether the rate stays what it was, and memory where it was."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.issue import ROUND, issue_all, issuing, line, requests

COUNT: Final = 200_000
QUICK: Final = 10_000


async def run(quick: bool) -> list[dict[str, Any]]:
    """200,000 certificates in process with a key in a file, 10,000 when quick.

    ``issue-soak-rate``: the median rate of the rounds in the last tenth against that of the first
    one. ``issue-soak-memory``: by how much resident memory of this process and its workers has
    grown between a fifth and the end, against what it was then, with a ``limit`` rather than a
    goal; when quick, the store's page cache is still filling, so the limit is generous. Requests
    are made between the rounds, by processes that are not counted.
    """
    rounds = (QUICK if quick else COUNT) // ROUND
    rates: list[float] = []
    resident: list[float] = []
    loop = asyncio.get_running_loop()
    async with issuing("file") as authority:
        await issue_all(authority, requests(range(ROUND)))  # the first question starts a worker
        ours = [os.getpid(), *_children()]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
            for number in range(rounds):
                # From one warm-up round on, so that no key or name comes twice.
                first = (number + 1) * ROUND
                halves = range(first, first + ROUND // 2), range(first + ROUND // 2, first + ROUND)
                made = await asyncio.gather(
                    *(loop.run_in_executor(processes, requests, half) for half in halves)
                )
                rates.append(await issue_all(authority, made[0] + made[1]))
                resident.append(sum(map(_resident, ours)))
    tenth, fifth = rounds // 10, rounds // 5
    before, after = median(rates[:tenth]), median(rates[-tenth:])
    at_fifth, growth = resident[fifth - 1], resident[-1] - resident[fifth - 1]
    return [
        line("issue-soak-rate", after, f"the first tenth of {rounds * ROUND}", before, 0.8),
        {
            "name": "issue-soak-memory",
            "unit": "MB",
            "ours": round(growth, 1),
            "reference": f"resident after {fifth * ROUND}",
            "reference_value": round(at_fifth, 1),
            "ratio": round(growth / at_fifth, 3),
            "limit": 1.0 if quick else 0.15,
        },
    ]


def _children() -> list[int]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _resident(pid: int) -> float:
    """Resident memory of a process in MB (proc(5))."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
