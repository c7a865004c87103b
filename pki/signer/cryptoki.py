"""A PKCS#11 module: loaded, made safe for threads, its tokens and its errors.

Only the token process uses this (``token_process.py``): a vendor's module that crashes or hangs
takes that process with it and nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import TokenFlag

from infra.errors import Failure, Rejected, Unavailable
from pki.signer.uri import Pkcs11Uri

_CKF_OS_LOCKING_OK: Final = 2
_CKR_OK: Final = 0
_CKR_CANT_LOCK: Final = 10


class _InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS#11 §5.4)."""

    _fields_ = (
        ("CreateMutex", ctypes.c_void_p),
        ("DestroyMutex", ctypes.c_void_p),
        ("LockMutex", ctypes.c_void_p),
        ("UnlockMutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("pReserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST (PKCS#11 §3.6)."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("C_Initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("C_Finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


def load(module: str) -> tuple[Any, bool]:
    """The library of a PKCS#11 module, and whether threads may call it at the same time.

    Errors: ``Unavailable("token-unavailable")``.
    """
    if not Path(module).is_file():
        raise Unavailable(
            "token-unavailable",
            f"there is no PKCS#11 module at {module}; install it or correct the path",
        )
    try:
        library = pkcs11.lib(module)
        return library, _initialize_for_threads(module)
    except (pkcs11.PKCS11Error, OSError, AttributeError) as error:
        raise Unavailable(
            "token-unavailable",
            f"{module} does not load as a PKCS#11 module: {str(error) or type(error).__name__}; "
            "see that it is one, that its token is there, and how it is configured",
        ) from error


def _initialize_for_threads(module: str) -> bool:
    """Initialize a module anew, so that it guards itself with the system's locks.

    python-pkcs11 calls ``C_Initialize(NULL)``, which promises that one thread calls at a time
    (PKCS#11 §5.4), and yet lets go of the GIL: two threads that sign would crash SoftHSM.
    """
    library = ctypes.CDLL(module)
    functions = ctypes.POINTER(_FunctionList)()
    if library.C_GetFunctionList(ctypes.byref(functions)) != _CKR_OK:
        raise OSError("it has no function list")
    table = functions.contents
    table.C_Finalize(None)
    arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK)
    answer = table.C_Initialize(ctypes.byref(arguments))
    if answer == _CKR_OK:
        return True
    if answer == _CKR_CANT_LOCK and table.C_Initialize(None) == _CKR_OK:
        return False
    raise OSError(f"C_Initialize answers {answer:#x}")


def find_token(library: Any, wanted: Pkcs11Uri) -> Any:
    """The one token that ``wanted`` names. Errors: ``token-ambiguous``; ``Unavailable``."""
    version = ".".join(map(str, library.library_version))
    shown = {
        "library_manufacturer": library.manufacturer_id,
        "library_description": library.library_description,
        "library_version": version,
    }
    if not _is(wanted, shown):
        raise Rejected("bad-key-uri", f"{library.so} is of {shown}, which {wanted} does not name")
    try:
        slots = library.get_slots(token_present=True)
        found = [token for slot in slots if (token := _token_in(slot, wanted)) is not None]
    except pkcs11.PKCS11Error as error:
        raise failure(error, "looking for the token") from error
    if not found:
        raise Unavailable(
            "token-unavailable",
            f"{library.so} shows no token {wanted}; connect it, initialize it or correct its name",
        )
    if len(found) > 1:
        raise Rejected(
            "token-ambiguous", f"{library.so} shows {len(found)} tokens {wanted}; add serial="
        )
    return found[0]


def _token_in(slot: Any, wanted: Pkcs11Uri) -> Any:
    try:
        token = slot.get_token()
    except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
        return None
    shown = {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "serial": token.serial.decode("utf-8", "replace"),
        "model": token.model,
        "slot_manufacturer": slot.manufacturer_id,
        "slot_description": slot.slot_description,
        "slot_id": slot.slot_id,
    }
    return token if token.flags & TokenFlag.TOKEN_INITIALIZED and _is(wanted, shown) else None


def _is(wanted: Pkcs11Uri, shown: Mapping[str, str | int]) -> bool:
    for name, value in shown.items():
        asked = getattr(wanted, name)
        # PKCS#11 pads texts with blanks, and some modules with zeros.
        found = value.rstrip(" \0") if isinstance(value, str) else value
        if asked is not None and asked != found:
            return False
    return True


def failure(error: pkcs11.PKCS11Error, doing: str) -> Failure:
    """A PKCS#11 return value as one of ours; what is not the caller's fault may go away."""
    match error:
        case pkcs11.PinIncorrect() | pkcs11.PinInvalid() | pkcs11.PinLenRange():
            return Rejected(
                "wrong-pin",
                "the token does not accept the PIN; it is not tried again, lest the token lock",
            )
        case pkcs11.PinLocked():
            return pin_locked()
        case pkcs11.PinExpired():
            return Rejected("pin-expired", "the PIN has expired; set a new one on the token")
        case pkcs11.UserPinNotInitialized():
            return Rejected("pin-not-set", "the token has no user PIN yet; initialize it")
        case pkcs11.MechanismInvalid() | pkcs11.MechanismParamInvalid():
            return Rejected("mechanism-missing", f"{doing}: the token has no such mechanism")
        case pkcs11.KeySizeRange() | pkcs11.DomainParamsInvalid() | pkcs11.DataLenRange():
            return Rejected("key-type", f"{doing}: the token does not take this size or curve")
        case pkcs11.TokenWriteProtected() | pkcs11.SessionReadOnly():
            return Rejected("token-read-only", f"{doing}: the token is write-protected")
        case pkcs11.DeviceMemory():
            return Unavailable("token-full", f"{doing}: the token has no room left")
        case _:
            return Unavailable(
                "token-unavailable",
                f"{doing}: the token answers {type(error).__name__}; see that it is connected",
            )


def pin_locked() -> Rejected:
    """What a locked PIN is answered with."""
    return Rejected("pin-locked", "the token's user PIN is locked; its security officer unlocks it")
