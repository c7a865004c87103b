"""Private keys: opened by URI, wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from infra.errors import Rejected
from infra.secrets import Secret
from pki.algorithms import KeyType, SignatureAlgorithm
from pki.signer.file import FileKeyStore
from pki.signer.pkcs11 import Pkcs11KeyStore
from pki.signer.port import KeyStore, Signer
from pki.signer.uri import FileUri, KeyUri, Pkcs11Uri, parse

__all__ = ["FileKeys", "FileUri", "KeyStore", "Keys", "Pkcs11Uri", "Signer", "TokenKeys", "parse"]

# Where a module-name of RFC 7512 is looked for, as lib + name + .so.
_MODULE_FOLDERS: Final = (
    Path("/usr/lib/softhsm"),
    Path("/usr/lib/x86_64-linux-gnu/pkcs11"),
    Path("/usr/lib/aarch64-linux-gnu/pkcs11"),
    Path("/usr/lib64/pkcs11"),
    Path("/usr/lib/pkcs11"),
    Path("/usr/local/lib"),
)


@dataclass(frozen=True, slots=True)
class FileKeys:
    """Settings: the folder of encrypted keys and what gives their passphrase."""

    folder: Path
    passphrase: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """Settings: the token that keys are made on, and that a URI means which names no other.

    ``token``: which token, such as ``Pkcs11Uri(token="digitalid")``; ``pin``: gives its user PIN;
    ``sessions``: signatures at the same time; ``environment``: what the module wants there.
    """

    module: Path
    token: Pkcs11Uri
    pin: Callable[[], bytes]
    sessions: int = 8
    environment: Mapping[str, str] = field(default_factory=dict)


class Keys:
    """Every key that the settings reach: new ones on the token if there is one, else in files."""

    def __init__(self, files: FileKeys | None = None, token: TokenKeys | None = None) -> None:
        self._files = None if files is None else FileKeyStore(files.folder, files.passphrase)
        self._settings = token
        self._tokens: dict[tuple[Path, Pkcs11Uri], Pkcs11KeyStore] = {}
        self._told: list[Callable[[], None]] = []

    def when_lost(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called each time that a token was given up, or its process has ended."""
        self._told.append(tell)

    async def generate(self, label: str, key_type: KeyType) -> str:
        """Make a key that can never be read out, and return its URI.

        Errors: ``no-key-store``, ``key-exists``, ``bad-key-label``, and those of the store.
        """
        return await self._for_new().generate(label, key_type)

    def named(self, label: str) -> str:
        """The URI of the key of this label where new ones are made. Errors: ``no-key-store``."""
        return self._for_new().named(label)

    async def open(self, uri: str, algorithm: SignatureAlgorithm | None = None) -> Signer:
        """The key that ``uri`` names. Errors: ``no-key-store``, and those of the store."""
        name = parse(uri)
        return await self._store(name).open(str(name), algorithm)

    async def close(self) -> None:
        """Close every key."""
        if self._files is not None:
            await self._files.close()
        for store in self._tokens.values():
            await store.close()

    def _for_new(self) -> KeyStore:
        if self._settings is not None:
            return self._token_store(self._settings.module, self._settings.token, None)
        if self._files is not None:
            return self._files
        raise Rejected("no-key-store", "the settings name neither a token nor a folder for keys")

    def _store(self, name: KeyUri) -> KeyStore:
        if isinstance(name, FileUri):
            if self._files is None:
                raise Rejected("no-key-store", f"the settings name no key folder for {name}")
            return self._files
        settings = self._settings
        module = _module(name) or (None if settings is None else settings.module)
        if module is None:
            raise Rejected("no-key-store", "the key URI has no module-path, nor the settings one")
        wanted = _token_part(name)
        if settings is not None and settings.module == module and _covers(settings.token, wanted):
            wanted = settings.token
        return self._token_store(module, wanted, name.pin_source)

    def _token_store(
        self, module: Path, wanted: Pkcs11Uri, pin_source: str | None
    ) -> Pkcs11KeyStore:
        """One store a token: an application logs in to it once."""
        store = self._tokens.get((module, wanted))
        if store is None:
            settings = self._settings
            ours = settings if settings is not None and settings.module == module else None
            if pin_source is not None:
                pin: Callable[[], bytes] = Secret(pin_source, what=f"PIN of {wanted}")
            elif ours is not None and ours.token == wanted:
                pin = ours.pin
            else:
                pin = Secret("prompt:", what=f"PIN of {wanted}")
            store = Pkcs11KeyStore(
                module,
                wanted,
                pin,
                sessions=8 if ours is None else ours.sessions,
                environment={} if ours is None else ours.environment,
                lost=self._lost,
            )
            self._tokens[module, wanted] = store
        return store

    def _lost(self) -> None:
        for tell in self._told:
            tell()


def _token_part(name: Pkcs11Uri) -> Pkcs11Uri:
    """What a URI says of the token, without what it says of the key."""
    return Pkcs11Uri(
        token=name.token,
        manufacturer=name.manufacturer,
        serial=name.serial,
        model=name.model,
        slot_manufacturer=name.slot_manufacturer,
        slot_description=name.slot_description,
        slot_id=name.slot_id,
    )


def _covers(token: Pkcs11Uri, wanted: Pkcs11Uri) -> bool:
    """Whether all that ``wanted`` says is said of ``token`` too."""
    return all(
        getattr(wanted, field.name) in (None, getattr(token, field.name))
        for field in fields(Pkcs11Uri)
    )


def _module(name: Pkcs11Uri) -> Path | None:
    if name.module_path is not None:
        return Path(name.module_path)
    if name.module_name is None:
        return None
    if "/" in name.module_name:
        raise Rejected("bad-key-uri", "module-name is a name; module-path takes a path")
    for folder in _MODULE_FOLDERS:
        path = folder / f"lib{name.module_name}.so"
        if path.is_file():
            return path
    raise Rejected("bad-key-uri", f"no PKCS#11 module of the name {name.module_name} is installed")
