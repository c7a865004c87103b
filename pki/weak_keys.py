"""Public keys that a certificate must not carry, whoever can prove to hold them.

CA/Browser Forum Baseline Requirements §6.1.1.3 and §6.1.6, NIST SP 800-89 §5.3.3 and SP 800-186
§D.1. What needs a list rather than arithmetic (CVE-2008-0166, keys found published) is matched
against a ``KeyBlocklist``. No such list is shipped: without one, those keys are not recognised.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import gcd, isqrt, prod
from typing import Final

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType

RSA_MINIMUM_BITS: Final = 2048
RSA_MAXIMUM_BITS: Final = 4096
RSA_EXPONENT: Final = 65537
"""SP 800-89 §5.3.3 allows 2^16 < e < 2^256. But whoever has a private key has one for each of them
with the same modulus, so that a key which is compromised, or somebody else's, would come back as
another. With one exponent a key has one SubjectPublicKeyInfo, as those of other types have."""
FERMAT_ROUNDS: Final = 100  # BR §6.1.1.3 item 6


@dataclass(frozen=True, slots=True)
class KeyBlocklist:
    """Fingerprints of keys that are known to be in the wrong hands.

    ``moduli``: the last 10 octets of SHA-1 over ``Modulus=HEX\\n``, as Debian's openssl-blacklist
    lists the keys of CVE-2008-0166; ``keys``: SHA-256 over the SubjectPublicKeyInfo.
    """

    moduli: frozenset[bytes] = frozenset()
    keys: frozenset[bytes] = frozenset()


NO_BLOCKLIST: Final = KeyBlocklist()


def parse_blocklist(text: str) -> KeyBlocklist:
    """Read a blocklist: a fingerprint a line, 20 hexadecimal digits for a modulus or 64 for a
    SubjectPublicKeyInfo; blank lines and lines that start with ``#`` do not count.

    Errors: ``bad-blocklist``, with the number of the line.
    """
    moduli: set[bytes] = set()
    keys: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        try:
            fingerprint = bytes.fromhex(entry)
        except ValueError:
            fingerprint = b""
        if len(fingerprint) == 10:
            moduli.add(fingerprint)
        elif len(fingerprint) == 32:
            keys.add(fingerprint)
        else:
            raise Rejected(
                "bad-blocklist", f"line {number} is not a fingerprint of 20 or 64 hex digits"
            )
    return KeyBlocklist(frozenset(moduli), frozenset(keys))


def check_key(
    public_key_info: bytes, key_type: KeyType, blocklist: KeyBlocklist = NO_BLOCKLIST
) -> None:
    """Refuse a key that is weak or no key at all.

    ``public_key_info``: SubjectPublicKeyInfo in DER; ``key_type``: what
    ``algorithms.key_type_of`` made of it. Errors: ``rsa-size``, ``rsa-exponent``, ``rsa-modulus``,
    ``ec-point``, ``ed25519-point``, ``ml-dsa-key``, ``blocked-key``, and ``bad-der``.
    """
    info = der.one(public_key_info, der.SEQUENCE)
    info.raw(der.SEQUENCE)
    key, unused = info.bit_string()
    info.done()
    if unused:
        raise Rejected("bad-der", "a public key is not a whole number of octets")
    if key_type in _CURVES:
        _check_point(key, _CURVES[key_type])
    elif key_type in _ML_DSA_OCTETS:
        _check_ml_dsa(key, _ML_DSA_OCTETS[key_type])
    elif key_type == "ed25519":
        _check_edwards_point(key)
    else:
        _check_rsa(key, blocklist)
    if blocklist.keys and hashlib.sha256(public_key_info).digest() in blocklist.keys:
        raise _blocked()


# ── RSA ──────────────────────────────────────────────────────────────────────────────────────────


def _check_rsa(key: bytes, blocklist: KeyBlocklist) -> None:
    numbers = der.one(key, der.SEQUENCE)  # RFC 8017 §A.1.1
    modulus = numbers.integer()
    exponent = numbers.integer()
    numbers.done()
    bits = modulus.bit_length()
    if modulus < 0 or not RSA_MINIMUM_BITS <= bits <= RSA_MAXIMUM_BITS or bits % 8:
        raise Rejected(
            "rsa-size",
            f"the modulus has {bits} bits; make a key of {RSA_MINIMUM_BITS} to "
            f"{RSA_MAXIMUM_BITS} bits, a multiple of 8",
        )
    if exponent != RSA_EXPONENT:
        raise Rejected(
            "rsa-exponent", f"the public exponent must be {RSA_EXPONENT}; make a key that has it"
        )
    if modulus % 2 == 0 or gcd(modulus, _SMALL_PRIMES_PRODUCT) != 1:
        raise Rejected("rsa-modulus", f"the modulus has a factor below {_SMALL_PRIMES_BOUND}")
    if has_roca_fingerprint(modulus):
        raise Rejected(
            "rsa-modulus",
            "the modulus has the fingerprint of ROCA (CVE-2017-15361); make the key elsewhere",
        )
    if has_close_factors(modulus):
        raise Rejected("rsa-modulus", "the factors are so close that Fermat's method finds them")
    if blocklist.moduli and modulus_fingerprint(modulus) in blocklist.moduli:
        raise _blocked()


def modulus_fingerprint(modulus: int) -> bytes:
    """The last 10 octets of SHA-1 over what ``openssl rsa -modulus`` prints."""
    printed = b"Modulus=%X\n" % modulus
    return hashlib.sha1(printed, usedforsecurity=False).digest()[10:]


def has_close_factors(modulus: int, rounds: int = FERMAT_ROUNDS) -> bool:
    """Whether Fermat's method factors an odd modulus within this many rounds."""
    root = isqrt(modulus)
    if root * root == modulus:
        return True
    root += 1
    square = root * root - modulus
    for _ in range(rounds):
        # A square leaves few residues: most candidates need no root at all.
        if (
            _SQUARES_64 >> (square & 63) & 1
            and _SQUARES_45045 >> (square % 45045) & 1
            and isqrt(square) ** 2 == square
        ):
            return True
        square += 2 * root + 1
        root += 1
    return False


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether a modulus looks as if Infineon's RSALib made it (Nemec et al., "The Return of
    Coppersmith's Attack", CCS 2017, §2.3).

    Its primes are ``k·M + (65537^a mod M)`` with M a product of the first primes, so modulo each
    of those primes the modulus is a power of 65537; a sound modulus is one modulo all of 3 to 167
    with probability 2^-28.
    """
    return all(powers >> (modulus % prime) & 1 for prime, powers in _ROCA_POWERS)


def _primes_below(bound: int) -> list[int]:
    sieve = bytearray(b"\x01") * bound
    sieve[0:2] = b"\x00\x00"
    for number in range(2, isqrt(bound) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, bound, number)))
    return [number for number in range(bound) if sieve[number]]


def _bits(positions: set[int]) -> int:
    return sum(1 << position for position in positions)


def _powers(base: int, modulus: int) -> set[int]:
    return {pow(base, exponent, modulus) for exponent in range(modulus - 1)}


_SMALL_PRIMES_BOUND: Final = 1 << 14  # BR §6.1.6 asks for 752
_SMALL_PRIMES_PRODUCT: Final = prod(_primes_below(_SMALL_PRIMES_BOUND)[1:])
_SQUARES_64: Final = _bits({number * number % 64 for number in range(64)})
_SQUARES_45045: Final = _bits({number * number % 45045 for number in range(45045)})
_ROCA_POWERS: Final = tuple(
    (prime, _bits(_powers(65537, prime))) for prime in _primes_below(168)[1:]
)


# ── Curves over prime fields: y² = x³ - 3x + b ───────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Curve:
    """``size``: octets of a coordinate; ``p``, ``b``: SP 800-186 §3.2.1. Its cofactor is 1, so a
    point on it other than infinity has the full order."""

    size: int
    p: int
    b: int


_CURVES: Final[dict[str, _Curve]] = {
    "p-256": _Curve(
        32,
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "p-384": _Curve(
        48,
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        int(
            "B3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875A"
            "C656398D8A2ED19D2A85C8EDD3EC2AEF",
            16,
        ),
    ),
    "p-521": _Curve(
        66,
        2**521 - 1,
        int(
            "0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF1"
            "09E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B50"
            "3F00",
            16,
        ),
    ),
}


def _check_point(key: bytes, curve: _Curve) -> None:
    if len(key) != 1 + 2 * curve.size or key[0] != 4:
        # RFC 5480 §2.2 lets a CA refuse compressed points; infinity is the one octet 00.
        raise Rejected("ec-point", "the public key is not an uncompressed point of its curve")
    x = int.from_bytes(key[1 : 1 + curve.size], "big")
    y = int.from_bytes(key[1 + curve.size :], "big")
    if x >= curve.p or y >= curve.p or (y * y - x * (x * x - 3) - curve.b) % curve.p:
        raise Rejected("ec-point", "the public key is not a point on its curve")


# ── Ed25519: -x² + y² = 1 + d·x²·y² ──────────────────────────────────────────────────────────────

_P25519: Final = 2**255 - 19
_D25519: Final = -121665 * pow(121666, -1, _P25519) % _P25519
# y of a point of order 8, which doubles to y = 0; the other three orders have y = 0, -1 and 1.
_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER: Final = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})


def _check_edwards_point(key: bytes) -> None:
    if len(key) != 32:
        raise Rejected("ed25519-point", "an Ed25519 public key has 32 octets")
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    if y >= _P25519 or y in _SMALL_ORDER:
        raise Rejected("ed25519-point", "the public key is of small order or not canonical")
    # x² = (y² - 1) / (d·y² + 1) must be a square: its quotient and product have the same character.
    numerator, denominator = y * y - 1, _D25519 * y * y + 1
    if pow(numerator * denominator % _P25519, (_P25519 - 1) // 2, _P25519) != 1:
        raise Rejected("ed25519-point", "the public key is not a point on its curve")


# ── ML-DSA ───────────────────────────────────────────────────────────────────────────────────────

_ML_DSA_OCTETS: Final[dict[str, int]] = {  # FIPS 204 table 2; any octets of this length are a key
    "ml-dsa-44": 1312,
    "ml-dsa-65": 1952,
    "ml-dsa-87": 2592,
}


def _check_ml_dsa(key: bytes, octets: int) -> None:
    if len(key) != octets:
        raise Rejected("ml-dsa-key", f"the public key has {len(key)} octets instead of {octets}")


def _blocked() -> Rejected:
    return Rejected(
        "blocked-key", "this key is on the list of keys known to others; make a new one"
    )
