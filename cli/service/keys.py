"""Where the keys are: the token that the settings name, one that is made for them, or files."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from conf.schema import Settings
from infra.errors import Rejected, Unavailable
from infra.secrets import Secret
from infra.state import kept_secret, make_secret, sync_folder
from ocsp.worker import KeyAccess
from pki.signer import FileKeys, Keys, TokenKeys
from pki.signer.softhsm import configure, find_module, init_token
from pki.signer.uri import Pkcs11Uri


async def open_keys(settings: Settings, *, new: bool) -> tuple[Keys, str]:
    """The keys, and in a few words where they are.

    ``new``: there are no keys yet, so a home folder gets a SoftHSM token of its own when the
    settings name no token and SoftHSM is installed, else a folder of encrypted files. Errors:
    ``no-pkcs11-module``, those of making a token; ``Unavailable("token-unavailable")`` when the
    token of the home folder is away.
    """
    files = _files(settings)
    token, note = await _token(settings, new=new)
    if token is None:
        return Keys(files), note
    return Keys(files, token), note


async def key_access(settings: Settings) -> KeyAccess:
    """The same keys, for a process that is to open them too: with what opens them, not where that
    is. Errors: see ``open_keys``, and those of secrets."""
    files = _files(settings)
    token, _ = await _token(settings, new=False)
    if token is None:
        return KeyAccess(str(files.folder), files.passphrase())
    return KeyAccess(
        str(files.folder),
        b"",
        str(token.module),
        settings.keys.token_label,
        token.pin(),
        dict(token.environment),
    )


def _files(settings: Settings) -> FileKeys:
    reference = settings.keys.passphrase
    ours = reference.scheme == "file" and Path(reference.location).is_relative_to(settings.home)
    if ours and not any(settings.keys.folder.glob("*.pem")):
        make_secret(Path(reference.location))
    return FileKeys(settings.keys.folder, Secret(str(reference), what="Passphrase of the keys"))


async def _token(settings: Settings, *, new: bool) -> tuple[TokenKeys | None, str]:
    keys = settings.keys
    own = settings.home / "softhsm"
    in_files = f"encrypted files in {keys.folder}"
    if keys.store == "file":
        return None, in_files
    module = keys.module or find_module()
    if module is None:
        if keys.store == "pkcs11":
            raise Rejected(
                "no-pkcs11-module",
                "keys.store is pkcs11 but there is no module: install softhsm2, or set keys.module",
            )
        return None, f"{in_files} (SoftHSM is not installed: apt-get install softhsm2)"
    if keys.store == "auto" and any(keys.folder.glob("*.pem")):
        return None, in_files  # it began with files, and stays with them
    if keys.module is not None:
        return _token_keys(settings, module, {}), f"token {keys.token_label} of {module}"
    tokens = own / "tokens"
    if not any(tokens.glob("*")):
        if not new:
            # An empty token in its place would hide that the keys are elsewhere.
            raise Unavailable(
                "token-unavailable",
                f"{tokens} holds no token and {keys.folder} no key, but this instance has keys: "
                "put the folder back that they are in",
            )
        await asyncio.to_thread(_own_token, settings, module, own)
    return _token_keys(settings, module, configure(own)), f"SoftHSM token {keys.token_label}"


def _own_token(settings: Settings, module: Path, folder: Path) -> None:
    """Make a SoftHSM token in the home folder: whole, with its PIN, or not at all."""
    reference = settings.keys.pin
    if reference.scheme == "file":
        make_secret(Path(reference.location))
    pin = Secret(str(reference), what="PIN of the new token")()
    so_pin = kept_secret(settings.home / "secrets" / "token.so-pin")
    unfinished = folder.with_name(f".{folder.name}.new")
    for leftover in (unfinished, folder):  # of a start that was interrupted; neither has a token
        shutil.rmtree(leftover, ignore_errors=True)
    init_token(module, unfinished, settings.keys.token_label, so_pin.encode(), pin)
    unfinished.rename(folder)
    sync_folder(folder.parent)


def _token_keys(settings: Settings, module: Path, environment: Mapping[str, str]) -> TokenKeys:
    label = settings.keys.token_label
    return TokenKeys(
        module,
        Pkcs11Uri(token=label),
        Secret(str(settings.keys.pin), what=f"PIN of token {label}"),
        environment=environment,
    )
