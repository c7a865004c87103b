"""The revoked certificates that every program in the CRL benchmark lists: the same for all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from pki.crl_entry import Entry
from pki.serial import new_serial
from pki.status import RevocationReason

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENDS: Final = datetime(2029, 1, 1, tzinfo=UTC)
_REASONS: Final = (
    RevocationReason.unspecified,
    RevocationReason.keyCompromise,
    RevocationReason.superseded,
    RevocationReason.cessationOfOperation,
)


def entries(count: int, *, seed: int = 5280) -> Iterator[Entry]:
    """So many, issued and revoked over a year, in order of their issuance."""
    seeded = random.Random(seed)
    year = 365 * 86400
    for number in range(count):
        issued = NOW - timedelta(seconds=year - number * year / count)
        serial = new_serial(issued, seeded.randbytes(10))
        at = issued + timedelta(seconds=int(seeded.random() * (NOW - issued).total_seconds()))
        yield Entry(serial, at.replace(microsecond=0), _REASONS[number % len(_REASONS)])
