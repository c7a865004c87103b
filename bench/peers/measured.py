"""A program run to its end: how long it took and how much memory it had at most."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter


@dataclass(frozen=True, slots=True)
class Measured:
    """``seconds`` of wall time, ``megabytes`` at the peak, and what it printed."""

    seconds: float
    megabytes: int
    printed: str


def measured(*command: str | Path) -> Measured:
    """Run a program. Errors: ``RuntimeError`` when its exit code is not 0."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = perf_counter()
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed: {errors.read().decode()[-2000:]}")
        return Measured(seconds, usage.ru_maxrss // 1024, out.read().decode())
