"""Python's garbage collector, as a process wants it that makes many short-lived objects."""

from __future__ import annotations

import gc
import sys

_THRESHOLDS = (20_000, 20, 100)
_SWITCH_INTERVAL = 0.0005  # seconds


def settle() -> None:
    """To be called once everything is loaded: what is there now is looked at no more, and what
    comes is looked at less often. Nearly all of it is freed without the collector."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    # A thread that waits for the interpreter gets it sooner: signatures and commits are short.
    sys.setswitchinterval(_SWITCH_INTERVAL)
