"""RFC 2986: requests made by openssl, and openssl reading ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from infra.errors import Rejected
from pki import der
from pki.algorithms import KeyType, usual_algorithm
from pki.request import (
    RequestedExtension,
    assemble_request,
    build_request_info,
    parse_request,
)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt install openssl")


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def request(folder: Path, *arguments: str, key: tuple[str, ...] = ("ed25519",)) -> bytes:
    algorithm, *options = key
    generate = ["genpkey", "-algorithm", algorithm, "-out", "key.pem"]
    for option in options:
        generate += ["-pkeyopt", option]
    openssl(folder, *generate)
    openssl(folder, "req", "-new", "-key", "key.pem", "-out", "req", *arguments)
    return (folder / "req").read_bytes()


SUBJECT = ("-subj", "/C=FR/O=Dirección/CN=Ada Lovelace", "-utf8")


@pytest.mark.parametrize(
    ("key", "key_type"),
    [
        (("EC", "ec_paramgen_curve:P-256"), KeyType.P_256),
        (("EC", "ec_paramgen_curve:P-384"), KeyType.P_384),
        (("EC", "ec_paramgen_curve:P-521"), KeyType.P_521),
        (("RSA", "rsa_keygen_bits:2048"), KeyType.RSA_2048),
        (("ed25519",), KeyType.ED25519),
    ],
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_openssls_requests_are_read(
    key: tuple[str, ...], key_type: KeyType, form: str, tmp_path: Path
) -> None:
    data = request(tmp_path, *SUBJECT, "-outform", form, key=key)
    parsed = parse_request(data)
    assert parsed.key_type is key_type
    assert "Dirección".encode() in parsed.subject
    assert parsed.extensions == ()
    openssl(tmp_path, "pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "spki")
    assert parsed.public_key_info == (tmp_path / "spki").read_bytes()


def test_openssls_text_before_the_block_is_no_matter(tmp_path: Path) -> None:
    data = request(tmp_path, *SUBJECT, "-text")
    assert data.startswith(b"Certificate Request:")
    assert parse_request(data).key_type is KeyType.ED25519


def test_rsa_pss_with_a_salt_as_long_as_the_hash_is_read(tmp_path: Path) -> None:
    pss = ("-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1")
    data = request(tmp_path, *SUBJECT, *pss, key=("RSA", "rsa_keygen_bits:2048"))
    assert parse_request(data).key_type is KeyType.RSA_2048


@pytest.mark.parametrize(
    ("key", "arguments", "code"),
    [
        (("RSA", "rsa_keygen_bits:1024"), (), "key-type"),
        (("RSA", "rsa_keygen_bits:2048", "rsa_keygen_pubexp:3"), (), "rsa-exponent"),
        (("RSA", "rsa_keygen_bits:2048"), ("-sha1",), "unknown-algorithm"),
        (("EC", "ec_paramgen_curve:secp256k1"), (), "key-type"),
        (("EC", "ec_paramgen_curve:P-256", "ec_param_enc:explicit"), (), "key-type"),
        (("EC", "ec_paramgen_curve:P-256"), ("-sha1",), "unknown-algorithm"),
        (("ed448",), (), "unknown-algorithm"),
    ],
)
def test_keys_and_signatures_that_are_not_allowed(
    key: tuple[str, ...], arguments: tuple[str, ...], code: str, tmp_path: Path
) -> None:
    data = request(tmp_path, *SUBJECT, *arguments, key=key)
    with pytest.raises(Rejected) as caught:
        parse_request(data)
    assert caught.value.code == code


def test_extensions_are_read_as_openssl_wrote_them(tmp_path: Path) -> None:
    parsed = parse_request(
        request(
            tmp_path, *SUBJECT,
            "-addext", "subjectAltName=DNS:www.example.org,URI:did:example:1",
            "-addext", "keyUsage=critical,digitalSignature",
            "-addext", "extendedKeyUsage=clientAuth",
        )
    )  # fmt: skip
    assert parsed.extensions == (
        RequestedExtension(
            "2.5.29.17",
            False,
            der.sequence(der.implicit(2, b"www.example.org"), der.implicit(6, b"did:example:1")),
        ),
        RequestedExtension("2.5.29.15", True, der.named_bits({0})),
        RequestedExtension(
            "2.5.29.37", False, der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.2"))
        ),
    )


def test_a_challenge_password_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=attributes\n"
        "[dn]\nCN=Ada\n[attributes]\nchallengePassword=secret word\nunstructuredName=A Lovelace\n"
    )
    parsed = parse_request(request(tmp_path, "-config", "config"))
    assert b"secret word" in parsed.der
    assert parsed.extensions == ()


@pytest.mark.parametrize("extensions", [(), (
    RequestedExtension("2.5.29.15", True, der.named_bits({0, 1})),
    RequestedExtension("2.5.29.17", False, der.sequence(der.implicit(2, b"www.example.org"))),
)])  # fmt: skip
@pytest.mark.parametrize("key_type", [KeyType.P_256, KeyType.ED25519])
def test_openssl_verifies_ours(
    key_type: KeyType, extensions: tuple[RequestedExtension, ...], tmp_path: Path
) -> None:
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    subject = der.sequence(
        der.set_of(der.sequence(der.object_identifier("2.5.4.3"), der.utf8_string("Ada")))
    )
    if key_type is KeyType.P_256:
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    info = build_request_info(subject, spki, extensions)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(info, ec.ECDSA(hashes.SHA256()))
    else:
        signature = key.sign(info)
    ours = assemble_request(info, usual_algorithm(key_type), signature)
    (tmp_path / "req").write_bytes(ours)
    text = openssl(tmp_path, "req", "-inform", "DER", "-in", "req", "-verify", "-noout", "-text")
    assert "self-signature verify OK" in text
    assert "CN = Ada" in text
    assert ("DNS:www.example.org" in text) == bool(extensions)
    openssl(tmp_path, "req", "-inform", "DER", "-in", "req", "-outform", "DER", "-out", "again")
    assert (tmp_path / "again").read_bytes() == ours
