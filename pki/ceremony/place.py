"""Where a ceremony's keys are: a token, or a folder of encrypted files, opened by the secret.

Everything here may be done again after a crash: what is there already is taken as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from infra.errors import Rejected, Unavailable
from infra.state import sync_folder, unusable
from pki.algorithms import KeyType, SignatureAlgorithm
from pki.ceremony import derive
from pki.ceremony.script import Token
from pki.ceremony.token_work import Work, work
from pki.signer import FileKeys, Keys, TokenKeys
from pki.signer.softhsm import configure, environment, find_module, init_token
from pki.signer.uri import Pkcs11Uri

BACKUP: Final = ".backup"


@dataclass(frozen=True, slots=True)
class Made:
    """A key pair; ``backup``: SHA-256 of the wrapped key's file, empty for none."""

    uri: str
    public_key_info: bytes
    backup: str = ""


class Place(Protocol):
    """What steps do with keys. ``secret`` is the shared one, 32 octets."""

    def facts(self) -> Mapping[str, str]:
        """What the token says of itself; without one yet, what will make it."""

    def initialise(self, secret: bytearray) -> None:
        """Make the token. Errors: ``token-exists`` when there is one that this does not open."""

    def change(self, old: bytearray, new: bytearray) -> None:
        """From the PINs of one secret to those of another."""

    def make(self, label: str, key_type: KeyType, secret: bytearray, *, backup: bool) -> Made:
        """A key pair of this label."""

    def restore(self, label: str, key: Made, key_type: str, secret: bytearray) -> str:
        """A key from its backup; its URI here."""

    def destroy(self, label: str, secret: bytearray) -> None:
        """No private key of this label is left. Errors: ``key-left``."""

    def sign(
        self, label: str, algorithm: SignatureAlgorithm, message: bytes, secret: bytearray
    ) -> bytes:
        """The signature over ``message`` by the key of this label, as X.509 carries it."""


def place_of(token: Token, home: Path) -> Place:
    """The place that a script names. ``home``: the folder that holds all state. Errors:
    ``no-pkcs11-module``."""
    backups = home / "backups"
    if token.store == "file":
        return FilePlace(home / "tokens" / token.label, backups)
    if token.store == "pkcs11" and token.module is not None:
        return TokenPlace(Path(token.module), token.label, None, backups)
    module = find_module()
    if module is None:
        raise Rejected("no-pkcs11-module", "SoftHSM is not installed: apt-get install softhsm2")
    return TokenPlace(module, token.label, home / "tokens" / token.label, backups)


class TokenPlace:
    """A PKCS#11 token. ``folder``: of a SoftHSM token; None for one that is a device."""

    def __init__(self, module: Path, label: str, folder: Path | None, backups: Path) -> None:
        self._module = module
        self._label = label
        self._folder = folder
        self._backups = backups
        self._environment = {} if folder is None else environment(folder)

    def facts(self) -> Mapping[str, str]:
        try:
            return self._do("info").values
        except Unavailable:
            return {"label": self._label, "module": str(self._module), "serial": "(none yet)"}

    def initialise(self, secret: bytearray) -> None:
        user, officer = derive.user_pin(secret), derive.so_pin(secret)
        if self._folder is None:
            try:
                init_token(self._module, self._backups / ".none", self._label, officer, user)
            except Rejected as rejected:
                if rejected.code != "token-exists":
                    raise
        elif not self._folder.exists():
            # Whole, with its PINs, or not at all.
            unfinished = self._folder.with_name(f".{self._folder.name}.new")
            shutil.rmtree(unfinished, ignore_errors=True)
            init_token(self._module, unfinished, self._label, officer, user)
            unfinished.rename(self._folder)
            sync_folder(self._folder.parent)
        if self._folder is not None:
            configure(self._folder)
        try:
            self._do("opens", pin=user)
        except Rejected as rejected:
            raise Rejected(
                "token-exists",
                f"there is a token {self._label} that this secret does not open "
                f"({rejected.code}); give the new one another label",
            ) from rejected

    def change(self, old: bytearray, new: bytearray) -> None:
        self._do(
            "change-pin",
            pin=derive.user_pin(old),
            new_pin=derive.user_pin(new),
            so_pin=derive.so_pin(old),
            new_so_pin=derive.so_pin(new),
        )

    def make(self, label: str, key_type: KeyType, secret: bytearray, *, backup: bool) -> Made:
        pin, wrapping = derive.user_pin(secret), derive.wrapping_key(secret)
        with_backup = {"wrapping_key": wrapping} if backup else {}
        self._do("make", pin=pin, key=label, key_type=key_type.value, **with_backup)
        kept = ""
        if backup:
            kept = self._back_up(label, pin, wrapping)
        uri, public_key_info = self._open(label, secret)
        return Made(uri, public_key_info, kept)

    def _back_up(self, label: str, pin: bytes, wrapping: bytes) -> str:
        path = self._backups / f"{label}{BACKUP}"
        try:
            wrapped = self._do("wrap", pin=pin, key=label, wrapping_key=wrapping).octets
        except Rejected as rejected:
            if rejected.code != "key-not-extractable" or not path.is_file():
                raise
        else:
            write_whole(path, wrapped)
            self._do("lock", pin=pin, key=label)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def restore(self, label: str, key: Made, key_type: str, secret: bytearray) -> str:
        self._do(
            "restore",
            pin=derive.user_pin(secret),
            key=label,
            key_type=key_type,
            wrapping_key=derive.wrapping_key(secret),
            wrapped=read_backup(self._backups, label, key.backup),
            identifier=hashlib.sha256(key.public_key_info).digest()[:20],
            public_key_info=key.public_key_info,
        )
        uri, public_key_info = self._open(label, secret)
        if public_key_info != key.public_key_info:
            raise Rejected("key-mismatch", f"the backup holds another key than {label}")
        return uri

    def destroy(self, label: str, secret: bytearray) -> None:
        left = self._do("destroy", pin=derive.user_pin(secret), key=label).values["left"]
        if left != "0":
            raise Rejected("key-left", f"the token still shows a private key {label}")

    def sign(
        self, label: str, algorithm: SignatureAlgorithm, message: bytes, secret: bytearray
    ) -> bytes:
        return asyncio.run(_sign(self._keys(secret), label, algorithm, message))

    def _open(self, label: str, secret: bytearray) -> tuple[str, bytes]:
        keys = self._keys(secret)
        return asyncio.run(_public(keys, keys.named(label)))

    def _keys(self, secret: bytearray) -> Keys:
        pin = derive.user_pin(secret)
        token = Pkcs11Uri(token=self._label)
        return Keys(
            token=TokenKeys(self._module, token, lambda: pin, 1, environment=self._environment)
        )

    def _do(self, what: str, **fields: object) -> _Done:
        task = Work(what, str(self._module), self._label, **fields)  # type: ignore[arg-type]
        outcome = work(task, self._environment)
        return _Done(outcome.values, outcome.octets)


