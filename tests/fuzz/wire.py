"""The server's end of a connection, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from infra.http.front import Front


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close


async def answers(front: Front, pieces: Iterable[bytes]) -> bytes:
    """What ``front`` writes on a connection whose octets come like this, until either side ends."""
    wire, protocol = Wire(), front.protocol()
    protocol.connection_made(wire)
    for piece in pieces:
        while not wire.reading and not wire.closing:  # noqa: ASYNC110 - an answer is on its way
            await asyncio.sleep(0)
        if wire.closing:
            break
        protocol.data_received(piece)
    while front.under_way:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # what was gathered is written now
    if not wire.closing:
        protocol.eof_received()
    protocol.connection_lost(None)
    assert front.connections == front.under_way == 0
    return bytes(wire.written)
