"""Weak keys, made weak here on purpose, and sound ones beside them."""

from __future__ import annotations

import hashlib
import random
from math import prod

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType
from pki.weak_keys import (
    NO_BLOCKLIST,
    KeyBlocklist,
    check_key,
    has_close_factors,
    has_roca_fingerprint,
    modulus_fingerprint,
    parse_blocklist,
)

RANDOM = random.Random(2017)
RSA_IDENTIFIER = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), der.NULL_VALUE)
SOUND = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n


def is_prime(number: int) -> bool:
    """Miller-Rabin with ten bases."""
    if any(number % small == 0 for small in (2, 3, 5, 7, 11, 13)):
        return number in (2, 3, 5, 7, 11, 13)
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(10):
        power = pow(RANDOM.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def first_primes(count: int) -> list[int]:
    return [number for number in range(2, 1000) if is_prime(number)][:count]


def next_prime(number: int) -> int:
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def rsalib_prime() -> int:
    """A prime of 1024 bits as RSALib makes it for RSA-2048: M is the product of 126 primes."""
    m = prod(first_primes(126))
    low, high = (3 << 1022) // m + 1, (1 << 1024) // m
    while True:
        power = pow(65537, RANDOM.getrandbits(200), m)
        candidate = RANDOM.randrange(low, high) * m + power
        if candidate.bit_length() == 1024 and is_prime(candidate):
            return candidate


def rsa_key(modulus: int, exponent: int = 65537) -> bytes:
    numbers = der.sequence(der.integer(modulus), der.integer(exponent))
    return der.sequence(RSA_IDENTIFIER, der.bit_string(numbers))


def code(public_key_info: bytes, key_type: KeyType, blocklist: KeyBlocklist = NO_BLOCKLIST) -> str:
    with pytest.raises(Rejected) as caught:
        check_key(public_key_info, key_type, blocklist)
    return caught.value.code


def info_of(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# RSA


def test_sound_rsa_keys_pass() -> None:
    check_key(rsa_key(SOUND), KeyType.RSA_2048)
    for size, key_type in ((3072, KeyType.RSA_3072), (4096, KeyType.RSA_4096)):
        check_key(info_of(rsa.generate_private_key(65537, size).public_key()), key_type)


@pytest.mark.parametrize("bits", [512, 1024, 2040, 2047, 2049, 2052, 4097, 4104, 16384])
def test_rsa_sizes_outside_2048_to_4096_are_refused(bits: int) -> None:
    assert code(rsa_key((1 << (bits - 1)) + 1), KeyType.RSA_2048) == "rsa-size"


def test_a_negative_modulus_is_refused() -> None:
    assert code(rsa_key(-SOUND), KeyType.RSA_2048) == "rsa-size"


@pytest.mark.parametrize(
    "exponent",
    [-65537, 0, 1, 3, 17, 65535, 65536, 65538, 65539, (1 << 255) + 1, (1 << 256) + 1],
)
def test_a_modulus_makes_one_key_for_there_is_one_exponent(exponent: int) -> None:
    assert code(rsa_key(SOUND, exponent), KeyType.RSA_2048) == "rsa-exponent"


@pytest.mark.parametrize("factor", [2, 3, 751, 16381])
def test_a_small_factor_is_found(factor: int) -> None:
    modulus = (SOUND // factor) * factor
    assert modulus.bit_length() == 2048
    assert code(rsa_key(modulus), KeyType.RSA_2048) == "rsa-modulus"


def test_a_square_is_found() -> None:
    prime = next_prime(3 << 1022)
    assert has_close_factors(prime * prime)
    assert code(rsa_key(prime * prime), KeyType.RSA_2048) == "rsa-modulus"


@pytest.mark.parametrize("distance", [2, 1 << 64, 1 << 500])
def test_factors_close_together_are_found(distance: int) -> None:
    p = next_prime(RANDOM.getrandbits(1024) | 3 << 1022)
    q = next_prime(p + distance)
    assert has_close_factors(p * q)
    assert code(rsa_key(p * q), KeyType.RSA_2048) == "rsa-modulus"


def test_fermat_finds_what_takes_exactly_so_many_rounds() -> None:
    # With p = a - b and q = a + b, n = a² - b², and a - ceil(sqrt n) is about b² / 2a.
    a, b = 10**12, 14_000_000
    modulus = (a - b + 1) * (a + b + 1)
    rounds = next(count for count in range(1, 1000) if has_close_factors(modulus, count))
    assert rounds > 50
    assert not has_close_factors(modulus, rounds - 1)


def test_sound_moduli_are_not_close() -> None:
    assert not has_close_factors(SOUND)


def test_roca_moduli_are_found() -> None:
    modulus = rsalib_prime() * rsalib_prime()
    assert has_roca_fingerprint(modulus)
    assert code(rsa_key(modulus), KeyType.RSA_2048) == "rsa-modulus"


def test_one_rsalib_prime_alone_has_no_fingerprint() -> None:
    sound_prime = next_prime(RANDOM.getrandbits(1024) | 3 << 1022)
    assert not has_roca_fingerprint(rsalib_prime() * sound_prime)


def test_sound_moduli_have_no_fingerprint() -> None:
    assert not has_roca_fingerprint(SOUND)
    assert not any(has_roca_fingerprint(RANDOM.getrandbits(2048) | 1) for _ in range(2000))


def test_octets_that_are_no_rsa_key_are_refused() -> None:
    broken = der.sequence(RSA_IDENTIFIER, der.bit_string(b"\x30\x03\x02\x01\x01"))
    assert code(broken, KeyType.RSA_2048) == "bad-der"
    assert code(rsa_key(SOUND) + b"\x00", KeyType.RSA_2048) == "bad-der"


# Blocklists


def test_the_fingerprint_is_that_of_openssl_blacklist() -> None:
    # sha1sum of "Modulus=C0FFEE\n", its last 20 digits.
    assert modulus_fingerprint(0xC0FFEE).hex() == "6149ed99475722f13e18"


def test_a_blocked_modulus_is_refused() -> None:
    listed = f"# CVE-2008-0166\n\n{modulus_fingerprint(SOUND).hex()}\n"
    blocklist = parse_blocklist(listed)
    assert code(rsa_key(SOUND), KeyType.RSA_2048, blocklist) == "blocked-key"
    other = rsa.generate_private_key(65537, 2048).public_key()
    check_key(info_of(other), KeyType.RSA_2048, blocklist)


def test_a_blocked_key_of_any_type_is_refused() -> None:
    info = info_of(ed25519.Ed25519PrivateKey.generate().public_key())
    blocklist = parse_blocklist(hashlib.sha256(info).hexdigest().upper())
    assert code(info, KeyType.ED25519, blocklist) == "blocked-key"
    other = info_of(ed25519.Ed25519PrivateKey.generate().public_key())
    check_key(other, KeyType.ED25519, blocklist)


@pytest.mark.parametrize("line", ["xyz", "00", "0" * 40, "00" * 33])
def test_a_blocklist_with_a_bad_line_is_refused_whole(line: str) -> None:
    with pytest.raises(Rejected, match="line 2") as caught:
        parse_blocklist(f"# heading\n{line}\n")
    assert caught.value.code == "bad-blocklist"


# Elliptic curves

CURVES = {
    KeyType.P_256: ec.SECP256R1(),
    KeyType.P_384: ec.SECP384R1(),
    KeyType.P_521: ec.SECP521R1(),
}


def ec_key(key_type: KeyType, point: bytes) -> bytes:
    sound = info_of(ec.generate_private_key(CURVES[key_type]).public_key())
    return der.sequence(der.one(sound, der.SEQUENCE).raw(), der.bit_string(point))


@pytest.mark.parametrize("key_type", CURVES)
def test_points_on_their_curve_pass(key_type: KeyType) -> None:
    for _ in range(10):
        check_key(info_of(ec.generate_private_key(CURVES[key_type]).public_key()), key_type)


@pytest.mark.parametrize("key_type", CURVES)
def test_points_that_are_none_are_refused(key_type: KeyType) -> None:
    public = ec.generate_private_key(CURVES[key_type]).public_key()
    x962, point_format = serialization.Encoding.X962, serialization.PublicFormat
    point = public.public_bytes(x962, point_format.UncompressedPoint)
    size = len(point) // 2
    compressed = public.public_bytes(x962, point_format.CompressedPoint)
    off_curve = point[:-1] + bytes((point[-1] ^ 1,))
    for bad in (
        b"\x00",  # infinity
        b"",
        b"\x04" + bytes(2 * size),
        compressed,
        off_curve,
        point[:-1],
        point + b"\x00",
        b"\x06" + point[1:],  # the hybrid form
        b"\x04" + b"\xff" * size + point[1 + size :],  # x is no field element
    ):
        assert code(ec_key(key_type, bad), key_type) == "ec-point"


def test_a_coordinate_above_the_prime_is_refused() -> None:
    # (0, sqrt b) lies on P-256; p in the place of 0 would be the same point written again.
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    y = pow(b, (p + 1) // 4, p)
    check_key(ec_key(KeyType.P_256, b"\x04" + bytes(32) + y.to_bytes(32, "big")), KeyType.P_256)
    again = b"\x04" + p.to_bytes(32, "big") + y.to_bytes(32, "big")
    assert code(ec_key(KeyType.P_256, again), KeyType.P_256) == "ec-point"


# Ed25519


def ed_key(octets: bytes) -> bytes:
    sound = info_of(ed25519.Ed25519PrivateKey.generate().public_key())
    return der.sequence(der.one(sound, der.SEQUENCE).raw(), der.bit_string(octets))


def test_sound_ed25519_keys_pass() -> None:
    for _ in range(10):
        check_key(info_of(ed25519.Ed25519PrivateKey.generate().public_key()), KeyType.ED25519)


@pytest.mark.parametrize(
    "octets",
    [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0200000000000000000000000000000000000000000000000000000000000000",
        "01000000000000000000000000000000000000000000000000000000000000",
    ],
)
def test_points_of_small_order_or_of_no_curve_are_refused(octets: str) -> None:
    assert code(ed_key(bytes.fromhex(octets)), KeyType.ED25519) == "ed25519-point"


# ML-DSA


@pytest.mark.parametrize(
    ("key_type", "generate"),
    [
        (KeyType.ML_DSA_44, mldsa.MLDSA44PrivateKey.generate),
        (KeyType.ML_DSA_65, mldsa.MLDSA65PrivateKey.generate),
        (KeyType.ML_DSA_87, mldsa.MLDSA87PrivateKey.generate),
    ],
)
def test_ml_dsa_keys_have_one_length(key_type: KeyType, generate: object) -> None:
    info = info_of(generate().public_key())  # type: ignore[operator]
    check_key(info, key_type)
    inside = der.one(info, der.SEQUENCE)
    identifier, (key, _) = inside.raw(), inside.bit_string()
    for wrong in (key[:-1], key + b"\x00", b""):
        assert code(der.sequence(identifier, der.bit_string(wrong)), key_type) == "ml-dsa-key"
