"""Certificates and keys in the forms that other programs read."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

from infra.errors import Rejected
from pki import der

_SIGNED_DATA: Final = der.object_identifier("1.2.840.113549.1.7.2")
_DATA: Final = der.object_identifier("1.2.840.113549.1.7.1")
_EMPTY_SET: Final = der.set_of()
_CERTIFICATES: Final = 0xA0  # [0] IMPLICIT CertificateSet
_CRLS: Final = 0xA1  # [1] IMPLICIT RevocationInfoChoices

# Of PBKDF2. The MAC keeps cryptography's 2,048 rounds: a passphrase is as good as its entropy.
PKCS12_ROUNDS: Final = 600_000
PKCS12_MINIMUM_PASSPHRASE: Final = 12  # characters
_MAXIMUM_KEY_SIZE: Final = 64 * 1024


def encode_pem(label: str, content: bytes) -> bytes:
    """One block of textual encoding (RFC 7468 §2); ``label``: ``CERTIFICATE``, ``X509 CRL``,
    ``PKCS7``, ``CERTIFICATE REQUEST`` …"""
    # 48 octets make a line of 64 characters, which b2a_base64 ends by itself.
    lines = b"".join([b2a_base64(content[at : at + 48]) for at in range(0, len(content) or 1, 48)])
    name = label.encode("ascii")
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (name, lines, name)


def encode_pem_certificates(certificates: Sequence[bytes]) -> bytes:
    """Certificates in DER as PEM blocks in the order given: the certificate itself first, each
    followed by the one of its issuer (RFC 8446 §4.4.2)."""
    return b"".join(encode_pem("CERTIFICATE", certificate) for certificate in certificates)


def encode_pkcs7(certificates: Sequence[bytes], crls: Sequence[bytes] = ()) -> bytes:
    """A certs-only message in DER, what ``.p7c`` and ``.p7b`` files hold: SignedData without
    content and signers (RFC 5652 §5.1, RFC 8551 §3.8). It is a set: the order is lost."""
    signed_data = der.sequence(
        der.integer(1),
        _EMPTY_SET,
        der.sequence(_DATA),
        _implicit_set(_CERTIFICATES, certificates),
        _implicit_set(_CRLS, crls),
        _EMPTY_SET,
    )
    return der.sequence(_SIGNED_DATA, der.explicit(0, signed_data))


def encode_pkcs12(
    private_key: bytes,
    certificate: bytes,
    chain: Sequence[bytes],
    *,
    name: str,
    passphrase: str,
    key_passphrase: str | None = None,
    rounds: int = PKCS12_ROUNDS,
) -> bytes:
    """A PKCS#12 file with a private key, its certificate and the chain (RFC 7292).

    Key and certificates are encrypted with AES-256-CBC under PBES2 (RFC 8018), the file has a MAC
    with HMAC-SHA-256. ``private_key``: PKCS#8 in PEM or DER, encrypted with ``key_passphrase`` or
    not at all; ``certificate``, ``chain``: DER; ``name``: the friendlyName. Errors:
    ``bad-private-key``, ``wrong-passphrase``, ``weak-passphrase``, ``key-mismatch``,
    ``bad-certificate``.
    """
    if len(passphrase) < PKCS12_MINIMUM_PASSPHRASE:
        raise Rejected(
            "weak-passphrase",
            f"the passphrase needs at least {PKCS12_MINIMUM_PASSPHRASE} characters",
        )
    key = _load_private_key(private_key, key_passphrase)
    subject = _load_certificate(certificate)
    issuers = [_load_certificate(issuer) for issuer in chain]
    if _public_key_info(key.public_key()) != _public_key_info(subject.public_key()):
        raise Rejected("key-mismatch", "the private key does not belong to the certificate")
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(rounds)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(passphrase.encode())
    )
    try:
        return pkcs12.serialize_key_and_certificates(
            name.encode(),
            key,  # type: ignore[arg-type]  # it refuses ML-DSA keys, which have no PKCS#12 yet
            subject,
            issuers,
            encryption,
        )
    except (TypeError, UnsupportedAlgorithm) as error:
        raise Rejected(
            "bad-private-key", "keys of this type cannot be put in a PKCS#12 file"
        ) from error


def _implicit_set(tag: int, values: Sequence[bytes]) -> bytes:
    return der.tlv(tag, b"".join(sorted(values))) if values else b""


def _load_private_key(data: bytes, passphrase: str | None) -> PrivateKeyTypes:
    if len(data) > _MAXIMUM_KEY_SIZE:
        raise Rejected("bad-private-key", "a private key file of this size is not read")
    load = (
        serialization.load_pem_private_key
        if b"-----BEGIN" in data
        else serialization.load_der_private_key
    )
    secret = passphrase.encode() if passphrase is not None else None
    try:
        return load(data, secret)
    except TypeError as error:  # encrypted without a passphrase, or a passphrase for nothing
        raise Rejected(
            "wrong-passphrase",
            "the private key is encrypted: give its passphrase"
            if passphrase is None
            else "the private key is not encrypted: give no passphrase for it",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise Rejected(
                "wrong-passphrase", "the passphrase does not open the private key"
            ) from error
        raise Rejected(
            "bad-private-key", "this is not a private key in PKCS#8, PEM or DER"
        ) from error


def _load_certificate(data: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise Rejected("bad-certificate", "this is not a certificate in DER") from error


def _public_key_info(key: object) -> bytes:
    octets: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return octets
