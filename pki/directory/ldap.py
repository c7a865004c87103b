"""The directory over LDAP (RFC 4511): logged in by ldap3, written to with many operations at once.

Nothing here follows a referral: who may write where is settled by the settings, not by an answer.
Everything blocks, so it runs in a process of its own (``pki.directory.process``).
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote, unquote, urlsplit

import ldap3
import msgspec
from ldap3.core.exceptions import LDAPException

from infra import secrets
from infra.errors import Failure, Rejected, Unavailable
from infra.unix_socket import reachable
from pki.directory import messages
from pki.directory.entries import Entry, Wanted
from pki.directory.messages import Incoming, Result
from pki.directory.result import (
    EXISTS,
    NO_SUCH_OBJECT,
    OTHER_CLASS,
    SUCCESS,
    Outcome,
    failure,
    outcome,
    refused,
    unreachable,
)

PAGED_RESULTS: Final = "1.2.840.113556.1.4.319"  # RFC 2696

_CHUNK: Final = 256 * 1024
_SCHEMA: Final = ("digitalidHolder", "pkiUser", "pkiCA", "inetOrgPerson", "account")


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a directory and who to be there.

    ``url``: ldap, ldaps or ldapi; ``bind_dn``: empty for SASL EXTERNAL; ``password``: a reference
    (``infra.secrets``); ``ca``: a file of PEM, None for the system's; ``certificate``, ``key``: of
    the client, files of PEM; ``timeout``: seconds for an answer; ``in_flight``: operations under
    way at one time.
    """

    url: str
    start_tls: bool = False
    bind_dn: str = ""
    password: str = ""
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    timeout: float = 10.0
    in_flight: int = 2


class Page(msgspec.Struct, frozen=True, array_like=True):
    """Entries of a search, and where it goes on, empty at its end."""

    entries: list[tuple[str, dict[str, tuple[bytes, ...]]]]
    cookie: bytes


_T = TypeVar("_T")
Steps: TypeAlias = Generator[bytes, Result, _T]
"""Operations one after the other, each chosen by the result of the one before."""


