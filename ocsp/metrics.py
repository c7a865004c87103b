"""What a responder counts: plain numbers, which several processes' can be added up."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Upper ends, seconds, of the counts of signing times; one more count for all beyond."""


@dataclass(slots=True)
class OcspMetrics:
    """Counts since the start, and how things stand.

    ``answers``: by status, ``good`` to ``tryLater``; ``refusals``: by code; ``hits``: answers that
    were kept already; ``signed``: made on demand; ``refreshed``: made ahead of time; ``signing``:
    how many took how long (``BUCKETS``); ``signing_seconds``: their sum; ``kept``: answers in the
    cache; ``oldest``: age in seconds of the oldest of them; ``lag``: seconds since the statuses
    were surely right; ``connections``: open now; ``turned_away``: those that were too many.
    """

    answers: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    hits: int = 0
    unchanged: int = 0
    signed: int = 0
    refreshed: int = 0
    signing: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    signing_seconds: float = 0.0
    kept: int = 0
    oldest: float = 0.0
    lag: float = 0.0
    connections: int = 0
    turned_away: int = 0

    def answer(self, *statuses: str) -> None:
        """Count an answer that tells of these."""
        for status in statuses:
            self.answers[status] = self.answers.get(status, 0) + 1

    def refuse(self, status: str, code: str) -> None:
        """Count an error, by its OCSP status and our code."""
        self.answer(status)
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def sign(self, seconds: float) -> None:
        """Count one signature."""
        self.signing[bisect_left(BUCKETS, seconds)] += 1
        self.signing_seconds += seconds

    def __add__(self, other: OcspMetrics) -> OcspMetrics:
        return OcspMetrics(
            _sum(self.answers, other.answers),
            _sum(self.refusals, other.refusals),
            self.hits + other.hits,
            self.unchanged + other.unchanged,
            self.signed + other.signed,
            self.refreshed + other.refreshed,
            [a + b for a, b in zip(self.signing, other.signing, strict=True)],
            self.signing_seconds + other.signing_seconds,
            self.kept + other.kept,
            max(self.oldest, other.oldest),
            max(self.lag, other.lag),
            self.connections + other.connections,
            self.turned_away + other.turned_away,
        )


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}
