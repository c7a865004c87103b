"""Any octets between processes of our own: whole messages in their order, or an end of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Broken
from infra.framing import MAX_MESSAGE, Frames, frame, receive
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated

MOST = 40
short = settings(max_examples=500, deadline=None, derandomize=not SECONDS)
messages = st.lists(st.binary(max_size=MOST), max_size=6)
cuts = st.lists(st.integers(0, 6 * (MOST + 4)), max_size=8)
STREAM = b"".join(map(frame, [b"", b"a", bytes(MOST), b"\0\0\0\1", b"the last"]))
LENGTHS = (0, 1, MOST, MOST + 1, 255, 256, MAX_MESSAGE, MAX_MESSAGE + 1, 0xFFFFFFFF)
octets = (
    mutated(STREAM)
    | st.lists(
        st.sampled_from([size.to_bytes(4, "big") for size in LENGTHS]) | st.binary(max_size=MOST),
        max_size=8,
    ).map(b"".join)
    | st.binary(max_size=200)
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


def taken(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The messages, and whether it went on to the end."""
    frames, found = Frames(MOST), list[bytes]()
    for piece in pieces:
        try:
            found += frames.feed(piece)
        except Broken:
            return found, False
        assert len(frames._buffer) < MOST + 4
    return found, True


def expected(data: bytes) -> tuple[list[bytes], bool]:
    """By the definition alone."""
    found = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if size > MOST:
            return found, False
        if len(data) < 4 + size:
            break
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found, True


def test_messages_come_back_as_they_were_however_they_are_cut() -> None:
    @short
    @given(messages, cuts)
    def check(sent: list[bytes], cuts: list[int]) -> None:
        assert taken(pieces(b"".join(map(frame, sent)), cuts)) == (sent, True)

    for_as_long_as_asked(check)


def test_any_octets_are_messages_or_refused() -> None:
    @short
    @given(octets, cuts)
    def check(data: bytes, cuts: list[int]) -> None:
        found, whole = expected(data)
        in_pieces = taken(pieces(data, cuts))
        assert in_pieces[1] == whole
        # With one that is too long, those that came in the same piece are lost.
        assert in_pieces[0] == found[: len(in_pieces[0])]
        assert not whole or in_pieces[0] == found

    for_as_long_as_asked(check)


def test_a_reader_finds_the_same() -> None:
    async def read(data: bytes) -> list[bytes]:
        reader, found = asyncio.StreamReader(), list[bytes]()
        reader.feed_data(data)
        reader.feed_eof()
        with suppress(asyncio.IncompleteReadError):
            while True:
                found.append(await receive(reader))
        return found

    with asyncio.Runner() as runner:

        @short
        @given(octets)
        def check(data: bytes) -> None:
            found = runner.run(read(data))
            assert found[: len(expected(data)[0])] == expected(data)[0]
            assert data.startswith(b"".join(map(frame, found)))

        for_as_long_as_asked(check)
