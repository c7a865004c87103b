"""Messages between processes of our own: whole ones, parts of them, and those that are too long."""

from __future__ import annotations

import asyncio

import pytest

from infra.errors import Broken
from infra.framing import MAX_MESSAGE, Frames, frame, receive

MESSAGES = [b"", b"a", b"0123456789", bytes(300), b"\0\0\0\1"]
STREAM = b"".join(map(frame, MESSAGES))


def length(size: int) -> bytes:
    return size.to_bytes(4, "big")


def reader(data: bytes) -> asyncio.StreamReader:
    made = asyncio.StreamReader()
    made.feed_data(data)
    made.feed_eof()
    return made


def test_a_frame_is_a_length_and_the_message() -> None:
    assert frame(b"abc") == b"\0\0\0\3abc"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100, len(STREAM)])
def test_messages_are_found_however_they_come(size: int) -> None:
    frames, found = Frames(), list[bytes]()
    for start in range(0, len(STREAM), size):
        found += frames.feed(STREAM[start : start + size])
    assert found == MESSAGES


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 12, 13])
def test_a_part_of_a_message_is_none(cut: int) -> None:
    frames = Frames()
    assert frames.feed(frame(b"0123456789")[:cut]) == []
    assert frames.feed(frame(b"0123456789")[cut:] + frame(b"next")) == [b"0123456789", b"next"]


@pytest.mark.parametrize("cut", [0, 2, 5, 8])
def test_one_that_is_too_long_is_refused_before_it_comes(cut: int) -> None:
    frames, data = Frames(10), frame(b"a") + length(11)
    assert frames.feed(frame(bytes(10))) == [bytes(10)]
    frames.feed(data[:cut])
    with pytest.raises(Broken) as refused:
        frames.feed(data[cut:])
    assert refused.value.code == "worker-nonsense"


def test_the_limit_is_that_of_most_messages() -> None:
    assert Frames().feed(length(MAX_MESSAGE)) == []
    with pytest.raises(Broken, match="worker-nonsense"):
        Frames().feed(length(MAX_MESSAGE + 1))


async def test_a_reader_gives_them_one_by_one() -> None:
    stream = reader(STREAM)
    assert [await receive(stream) for _ in MESSAGES] == MESSAGES
    with pytest.raises(asyncio.IncompleteReadError):
        await receive(stream)


@pytest.mark.parametrize("data", [b"\0\0\0", frame(b"abc")[:-1], length(MAX_MESSAGE + 1) + b"x"])
async def test_a_reader_gives_no_part_and_nothing_too_long(data: bytes) -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        await receive(reader(data))