@dataclass(frozen=True, slots=True)
class _Done:
    values: Mapping[str, str]
    octets: bytes


class FilePlace:
    """A folder of encrypted keys, for rehearsals and where there is no token. The PIN is their
    passphrase; a backup is a copy of the encrypted file."""

    def __init__(self, folder: Path, backups: Path) -> None:
        self._folder = folder
        self._backups = backups

    def facts(self) -> Mapping[str, str]:
        return {"label": self._folder.name, "module": "encrypted files (PKCS#8)", "serial": "-"}

    def initialise(self, secret: bytearray) -> None:
        _folder(self._folder)
        if any(self._folder.glob("*.pem")):
            raise Rejected("token-exists", f"{self._folder} holds keys already; use another label")

    def change(self, old: bytearray, new: bytearray) -> None:
        raise Rejected(
            "pin-not-changeable",
            "keys in files keep their passphrase; renew the shares with keep = true instead",
        )

    def make(self, label: str, key_type: KeyType, secret: bytearray, *, backup: bool) -> Made:
        keys = self._keys(secret)
        try:
            uri = asyncio.run(_generate(keys, label, key_type))
        except Rejected as rejected:
            if rejected.code != "key-exists":
                raise
            uri = keys.named(label)
        uri, public_key_info = asyncio.run(_public(self._keys(secret), uri))
        kept = ""
        if backup:
            content = self._path(label).read_bytes()
            write_whole(self._backups / f"{label}{BACKUP}", content)
            kept = hashlib.sha256(content).hexdigest()
        return Made(uri, public_key_info, kept)

    def restore(self, label: str, key: Made, key_type: str, secret: bytearray) -> str:
        write_whole(self._path(label), read_backup(self._backups, label, key.backup))
        keys = self._keys(secret)
        uri, public_key_info = asyncio.run(_public(keys, keys.named(label)))
        if public_key_info != key.public_key_info:
            raise Rejected("key-mismatch", f"the backup holds another key than {label}")
        return uri

    def destroy(self, label: str, secret: bytearray) -> None:
        path = self._path(label)
        if path.is_file():
            # An SSD may keep old blocks: what counts is that the passphrase's shares are destroyed.
            path.write_bytes(bytes(path.stat().st_size))
            path.unlink()
            sync_folder(path.parent)

    def sign(
        self, label: str, algorithm: SignatureAlgorithm, message: bytes, secret: bytearray
    ) -> bytes:
        return asyncio.run(_sign(self._keys(secret), label, algorithm, message))

    def _path(self, label: str) -> Path:
        return self._folder / f"{label}.pem"

    def _keys(self, secret: bytearray) -> Keys:
        passphrase = derive.user_pin(secret)
        return Keys(FileKeys(self._folder, lambda: passphrase))


async def _generate(keys: Keys, label: str, key_type: KeyType) -> str:
    try:
        return await keys.generate(label, key_type)
    finally:
        await keys.close()


async def _public(keys: Keys, uri: str) -> tuple[str, bytes]:
    """URI and public key of a key that has proved itself by a signature."""
    try:
        signer = await keys.open(uri)
        return signer.uri, signer.public_key_info
    finally:
        await keys.close()


async def _sign(keys: Keys, label: str, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    try:
        signer = await keys.open(keys.named(label), algorithm)
        return await signer.sign(message)
    finally:
        await keys.close()


def _folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from error


def read_backup(folder: Path, label: str, expected: str) -> bytes:
    """The wrapped key of this label. Errors: ``no-such-backup``, ``altered-backup``."""
    path = folder / f"{label}{BACKUP}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Rejected("no-such-backup", f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise Rejected("altered-backup", f"{path} is not the backup that the transcript describes")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a private file as a whole, on the disk on return. Errors: those of the file system."""
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unusable(path, error) from error
