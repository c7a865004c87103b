"""What a ceremony does with a token besides signing, each piece in a process of its own.

A vendor's module that crashes takes that process with it, PINs go through a pipe and never onto a
command line, and each piece can be done again after a crash: it looks at what is there first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.memory import keep_to_ourselves
from pki import der

_PATIENCE: Final = 300.0  # seconds; an HSM takes its time for an RSA key of 4096 bits


class Work(msgspec.Struct, forbid_unknown_fields=True):
    """One piece of work. ``do``: ``info``, ``opens``, ``make``, ``wrap``, ``lock``, ``restore``,
    ``destroy``, ``change-pin``, ``public`` or ``decrypt``; the other fields as it needs them."""

    do: str
    module: str
    label: str
    pin: bytes = b""
    new_pin: bytes = b""
    so_pin: bytes = b""
    new_so_pin: bytes = b""
    key: str = ""
    key_type: str = ""
    wrapping_key: bytes = b""
    wrapped: bytes = b""
    identifier: bytes = b""
    public_key_info: bytes = b""

    def __repr__(self) -> str:
        return f"Work({self.do!r}, {self.label!r})"


class Outcome(msgspec.Struct):
    """What came of it."""

    values: dict[str, str] = {}
    octets: bytes = b""
    failure: str = ""
    code: str = ""
    detail: str = ""


def work(task: Work, environment: Mapping[str, str]) -> Outcome:
    """Have it done. Errors: those of ``pki.signer.token``, ``key-not-extractable``,
    ``Unavailable("token-unavailable")``."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.msgpack.encode(task),
            stdout=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": path},
            timeout=_PATIENCE,
            start_new_session=True,  # a key on the keyboard is none of its business
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            "token-unavailable", f"the token has not answered for {_PATIENCE:g} s"
        ) from error
    if finished.returncode != 0:
        raise Unavailable("token-unavailable", "the PKCS#11 module has crashed; try again")
    outcome = msgspec.msgpack.decode(finished.stdout, type=Outcome)
    match outcome.failure:
        case "":
            return outcome
        case "rejected":
            raise Rejected(outcome.code, outcome.detail)
        case "unavailable":
            raise Unavailable(outcome.code, outcome.detail)
        case _:
            raise Broken(outcome.code, outcome.detail)


def _do(task: Work) -> Outcome:
    import pkcs11  # the parent has no use for it

    from pki.signer.cryptoki import failure, find_token, load
    from pki.signer.token import Token
    from pki.signer.uri import Pkcs11Uri

    wanted = Pkcs11Uri(token=task.label)
    try:
        if task.do == "info":
            library, _ = load(task.module)
            return Outcome(_facts(library, find_token(library, wanted)))
        if task.do == "change-pin":
            library, _ = load(task.module)
            token = find_token(library, wanted)
            for login, new in (
                ({"so_pin": task.so_pin.decode()}, task.new_so_pin),
                ({"user_pin": task.pin.decode()}, task.new_pin),
            ):
                _change(token, login, new.decode())
            return Outcome()
        token = Token(task.module, wanted, task.pin)
        if task.do == "opens":
            return Outcome()
        return _with_key(token, task)
    except pkcs11.PKCS11Error as error:
        raise failure(error, task.do) from error


def _facts(library: Any, token: Any) -> dict[str, str]:
    def version(of: tuple[int, int]) -> str:
        return ".".join(map(str, of))

    return {
        "label": token.label,
        "manufacturer": token.manufacturer_id.strip(),
        "model": token.model.strip(),
        "serial": token.serial.decode("utf-8", "replace").strip(),
        "firmware": version(token.firmware_version),
        "hardware": version(token.hardware_version),
        "module": f"{library.library_description.strip()} {version(library.library_version)}",
    }


def _change(token: Any, login: dict[str, str], new: str) -> None:
    """From one PIN to another, unless the other is there already."""
    import pkcs11

    ((who, old),) = login.items()
    try:
        with token.open(rw=True, **{who: new}):
            return
    except pkcs11.PinIncorrect:
        pass
    with token.open(rw=True, **login) as session:
        session.set_pin(old, new)


