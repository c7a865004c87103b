"""A share in its envelope: of which set, whose, and sealed; and a set of shares.

A set is one sharing of one secret: random identifier, threshold, and a commitment to the secret and
to each share. Commitments are in the transcript. So a share that is altered, of another set, given
twice or simply wrong is named before it is used, and the secret is known to be right before the
token sees it. They are hashes of values of 256 random bits, which cannot be guessed from them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from infra.errors import Broken, Rejected
from pki.ceremony import shamir
from pki.ceremony.seal import ByCard, ByKey, ByPassphrase, Seal

SECRET: Final = 32  # octets
SET_IDENTIFIER: Final = 16
MAXIMUM_SIZE: Final = 8192  # octets of a share file
MOST: Final = 32
"""Custodians of one secret."""

_FORMAT: Final = "digitalid-share-1"
_HEX: Final = re.compile(r"[0-9a-f]*")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ShareSet:
    """What the transcript says of a sharing: nothing that is secret.

    ``identifier``: 16 random octets; ``label``: of the token it opens; ``secret``: the commitment
    to it; ``shares``: those to the shares, by place.
    """

    identifier: bytes
    label: str
    threshold: int
    secret: bytes
    shares: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Share:
    """One share, opened. ``place``: 1 to 255; ``value``: as long as the secret."""

    set_identifier: bytes
    place: int
    value: bytearray


@dataclass(frozen=True, slots=True)
class Envelope:
    """A share file: everything but ``seal`` can be read by anybody, and is bound to it."""

    set_identifier: bytes
    label: str
    threshold: int
    count: int
    place: int
    custodian: str
    seal: Seal


def share_out(
    secret: bytes, identifier: bytes, label: str, threshold: int, count: int, random: bytes
) -> tuple[ShareSet, list[Share]]:
    """Split ``secret`` into ``count`` shares of which ``threshold`` rebuild it.

    A new ``identifier`` (16 random octets) with the same secret renews all shares: old and new
    ones do not go together. ``random``: (``threshold`` - 1) × 32 octets. Errors: ``bad-quorum``.
    """
    check_quorum(threshold, count)
    if len(secret) != SECRET or len(identifier) != SET_IDENTIFIER or not _LABEL.fullmatch(label):
        raise Broken("bad-sharing", "secret, identifier or label is not as it should be")
    places = range(1, count + 1)
    values = shamir.split(secret, threshold, places, random)
    shares = [Share(identifier, place, v) for place, v in zip(places, values, strict=True)]
    commitments = {share.place: commit(share) for share in shares}
    return ShareSet(
        identifier, label, threshold, _commit_secret(identifier, secret), commitments
    ), shares


def check_quorum(threshold: int, count: int) -> None:
    """M of N as it makes sense for people. Errors: ``bad-quorum``."""
    if not 2 <= threshold <= count <= MOST:
        raise Rejected("bad-quorum", f"M of N needs 2 ≤ M ≤ N ≤ {MOST}")


def commit(share: Share) -> bytes:
    """The commitment to a share."""
    header = b"DigitalID share\0" + share.set_identifier + bytes((share.place,))
    return hashlib.sha256(header + share.value).digest()


def _commit_secret(identifier: bytes, secret: bytes | bytearray) -> bytes:
    return hashlib.sha256(b"DigitalID secret\0" + identifier + secret).digest()


def check_envelope(envelope: Envelope, known: ShareSet, taken: Sequence[int]) -> None:
    """Whether this envelope may be opened for this set, before anybody types a passphrase.

    Errors: ``foreign-share``, ``duplicate-share``, ``altered-share``.
    """
    named = f"share {envelope.place} of {envelope.custodian}"
    if envelope.set_identifier != known.identifier:
        raise Rejected(
            "foreign-share",
            f"{named} belongs to set {envelope.set_identifier.hex()[:8]}, "
            f"and set {known.identifier.hex()[:8]} is needed",
        )
    said = (envelope.label, envelope.threshold, envelope.count)
    if said != (known.label, known.threshold, len(known.shares)) or (
        envelope.place not in known.shares
    ):
        raise Rejected("altered-share", f"{named} says otherwise than the transcript of its set")
    if envelope.place in taken:
        raise Rejected("duplicate-share", f"{named} was given already; another custodian is needed")


def check_share(share: Share, known: ShareSet) -> None:
    """Whether an opened share is the one that was given out. Errors: ``wrong-share``."""
    if not hmac.compare_digest(known.shares.get(share.place, b""), commit(share)):
        raise Rejected(
            "wrong-share", f"share {share.place} is not the one that the transcript commits to"
        )


def rebuild(shares: Sequence[Share], known: ShareSet) -> bytearray:
    """The secret of a set from enough shares, each checked here. Errors: ``too-few-shares``,
    ``wrong-share``, ``duplicate-share``, ``foreign-share``."""
    given: dict[int, bytearray] = {}
    for share in shares:
        if share.set_identifier != known.identifier:
            raise Rejected("foreign-share", f"share {share.place} is of another set")
        if share.place in given:
            raise Rejected("duplicate-share", f"share {share.place} was given twice")
        check_share(share, known)
        given[share.place] = share.value
    if len(given) < known.threshold:
        raise Rejected(
            "too-few-shares", f"{known.threshold} shares are needed, {len(given)} are here"
        )
    used = dict(list(given.items())[: known.threshold])
    secret = shamir.combine(used)
    if not hmac.compare_digest(known.secret, _commit_secret(known.identifier, secret)):
        raise Broken("wrong-secret", "right shares give a wrong secret")
    return secret


def bound(envelope: Envelope) -> bytes:
    """The readable part, as the seal authenticates it."""
    return _encode(
        [
            _FORMAT,
            envelope.set_identifier.hex(),
            envelope.label,
            envelope.threshold,
            envelope.count,
            envelope.place,
            envelope.custodian,
        ]
    )


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    format: str
    set: str
    label: str
    threshold: int
    count: int
    place: int
    custodian: str
    sealed: str
    recipient: str = ""
    salt: str = ""
    nonce: str = ""
    card: str = ""
    key: str = ""


_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(_Wire).decode


def encode_envelope(envelope: Envelope) -> bytes:
    """A share file: JSON, one line."""
    seal = envelope.seal
    wire = _Wire(
        _FORMAT,
        envelope.set_identifier.hex(),
        envelope.label,
        envelope.threshold,
        envelope.count,
        envelope.place,
        envelope.custodian,
        base64.b64encode(seal.sealed).decode(),
    )
    match seal:
        case ByPassphrase():
            wire.salt, wire.nonce = seal.salt.hex(), seal.nonce.hex()
        case ByKey():
            wire.recipient = seal.recipient
        case ByCard():
            wire.card, wire.nonce = seal.uri, seal.nonce.hex()
            wire.key = base64.b64encode(seal.key).decode()
        case _:
            assert_never(seal)
    return _encode(wire) + b"\n"


def parse_envelope(data: bytes) -> Envelope:
    """Read a share file. Errors: ``bad-share``."""
    if len(data) > MAXIMUM_SIZE:
        raise _bad(f"it has more than {MAXIMUM_SIZE} octets")
    try:
        wire = _decode(data)
        sealed = base64.b64decode(wire.sealed, validate=True)
        key = base64.b64decode(wire.key, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _bad("it is not the JSON of one") from error
    texts = (wire.set, wire.salt, wire.nonce)
    sizes = [len(text) for text in texts]
    if wire.format != _FORMAT or not all(map(_HEX.fullmatch, texts)):
        raise _bad(f"its format is not {_FORMAT}")
    seal: Seal
    ways = (bool(wire.salt), bool(wire.recipient), bool(wire.card and key))
    if sum(ways) != 1 or bool(wire.card) != bool(key):
        raise _bad("it is sealed in none of the known ways, or in several")
    if sizes == [32, 32, 24]:
        seal = ByPassphrase(bytes.fromhex(wire.salt), bytes.fromhex(wire.nonce), sealed)
    elif sizes == [32, 0, 0] and wire.recipient:
        seal = ByKey(wire.recipient, sealed)
    elif sizes == [32, 0, 24] and wire.card.isprintable() and len(wire.card) <= 1024:
        seal = ByCard(wire.card, key, bytes.fromhex(wire.nonce), sealed)
    else:
        raise _bad("its identifier or its seal is incomplete")
    numbers = 2 <= wire.threshold <= wire.count <= MOST and 1 <= wire.place <= wire.count
    named = _LABEL.fullmatch(wire.label) and len(wire.custodian) <= 128
    if not numbers or not named or not wire.custodian.isprintable():
        raise _bad("its numbers or names are out of range")
    set_identifier = bytes.fromhex(wire.set)
    return Envelope(
        set_identifier, wire.label, wire.threshold, wire.count, wire.place, wire.custodian, seal
    )


def wipe(secret: bytearray) -> None:
    """Overwrite a secret where it stands; copies that Python made before are out of reach."""
    secret[:] = bytes(len(secret))


def _bad(why: str) -> Rejected:
    return Rejected("bad-share", f"this is not a share file: {why}")
