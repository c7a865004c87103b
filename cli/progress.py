"""Progress on standard error, for whoever watches a terminal; silent in scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

PATIENCE: Final = 1.0
"""Seconds before anything is shown."""


class _Shown:
    """A bar that appears once ``PATIENCE`` has passed, from a thread of its own, so that it also
    appears while the event loop is busy."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress: Progress | None = None
        self._bar: tuple[ProgressColumn, ...] = ()  # once it is known how much there is
        self._at: tuple[int, int] | None = None
        self._over = False
        self._lock = Lock()

    def begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        with self._lock:
            if self._over:
                return
            spinner = (SpinnerColumn(), TextColumn("{task.description}"))
            self._bar = (*spinner, BarColumn(), MofNCompleteColumn())
            self._progress = Bar(*spinner, console=Console(stderr=True), transient=True)
            self._progress.add_task(self._title, total=None)
            self._update()
            self._progress.start()

    def report(self, done: int, total: int) -> None:
        with self._lock:
            self._at = (done, total)
            self._update()

    def _update(self) -> None:
        if self._progress is not None and self._at is not None:
            done, total = self._at
            self._progress.columns = self._bar
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def end(self) -> None:
        with self._lock:
            self._over = True
            if self._progress is not None:
                self._progress.stop()


@contextmanager
def working(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show ``title`` while the block runs, if it takes longer than ``PATIENCE`` and standard error
    is a terminal. What is yielded takes how much is done and how much there is."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    shown = _Shown(title)
    timer = Timer(PATIENCE, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown.report
    finally:
        timer.cancel()
        shown.end()
