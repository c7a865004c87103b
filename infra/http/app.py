"""An aiohttp application with limits, and the sockets that it listens on.

aiohttp closes a connection whose next header is not whole after ``Limits.wait``, however busily
its client sends single octets; ``limits.read_body`` does so for bodies, TCP_USER_TIMEOUT for
answers that are not taken.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from infra.errors import Rejected
from infra.http.front import SERVER, Front, Full
from infra.http.limits import LIMITS, Limits
from infra.http.problems import Problem, Statuses, incident, problems
from infra.unix_socket import reachable

PRIVATE: Final[web.AppKey[bool]] = web.AppKey("private", bool)

_BACKLOG: Final = 1024
_HANDSHAKE: Final = 10.0  # seconds
_ONE_MORE: Final = 1.0  # seconds that an idle connection to the front has for one more request

_EVERYWHERE: Final = {"X-Content-Type-Options": "nosniff"}
_PRIVATE: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_OVER_TLS: Final = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}


def _lines(*groups: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for one in groups for name, value in one.items()).encode()


_PRIVATE_PLAIN: Final = _lines({"Server": SERVER}, _EVERYWHERE, _PRIVATE)
_PRIVATE_OVER_TLS: Final = _lines({"Server": SERVER}, _EVERYWHERE, _PRIVATE, _OVER_TLS)

_quiet: Final = logging.getLogger(f"{__name__}.protocol")


def make_app(
    statuses: Statuses,
    *,
    private: bool,
    limits: Limits | None = None,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """An application whose failures are problem documents.

    ``statuses``: the HTTP status for each code that its handlers reject with; ``private``: it
    changes or shows what is not for everybody, so it wants TLS off this machine, and its answers
    are kept out of caches and frames unless a handler says otherwise; ``middlewares``: what
    comes before the handlers, its failures answered like theirs.
    """
    app = web.Application(middlewares=[problems(statuses), *middlewares])
    app[LIMITS] = limits or Limits()
    app[PRIVATE] = private
    app.on_response_prepare.append(_add_headers)
    return app


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER  # aiohttp has put its versions there
    headers = dict(_EVERYWHERE)
    if request.config_dict[PRIVATE]:
        headers |= _PRIVATE | (_OVER_TLS if request.secure else {})
    for name, value in headers.items():
        response.headers.setdefault(name, value)


def private_answer(
    status: int, media_type: str, body: bytes, transport: asyncio.BaseTransport
) -> bytes:
    """A whole answer of a private application, for a ``Front`` before it."""
    secure = transport.get_extra_info("sslcontext") is not None
    return b"HTTP/1.1 %d %b\r\n%bContent-Type: %b\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        _PRIVATE_OVER_TLS if secure else _PRIVATE_PLAIN,
        media_type.encode(),
        len(body),
        formatdate(usegmt=True).encode(),
        body,
    )


async def serve_app(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    front: Front | None = None,
) -> Serving:
    """Serve ``app``, from ``make_app``, on TCP. ``front``: see ``Serving.start``. Errors: see
    ``Serving.listen``."""
    serving = await Serving.start(app, front)
    try:
        await serving.listen(host, port, tls=tls)
    except BaseException:
        await serving.stop()
        raise
    return serving


async def serve_unix(app: web.Application, path: Path) -> Serving:
    """Serve ``app`` on a Unix socket. Errors: see ``Serving.listen_unix``."""
    serving = await Serving.start(app)
    try:
        await serving.listen_unix(path)
    except BaseException:
        await serving.stop()
        raise
    return serving


class Serving:
    """A running application; ``start`` makes one, ``urls`` says where it listens."""

    def __init__(
        self,
        app: web.Application,
        runner: web.AppRunner,
        server: web.Server,
        front: Front | None,
    ) -> None:
        self._limits = app[LIMITS]
        self._private = app[PRIVATE]
        self._runner = runner
        self._server = server
        self._front = front
        if front is not None:
            front.fallback = self._connection
        self._settings: dict[str, Any] = {
            "keepalive_timeout": self._limits.wait,
            "lingering_time": 1.0,
            "max_line_size": self._limits.line,
            "max_field_size": self._limits.line,
            "max_headers": self._limits.fields,
            "auto_decompress": False,
            "logger": _quiet,
            "access_log": None,
        }
        self._listeners: list[asyncio.AbstractServer] = []
        self._paths: list[Path] = []
        self.urls: list[str] = []

    @classmethod
    async def start(cls, app: web.Application, front: Front | None = None) -> Serving:
        """Start the application itself; it listens nowhere yet. ``front``: answers what begins
        with its prefixes, and leaves the other connections to the application; its own limits
        count for both."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=app[LIMITS].stop)
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - setup makes it
        return cls(app, runner, runner.server, front)

    @property
    def connections(self) -> int:
        """How many are open now."""
        if self._front is not None:
            return self._front.connections
        return len(self._server.connections)

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> str:
        """Take connections on TCP, and return the URL.

        ``port``: 0 for any free one. Errors: ``tls-required``, ``bad-address``,
        ``address-in-use``, ``address-refused``.
        """
        addresses = await _addresses(host, port)
        self._check(tls, *(address for _, address in addresses))
        for family, address in addresses:
            bound = _bind(family, address, port, self._limits.unread)
            port = bound.getsockname()[1]
            await self._take(bound, tls)
        return self._say(host, port, tls)

    async def adopt(self, bound: socket.socket, *, tls: ssl.SSLContext | None = None) -> str:
        """Take connections on a TCP socket that is bound already, from ``bind_shared``, and return
        the URL. It is closed with the rest. Errors: ``tls-required``."""
        host, port = bound.getsockname()[:2]
        self._check(tls, host)
        bound.setblocking(False)
        await self._take(bound, tls)
        return self._say(host, port, tls)

    async def listen_unix(self, path: Path) -> None:
        """Take connections on a Unix socket that only this user can open.

        What a process that died has left there is replaced. Errors: ``address-in-use``,
        ``address-refused``.
        """
        await _clear(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            with reachable(path) as address:
                bound.bind(address)
        except OSError as error:
            bound.close()
            raise _refused(str(path), error) from error
        finally:
            os.umask(umask)
        loop = asyncio.get_running_loop()
        self._listeners.append(
            await loop.create_unix_server(self._protocol, sock=bound, backlog=_BACKLOG)
        )
        self._paths.append(path)

    async def stop(self) -> None:
        """Take no more connections, let what is under way end, and close everything."""
        for listener in self._listeners:
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        if self._front is not None:
            # First, for until it has ended it may still hand connections over.
            await self._front.drain(self._limits.stop, idle=_ONE_MORE, fallback=False)
        await self._runner.cleanup()

    def _check(self, tls: ssl.SSLContext | None, *addresses: str) -> None:
        if self._private and tls is None and not all(_is_loopback(at) for at in addresses):
            raise Rejected(
                "tls-required",
                f"{' and '.join(addresses)} can be reached from other machines, so it needs a "
                "certificate: set one, or listen on 127.0.0.1",
            )

    async def _take(self, bound: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._listeners.append(
            await asyncio.get_running_loop().create_server(
                self._protocol,
                sock=bound,
                ssl=tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=_HANDSHAKE if tls else None,
            )
        )

    def _say(self, host: str, port: int, tls: ssl.SSLContext | None) -> str:
        shown = f"[{host}]" if ":" in host else host
        self.urls.append(f"{'https' if tls else 'http'}://{shown}:{port}")
        return self.urls[-1]

    def _protocol(self) -> asyncio.Protocol:
        if self._front is not None:
            return self._front.protocol()
        return Full() if self.connections >= self._limits.connections else self._connection()

    def _connection(self) -> asyncio.Protocol:
        return _Connection(self._server, loop=asyncio.get_running_loop(), **self._settings)


class _Connection(web.RequestHandler):
    """aiohttp's connection, but for what it says of itself when a request is no HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what did not get as far as the application, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status >= 500 and exc is not None:
            problem = incident(exc)
        else:
            problem = Problem(status, "bad-http", "this is not a request as RFC 9112 has it")
        response = problem.response()
        response.headers.update({"Server": SERVER, **_EVERYWHERE})
        response.force_close()
        return response


async def bind_shared(
    host: str, port: int, count: int, limits: Limits | None = None
) -> list[list[socket.socket]]:
    """Sockets for ``count`` processes that share a port, for each one those of all addresses of
    ``host``.

    The kernel spreads connections over those that are listened on (SO_REUSEPORT). A process
    inherits its own and listens; while this process keeps them open, what comes when the other is
    started again waits. ``port``: 0 for any free one; of ``limits``, ``unread`` counts. Errors:
    those of ``Serving.listen`` but ``tls-required``.
    """
    unread = (limits or Limits()).unread
    shared: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        for family, address in await _addresses(host, port):
            # Nobody else may have the port already, though everybody may share it with us.
            _bind(family, address, port, unread).close()
            for sockets in shared:
                sockets.append(_bind(family, address, port, unread, share=True))
                port = sockets[-1].getsockname()[1]
    except BaseException:
        for one in [one for sockets in shared for one in sockets]:
            one.close()
        raise
    return shared


async def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise Rejected("bad-address", f"{host!r} is no address of this machine") from error
    return sorted({(int(family), str(address[0])) for family, _, _, _, address in found})


def _bind(
    family: int, address: str, port: int, unread: float, *, share: bool = False
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it. A client that does not take its answer is cut off.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread * 1000))
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise _refused(f"{address} port {port}", error) from error
    return bound


async def _clear(path: Path) -> None:
    """Remove the socket of a process that is gone."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(str(path), error) from error
    if not stat.S_ISSOCK(kind):
        raise Rejected("address-refused", f"{path} is there and is no socket; move it away")
    try:
        with reachable(path) as address:
            _, writer = await asyncio.open_unix_connection(address)
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(str(path), error) from error
    else:
        writer.close()
        raise Rejected("address-in-use", f"another process listens on {path}; stop it first")


def _refused(where: str, error: OSError) -> Rejected:
    if error.errno == errno.EADDRINUSE:
        return Rejected("address-in-use", f"another process listens on {where}; stop it first")
    # What is too long for sun_path has no number (unix(7)).
    why = (
        os.strerror(error.errno)
        if error.errno
        else "the path is too long for a unix socket, which takes 107 octets; use a shorter one"
    )
    return Rejected("address-refused", f"cannot listen on {where}: {why}")


def _is_loopback(address: Any) -> bool:
    return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
