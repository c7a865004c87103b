"""Files that are sent without reading them into memory: the kernel copies them to the socket.

The file is opened before the answer begins, so one that is replaced or removed meanwhile is sent
to its end. uvloop has no ``sendfile`` of its own, so this waits for the socket itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

_AT_ONCE: Final = 1 << 20
_PATIENCE: Final = 60.0
"""Seconds that a client may take to read some of what waits for it."""


@dataclass(frozen=True, slots=True)
class LongFile:
    """A document in a file of ``size`` octets that nobody changes; ``open``: opens it."""

    open: Callable[[], IO[bytes]]
    size: int


class FilePart(web.StreamResponse):
    """``count`` octets of an open file from ``start`` on; the file is closed in the end."""

    def __init__(
        self, file: IO[bytes], start: int, count: int, *, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._file = file
        self._begin = start
        self._count = count

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it."""
        try:
            self.content_length = self._count
            writer = await super().prepare(request)
            if writer is None or request.method == "HEAD":
                return writer
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client has gone")
            if transport.get_extra_info("sslcontext") is None:
                await writer.drain()
                await _send(transport, self._file.fileno(), self._begin, self._count)
            else:
                await self._copy(writer)
            await super().write_eof()
            return writer
        finally:
            self._file.close()

    async def _copy(self, writer: AbstractStreamWriter) -> None:
        at, end = self._begin, self._begin + self._count
        while at < end:
            octets = os.pread(self._file.fileno(), min(_AT_ONCE, end - at), at)
            if not octets:
                raise ConnectionResetError("the file ends too soon")
            await writer.write(octets)
            at += len(octets)


async def _send(transport: asyncio.Transport, file: int, start: int, count: int) -> None:
    """Copy to the socket of a transport that holds nothing back; cuts it when that fails."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_PATIENCE):
        while transport.get_write_buffer_size():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    socket = os.dup(transport.get_extra_info("socket").fileno())
    try:
        while count:
            if transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            try:
                sent = os.sendfile(socket, file, start, min(count, _AT_ONCE))
            except BlockingIOError:
                await _writable(loop, socket)
                continue
            if not sent:
                raise ConnectionResetError("the file ends too soon")
            start, count = start + sent, count - sent
            await asyncio.sleep(0)  # others have their turn
    except (OSError, TimeoutError) as error:
        transport.abort()  # the client must not take the rest of it for the next answer
        raise ConnectionResetError("the client has gone") from error
    finally:
        os.close(socket)


async def _writable(loop: asyncio.AbstractEventLoop, socket: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(socket, set_ready)
    try:
        async with asyncio.timeout(_PATIENCE):
            await ready
    finally:
        with suppress(OSError):
            loop.remove_writer(socket)
