"""Octets that are nearly right, and how long a fuzz test goes on with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypothesis import strategies as st

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))


def for_as_long_as_asked(check: Callable[[], None]) -> None:
    """Run ``check`` once, and again until ``DIGITALID_FUZZ_SECONDS`` have passed."""
    end = time.monotonic() + SECONDS
    check()
    while time.monotonic() < end:
        check()


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with some octets altered, left out or put in."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + draw(st.integers(1, 20))]
            case 2:
                data[at:at] = draw(st.binary(max_size=20))
            case _:
                del data[at + 1 :]
    return bytes(data)
