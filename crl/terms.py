"""How the CRLs of a scope are made and kept: lifetimes, retention, what stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from crl.head import Head
from crl.history import END_OF_TIME, Kind, Publication
from infra.errors import Rejected, Unavailable
from pki.issuer import Issuer

CLOCK_TOLERANCE: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Terms:
    """How the CRLs of a scope are made and kept.

    ``lifetime``: from thisUpdate to nextUpdate; ``delta_lifetime``: of delta CRLs; ``retention``:
    how long after its end a revoked certificate stays listed, None for ever; ``keep``: how many
    files stay, and all that are younger than ``keep_for``; ``lease``: how long a process that died
    keeps others from making CRLs.
    """

    lifetime: timedelta = timedelta(days=7)
    delta_lifetime: timedelta = timedelta(days=1)
    retention: timedelta | None = timedelta(0)
    keep: int = 10
    keep_for: timedelta = timedelta(0)
    lease: timedelta = timedelta(minutes=1)

    def cutoff(self, this_update: datetime, last: Publication | None) -> int:
        """The full CRL after that of ``this_update`` leaves out certificates that ended before;
        seconds since 1970. It never goes back, however the retention is set."""
        known = last.cutoff if last else 0
        if self.retention is None:
            return known
        return max(known, int((this_update - self.retention).timestamp()))

    def expired_since(self, last: Publication | None, issuer: Issuer) -> datetime | None:
        """Expired certificates that ended then or later are still listed (ITU-T X.509 §9.5.2.8);
        None if that needs no saying."""
        if self.retention == timedelta(0):
            return None
        dropped = datetime.fromtimestamp(last.cutoff, UTC) if last else issuer.not_before
        return max(dropped, issuer.not_before)


def times(
    now: datetime, head: Head, issuer: Issuer, terms: Terms, kind: Kind, *, final: bool
) -> tuple[datetime, datetime]:
    """thisUpdate, which never goes back, and nextUpdate, not beyond the end of the issuer but for
    a final CRL. Errors: ``issuer-expired``; ``Unavailable("clock-went-back")``."""
    latest = max(datetime.fromtimestamp(head.this_update / 1000, UTC), issuer.not_before)
    if latest - now > CLOCK_TOLERANCE:
        raise Unavailable(
            "clock-went-back",
            f"the clock says {now:%Y-%m-%dT%H:%M:%SZ} but CA {issuer.name} has already signed a "
            f"CRL at {latest:%Y-%m-%dT%H:%M:%SZ}; set the clock right",
            retry_after=60,
        )
    this_update = max(now.replace(microsecond=0), latest)
    lifetime = terms.lifetime if kind is Kind.full else terms.delta_lifetime
    next_update = min(this_update + lifetime, issuer.not_after).replace(microsecond=0)
    if next_update <= this_update:
        raise Rejected(
            "issuer-expired",
            f"CA {issuer.name} ended on {issuer.not_after:%Y-%m-%d} and signs no more CRLs",
        )
    return this_update, END_OF_TIME if final else next_update
