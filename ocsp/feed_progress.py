"""How far a follower of the status feed has come, and which frame may be its next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from infra.errors import Rejected
from ocsp.feed import Authorities, Changes, Continuation, Frame, authorities_hash, basis_hash
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.issuer import Issuer
from pki.log.merkle import verify_consistency

TOLERANCE: Final = timedelta(seconds=2)
"""How far ahead of the follower's clock a frame's time may be."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a follower has come.

    ``upto``: the last sequence number that it has; ``at``: the time of its newest frame;
    ``head``: the CA's log, which tells of all that it has; ``newest``: the newest sequence number
    that it has heard of; ``issuers``: of the last ``Authorities`` on this connection,
    ``authorities`` their hash, empty before that; ``continued``: whether this connection has shown
    that its log goes on from ``head``.
    """

    upto: int
    head: TreeHead = NO_LEAVES
    at: datetime = NEVER
    newest: int = 0
    authorities: bytes = b""
    issuers: tuple[Issuer, ...] = ()
    continued: bool = False

    def reconnected(self) -> Progress:
        """The same on a new connection, which has to say again which authorities there are, and
        to prove that it is the same history."""
        return replace(self, authorities=b"", issuers=(), continued=False)

    def advance(self, frame: Frame, now: datetime) -> Progress:
        """How far it is with this frame, which has to be the next one.

        Errors: ``feed-gap`` when it does not begin where the last one ended, ``feed-time-back``
        when it was made before that one, ``feed-from-future`` when after ``now``,
        ``feed-forked`` when its history is not the one that was followed, ``feed-authorities`` when
        it builds on other CAs or another log, ``feed-malformed`` when its numbers stand for no CA.
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
            return replace(
                self, at=frame.at, newest=newest, authorities=digest, issuers=frame.issuers
            )
        if isinstance(frame, Continuation):
            self._check(frame)
            return replace(self, at=frame.at, newest=newest, head=frame.head, continued=True)
        announced = self.authorities and self.continued
        if not announced or frame.basis != basis_hash(self.authorities, self.head):
            raise Rejected(
                "feed-authorities", "a frame is about CAs, or from a log, that were not announced"
            )
        if isinstance(frame, Changes):
            if any(entry.authority >= len(self.issuers) for entry in frame.entries):
                raise Rejected("feed-malformed", "an entry of a frame is of no CA")
            newest = max(newest, frame.newest)
        else:
            newest = frame.upto
        return replace(self, upto=frame.upto, at=frame.at, newest=newest)

    def _check(self, frame: Continuation) -> None:
        """Refuse a log that does not begin with the leaves that are known."""
        if frame.old != self.head.size:
            raise Rejected(
                "feed-gap",
                f"the CA's log goes on from {frame.old} leaves, but {self.head.size} are known",
            )
        if not frame.old:
            return
        try:
            verify_consistency(
                frame.old, self.head.root, frame.head.size, frame.head.root, frame.proof
            )
        except Rejected as rejected:
            raise Rejected(
                "feed-forked",
                f"the first {frame.old} leaves of the CA's log are not those that were followed: "
                "it was restored from a backup, its database is a copy, or it tells two stories",
            ) from rejected