def _with_key(token: Any, task: Work) -> Outcome:
    from pkcs11 import MGF, Attribute, Mechanism, ObjectClass

    from pki.algorithms import KeyType

    session = token.session

    def of(kind: ObjectClass) -> list[Any]:
        return list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: task.key}))

    private = of(ObjectClass.PRIVATE_KEY)
    if task.do == "destroy":
        for found in (*private, *of(ObjectClass.PUBLIC_KEY)):
            found.destroy()
        return Outcome({"left": str(len(of(ObjectClass.PRIVATE_KEY)))})
    if task.do == "make":
        if not private:
            token.generate(task.key, KeyType(task.key_type), extractable=bool(task.wrapping_key))
        return Outcome()
    if task.do == "restore":
        if not private:
            _unwrap(session, task)
        return Outcome()
    if len(private) != 1:
        raise Rejected("no-such-key", f"the token has {len(private)} private keys {task.key}")
    if task.do == "public":
        identifier = bytes(private[0][Attribute.ID])
        return Outcome(octets=token._public_key_info(private[0], identifier))
    if task.do == "decrypt":
        oaep = (Mechanism.SHA_1, MGF.SHA1, None)
        plain = private[0].decrypt(
            task.wrapped, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=oaep
        )
        return Outcome(octets=bytes(plain))
    if task.do == "lock":
        # PKCS#11 §4.9: CKA_EXTRACTABLE goes from true to false and never back.
        if private[0][Attribute.EXTRACTABLE]:
            private[0][Attribute.EXTRACTABLE] = False
        return Outcome()
    if task.do != "wrap":
        raise Broken("unknown-work", task.do)
    if not private[0][Attribute.EXTRACTABLE]:
        raise Rejected("key-not-extractable", f"key {task.key} cannot be wrapped any more")
    with_key = _wrapping_key(session, task.wrapping_key)
    wrapped = with_key.wrap_key(private[0], mechanism=Mechanism.AES_KEY_WRAP_PAD)
    with_key.destroy()
    identifier = bytes(private[0][Attribute.ID])
    return Outcome({"id": identifier.hex()}, bytes(wrapped))


def _wrapping_key(session: Any, value: bytes) -> Any:
    from pkcs11 import Attribute, KeyType, ObjectClass

    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.WRAP: True,
            Attribute.UNWRAP: True,
            Attribute.VALUE: value,
        }
    )


def _unwrap(session: Any, task: Work) -> None:
    """The private key, and its public key beside it, which a wrapped key does not bring along."""
    from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
    from pkcs11.constants import DEFAULT
    from pkcs11.util.ec import decode_ec_public_key
    from pkcs11.util.rsa import decode_rsa_public_key

    from pki.algorithms import Family, key_type_of

    match key_type_of(task.public_key_info).family:
        case Family.EC:
            kind, public = KeyType.EC, decode_ec_public_key(task.public_key_info)
        case Family.RSA:
            inside = der.one(task.public_key_info, der.SEQUENCE)
            inside.raw(der.SEQUENCE)
            kind, public = KeyType.RSA, decode_rsa_public_key(inside.bit_string()[0])
        case _:
            raise Rejected("key-type", f"{task.key_type} keys cannot be restored here")
    with_key = _wrapping_key(session, task.wrapping_key)
    with_key.unwrap_key(
        ObjectClass.PRIVATE_KEY,
        kind,
        task.wrapped,
        mechanism=Mechanism.AES_KEY_WRAP_PAD,
        label=task.key,
        id=task.identifier,
        store=True,
        template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            Attribute.DECRYPT: False,
            Attribute.UNWRAP: False,
            Attribute.DERIVE: False,
            # A private key is no place for these (SoftHSM says CKR_TEMPLATE_INCONSISTENT).
            Attribute.ENCRYPT: DEFAULT,
            Attribute.WRAP: DEFAULT,
            Attribute.VERIFY: DEFAULT,
        },
    )
    with_key.destroy()
    session.create_object(
        {
            **public,
            Attribute.LABEL: task.key,
            Attribute.ID: task.identifier,
            Attribute.TOKEN: True,
            Attribute.VERIFY: True,
        }
    )


def main() -> None:
    """Do what standard input says."""
    keep_to_ourselves()
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Work)
    try:
        outcome = _do(task)
    except Failure as failure:
        kind = type(failure).__name__.lower()
        outcome = Outcome(failure=kind, code=failure.code, detail=failure.detail)
    sys.stdout.buffer.write(msgspec.msgpack.encode(outcome))


if __name__ == "__main__":
    main()
