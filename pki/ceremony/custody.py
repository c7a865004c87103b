"""Shares go out to the custodians, and come back from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.errors import Rejected, Unavailable
from infra.secrets import read_private
from pki.ceremony.desk import Desk
from pki.ceremony.participant import new_passphrase
from pki.ceremony.place import write_whole
from pki.ceremony.seal import (
    CARD_RANDOM,
    LEAST_PASSPHRASE,
    RANDOM,
    ByCard,
    ByPassphrase,
    Seal,
    open_by_card,
    open_by_key,
    open_by_passphrase,
    seal_by_passphrase,
    seal_to_card,
    seal_to_key,
)
from pki.ceremony.share import (
    MAXIMUM_SIZE,
    Envelope,
    Share,
    ShareSet,
    bound,
    check_envelope,
    check_share,
    encode_envelope,
    parse_envelope,
    rebuild,
    wipe,
)
from pki.ceremony.token_work import Work, work
from pki.signer.uri import Pkcs11Uri, parse

TYPED: Final = "passphrase"
"""How a custodian says that a passphrase is to seal their share."""


def give_out(
    desk: Desk, sharing: ShareSet, shares: Sequence[Share], people: Sequence[str]
) -> list[list[str]]:
    """Seal each share to its custodian, in a file each; what sealed which, for the transcript."""
    seals = []
    for share, person in zip(shares, people, strict=True):
        name = desk.state.people[person].name
        desk.room.show([[desk.say("Share {place} for {name}.", place=share.place, name=name)]])
        while True:
            how = desk.room.ask(
                desk.say(
                    "{name}: type passphrase, or give age1… or pkcs11:…:",
                    name=name,
                )
            )
            try:
                envelope = _seal(desk, sharing, share, name, how)
                break
            except (Rejected, Unavailable) as failure:
                desk.room.show([[f"{failure.code}: {failure.detail}"]])
        wipe(share.value)
        _put(desk, name, share_file(sharing, share.place), encode_envelope(envelope))
        seals.append([person, how])
    return seals


def _put(desk: Desk, name: str, file: str, content: bytes) -> None:
    """Write a share to its custodian's own medium, and read it back. No copy stays here."""
    while True:
        folder = desk.room.ask(
            desk.say("{name}: folder of your own medium, for the share:", name=name)
        )
        path = Path(folder) / file
        try:
            if not path.is_absolute() or not path.parent.is_dir():
                raise Rejected("bad-medium", f"{folder} is no folder, named from / on")
            write_whole(path, content)
            if path.read_bytes() != content:
                raise Rejected("bad-medium", f"{path} does not read back as it was written")
        except (Rejected, Unavailable) as failure:
            desk.room.show([[f"{failure.code}: {failure.detail}"]])
        else:
            desk.room.show([[desk.say("Written and read back:")], [str(path)]])
            return


def share_file(sharing: ShareSet, place: int) -> str:
    """The name of a share's file."""
    return f"{sharing.label}-{sharing.identifier.hex()[:8]}-{place}.share"


def _seal(desk: Desk, sharing: ShareSet, share: Share, name: str, how: str) -> Envelope:
    blank = ByPassphrase(b"", b"", b"")
    count = len(sharing.shares)
    readable = Envelope(
        sharing.identifier, sharing.label, sharing.threshold, count, share.place, name, blank
    )
    seal: Seal
    if how == TYPED:
        passphrase = new_passphrase(desk, LEAST_PASSPHRASE)
        seal = seal_by_passphrase(
            share.value, passphrase, bound(readable), desk.tools.random(RANDOM)
        )
        opened = open_by_passphrase(seal, passphrase, bound(readable))
        wipe(passphrase)
        check_share(Share(sharing.identifier, share.place, opened), sharing)
        wipe(opened)
    elif how.startswith("pkcs11:"):
        _named(how)
        pin = desk.room.secret(desk.say("PIN of the card:"))
        public = _card("public", how, pin)
        drawn = desk.tools.random(CARD_RANDOM)
        seal = seal_to_card(share.value, how, public, bound(readable), drawn)
        opened = _by_card(seal, pin, bound(readable))
        check_share(Share(sharing.identifier, share.place, opened), sharing)
        wipe(opened)
    else:
        seal = seal_to_key(share.value, how, bound(readable))
    return Envelope(
        sharing.identifier, sharing.label, sharing.threshold, count, share.place, name, seal
    )


