"""Octets sealed to one person: by a passphrase, a card, or a public key as ``age`` writes it.

All authenticate what they seal together with a header that stays readable (``bound``): what is
opened is what was sealed, under that header, or nothing.

- Passphrase: Argon2id (RFC 9106 §4, the second recommended option: 64 MiB, 3 passes, 4 lanes), then
  AES-256-GCM.
- Public key: HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
  ChaCha20-Poly1305. Keys are Bech32 texts, ``age1…`` and ``AGE-SECRET-KEY-1…``.
- Card: a random key for AES-256-GCM, encrypted to the RSA key of a PKCS#11 token by RSAES-OAEP
  (RFC 8017 §7.1) with SHA-1, the one hash that every token has, and which OAEP does not weaken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import load_der_public_key

from infra.errors import Rejected

SALT: Final = 16  # octets, RFC 9106 §3.1
NONCE: Final = 12
RANDOM: Final = SALT + NONCE
"""Random octets that sealing by passphrase takes."""

CARD_RANDOM: Final = 32 + NONCE
"""Random octets that sealing to a card takes."""

LEAST_PASSPHRASE: Final = 12  # characters, for what is kept for years
LEAST_FOR_A_DAY: Final = 8  # characters, for what is destroyed when the ceremony ends
_MEMORY: Final = 64 * 1024  # KiB
_PASSES: Final = 3
_LANES: Final = 4
_INFO: Final = b"DigitalID ceremony seal v1"
_TAG: Final = 16
_PUBLIC: Final = "age"
_PRIVATE: Final = "age-secret-key-"


@dataclass(frozen=True, slots=True)
class ByPassphrase:
    """``salt``, ``nonce``: as drawn; ``sealed``: ciphertext and tag."""

    salt: bytes
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class ByKey:
    """``recipient``: the public key, ``age1…``; ``sealed``: HPKE's enc, ciphertext and tag."""

    recipient: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class ByCard:
    """``uri``: of the private key on the card; ``key``: the encrypted key; the others as above."""

    uri: str
    key: bytes
    nonce: bytes
    sealed: bytes


Seal: TypeAlias = ByPassphrase | ByKey | ByCard


def check_passphrase(passphrase: bytes | bytearray, least: int = LEAST_PASSPHRASE) -> None:
    """Refuse what is guessed too soon. Errors: ``weak-passphrase``."""
    if len(passphrase.decode(errors="replace")) < least or len(set(passphrase)) < 5:
        raise Rejected(
            "weak-passphrase",
            f"a passphrase has {least} characters or more, five of them different",
        )


def seal_by_passphrase(
    content: bytes | bytearray,
    passphrase: bytes | bytearray,
    bound: bytes,
    random: bytes,
    *,
    least: int = LEAST_PASSPHRASE,
) -> ByPassphrase:
    """Seal ``content``. ``random``: ``RANDOM`` octets from a CSPRNG; ``least``: characters of the
    passphrase. Errors: ``weak-passphrase``."""
    check_passphrase(passphrase, least)
    salt, nonce = random[:SALT], random[SALT:RANDOM]
    key = _derive(passphrase, salt)
    return ByPassphrase(salt, nonce, AESGCM(key).encrypt(nonce, bytes(content), bound))


def open_by_passphrase(
    seal: ByPassphrase, passphrase: bytes | bytearray, bound: bytes
) -> bytearray:
    """What was sealed. Errors: ``wrong-passphrase``, which an altered seal looks like, too."""
    if len(seal.salt) != SALT or len(seal.nonce) != NONCE or len(seal.sealed) < _TAG:
        raise Rejected("bad-seal", "salt, nonce or sealed octets are of the wrong size")
    key = _derive(passphrase, seal.salt)
    try:
        return bytearray(AESGCM(key).decrypt(seal.nonce, seal.sealed, bound))
    except InvalidTag as error:
        raise Rejected(
            "wrong-passphrase", "the passphrase does not open it, or the file was altered"
        ) from error


def seal_to_key(content: bytes | bytearray, recipient: str, bound: bytes) -> ByKey:
    """Seal ``content`` to ``recipient``. Errors: ``bad-recipient``."""
    key = X25519PublicKey.from_public_bytes(_octets(recipient, _PUBLIC, "bad-recipient"))
    sealed = _suite().encrypt(bytes(content), key, _bind(bound))
    return ByKey(recipient.lower(), sealed)


def open_by_key(seal: ByKey, identity: str, bound: bytes) -> bytearray:
    """What was sealed. ``identity``: ``AGE-SECRET-KEY-1…``. Errors: ``bad-identity``,
    ``wrong-identity``, which an altered seal looks like, too."""
    key = X25519PrivateKey.from_private_bytes(_octets(identity, _PRIVATE, "bad-identity"))
    try:
        return bytearray(_suite().decrypt(seal.sealed, key, _bind(bound)))
    except (InvalidTag, ValueError) as error:
        raise Rejected(
            "wrong-identity", "this identity does not open it, or the file was altered"
        ) from error


