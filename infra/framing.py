"""Messages between processes of our own: a length in four octets, then so many octets."""

from __future__ import annotations

from asyncio import IncompleteReadError, StreamReader, StreamWriter
from typing import Final

from infra.errors import Broken

MAX_MESSAGE: Final = 16 * 1024 * 1024


def frame(message: bytes) -> bytes:
    """``message``, shorter than 4 GiB, as it goes over a stream."""
    return len(message).to_bytes(4, "big") + message


class Frames:
    """Takes octets as they come and gives whole messages of at most ``most`` octets; holds at most
    one in part."""

    __slots__ = ("_buffer", "_most")

    def __init__(self, most: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._most = most

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole with ``data``. Errors: ``Broken("worker-nonsense")`` for one
        that is too long, as soon as its length is known."""
        buffer, most = self._buffer, self._most
        octets: bytes | bytearray = data
        if buffer:
            buffer += data
            octets = buffer
        found = []
        position, end = 0, len(octets)
        while end - position >= 4:
            start = position + 4
            length = int.from_bytes(octets[position:start], "big")
            if length > most:
                raise Broken("worker-nonsense", "a message between processes is too long")
            if end - start < length:
                break
            position = start + length
            found.append(bytes(octets[start:position]))
        if octets is buffer:
            del buffer[:position]
        elif position < end:
            buffer += data[position:]
        return found


async def send(writer: StreamWriter, message: bytes) -> None:
    """Write a message, and wait while the other side takes none."""
    writer.write(frame(message))
    await writer.drain()


async def receive(reader: StreamReader) -> bytes:
    """The next message. Errors: ``asyncio.IncompleteReadError`` when the other side is gone, or
    sends one that is too long."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > MAX_MESSAGE:
        raise IncompleteReadError(b"", length)
    return await reader.readexactly(length)
