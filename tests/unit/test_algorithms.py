"""The table of algorithms: its DER by the RFCs' own octets, and what is refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from asn1crypto.algos import SignedDigestAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa

from infra.errors import Rejected
from pki import der
from pki.algorithms import (
    SIGNATURE_ALGORITHMS,
    Family,
    KeyType,
    algorithm_for,
    algorithm_of,
    digest_info,
    key_type_of,
    load_public_key,
    public_key_info_of,
    scheme,
    usual_algorithm,
    verify,
)

PRIVATE: dict[KeyType, Any] = {
    KeyType.RSA_2048: rsa.generate_private_key(65537, 2048),
    KeyType.P_256: ec.generate_private_key(ec.SECP256R1()),
    KeyType.P_384: ec.generate_private_key(ec.SECP384R1()),
    KeyType.P_521: ec.generate_private_key(ec.SECP521R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate(),
    KeyType.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate(),
    KeyType.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate(),
    KeyType.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate(),
}


def public_key_info(private: Any) -> bytes:
    encoded: bytes = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


# RFC 4055 §5, RFC 5758 §3.2, RFC 8410 §3, RFC 9881 §3 (whole AlgorithmIdentifiers).
KNOWN = {
    "sha256-with-rsa": "300d06092a864886f70d01010b0500",
    "sha384-with-rsa": "300d06092a864886f70d01010c0500",
    "sha512-with-rsa": "300d06092a864886f70d01010d0500",
    "rsa-pss-sha256": "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120",
    "ecdsa-with-sha256": "300a06082a8648ce3d040302",
    "ecdsa-with-sha384": "300a06082a8648ce3d040303",
    "ecdsa-with-sha512": "300a06082a8648ce3d040304",
    "ed25519": "300506032b6570",
    "ml-dsa-44": "300b0609608648016503040311",
    "ml-dsa-65": "300b0609608648016503040312",
    "ml-dsa-87": "300b0609608648016503040313",
}


@pytest.mark.parametrize("name", KNOWN)
def test_identifier_octets(name: str) -> None:
    assert SIGNATURE_ALGORITHMS[name].identifier.hex() == KNOWN[name]


@pytest.mark.parametrize("name", [n for n in SIGNATURE_ALGORITHMS if n.startswith("rsa-pss")])
def test_pss_parameters_as_another_parser_reads_them(name: str) -> None:
    algorithm = SIGNATURE_ALGORITHMS[name]
    read = SignedDigestAlgorithm.load(algorithm.identifier, strict=True)
    parameters = read["parameters"]
    assert read["algorithm"].native == "rsassa_pss"
    assert parameters["hash_algorithm"]["algorithm"].native == algorithm.hash_name
    mask = parameters["mask_gen_algorithm"]
    assert mask["parameters"]["algorithm"].native == algorithm.hash_name
    assert parameters["salt_length"].native == hashlib.new(algorithm.hash_name or "").digest_size
    assert parameters["trailer_field"].native == "trailer_field_bc"


@pytest.mark.parametrize("name", SIGNATURE_ALGORITHMS)
def test_an_identifier_names_its_algorithm(name: str) -> None:
    algorithm = SIGNATURE_ALGORITHMS[name]
    assert algorithm_of(algorithm.identifier) is algorithm
    assert algorithm.name == str(algorithm) == name


def test_rsa_parameters_may_be_absent() -> None:
    """RFC 4055 §5: what is written as NULL is accepted absent."""
    absent = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"))
    assert algorithm_of(absent).name == "sha256-with-rsa"


@pytest.mark.parametrize(
    "identifier",
    [
        b"",
        der.sequence(),
        der.sequence(der.object_identifier("1.2.840.113549.1.1.5"), der.NULL_VALUE),  # SHA-1
        der.sequence(der.object_identifier("1.2.840.10045.4.3.2"), der.NULL_VALUE),
        der.sequence(der.object_identifier("1.3.101.112"), der.NULL_VALUE),
        der.sequence(der.object_identifier("2.16.840.1.101.3.4.3.17"), der.NULL_VALUE),
        der.sequence(der.object_identifier("1.2.840.113549.1.1.10"), der.sequence()),  # PSS, SHA-1
    ],
)
def test_other_identifiers_are_refused(identifier: bytes) -> None:
    with pytest.raises(Rejected, match="unknown-algorithm"):
        algorithm_of(identifier)


@pytest.mark.parametrize("kind", KeyType)
def test_usual_algorithm_fits_its_key_type(kind: KeyType) -> None:
    algorithm = usual_algorithm(kind)
    assert kind in algorithm.key_types
    assert algorithm.family is kind.family
    assert algorithm_for(kind, None) is algorithm
    for other in SIGNATURE_ALGORITHMS.values():
        if kind in other.key_types:
            assert algorithm_for(kind, other) is other
        else:
            with pytest.raises(Rejected, match="key-type"):
                algorithm_for(kind, other)


@pytest.mark.parametrize("kind", PRIVATE)
def test_key_types_of_real_keys(kind: KeyType) -> None:
    encoded = public_key_info(PRIVATE[kind])
    assert key_type_of(encoded) is kind
    assert load_public_key(encoded) == PRIVATE[kind].public_key()
    bits, unused = der.Reader(encoded).enter(der.SEQUENCE), 0
    bits.raw()
    key, unused = bits.bit_string()
    assert unused == 0
    assert public_key_info_of(kind, key) == encoded


@pytest.mark.parametrize(
    "private",
    [
        ed448.Ed448PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
        rsa.generate_private_key(65537, 2056),
        dsa.generate_private_key(1024),  # noqa: S505 - to be refused
    ],
    ids=["ed448", "secp256k1", "p-224", "rsa-1024", "rsa-2056", "dsa"],
)
def test_other_keys_are_refused_with_what_is_allowed(private: Any) -> None:
    with pytest.raises(Rejected, match="key-type") as caught:
        key_type_of(public_key_info(private))
    assert "p-256" in caught.value.detail


def test_compressed_point_is_refused() -> None:
    compressed = (
        PRIVATE[KeyType.P_256]
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    )
    with pytest.raises(Rejected, match="key-type"):
        key_type_of(public_key_info_of(KeyType.P_256, compressed))


def test_point_off_its_curve_is_refused() -> None:
    point = bytearray(public_key_info(PRIVATE[KeyType.P_256])[-65:])
    point[-1] ^= 1
    encoded = public_key_info_of(KeyType.P_256, bytes(point))
    assert key_type_of(encoded) is KeyType.P_256
    with pytest.raises(Rejected, match="bad-public-key"):
        load_public_key(encoded)


def test_negative_modulus_is_refused() -> None:
    key = der.sequence(der.integer(-(1 << 2047) - 1), der.integer(65537))
    with pytest.raises(Rejected, match="key-type"):
        key_type_of(public_key_info_of(KeyType.RSA_2048, key))


@pytest.mark.parametrize("octets", [b"", b"\x30", b"\x30\x00", bytes(100), b"\x30\x80\x00\x00"])
def test_damaged_keys_are_refused(octets: bytes) -> None:
    with pytest.raises(Rejected, match="bad-der"):
        key_type_of(octets)


def test_oversized_key_is_refused() -> None:
    with pytest.raises(Rejected, match="key-type"):
        key_type_of(der.sequence(bytes(5000)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in PRIVATE
        for name, algorithm in SIGNATURE_ALGORITHMS.items()
        if kind in algorithm.key_types
    ],
)
def test_verify(kind: KeyType, name: str) -> None:
    algorithm = SIGNATURE_ALGORITHMS[name]
    encoded = public_key_info(PRIVATE[kind])
    signature = PRIVATE[kind].sign(b"message", *scheme(algorithm))
    verify(algorithm, encoded, signature, b"message")
    for wrong, message in (
        (signature, b"Message"),
        (signature[:-1], b"message"),
        (signature + b"\0", b"message"),
        (b"", b"message"),
    ):
        with pytest.raises(Rejected, match="bad-signature"):
            verify(algorithm, encoded, wrong, message)
    other = public_key_info(PRIVATE[next(k for k in PRIVATE if k not in algorithm.key_types)])
    with pytest.raises(Rejected, match="bad-signature"):
        verify(algorithm, other, signature, b"message")


@pytest.mark.parametrize("name", SIGNATURE_ALGORITHMS)
def test_prepare_is_what_the_private_key_takes(name: str) -> None:
    algorithm = SIGNATURE_ALGORITHMS[name]
    prepared = algorithm.prepare(b"message")
    if algorithm.family in (Family.ED25519, Family.ML_DSA):
        assert prepared == b"message"
    else:
        assert prepared == hashlib.new(algorithm.hash_name or "", b"message").digest()


def test_digest_info_octets() -> None:
    """RFC 8017 §9.2 note 1."""
    assert digest_info("sha256").hex() == "3031300d060960864801650304020105000420"
    assert digest_info("sha384").hex() == "3041300d060960864801650304020205000430"
    assert digest_info("sha512").hex() == "3051300d060960864801650304020305000440"
