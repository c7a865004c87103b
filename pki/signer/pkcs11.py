"""Private keys on a PKCS#11 token, signed with by way of a process that holds its sessions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from infra import child
from infra.errors import Rejected, Unavailable
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType, SignatureAlgorithm, key_type_of
from pki.signer.connection import FIRST_DELAY, Connection
from pki.signer.digest import check_digest
from pki.signer.messages import (
    FindKey,
    GenerateKey,
    KeyFound,
    KeyMade,
    KeyOpened,
    OpenKey,
    SignMessage,
    Start,
    Started,
)
from pki.signer.uri import Pkcs11Uri, check_label, parse

_ROOT: Final = Path(__file__).resolve().parents[2]
_LONG_MESSAGE: Final = 1 << 18  # octets; hashing more than this is left to a thread
_LAST_DELAY: Final = 30.0  # seconds between attempts to reach a token: the first delay, doubled


class Pkcs11Signer:
    """A private key on a token; found again by itself when the token comes back."""

    def __init__(
        self, store: Pkcs11KeyStore, name: Pkcs11Uri, opened: KeyOpened, connection: Connection
    ) -> None:
        self.uri = str(name)
        self.public_key_info = opened.public_key_info
        self.key_type = key_type_of(opened.public_key_info)
        self.algorithm = SIGNATURE_ALGORITHMS[opened.algorithm]
        self._store = store
        self._key = opened.key
        self._connection = connection
        self._reopening = asyncio.Lock()
        self._closed = False

    async def sign(self, message: bytes) -> bytes:
        """The signature value as X.509 carries it.

        Errors: ``Unavailable("token-unavailable")`` while the token is away.
        """
        if self._connection.lost is not None or self._closed:
            await self._reopen()
        if len(message) <= _LONG_MESSAGE:
            data = self.algorithm.prepare(message)
        else:
            data = await asyncio.to_thread(self.algorithm.prepare, message)
        return await self._request(data)

    async def sign_digest(self, digest: bytes) -> bytes:
        """The signature over a message of which this is the hash.

        Errors: as ``sign``; ``no-digest``.
        """
        check_digest(self.algorithm, digest)
        if self._connection.lost is not None or self._closed:
            await self._reopen()
        return await self._request(digest)

    async def _request(self, data: bytes) -> bytes:
        key = self._key
        signature: bytes = await self._connection.request(lambda id: SignMessage(id, key, data))
        return signature

    async def check(self) -> None:
        """Find out whether the key could sign now, by no signature.

        Errors: those of ``Pkcs11KeyStore.check``; ``key-closed``.
        """
        if self._closed:
            raise self._is_closed()
        await self._store.check(self.uri, self.public_key_info)

    async def close(self) -> None:
        """Let go of the key; the token's sessions are the store's."""
        self._closed = True

    async def _reopen(self) -> None:
        if self._closed:
            raise self._is_closed()
        async with self._reopening:
            if self._connection.lost is None:
                return
            connection, opened = await self._store.find(self.uri, self.algorithm)
            _same(self.uri, opened.public_key_info, self.public_key_info)
            self._key, self._connection = opened.key, connection

    def _is_closed(self) -> Rejected:
        return Rejected("key-closed", f"{self.uri} has been closed")

    def __repr__(self) -> str:
        return f"Pkcs11Signer({self.uri!r}, {self.algorithm})"


class Pkcs11KeyStore:
    """The keys of one token.

    ``module``: path of the vendor's PKCS#11 library; ``token``: which of its tokens, by what a
    ``pkcs11:`` URI can say of it; ``pin``: gives the user PIN in UTF-8, asked for at each log-in;
    ``sessions``: how many signatures may be under way at the same time; ``environment``: what the
    module wants in the environment, such as SOFTHSM2_CONF; ``patience``: seconds after which a
    token that does not answer counts as away; ``lost``: called when the token was given up, or its
    process has ended.
    """

    def __init__(
        self,
        module: Path,
        token: Pkcs11Uri,
        pin: Callable[[], bytes],
        *,
        sessions: int = 8,
        environment: Mapping[str, str] | None = None,
        patience: float = 30.0,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.module = module
        self.token = token
        self._pin = pin
        self._sessions = sessions
        self._environment = dict(environment or {})
        self._patience = patience
        self._lost = lost
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._refused: Rejected | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    async def generate(self, label: str, key_type: KeyType) -> str:
        """Make a key pair whose private half never leaves the token, and return its URI.

        Errors: ``key-exists``, ``bad-key-label``, ``mechanism-missing`` and those of ``open``.
        """
        check_label(label)
        connection = await self._connected()
        made = await connection.ask(KeyMade, lambda id: GenerateKey(id, label, key_type.value))
        return made.uri

    def named(self, label: str) -> str:
        """The URI of the key of this label on this token. Errors: ``bad-key-label``."""
        return str(replace(self.token, object=check_label(label), type="private"))

    async def open(self, uri: str, algorithm: SignatureAlgorithm | None = None) -> Pkcs11Signer:
        """The private key that ``uri`` names, proved by a signature.

        Errors: ``bad-key-uri``, ``no-such-key``, ``key-ambiguous``, ``key-extractable``,
        ``no-public-key``, ``key-mismatch``, ``key-type``, ``mechanism-missing``, ``wrong-pin``,
        ``pin-locked``, ``pin-final-try``; ``Unavailable("token-unavailable")``.
        """
        name = parse(uri)
        if not isinstance(name, Pkcs11Uri):
            raise Rejected("bad-key-uri", "a token opens pkcs11: URIs only")
        connection, opened = await self.find(uri, algorithm)
        return Pkcs11Signer(self, name, opened, connection)

    async def find(
        self, uri: str, algorithm: SignatureAlgorithm | None
    ) -> tuple[Connection, KeyOpened]:
        """The key's number and in which process it counts. Errors: those of ``open``."""
        connection = await self._connected()
        chosen = None if algorithm is None else algorithm.name
        try:
            opened = await connection.ask(KeyOpened, lambda id: OpenKey(id, uri, chosen))
        except Unavailable as error:
            raise self._put_off(error) from error
        self._failures = 0
        return connection, opened

    async def check(self, uri: str, public_key_info: bytes) -> None:
        """See that the token answers and has this key, in a new process if there is none.

        Nothing is signed: a key is opened, and proved, only for one who has something to sign.
        Errors: those of ``open``, and ``key-mismatch`` when it is another key.
        """
        before = self._connection
        connection = await self._connected()
        try:
            found = await connection.ask(KeyFound, lambda id: FindKey(id, uri))
        except Unavailable as error:
            if connection is before:
                raise  # a new process may do, and nobody who signs has to wait for it
            raise self._put_off(error) from error
        _same(uri, found.public_key_info, public_key_info)
        self._failures = 0

    async def close(self) -> None:
        """End every session."""
        self._closed = True
        async with self._connecting:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _connected(self) -> Connection:
        """The process that is there, or a new one; not more often than the back-off allows."""
        async with self._connecting:
            if self._closed:
                raise Rejected("key-closed", "the key store has been closed")
            if self._connection is not None:
                if self._connection.lost is None:
                    return self._connection
                await self._connection.close()
            if self._refused is not None:
                # Trying a wrong PIN again would lock the token.
                raise Rejected(self._refused.code, self._refused.detail)
            remaining = self._not_before - asyncio.get_running_loop().time()
            if remaining > 0:
                raise Unavailable(
                    "token-unavailable",
                    f"{self.token} is away; it is looked for again in {remaining:.1f} s",
                    retry_after=remaining,
                )
            try:
                self._connection = await self._connect()
            except Unavailable as error:
                raise self._put_off(error) from error
            except Rejected as error:
                if error.code in _ABOUT_THE_PIN:
                    self._refused = error
                raise
            return self._connection

    def _put_off(self, error: Unavailable) -> Unavailable:
        """Leave the token alone for a while, twice as long each time that it is not there."""
        now = asyncio.get_running_loop().time()
        if now >= self._not_before:
            self._not_before = now + min(FIRST_DELAY * 2**self._failures, _LAST_DELAY)
            self._failures += 1
        return Unavailable(error.code, error.detail, retry_after=self._not_before - now)

    async def _connect(self) -> Connection:
        process, ours = await child.start(lambda descriptor: _spawn(descriptor, self._environment))
        connection = Connection(process, self._patience, self._lost)
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
            await connection.ask(
                Started,
                lambda id: Start(
                    id, str(self.module), str(self.token), self._pin(), self._sessions
                ),
            )
        except BaseException:
            await connection.close()
            raise
        return connection


_ABOUT_THE_PIN: Final = frozenset({"wrong-pin", "pin-locked", "pin-final-try", "pin-expired"})


def _spawn(descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # The token process is to find this package wherever this one was started from.
    path = os.pathsep.join((str(_ROOT), *filter(None, (os.environ.get("PYTHONPATH"),))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pki.signer.token_process", str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the parent, which ends us in order
    )


def _same(uri: str, found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise Rejected("key-mismatch", f"{uri} is another key now; put the right token back")
