"""Answers that are kept: whole HTTP responses, found by the octets that asked for them.

RFC 5019 §6 lets one answer serve everybody until its nextUpdate. What changes in a response while
it is kept is Date and max-age, so it is put together once a second at most.

Invariants:

- at most ``capacity`` answers are kept, ``VARIANTS`` about one certificate, each under at most
  ``_TARGETS`` paths of bounded length: whoever asks in many ways pushes the oldest answers out, no
  more, and a change of status never has many to drop;
- of answers that were dropped, few are still in memory;
- an answer is handed out only before ``end``, which lies before its nextUpdate.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from email.utils import format_datetime, formatdate
from hashlib import sha256
from typing import Final

from ocsp.responder import Freshness

VARIANTS: Final = 32
"""Answers that are kept about one certificate: the requests of honest clients differ in the hash of
the issuer and in few extensions."""

_TARGETS: Final = 4
_SPARE: Final = 1024
"""Places in the queue that dropped answers may hold, beyond an eighth of the others."""

_LONGEST_TARGET: Final = 2100
"""Octets of a path: those of the longest request that is kept, each percent-encoded."""

_PERMANENT: Final = (
    b"HTTP/1.1 200 OK\r\nServer: DigitalID\r\nX-Content-Type-Options: nosniff\r\n"
    b"Content-Type: application/ocsp-response\r\n"
)
_TIMES: Final = b"Date: %b\r\nCache-Control: max-age=%d, public, no-transform, must-revalidate\r\n"
_UNCHANGED: Final = b"HTTP/1.1 304 Not Modified\r\nServer: DigitalID\r\n"


class Kept:
    """One answer. ``request``: the OCSPRequest it answers; ``issuer``: the CA; ``key``: the
    certificate that it is about, as the status table names it; ``status``: for the metrics;
    ``made``, ``refresh_at`` and ``end``: seconds since 1970; ``asked``: whether anybody wanted it
    since it was made."""

    __slots__ = (
        "_head",
        "_response",
        "_second",
        "_tail",
        "_unchanged",
        "asked",
        "dropped",
        "end",
        "issuer",
        "key",
        "made",
        "refresh_at",
        "request",
        "status",
        "tag",
        "targets",
    )

    def __init__(
        self,
        request: bytes,
        body: bytes,
        freshness: Freshness,
        issuer: str,
        key: int,
        status: str,
        now: float,
    ) -> None:
        self.request = request
        self.issuer = issuer
        self.key = key
        self.status = status
        self.made = now
        # RFC 5019 §6.2: max-age ends before nextUpdate.
        self.end = int(freshness.next_update.timestamp()) - 1
        # At half of its time, so that whoever fetches it can always keep it for the other half.
        self.refresh_at = (now + self.end) / 2
        self.asked = False
        self.dropped = False
        self.targets: list[bytes] = []
        self.tag = b'"%s"' % sha256(body).hexdigest().encode()
        validators = (
            f"Last-Modified: {format_datetime(freshness.this_update, usegmt=True)}\r\n"
            f"Expires: {format_datetime(freshness.next_update, usegmt=True)}\r\n"
            f"ETag: {self.tag.decode()}\r\n"
        ).encode()
        self._head = _PERMANENT + validators + b"Content-Length: %d\r\n" % len(body)
        self._unchanged = _UNCHANGED + validators
        self._tail = b"\r\n" + body
        self._second = 0
        self._response = b""

    def response(self, second: int) -> bytes:
        """The whole HTTP response at this second."""
        if second != self._second:
            self._response = self._head + self._times(second) + self._tail
            self._second = second
        return self._response

    def unchanged(self, second: int) -> bytes:
        """304 for whoever has it already (RFC 9110 §15.4.5)."""
        return self._unchanged + self._times(second) + b"\r\n"

    def _times(self, second: int) -> bytes:
        return _TIMES % (http_date(second), max(self.end - second, 0))


class AnswerCache:
    """At most ``capacity`` answers, by path of a GET and by the request's own octets."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.targets: dict[bytes, Kept] = {}
        self.requests: dict[bytes, Kept] = {}
        self._keys: dict[int, dict[Kept, None]] = {}  # in the order in which they were kept
        self._order: list[tuple[float, int, Kept]] = []  # a heap: the next to be refreshed first
        self._number = 0

    def __len__(self) -> int:
        return len(self.requests)

    def keep(self, kept: Kept) -> None:
        """Keep an answer, in place of the one before it to the same octets."""
        before = self.requests.get(kept.request)
        if before is not None:
            self._replace(before, kept)
        elif len(self.requests) >= self._capacity:
            self._push_out()
        about = self._keys.get(kept.key)
        if about is not None and len(about) >= VARIANTS:
            self._drop(next(iter(about)))
        self.requests[kept.request] = kept
        self._keys.setdefault(kept.key, {})[kept] = None
        self._queue(kept, kept.refresh_at)

    def alias(self, target: bytes, kept: Kept) -> None:
        """Let a GET of this path find the answer without being read."""
        if (
            len(kept.targets) < _TARGETS
            and len(target) <= _LONGEST_TARGET
            and not kept.dropped
            and target not in self.targets
        ):
            kept.targets.append(target)
            self.targets[target] = kept

    def forget(self, key: int) -> None:
        """Drop what is kept about a certificate."""
        for kept in tuple(self._keys.get(key, ())):
            self._drop(kept)

    def clear(self) -> None:
        """Drop everything."""
        for kept in self.requests.values():  # not of the queue: some are being refreshed
            kept.dropped = True
        self.targets.clear()
        self.requests.clear()
        self._keys.clear()
        self._order.clear()

    def due(self, now: float) -> Iterator[Kept]:
        """Take out, one after the other, the answers that are to be refreshed; those that nobody
        asked for are dropped instead."""
        while self._order and self._order[0][0] <= now:
            _, _, kept = heapq.heappop(self._order)
            if kept.dropped:
                continue
            if kept.asked:
                yield kept
            else:
                self._drop(kept)

    def again(self, kept: Kept, at: float) -> None:
        """Let an answer that could not be refreshed stay, and be due again then, unless it ends
        before."""
        if kept.dropped:
            return
        if at < kept.end:
            self._queue(kept, at)
        else:
            self._drop(kept)

    def oldest(self) -> float | None:
        """When the answer was made that is refreshed next: the oldest, if all live equally long."""
        while self._order and self._order[0][2].dropped:
            heapq.heappop(self._order)
        return self._order[0][2].made if self._order else None

    def _replace(self, before: Kept, kept: Kept) -> None:
        targets = before.targets
        self._drop(before)
        for target in targets:
            self.alias(target, kept)

    def _queue(self, kept: Kept, at: float) -> None:
        if len(self._order) > len(self.requests) * 9 // 8 + _SPARE:
            self._order = [one for one in self._order if not one[2].dropped]
            heapq.heapify(self._order)
        self._number += 1
        heapq.heappush(self._order, (at, self._number, kept))

    def _push_out(self) -> None:
        while self._order:
            _, _, kept = heapq.heappop(self._order)
            if not kept.dropped:
                self._drop(kept)
                return
        for kept in tuple(self.requests.values())[:1]:  # all are being refreshed
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        kept.dropped = True
        for target in kept.targets:
            del self.targets[target]
        if self.requests.get(kept.request) is kept:
            del self.requests[kept.request]
        others = self._keys[kept.key]
        del others[kept]
        if not others:
            del self._keys[kept.key]


_dates: dict[int, bytes] = {}


def http_date(second: int) -> bytes:
    """A time as HTTP writes it (RFC 9110 §5.6.7)."""
    date = _dates.get(second)
    if date is None:
        _dates.clear()
        date = _dates[second] = formatdate(second, usegmt=True).encode()
    return date
