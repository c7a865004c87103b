"""Issuance for long: whether the rate stays what it was, and memory where it was."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.issue import ROUND, issue_all, issuing, line, requests

COUNT: Final = 200_000
QUICK: Final = 10_000


async def run(quick: bool) -> list[dict[str, Any]]:
    """200,000 certificates in process with a key in a file, 10,000 when quick.

    ``issue-soak-rate``: the rate in the last tenth against that in the first tenth. Minutes lie
    between the two, in which a machine may become another one; so a second, new instance does its
    first tenth while the old one does its last, a round each in turns, and medians are compared.
    ``issue-soak-memory``: by how much resident memory of this process and its workers has grown
    between a fifth and nine tenths, when the second instance comes, against what it was; with a
    ``limit`` rather than a goal, generous when quick, as the store's page cache is still filling.
    Requests are made between the rounds, by processes that are not counted.
    """
    rounds = (QUICK if quick else COUNT) // ROUND
    tenth = rounds // 10
    resident: list[float] = []
    old: list[float] = []
    new: list[float] = []
    async with issuing("file") as aged:
        await issue_all(aged, requests(range(ROUND)))  # to warm up: this starts its workers
        ours = [os.getpid(), *_children()]
        # A number for each request, so that no key or name comes twice.
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
            for number in range(1, rounds - tenth + 1):
                old.append(await issue_all(aged, await _made(processes, number)))
                resident.append(sum(map(_resident, ours)))
                if number % tenth == 0:
                    _tell(number * ROUND, median(old[-tenth:]), resident[-1])
            async with issuing("file") as fresh:
                await issue_all(fresh, await _made(processes, 0))
                for number in range(rounds - tenth + 1, rounds + 1):
                    chunk = await _made(processes, number)
                    old.append(await issue_all(aged, chunk))
                    new.append(await issue_all(fresh, chunk))
    fifth = resident[2 * tenth - 1]
    growth = resident[-1] - fifth
    first = f"the first tenth of {rounds * ROUND}"
    return [
        line("issue-soak-rate", median(old[-tenth:]), first, median(new), 0.8),
        {
            "name": "issue-soak-memory",
            "unit": "MB",
            "ours": round(growth, 1),
            "reference": f"resident after {2 * tenth * ROUND}",
            "reference_value": round(fifth, 1),
            "ratio": round(growth / fifth, 3),
            "limit": 1.0 if quick else 0.15,
        },
    ]


async def _made(processes: Executor, number: int) -> list[bytes]:
    """The requests of a round."""
    loop = asyncio.get_running_loop()
    start, middle, end = number * ROUND, number * ROUND + ROUND // 2, (number + 1) * ROUND
    halves = await asyncio.gather(
        loop.run_in_executor(processes, requests, range(start, middle)),
        loop.run_in_executor(processes, requests, range(middle, end)),
    )
    return [request for half in halves for request in half]


def _tell(count: int, rate: float, resident: float) -> None:
    # It takes minutes, and what happens between the tenths that count explains a missed goal.
    print(f"{count:>7} certificates: {rate:.0f}/s, {resident:.0f} MB", file=sys.stderr, flush=True)


def _children() -> list[int]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _resident(pid: int) -> float:
    """Resident memory of a process in MB (proc(5))."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
