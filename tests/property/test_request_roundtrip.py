"""A request that was built, signed and assembled reads back as what went in."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from pki import der
from pki.algorithms import KeyType, usual_algorithm
from pki.request import (
    CertificateRequest,
    RequestedExtension,
    assemble_request,
    build_request_info,
    parse_request,
)

P_256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def info_of(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


OIDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=4).map(
    lambda arcs: ".".join(map(str, (1, 3, *arcs)))
)
VALUES = st.one_of(
    st.binary(max_size=200).map(der.octet_string),
    st.integers().map(der.integer),
    st.frozensets(st.integers(0, 8)).map(der.named_bits),
    st.lists(st.text(max_size=20).map(der.utf8_string), max_size=4).map(
        lambda parts: der.sequence(*parts)
    ),
)
EXTENSIONS = st.lists(
    st.builds(RequestedExtension, OIDS, st.booleans(), VALUES),
    max_size=6,
    unique_by=lambda extension: extension.oid,
).map(tuple)
SUBJECTS = st.lists(
    st.tuples(
        st.sampled_from(["2.5.4.3", "2.5.4.10", "2.5.4.42"]), st.text(min_size=1, max_size=30)
    ),
    max_size=4,
).map(
    lambda attributes: der.sequence(
        *(
            der.set_of(der.sequence(der.object_identifier(oid), der.utf8_string(text)))
            for oid, text in attributes
        )
    )
)


@given(SUBJECTS, EXTENSIONS, st.booleans())
def test_what_went_in_comes_out(
    subject: bytes, extensions: tuple[RequestedExtension, ...], edwards: bool
) -> None:
    if edwards:
        key_type, spki = KeyType.ED25519, info_of(ED25519.public_key())
        info = build_request_info(subject, spki, extensions)
        signature = ED25519.sign(info)
    else:
        key_type, spki = KeyType.P_256, info_of(P_256.public_key())
        info = build_request_info(subject, spki, extensions)
        signature = P_256.sign(info, ec.ECDSA(hashes.SHA256()))
    request = assemble_request(info, usual_algorithm(key_type), signature)
    expected = CertificateRequest(request, subject, spki, key_type, extensions)
    assert parse_request(request) == expected

    body = base64.encodebytes(request)
    armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n"
    assert parse_request(b"some text\n" + armoured % body) == expected

    other = x509.load_der_x509_csr(request)
    assert other.is_signature_valid
    assert other.tbs_certrequest_bytes == info