def collect(desk: Desk, sharing: ShareSet) -> tuple[bytearray, list[Envelope]]:
    """The secret, from as many custodians as it takes. Each share is checked when it comes."""
    room = desk.room
    shares: list[Share] = []
    envelopes: list[Envelope] = []
    room.show(
        [
            [
                desk.say(
                    "Token {label} is opened by {threshold} of {count} custodians, set {set}.",
                    label=sharing.label,
                    threshold=sharing.threshold,
                    count=len(sharing.shares),
                    set=sharing.identifier.hex()[:8],
                )
            ]
        ]
    )
    while len(shares) < sharing.threshold:
        path = room.ask(
            desk.say(
                "Share {number} of {threshold}, path of its file:",
                number=len(shares) + 1,
                threshold=sharing.threshold,
            )
        )
        try:
            envelope = read_share(Path(path))
            check_envelope(envelope, sharing, [share.place for share in shares])
            share = _open(desk, envelope)
            check_share(share, sharing)
        except (Rejected, Unavailable) as failure:
            room.show([[f"{failure.code}: {failure.detail}"]])
            continue
        shares.append(share)
        envelopes.append(envelope)
    secret = rebuild(shares, sharing)
    for share in shares:
        wipe(share.value)
    return secret, envelopes


def _open(desk: Desk, envelope: Envelope) -> Share:
    seal = envelope.seal
    if isinstance(seal, ByPassphrase):
        question = desk.say("{name}, passphrase of share {place}:", name=envelope.custodian,
                            place=envelope.place)  # fmt: skip
        passphrase = desk.room.secret(question)
        value = open_by_passphrase(seal, passphrase, bound(envelope))
        wipe(passphrase)
    elif isinstance(seal, ByCard):
        value = _by_card(seal, desk.room.secret(desk.say("PIN of the card:")), bound(envelope))
    else:
        identity = desk.room.ask(
            desk.say("{name}, path of the file with your identity:", name=envelope.custodian)
        )
        value = open_by_key(seal, read_identity(Path(identity)), bound(envelope))
    return Share(envelope.set_identifier, envelope.place, value)


def _by_card(seal: ByCard, pin: bytearray, header: bytes) -> bytearray:
    try:
        return open_by_card(seal, lambda key: _card("decrypt", seal.uri, pin, key), header)
    finally:
        wipe(pin)


def _card(do: str, uri: str, pin: bytearray, wrapped: bytes = b"") -> bytes:
    """What a custodian's card does. Errors: those of ``_named`` and ``token_work``."""
    module, token, key = _named(uri)
    return work(Work(do, module, token, bytes(pin), key=key, wrapped=wrapped), {}).octets


def _named(uri: str) -> tuple[str, str, str]:
    """Module, token and key of a card. Errors: ``bad-key-uri``."""
    named = parse(uri)
    if not isinstance(named, Pkcs11Uri) or not (named.module_path and named.token and named.object):
        raise Rejected(
            "bad-key-uri", "a card's key is pkcs11:token=…;object=…?module-path=/…, all three"
        )
    return named.module_path, named.token, named.object


def read_share(path: Path) -> Envelope:
    """A share file. Errors: ``bad-share``."""
    try:
        with path.open("rb") as file:
            return parse_envelope(file.read(MAXIMUM_SIZE + 1))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the name is no path"
        raise Rejected("bad-share", f"{path} cannot be read: {why}") from error


def read_identity(path: Path) -> str:
    """The private key in a file as ``age-keygen`` writes it, which only its owner can reach.
    Errors: ``bad-identity``, ``identity-permissions``."""
    content = read_private(
        path, MAXIMUM_SIZE, missing="bad-identity", exposed="identity-permissions"
    )
    lines = [line for line in content.decode(errors="replace").split() if line.startswith("AGE-")]
    if len(lines) != 1:
        raise Rejected("bad-identity", f"{path} holds {len(lines)} keys AGE-SECRET-KEY-1…, not one")
    return lines[0]
