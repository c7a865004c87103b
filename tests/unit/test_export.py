"""Export formats, each read back by openssl."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from infra.errors import Rejected
from pki.export import encode_pem, encode_pem_certificates, encode_pkcs7, encode_pkcs12

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt install openssl")

START = datetime(2026, 1, 1, tzinfo=UTC)
DER = serialization.Encoding.DER
PASSPHRASE = "correct horse battery"
ROUNDS = 2000  # as the tests need not hold out against anybody


def make(common_name: str, key: Any, issuer: str | None = None, issuer_key: Any = None) -> bytes:
    signing_key = issuer_key or key
    classical = isinstance(signing_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(issuer or common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=365))
        .sign(signing_key, hashes.SHA256() if classical else None)
        .public_bytes(DER)
    )


ROOT_KEY = ec.generate_private_key(ec.SECP384R1())
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = make("Root", ROOT_KEY)
ADA = make("Ada", KEY, "Root", ROOT_KEY)


def pkcs8(key: Any, passphrase: bytes | None = None, encoding: Any = DER) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    octets: bytes = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)
    return octets


def openssl(*arguments: str, data: bytes, folder: Path) -> str:
    (folder / "in").write_bytes(data)
    done = subprocess.run(
        ["openssl", *arguments, "-in", "in"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_pem_is_what_openssl_writes(tmp_path: Path) -> None:
    ours = encode_pem_certificates([ADA, ROOT])
    theirs = b"".join(
        openssl("x509", "-inform", "DER", data=certificate, folder=tmp_path).encode()
        for certificate in (ADA, ROOT)
    )
    assert ours == theirs
    assert encode_pem_certificates([]) == b""


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, 96, 1000])
def test_pem_lines_have_64_characters(size: int) -> None:
    first, *lines, last = encode_pem("CERTIFICATE", bytes(size)).decode().splitlines()
    assert first == "-----BEGIN CERTIFICATE-----"
    assert last == "-----END CERTIFICATE-----"
    assert all(len(line) == 64 for line in lines[:-1])
    assert len(lines[-1]) <= 64


def test_pkcs7_is_read_by_openssl(tmp_path: Path) -> None:
    message = encode_pkcs7([ADA, ROOT])
    text = openssl("pkcs7", "-inform", "DER", "-print_certs", data=message, folder=tmp_path)
    assert text.count("BEGIN CERTIFICATE") == 2
    assert "subject=CN = Ada" in text
    assert "subject=CN = Root" in text
    pem = encode_pem("PKCS7", message)
    assert "CN = Ada" in openssl("pkcs7", "-print_certs", data=pem, folder=tmp_path)
    openssl("cms", "-cmsout", "-print", "-inform", "DER", data=message, folder=tmp_path)


def test_pkcs7_is_what_cryptography_writes() -> None:
    certificates = [ADA, ROOT]
    loaded = [x509.load_der_x509_certificate(certificate) for certificate in certificates]
    assert encode_pkcs7(certificates) == pkcs7.serialize_certificates(loaded, DER)


def test_pkcs7_carries_crls(tmp_path: Path) -> None:
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_der_x509_certificate(ROOT).subject)
        .last_update(START)
        .next_update(START + timedelta(days=1))
        .sign(ROOT_KEY, hashes.SHA256())
        .public_bytes(DER)
    )
    message = encode_pkcs7([ROOT], [crl])
    text = openssl("pkcs7", "-inform", "DER", "-print_certs", data=message, folder=tmp_path)
    assert "BEGIN X509 CRL" in text


def test_an_empty_pkcs7_is_read_by_openssl(tmp_path: Path) -> None:
    openssl("pkcs7", "-inform", "DER", "-noout", data=encode_pkcs7([]), folder=tmp_path)


def test_pkcs12_is_opened_by_openssl(tmp_path: Path) -> None:
    file = encode_pkcs12(
        pkcs8(KEY), ADA, [ROOT], name="Ada's key", passphrase=PASSPHRASE, rounds=ROUNDS
    )
    text = openssl(
        "pkcs12", "-info", "-passin", f"pass:{PASSPHRASE}", "-nodes", data=file, folder=tmp_path
    )
    assert "MAC: sha256" in text
    algorithm = f"PBES2, PBKDF2, AES-256-CBC, Iteration {ROUNDS}, PRF hmacWithSHA256"
    assert f"PKCS7 Encrypted data: {algorithm}" in text
    assert f"Shrouded Keybag: {algorithm}" in text
    assert "friendlyName: Ada's key" in text
    assert text.count("BEGIN CERTIFICATE") == 2
    assert "BEGIN PRIVATE KEY" in text
    wrong = subprocess.run(
        ["openssl", "pkcs12", "-in", "in", "-passin", "pass:wrong", "-noout"],
        cwd=tmp_path, capture_output=True,
    )  # fmt: skip
    assert wrong.returncode != 0


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa-2048", "p-521", "ed25519"],
)
@pytest.mark.parametrize("encoding", [DER, serialization.Encoding.PEM])
def test_pkcs12_takes_key_files_as_they_come(key: Any, encoding: Any) -> None:
    data = pkcs8(key, b"of the key", encoding)
    file = encode_pkcs12(
        data, make("L", key), [], name="L", passphrase="ü" * 12, key_passphrase="of the key",
        rounds=ROUNDS,
    )  # fmt: skip
    opened, certificate, chain = pkcs12.load_key_and_certificates(file, ("ü" * 12).encode())
    assert opened is not None
    assert pkcs8(opened) == pkcs8(key)
    assert certificate is not None
    assert chain == []


def refused(**changes: Any) -> str:
    given: dict[str, Any] = {
        "private_key": pkcs8(KEY), "certificate": ADA, "chain": [ROOT], "name": "Ada",
        "passphrase": PASSPHRASE, "rounds": ROUNDS,
    } | changes  # fmt: skip
    with pytest.raises(Rejected) as caught:
        encode_pkcs12(**given)
    assert PASSPHRASE not in str(caught.value)
    return caught.value.code


def test_pkcs12_refuses_what_does_not_fit() -> None:
    assert refused(passphrase="short") == "weak-passphrase"
    assert refused(private_key=pkcs8(ROOT_KEY)) == "key-mismatch"
    assert refused(private_key=b"garbage") == "bad-private-key"
    assert refused(private_key=bytes(100_000)) == "bad-private-key"
    assert refused(private_key=ADA) == "bad-private-key"
    assert refused(certificate=b"garbage") == "bad-certificate"
    assert refused(chain=[b"garbage"]) == "bad-certificate"
    assert refused(private_key=pkcs8(KEY, b"secret")) == "wrong-passphrase"
    assert refused(private_key=pkcs8(KEY, b"secret"), key_passphrase="no") == "wrong-passphrase"
    assert refused(key_passphrase="for nothing") == "wrong-passphrase"


def test_ml_dsa_keys_have_no_pkcs12() -> None:
    key = mldsa.MLDSA44PrivateKey.generate()
    assert refused(private_key=pkcs8(key), certificate=make("L", key)) == "bad-private-key"
    assert len(encode_pkcs7([make("L", key)])) > 3000