class LdapDirectory:
    """One connection, made when it is needed and again after it broke."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._connection: Any = None
        self._last_id = 0

    def apply(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Make each what it is to be; what was made before stays so when it is made again.

        Errors: those of ``pki.directory.result.failure``; then some are made and some are not.
        """
        return self._exchange([_apply(one) for one in wanted])

    def read(self, entries: Iterable[tuple[str, Sequence[str]]]) -> list[dict[str, Any] | None]:
        """The attributes of each entry, by its name and the types that are wanted; None for one
        that is not there."""
        seconds = max(1, int(self._login.timeout))
        return self._exchange([_read(dn, types, seconds) for dn, types in entries])

    def page(
        self, base: str, filter: str, types: Sequence[str], *, size: int, cookie: bytes
    ) -> Page:
        """The next entries below ``base`` (RFC 2696); ``cookie``: where the last page ended."""
        connection = self._connected()
        try:
            connection.search(
                base,
                filter,
                ldap3.SUBTREE,
                attributes=list(types),
                paged_size=size,
                paged_cookie=cookie or None,
                time_limit=max(1, int(self._login.timeout)),
            )
            result, response = connection.result, connection.response or []
        except Exception as error:  # whatever its decoder trips over
            raise self._lost(error) from error
        if result["result"] == NO_SUCH_OBJECT:
            return Page([], b"")
        if result["result"] != SUCCESS:
            raise failure(_plain(result))
        found = [
            (
                str(one["dn"]),
                {str(k): tuple(sorted(map(bytes, v))) for k, v in one["raw_attributes"].items()},
            )
            for one in response
            if one["type"] == "searchResEntry"
        ]
        control = result.get("controls", {}).get(PAGED_RESULTS, {}).get("value", {})
        return Page(found, control.get("cookie") or b"")

    def ensure(self, entries: Sequence[Entry]) -> None:
        """Make the branches of the tree that are missing, and see that the schema is known.

        Errors: ``directory-schema``, ``directory-no-base``.
        """
        self._check_schema()
        for entry in entries:
            [found] = self.read([(entry.dn, ("objectClass",))])
            if found is not None:
                continue
            [result] = self._exchange([_plain_add(entry)])
            if result.code == NO_SUCH_OBJECT or "superior" in result.detail:
                raise Rejected(
                    "directory-no-base",
                    f"the directory has no place for {entry.dn}; serve directory.base there, or "
                    "make the entry above it",
                )
            if result.code not in (SUCCESS, EXISTS):
                raise failure(result)

    def close(self) -> None:
        """Leave the directory."""
        if self._connection is not None:
            with suppress(LDAPException, OSError):
                self._connection.unbind()
            _hang_up(self._connection)
            self._connection = None

    def _check_schema(self) -> None:
        connection = self._connected()
        try:
            connection.search(
                "cn=Subschema",
                "(objectClass=subschema)",
                ldap3.BASE,
                attributes=["objectClasses"],
            )
            response = connection.response or []
        except Exception as error:  # whatever its decoder trips over
            raise self._lost(error) from error
        values = (one.get("raw_attributes", {}).get("objectClasses", ()) for one in response)
        known = b"".join(value for found in values for value in found)
        lacking = [name for name in _SCHEMA if f"'{name}'".encode() not in known]
        if known and lacking:
            raise Rejected(
                "directory-schema",
                f"the directory does not know {', '.join(lacking)}; load "
                "conf/directory/digitalid.schema.ldif after core, cosine and inetorgperson",
            )

    def _exchange(self, work: Sequence[Steps[_T]]) -> list[_T]:
        """Do all of it, ``in_flight`` at a time; results in order of ``work``."""
        connection = self._connected()
        line: socket.socket = connection.socket
        incoming, done = Incoming(), dict[int, _T]()
        waiting = deque(enumerate(work))
        under_way: dict[int, tuple[int, Steps[_T]]] = {}
        outgoing: list[bytes] = []

        def send(place: int, steps: Steps[_T], operation: bytes) -> None:
            self._last_id = self._last_id % 0x7FFFFFFF + 1
            under_way[self._last_id] = place, steps
            outgoing.append(messages.message(self._last_id, operation))

        try:
            while waiting or under_way:
                while waiting and len(under_way) < self._login.in_flight:
                    place, steps = waiting.popleft()
                    try:
                        send(place, steps, next(steps))
                    except StopIteration as stop:
                        done[place] = stop.value
                if outgoing:
                    line.sendall(b"".join(outgoing))
                    outgoing.clear()
                if not under_way:
                    continue
                data = line.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the directory closed the connection")
                for id, result in incoming.feed(data):
                    place, steps = under_way.pop(id)
                    try:
                        send(place, steps, steps.send(result))
                    except StopIteration as stop:
                        done[place] = stop.value
        except (OSError, KeyError) as error:
            raise self._lost(error) from error
        except Failure:
            self.close()  # answers to what is under way would be taken for others
            raise
        return [done[place] for place in range(len(work))]

    def _connected(self) -> Any:
        if self._connection is not None and _ended(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Any:
        login = self._login
        named: dict[str, Any] = {"authentication": ldap3.SASL, "sasl_mechanism": ldap3.EXTERNAL}
        if login.bind_dn:
            password = secrets.resolve(login.password).decode("utf-8", "surrogateescape")
            named = {"authentication": ldap3.SIMPLE, "user": login.bind_dn, "password": password}
        else:
            named["sasl_credentials"] = ""
        connection: Any = None
        try:
            with ExitStack() as held:
                connection = ldap3.Connection(
                    _server(login, held),
                    client_strategy=ldap3.SYNC,
                    auto_referrals=False,
                    auto_range=False,
                    check_names=False,
                    receive_timeout=max(1, int(login.timeout)),
                    **named,
                )
                connection.open(read_server_info=False)
                if login.start_tls and not connection.start_tls(read_server_info=False):
                    raise Rejected(
                        "directory-certificate", "the directory does not begin TLS (StartTLS)"
                    )
                bound = connection.bind(read_server_info=False)
        except Failure:
            _hang_up(connection)
            raise
        except Exception as error:  # its decoder trips over what is no LDAP in many ways
            _hang_up(connection)
            raise unreachable(login.url, error) from error
        if not bound:
            _hang_up(connection)
            raise refused(login.url, login.bind_dn, _plain(connection.result or {}))
        connection.socket.settimeout(login.timeout)
        return connection

    def _lost(self, error: Exception) -> Unavailable:
        self.close()
        late = isinstance(error, TimeoutError)
        why = "does not answer in time" if late else "broke the connection"
        return Unavailable(
            "directory-unavailable", f"the directory {why}; what was asked may yet be done"
        )


def _ended(connection: Any) -> bool:
    """Whether the directory has ended the connection while nothing was asked, as it does with one
    that is idle: whatever arrives then is that, or word of it (RFC 4511 §4.4.1)."""
    line: socket.socket = connection.socket
    if connection.closed or line.fileno() == -1:
        return True
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: Any) -> None:
    """Close a connection's socket, in whatever state ldap3 left it."""
    line = getattr(connection, "socket", None)
    if line is not None:
        with suppress(OSError):
            line.close()


