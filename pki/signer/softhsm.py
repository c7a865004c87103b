"""A private SoftHSM token: its folder, its configuration and its first PINs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from infra.errors import Broken, Failure, Rejected, Unavailable
from pki.signer.uri import check_label

ENVIRONMENT: Final = "SOFTHSM2_CONF"
_MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)
_CKR_OK: Final = 0
_CKF_SERIAL_RW_SESSION: Final = 4 | 2
_CKU_SO: Final = 0


class _Initialize(msgspec.Struct):
    module: str
    label: str
    so_pin: bytes
    pin: bytes

    def __repr__(self) -> str:
        return f"_Initialize({self.module!r}, {self.label!r})"


class _Outcome(msgspec.Struct):
    error: str | None


def find_module() -> Path | None:
    """Where SoftHSM's PKCS#11 module is installed, if it is."""
    return next((path for path in _MODULES if path.is_file()), None)


def environment(folder: Path) -> Mapping[str, str]:
    """What a process needs in its environment to see the tokens in ``folder``."""
    return {ENVIRONMENT: str(folder / "softhsm2.conf")}


def configure(folder: Path) -> Mapping[str, str]:
    """Make ``folder`` a home for tokens, unless it is one; returns its ``environment``."""
    tokens = folder / "tokens"
    configuration = folder / "softhsm2.conf"
    try:
        tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        configuration.write_text(
            f"directories.tokendir = {tokens.resolve()}\n"
            "objectstore.backend = file\n"
            "log.level = ERROR\n"
            "slots.removable = false\n"
        )
    except OSError as error:
        raise Unavailable(
            "storage-unavailable", f"{folder} cannot be written: {error.strerror}"
        ) from error
    return environment(folder)


def init_token(module: Path, folder: Path, label: str, so_pin: bytes, pin: bytes) -> None:
    """Make a token in ``folder``; the PINs take 4 to 255 octets.

    It happens in a process of its own, which reads the PINs from a pipe: the module and
    SOFTHSM2_CONF stay out of this one, and the PINs off every command line.
    Errors: ``token-exists``, ``bad-key-label``, ``bad-pin``; ``Unavailable``.
    """
    if len(check_label(label)) > 32:
        raise Rejected("bad-key-label", "the label of a token takes at most 32 characters")
    if not (4 <= len(pin) <= 255 and 4 <= len(so_pin) <= 255):
        raise Rejected("bad-pin", "a PIN takes 4 to 255 octets")
    wanted = _Initialize(str(module), label, so_pin, pin)
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "pki.signer.softhsm"],
        input=msgspec.msgpack.encode(wanted),
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            **configure(folder),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
        timeout=60,
        check=False,
    )
    if finished.returncode != 0:
        raise Broken("token-process", f"it ended with {finished.returncode}")
    match msgspec.msgpack.decode(finished.stdout, type=_Outcome).error:
        case None:
            return
        case "token-exists":
            raise Rejected("token-exists", f"there is a token {label} in {folder} already")
        case why:
            raise Unavailable("token-unavailable", f"no token could be made in {folder}: {why}")


def _initialize(wanted: _Initialize) -> str | None:
    """Make the token; what was wrong, if anything."""
    import pkcs11  # the parent has no use for it

    from pki.signer.cryptoki import load

    try:
        library, _ = load(wanted.module)
        free = None
        for slot in library.get_slots():
            token = slot.get_token()
            if not token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED:
                free = slot.slot_id
            elif token.label.rstrip() == wanted.label:
                return "token-exists"
    except (Failure, pkcs11.PKCS11Error) as error:
        return str(error) or type(error).__name__
    if free is None:
        return "there is no free slot"
    # python-pkcs11 has no C_InitToken.
    functions = ctypes.CDLL(wanted.module)
    session = ctypes.c_ulong()
    so_pin, pin = wanted.so_pin, wanted.pin
    slot_id = ctypes.c_ulong(free)
    flags = ctypes.c_ulong(_CKF_SERIAL_RW_SESSION)
    size = ctypes.c_ulong
    label = wanted.label.encode().ljust(32)
    steps: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("C_InitToken", (slot_id, so_pin, size(len(so_pin)), label)),
        ("C_OpenSession", (slot_id, flags, None, None, ctypes.byref(session))),
        ("C_Login", (session, size(_CKU_SO), so_pin, size(len(so_pin)))),
        ("C_InitPIN", (session, pin, size(len(pin)))),
    )
    for name, arguments in steps:
        answer = getattr(functions, name)(*arguments)
        if answer != _CKR_OK:
            return f"{name} answers {answer:#x}"
    return None


def main() -> None:
    """Make the token that standard input describes."""
    wanted = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Initialize)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_Outcome(_initialize(wanted))))


if __name__ == "__main__":
    main()
