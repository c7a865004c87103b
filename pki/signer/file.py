"""Private keys in encrypted files: for laptops and tests, where there is no token."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from infra.errors import Failure, Rejected, Unavailable
from infra.secrets import read_private
from pki.algorithms import (
    KeyType,
    SignatureAlgorithm,
    algorithm_for,
    key_type_of,
    scheme,
    verify,
)
from pki.signer import pkcs8
from pki.signer.digest import digest_scheme
from pki.signer.port import CHECK_MESSAGE
from pki.signer.uri import FileUri, check_label, parse

_GENERATE: Final[dict[KeyType, Callable[[], Any]]] = {
    KeyType.RSA_2048: lambda: rsa.generate_private_key(65537, 2048),
    KeyType.RSA_3072: lambda: rsa.generate_private_key(65537, 3072),
    KeyType.RSA_4096: lambda: rsa.generate_private_key(65537, 4096),
    KeyType.P_256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyType.P_384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyType.P_521: lambda: ec.generate_private_key(ec.SECP521R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyType.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyType.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyType.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}

# These sign in some 30 µs, less than handing the work to a thread takes. The others take 0.3 to
# 2 ms, in which cryptography lets go of the GIL, so a thread leaves the event loop running.
_INLINE: Final = frozenset({KeyType.P_256, KeyType.ED25519})
_LONG_MESSAGE: Final = 1 << 18  # octets; hashing more than this is left to a thread as well


class FileSigner:
    """A private key in memory."""

    def __init__(
        self,
        uri: str,
        key: Any,
        public_key_info: bytes,
        algorithm: SignatureAlgorithm,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.uri = uri
        self.public_key_info = public_key_info
        self.key_type = key_type_of(public_key_info)
        self.algorithm = algorithm
        self._key = key
        self._scheme = scheme(algorithm)
        self._inline = self.key_type in _INLINE
        self._threads = threads

    async def sign(self, message: bytes) -> bytes:
        """The signature value as X.509 carries it."""
        if self._inline and len(message) <= _LONG_MESSAGE:
            return self._sign(message)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._sign, message)

    async def sign_digest(self, digest: bytes) -> bytes:
        """The signature over a message of which this is the hash. Errors: ``no-digest``."""
        prehashed = digest_scheme(self.algorithm, digest)
        if self._inline:
            return self._sign(digest, prehashed)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._sign, digest, prehashed
        )

    async def check(self) -> None:
        """It is in memory and signs from there, whatever becomes of its file."""
        self._loaded()

    async def close(self) -> None:
        """Let go of the key."""
        self._key = None

    def _loaded(self) -> Any:
        if self._key is None:
            raise Rejected("key-closed", f"{self.uri} has been closed")
        return self._key

    def _sign(self, message: bytes, scheme: tuple[Any, ...] | None = None) -> bytes:
        signature: bytes = self._loaded().sign(message, *(scheme or self._scheme))
        return signature

    def __repr__(self) -> str:
        return f"FileSigner({self.uri!r}, {self.algorithm})"


class FileKeyStore:
    """A folder of keys, each ``LABEL.pem`` and encrypted under one passphrase.

    The keys of a folder share their salt, so that a start derives one key-encryption key (half a
    second, 30 MiB) for all of them; each has an initialization vector of its own.
    """

    def __init__(self, folder: Path, passphrase: Callable[[], bytes]) -> None:
        self.folder = folder
        self._passphrase = passphrase
        self._derived: dict[pkcs8.Derivation, bytes] = {}
        self._deriving = asyncio.Lock()
        self._signers: list[FileSigner] = []
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "file-signer")

    async def generate(self, label: str, key_type: KeyType) -> str:
        """Make a key, durably, and return its URI.

        Errors: ``key-exists``, ``bad-key-label``, ``wrong-passphrase`` when the folder has keys
        under another; ``Unavailable`` with ``storage-full``, ``storage-read-only`` or
        ``storage-unavailable``.
        """
        path = self.folder / f"{check_label(label)}.pem"
        if path.exists():
            raise _exists(label)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _storage(error, self.folder) from error
        derivation, key_encryption_key = await self._of_folder()
        key = await self._in_thread(_GENERATE[key_type])
        plain = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        pem = pkcs8.encrypt(plain, derivation, key_encryption_key, os.urandom(16))
        try:
            await self._in_thread(lambda: _write_new(path, pem))
        except FileExistsError as error:
            raise _exists(label) from error
        except OSError as error:
            raise _storage(error, path) from error
        return str(FileUri(label))

    def named(self, label: str) -> str:
        """The URI of the key of this label. Errors: ``bad-key-label``."""
        return str(FileUri(check_label(label)))

    async def open(self, uri: str, algorithm: SignatureAlgorithm | None = None) -> FileSigner:
        """The key that ``uri`` names.

        Errors: ``no-such-key``, ``wrong-passphrase``, ``key-file-permissions``, ``bad-key-file``,
        ``weak-key-encryption``, ``key-type``, ``bad-key-uri``.
        """
        name = parse(uri)
        if not isinstance(name, FileUri):
            raise Rejected("bad-key-uri", "the folder of encrypted keys opens file: URIs only")
        path = Path(name.name) if name.is_path else self.folder / f"{name.name}.pem"
        encrypted = pkcs8.parse(_read(path))
        private_key_info = encrypted.decrypt(await self._derive(encrypted.derivation))
        try:
            key: Any = serialization.load_der_private_key(private_key_info, None)
            public_key_info = key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
            raise Rejected("bad-key-file", f"{path} holds no private key that signs") from error
        chosen = algorithm_for(key_type_of(public_key_info), algorithm)
        signer = FileSigner(str(name), key, public_key_info, chosen, self._threads)
        # CBC does not authenticate: a file that was tampered with is found out here.
        verify(chosen, public_key_info, await signer.sign(CHECK_MESSAGE), CHECK_MESSAGE)
        self._signers.append(signer)
        return signer

    async def close(self) -> None:
        """Close every key and forget what the passphrase gave."""
        for signer in self._signers:
            await signer.close()
        self._signers.clear()
        self._derived.clear()
        self._threads.shutdown(wait=True)

    async def _of_folder(self) -> tuple[pkcs8.Derivation, bytes]:
        """The derivation of the keys that are there, proved on one of them; or a fresh one."""
        for path in sorted(self.folder.glob("*.pem")):
            with suppress(Failure):
                encrypted = pkcs8.parse(_read(path))
                break
        else:
            fresh = next(iter(self._derived), pkcs8.Derivation(os.urandom(16)))
            return fresh, await self._derive(fresh)
        key_encryption_key = await self._derive(encrypted.derivation)
        encrypted.decrypt(key_encryption_key)
        return encrypted.derivation, key_encryption_key

    async def _derive(self, derivation: pkcs8.Derivation) -> bytes:
        async with self._deriving:
            if derivation not in self._derived:
                passphrase = self._passphrase()
                self._derived[derivation] = await self._in_thread(
                    lambda: derivation.derive(passphrase)
                )
            return self._derived[derivation]

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _read(path: Path) -> bytes:
    return read_private(path, pkcs8.MAX_FILE, missing="no-such-key", exposed="key-file-permissions")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and never in the place of another."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        # link, unlike rename, fails when the name is taken.
        os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exists(label: str) -> Rejected:
    return Rejected("key-exists", f"there is a key {label} already; keys are never overwritten")


def _storage(error: OSError, path: Path) -> Unavailable:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable("storage-full", f"no room is left for {path}; free some")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return Unavailable("storage-read-only", f"{path} cannot be written: {error.strerror}")
        case _:
            return Unavailable("storage-unavailable", f"{path}: {error.strerror}")
