"""Any frame is read as it was written, however its octets come; any split of a history is the same
history."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from ocsp.feed import (
    MAX_PROOF,
    Authorities,
    Changes,
    Continuation,
    Entry,
    EntryStatus,
    Frame,
    Heartbeat,
    Void,
    encode,
    parse,
)
from ocsp.feed_progress import Progress
from ocsp.feed_wire import Frames, Signed, seal
from ocsp.tree_head import TreeHead
from pki.serial import LIMIT
from pki.status import Good, RevocationReason, Revoked
from tests.unit.test_status_feed import (
    AT,
    BASIS,
    ISSUERS,
    LEAVES,
    STREAM,
    continuation,
    log,
)

times = st.datetimes(
    datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(UTC)
)
reasons = st.sampled_from([r for r in RevocationReason if r is not RevocationReason.removeFromCRL])
hashes = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**63)
names = st.text(max_size=40).filter(lambda text: len(text.encode()) < 256)


@st.composite
def statuses(draw: st.DrawFn, sequence: int) -> EntryStatus:
    suspects = st.none() | times
    return draw(
        st.sampled_from([Good(), Void()])
        | st.builds(Revoked, times, reasons, suspects, st.just(sequence))
    )


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    after, *sequences = sorted(draw(st.sets(numbers, min_size=2, max_size=12)))
    entries = tuple(
        Entry(
            draw(st.integers(0, 65535)),
            draw(st.integers(1, LIMIT - 1)),
            sequence,
            draw(statuses(sequence)),
        )
        for sequence in sequences
    )
    newest = draw(st.integers(sequences[-1], 2**64 - 1))
    return Changes(after, sequences[-1], draw(times), newest, draw(hashes), entries)


@st.composite
def continuations(draw: st.DrawFn) -> Continuation:
    sizes = st.integers(0, 2**64 - 1)
    old, size = sorted((draw(sizes), draw(sizes)))
    proof = draw(st.lists(hashes, max_size=MAX_PROOF if old else 0))
    head = TreeHead(size, draw(hashes))
    return Continuation(draw(numbers), draw(times), old, head, tuple(proof))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 40))
def test_a_log_that_grew_goes_on_and_any_other_does_not(grown: list[int], other: int) -> None:
    sizes = [min(40, sum(grown[: place + 1])) for place in range(len(grown))]
    progress = Progress(2)
    for old, new in zip([0, *sizes], sizes, strict=False):
        progress = progress.advance(continuation(old, new), AT)
    forked = [*LEAVES[:other], bytes(32), *LEAVES[other + 1 :]]
    last = sizes[-1]
    for new in range(last, 40):
        assert progress.advance(continuation(last, new), AT).head == log(new)
        if other < last:
            with pytest.raises(Rejected) as refused:
                progress.advance(continuation(last, new, leaves=forked), AT)
            assert refused.value.code == "feed-forked"


frames = (
    changes()
    | st.builds(Heartbeat, numbers, times, hashes)
    | continuations()
    | st.builds(Authorities, numbers, times, st.sampled_from([(), ISSUERS, ISSUERS[:1]]))
)


@settings(max_examples=200, deadline=None)
@given(names, frames)
def test_a_frame_is_read_as_it_was_written(name: str, frame: Frame) -> None:
    message = encode(name, frame)
    assert parse(message, name) == frame
    assert encode(name, parse(message, name)) == message


@settings(max_examples=100, deadline=None)
@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 400), max_size=12), st.binary())
def test_frames_are_found_however_they_are_cut(
    sent: list[Frame], cuts: list[int], signature: bytes
) -> None:
    signed = [Signed(encode("status", frame), signature[:128]) for frame in sent]
    data = b"".join(seal(each.message, each.signature) for each in signed)
    splitter, found, start = Frames(), [], 0
    for cut in [*cuts, len(data)]:
        found += splitter.feed(data[start : start + cut])
        start += cut
    assert found == signed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10), max_size=12), st.lists(st.booleans(), max_size=12))
def test_whatever_the_pages_the_end_is_the_same(pages: list[int], cuts: list[bool]) -> None:
    progress, at = Progress(0), 0
    now = STREAM[-1].at
    progress = progress.advance(Authorities(0, AT, ISSUERS), now)
    progress = progress.advance(continuation(0, 13, 0), now)
    for page, cut in zip(pages, [*cuts, *[False] * len(pages)], strict=False):
        if cut:
            progress = progress.reconnected().advance(Authorities(at, AT, ISSUERS), now)
            progress = progress.advance(continuation(13, 13, at), now)
        entries = tuple(Entry(0, n, n, Good()) for n in range(at + 1, at + page + 1))
        frame = Changes(at, at + page, AT, sum(pages), BASIS, entries)
        progress, at = progress.advance(frame, now), at + page
    progress = progress.advance(Heartbeat(at, AT, BASIS), now)
    assert (progress.upto, progress.newest) == (sum(pages), sum(pages))
