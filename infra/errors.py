"""The three ways in which something can go wrong.

An edge turns its vendor's errors into one of these, ``from error``; each protocol has one table
from error to wire answer. ``code`` is stable and for machines, ``detail`` is for people and says
what to do; neither ever holds a secret.
"""

from __future__ import annotations


class Failure(Exception):
    """Anything this product raises on purpose."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Rejected(Failure):
    """The caller's fault: the same call fails again until the caller changes it."""


class Unavailable(Failure):
    """May go away: the same call can succeed after ``retry_after`` seconds."""

    def __init__(self, code: str, detail: str, *, retry_after: float = 5.0) -> None:
        super().__init__(code, detail)
        self.retry_after = retry_after


class Broken(Failure):
    """Ours: a promise of this program does not hold. Logged in full, shown as its code alone."""
