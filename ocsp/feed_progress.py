"""How far a follower of the status feed has come, and which frame may be its next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from infra.errors import Rejected
from ocsp.feed import Authorities, Changes, Frame, authorities_hash
from pki.issuer import Issuer

TOLERANCE: Final = timedelta(seconds=2)
"""How far ahead of the follower's clock a frame's time may be."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a follower has come.

    ``upto``: the last sequence number that it has; ``at``: the time of its newest frame;
    ``newest``: the newest sequence number that it has heard of; ``issuers``: of the last
    ``Authorities`` on this connection, ``authorities`` their hash, empty before that.
    """

    upto: int
    at: datetime = NEVER
    newest: int = 0
    authorities: bytes = b""
    issuers: tuple[Issuer, ...] = ()

    def reconnected(self) -> Progress:
        """The same on a new connection, which has to say again which authorities there are."""
        return replace(self, authorities=b"", issuers=())

    def advance(self, frame: Frame, now: datetime) -> Progress:
        """How far it is with this frame, which has to be the next one.

        Errors: ``feed-gap`` when it does not begin where the last one ended, ``feed-time-back``
        when it was made before that one, ``feed-from-future`` when after ``now``,
        ``feed-authorities`` when its numbers stand for other CAs, ``feed-malformed`` when for none.
        """
        after = frame.after if isinstance(frame, Changes) else frame.upto
        if after != self.upto:
            raise Rejected(
                "feed-gap", f"the feed goes on after {after}, but {self.upto} is the last known"
            )
        if frame.at < self.at:
            raise Rejected(
                "feed-time-back",
                f"a frame of {frame.at:%Y-%m-%dT%H:%M:%SZ} came after one of "
                f"{self.at:%Y-%m-%dT%H:%M:%SZ}: it is an old one, or the CA's clock was set back",
            )
        if frame.at - now > TOLERANCE:
            raise Rejected(
                "feed-from-future",
                f"a frame was made at {frame.at:%Y-%m-%dT%H:%M:%SZ}, later than it is here; "
                "set the clocks of both machines right",
            )
        newest = max(self.newest, frame.upto)
        if isinstance(frame, Authorities):
            digest = authorities_hash(frame.issuers)
            return Progress(frame.upto, frame.at, newest, digest, frame.issuers)
        if frame.authorities != self.authorities:
            raise Rejected("feed-authorities", "a frame is about CAs that were not announced")
        if isinstance(frame, Changes):
            if any(entry.authority >= len(self.issuers) for entry in frame.entries):
                raise Rejected("feed-malformed", "an entry of a frame is of no CA")
            newest = max(newest, frame.newest)
        else:
            newest = frame.upto
        return replace(self, upto=frame.upto, at=frame.at, newest=newest)
