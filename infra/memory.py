"""What a process has in its memory stays there: keys, PINs, passphrases."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def keep_to_ourselves() -> None:
    """Leave no core file behind, and let no other process of our user look into this one.

    A limit of 0 is for files, and inherited; core_pattern may name a program instead, which the
    kernel does not start for what is not dumpable (core(5)). Nor may that be attached to, or
    read through /proc, by anybody but root (ptrace(2), proc(5)). Errors: ``OSError``.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