def _apply(wanted: Wanted) -> Steps[Outcome]:
    for dn in wanted.elsewhere:
        result = yield messages.delete(dn)
        if result.code not in (SUCCESS, NO_SUCH_OBJECT):
            return outcome(result)
    entry = wanted.entry
    if entry is None:
        return Outcome()
    result = yield messages.add(entry.dn, entry.attributes)
    if result.code == EXISTS:
        changes = {type: entry.attributes.get(type, ()) for type in entry.managed}
        result = yield messages.replace(entry.dn, changes)
        if result.code in OTHER_CLASS:  # it was another kind of entry
            result = yield messages.delete(entry.dn)
            if result.code in (SUCCESS, NO_SUCH_OBJECT):
                result = yield messages.add(entry.dn, entry.attributes)
    if result.code == NO_SUCH_OBJECT:
        raise Rejected(
            "directory-no-base", f"the directory has lost the branch above {_above(entry.dn)}"
        )
    return outcome(result)


def _above(dn: str) -> str:
    return dn.partition(",")[2]


def _plain_add(entry: Entry) -> Steps[Result]:
    return (yield messages.add(entry.dn, entry.attributes))


def _read(dn: str, types: Sequence[str], seconds: int) -> Steps[dict[str, Any] | None]:
    result = yield messages.read(dn, types, seconds=seconds)
    if result.code == NO_SUCH_OBJECT:
        return None
    if result.code != SUCCESS:
        raise failure(result)
    return None if result.found is None else dict(result.found)


class _Tls(ldap3.Tls):  # type: ignore[misc]
    """TLS with the name checked by OpenSSL in the handshake, not by ldap3 after it."""

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        context = ssl.create_default_context(cafile=self.ca_certs_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.private_key_file)
        connection.socket = context.wrap_socket(
            connection.socket,
            server_hostname=connection.server.host,
            do_handshake_on_connect=False,
        )
        connection.socket.do_handshake()


def _server(login: Login, held: ExitStack) -> ldap3.Server:
    url = urlsplit(login.url)
    timeout = max(1.0, login.timeout)
    if url.scheme == "ldapi":
        path = Path("/", unquote(login.url.removeprefix("ldapi://")))
        address = held.enter_context(reachable(path))
        # ldap3 takes the URL's second slash for the first one of the path.
        url_of_path = f"ldapi:/{quote(address)}"
        return ldap3.Server(url_of_path, get_info=ldap3.NONE, connect_timeout=timeout)
    tls = _Tls(
        ca_certs_file=login.ca,
        local_certificate_file=login.certificate,
        local_private_key_file=login.key,
    )
    return ldap3.Server(
        url.hostname,
        port=url.port or (636 if url.scheme == "ldaps" else 389),
        use_ssl=url.scheme == "ldaps",
        tls=tls,
        get_info=ldap3.NONE,
        connect_timeout=timeout,
    )


def _plain(result: dict[str, Any]) -> Result:
    referrals = tuple(map(str, result.get("referrals") or ()))
    return Result(int(result.get("result", 52)), str(result.get("message", "")), referrals)