def seal_to_card(
    content: bytes | bytearray, uri: str, public_key_info: bytes, bound: bytes, random: bytes
) -> ByCard:
    """Seal ``content`` to an RSA key. ``random``: ``CARD_RANDOM`` octets. Errors:
    ``bad-recipient``."""
    public = load_der_public_key(public_key_info)
    if not isinstance(public, RSAPublicKey) or public.key_size < 2048:
        raise Rejected("bad-recipient", "the key of a card is RSA, of 2048 bits or more")
    key, nonce = random[:32], random[32:CARD_RANDOM]
    return ByCard(
        uri, public.encrypt(key, _oaep()), nonce, AESGCM(key).encrypt(nonce, bytes(content), bound)
    )


def open_by_card(seal: ByCard, decrypt: Callable[[bytes], bytes], bound: bytes) -> bytearray:
    """What was sealed. ``decrypt``: what the card does (RSAES-OAEP). Errors: ``wrong-identity``,
    which an altered seal looks like, too, and those of ``decrypt``."""
    try:
        return bytearray(AESGCM(decrypt(seal.key)).decrypt(seal.nonce, seal.sealed, bound))
    except (InvalidTag, ValueError) as error:
        raise Rejected(
            "wrong-identity", "this card does not open it, or the file was altered"
        ) from error


def _oaep() -> OAEP:
    return OAEP(MGF1(SHA1()), SHA1(), None)  # noqa: S303 - see above


def recipient_of(identity: str) -> str:
    """The public key of an identity. Errors: ``bad-identity``."""
    key = X25519PrivateKey.from_private_bytes(_octets(identity, _PRIVATE, "bad-identity"))
    return encode_bech32(_PUBLIC, key.public_key().public_bytes_raw())


def new_identity() -> str:
    """A new private key."""
    return encode_bech32(_PRIVATE, X25519PrivateKey.generate().private_bytes_raw()).upper()


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _bind(bound: bytes) -> bytes:
    # The one-shot API has no aad: info is authenticated as well (RFC 9180 §5.1).
    return _INFO + b"\0" + bound


def _derive(passphrase: bytes | bytearray, salt: bytes) -> bytes:
    # Two keyboards that compose é otherwise type the same passphrase (RFC 8265 §4.2.1).
    text = unicodedata.normalize("NFC", passphrase.decode(errors="surrogateescape"))
    octets = text.encode(errors="surrogateescape")
    kdf = Argon2id(
        salt=salt, length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY, ad=_INFO
    )
    return kdf.derive(octets)


_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_TEXT: Final = re.compile(r"[!-~]{1,90}")


def encode_bech32(prefix: str, octets: bytes) -> str:
    """Bech32 (BIP 173), whose checksum finds any four wrong characters."""
    words = _regroup(octets, 8, 5)
    state = _checksum([*_spread(prefix), *words, 0, 0, 0, 0, 0, 0]) ^ 1
    check = [state >> 5 * (5 - place) & 31 for place in range(6)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in [*words, *check])


def _octets(text: str, prefix: str, code: str) -> bytes:
    """The 32 octets of a Bech32 text with this prefix."""
    expected = f"{prefix}1… in one case, 32 octets with a right checksum"
    if not _TEXT.fullmatch(text) or text not in (text.lower(), text.upper()):
        raise Rejected(code, f"a key is {expected}")
    head, one, tail = text.lower().rpartition("1")
    words = [_ALPHABET.find(character) for character in tail]
    if not one or head != prefix or -1 in words or len(words) != 58:
        raise Rejected(code, f"a key is {expected}")
    if _checksum([*_spread(head), *words]) != 1 or words[51] & 15:
        raise Rejected(code, "the key's checksum is wrong: a character was mistyped")
    return bytes(_regroup(bytes(words[:52]), 5, 8)[:32])


def _spread(prefix: str) -> list[int]:
    return [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]


def _checksum(words: list[int]) -> int:
    state = 1
    for word in words:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ word
        for place, generator in enumerate(_GENERATOR):
            state ^= -(top >> place & 1) & generator
    return state


def _regroup(values: bytes, size: int, wanted: int) -> list[int]:
    """The same bits in groups of another size, the last filled up with zeros."""
    bits = "".join(f"{value:0{size}b}" for value in values)
    bits += "0" * (-len(bits) % wanted)
    return [int(bits[at : at + wanted], 2) for at in range(0, len(bits), wanted)]
