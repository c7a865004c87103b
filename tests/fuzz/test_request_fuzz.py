"""Any octets as a request: read, or rejected; what is read was asked for and signed."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType
from pki.request import MAXIMUM_SIZE, CertificateRequest, parse_request
from pki.weak_keys import check_key, parse_blocklist

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
KEYS = (
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
    mldsa.MLDSA44PrivateKey.generate(),
)


def seeds() -> list[bytes]:
    """Requests of several key types with every part that the parser knows."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ada")]))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.example.org")]), False)
    )
    requests = []
    for key in KEYS:
        classical = isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        signed = builder.sign(key, hashes.SHA256() if classical else None)
        requests.append(signed.public_bytes(serialization.Encoding.DER))
        requests.append(signed.public_bytes(serialization.Encoding.PEM))
    return requests


SEEDS = seeds()


def mutate(chance: random.Random, seed: bytes) -> bytes:
    """A few octets changed, dropped, doubled or moved; now and then a length that lies."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data)) if data else 0
        match chance.randrange(6):
            case 0 if data:
                data[place] = chance.randrange(256)
            case 1 if data:
                data[place] ^= 1 << chance.randrange(8)
            case 2:
                del data[place : place + chance.randint(1, 8)]
            case 3:
                data[place:place] = chance.randbytes(chance.randint(1, 8))
            case 4:
                end = place + chance.randint(1, 64)
                data[place:place] = data[place:end]
            case 5:
                data[place:place] = chance.choice(
                    (b"\x30\x80", b"\x84\xff\xff\xff\xff", b"\xa0\x00", b"\x1f", b"-----BEGIN")
                )
    return bytes(data)


def feed(data: bytes) -> CertificateRequest | None:
    try:
        request = parse_request(data)
    except Rejected:
        return None
    with suppress(ValueError):  # the names inside are for pki.names to read
        assert x509.load_der_x509_csr(request.der).is_signature_valid
    assert request.subject in request.der
    assert request.public_key_info in request.der
    assert len({extension.oid for extension in request.extensions}) == len(request.extensions)
    return request


def rounds(atleast: int) -> Iterator[int]:
    end = monotonic() + SECONDS
    count = 0
    while count < atleast or monotonic() < end:
        yield count
        count += 1


def test_the_seeds_are_read() -> None:
    assert all(feed(seed) for seed in SEEDS)


def test_mutated_requests() -> None:
    chance = random.Random(2986)
    for _ in rounds(3000):
        seed = chance.choice(SEEDS)
        request = feed(mutate(chance, seed))
        # Whatever the signature covers was not touched, or nobody could have signed it.
        assert request is None or any(
            request.subject == known.subject and request.extensions == known.extensions
            for known in KNOWN
        )


KNOWN = tuple(parse_request(seed) for seed in SEEDS)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_octets(data: bytes) -> None:
    assert feed(data) is None


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_octets_in_armour(data: bytes) -> None:
    armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n"
    assert feed(armoured % base64.encodebytes(data)) is None


def test_floods_of_one_thing() -> None:
    for unit in (
        b"-", b"-----BEGIN ", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\x30\x80", b"\x30",
        b"\x30\x84\x00\x00\xff\xf0", b"\n", b"\x00", b"-----BEGIN A-----\n-----END A-----\n",
    ):  # fmt: skip
        assert feed((unit * MAXIMUM_SIZE)[:MAXIMUM_SIZE]) is None


def test_signed_by_its_key_but_otherwise_anything() -> None:
    """Mutate before signing, so that the proof of possession holds and the rest is reached."""
    chance = random.Random(2985)
    key = KEYS[2]
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    known = next(request for request in KNOWN if request.key_type is KeyType.ED25519)
    info = der.one(known.der, der.SEQUENCE).raw()
    identifier = der.sequence(der.object_identifier("1.3.101.112"))
    read = 0
    for _ in rounds(2000):
        changed = mutate(chance, info)
        request = der.sequence(changed, identifier, der.bit_string(key.sign(changed)))
        read += feed(request) is not None
    assert read > 0


def test_mutated_keys() -> None:
    chance = random.Random(5480)
    for _ in rounds(2000):
        known = chance.choice(KNOWN)
        with suppress(Rejected):
            check_key(mutate(chance, known.public_key_info), known.key_type)


@settings(deadline=None)
@given(st.text())
def test_any_text_as_a_blocklist(text: str) -> None:
    listed = hashlib.sha256(text.encode()).hexdigest()
    try:
        blocklist = parse_blocklist(f"{listed}\n{text}")
    except Rejected as rejected:
        if rejected.code != "bad-blocklist":
            raise
    else:
        assert bytes.fromhex(listed) in blocklist.keys
