"""People's keys: made or shown when they register, used whenever they confirm.

A one-time key (Ed25519) is kept in the ceremony's folder, sealed under its owner's passphrase, so
that a pause or a power loss does not take it; at the end it is destroyed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.errors import Failure, Rejected
from infra.state import sync_folder
from pki.ceremony.desk import Desk
from pki.ceremony.place import write_whole
from pki.ceremony.script import Role
from pki.ceremony.seal import (
    LEAST_FOR_A_DAY,
    RANDOM,
    ByPassphrase,
    check_passphrase,
    open_by_passphrase,
    seal_by_passphrase,
)
from pki.ceremony.share import wipe
from pki.ceremony.state import Person
from pki.signer import Keys, TokenKeys
from pki.signer.uri import Pkcs11Uri, parse

ONE_TIME: Final = "one-time"
CARD: Final = "card"
_NAME: Final = re.compile(r"[^\W\d_][^\x00-\x1f\x7f]{1,78}")


def register(desk: Desk, role: Role, place: str) -> None:
    """Ask somebody who they are, give them a key, and record it."""
    room = desk.room
    room.show([[desk.say("Registration: {place}", place=place)]])
    taken = {person.name.casefold() for person in desk.state.people.values()}
    while True:
        name = room.ask(desk.say("Name, as it is to be printed:")).strip()
        if not _NAME.fullmatch(name) or not name.isprintable():
            room.show([[desk.say("A name has 2 to 79 letters.")]])
        elif name.casefold() in taken:
            room.show([[desk.say("Somebody of this name is registered already.")]])
        else:
            break
    while True:
        how = room.ask(desk.say("Key: type one-time, or the pkcs11: URI of your card's key:"))
        if how == ONE_TIME:
            return _one_time(desk, role, place, name)
        try:
            return _card(desk, role, place, name, how)
        except Failure as failure:
            room.show([[f"{failure.code}: {failure.detail}"]])


def _one_time(desk: Desk, role: Role, place: str, name: str) -> None:
    passphrase = new_passphrase(desk, LEAST_FOR_A_DAY)
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    seal = seal_by_passphrase(
        key.private_bytes_raw(),
        passphrase,
        place.encode(),
        desk.tools.random(RANDOM),
        least=LEAST_FOR_A_DAY,
    )
    wipe(passphrase)
    write_whole(_path(desk.folder, place), msgspec.json.encode(seal))
    desk.join(Person(place, role, name, ONE_TIME, "ed25519", public), key.sign)


def _card(desk: Desk, role: Role, place: str, name: str, uri: str) -> None:
    wanted = parse(uri)
    if not isinstance(wanted, Pkcs11Uri) or wanted.module_path is None:
        raise Rejected("bad-key-uri", "the URI of a card's key is pkcs11:…?module-path=/…")
    pin = desk.room.secret(desk.say("PIN of the card:"))
    algorithm, public, signature = asyncio.run(_sign_with_card(uri, bytes(pin), b""))
    del signature
    person = Person(place, role, name, f"{CARD} {uri}", algorithm, public)
    desk.join(person, lambda message: asyncio.run(_sign_with_card(uri, bytes(pin), message))[2])
    wipe(pin)


async def _sign_with_card(uri: str, pin: bytes, message: bytes) -> tuple[str, bytes, bytes]:
    """Algorithm, public key, and the signature unless ``message`` is empty."""
    wanted = parse(uri)
    if not isinstance(wanted, Pkcs11Uri) or wanted.module_path is None:
        raise Rejected("bad-key-uri", "the URI of a card's key is pkcs11:…?module-path=/…")
    token = Pkcs11Uri(token=wanted.token, serial=wanted.serial)
    keys = Keys(token=TokenKeys(Path(wanted.module_path), token, lambda: pin, 1))
    try:
        signer = await keys.open(uri)
        signature = await signer.sign(message) if message else b""
        return signer.algorithm.name, signer.public_key_info, signature
    finally:
        await keys.close()


def signing(folder: Path, person: Person, secret: bytearray) -> Callable[[bytes], bytes]:
    """What signs for somebody who has typed their passphrase or PIN. Errors:
    ``wrong-passphrase``, ``no-one-time-key``, those of a card."""
    how, _, uri = person.how.partition(" ")
    if how == CARD:
        pin = bytes(secret)
        return lambda message: asyncio.run(_sign_with_card(uri, pin, message))[2]
    try:
        seal = msgspec.json.decode(_path(folder, person.id).read_bytes(), type=ByPassphrase)
    except (OSError, msgspec.DecodeError) as error:
        raise Rejected(
            "no-one-time-key", f"the one-time key of {person.id} is not in the ceremony's folder"
        ) from error
    private = open_by_passphrase(seal, secret, person.id.encode())
    key = Ed25519PrivateKey.from_private_bytes(bytes(private))
    wipe(private)
    return key.sign


def destroy_one_time_keys(folder: Path) -> None:
    """Overwrite and remove what the ceremony does not need any more; may be done again."""
    people = _path(folder, "").parent
    if not people.is_dir():
        return
    for path in people.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
        path.unlink()
    sync_folder(people)


def new_passphrase(desk: Desk, least: int) -> bytearray:
    """A passphrase typed twice."""
    while True:
        first = desk.room.secret(
            desk.say("New passphrase, {least} characters or more (not shown):", least=least)
        )
        try:
            check_passphrase(first, least)
        except Rejected as rejected:
            desk.room.show([[f"{rejected.code}: {rejected.detail}"]])
            continue
        second = desk.room.secret(desk.say("The same again:"))
        same = first == second
        wipe(second)
        if same:
            return first
        desk.room.show([[desk.say("The two were not the same; once more.")]])


def _path(folder: Path, place: str) -> Path:
    return folder / "people" / f"{place}.key"
