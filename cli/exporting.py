"""Certificates in the forms that other programs read; keys and passwords stay in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli import certificate, files
from conf.kinds import parse_secret
from infra.errors import Rejected
from pki.export import encode_pem_certificates, encode_pkcs7, encode_pkcs12
from pki.serial import format_serial

MAX_KEY: Final = 64 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """What a PKCS#12 file needs besides certificates: the key as its file holds it, its own
    passphrase if it has one, and the new file's."""

    content: bytes
    key_passphrase: str | None
    passphrase: str


def private_key(path: Path, key_password_from: str | None, password_from: str) -> PrivateKey:
    """Read a key and ask for the passwords, before anything else is done.

    ``key_password_from``, ``password_from``: references (``file:``, ``env:``, ``prompt:``).
    Errors: ``cannot-read``, ``too-large``, ``bad-secret-reference`` and those of
    ``infra.secrets.resolve``.
    """
    content = files.read(path, limit=MAX_KEY)
    own = None
    if key_password_from is not None:
        own = _secret(key_password_from, f"Password of {path}")
    return PrivateKey(content, own, _secret(password_from, "Password for the PKCS#12 file"))


def pack(
    form: str,
    pem: str,
    above: list[str],
    *,
    with_chain: bool = False,
    private_key: PrivateKey | None = None,
) -> bytes:
    """A certificate as ``pem``, ``der``, ``p7`` or ``p12``.

    ``pem``: the certificate; ``above``: the CAs up to the root, which ``p7`` and ``p12`` always
    hold and ``pem`` with ``with_chain``. Errors: those of ``pki.export.encode_pkcs12``.
    """
    own, *others = (_der(each) for each in (pem, *above))
    match form:
        case "pem":
            return encode_pem_certificates([own, *others] if with_chain else [own])
        case "der":
            return own
        case "p7":
            return encode_pkcs7([own, *others])
        case "p12" if private_key is not None:
            return encode_pkcs12(
                private_key.content,
                own,
                others,
                name=_friendly_name(pem),
                passphrase=private_key.passphrase,
                key_passphrase=private_key.key_passphrase,
            )
        case _:
            raise ValueError(f"{form}: no such form, or a form that needs a key")


def _secret(text: str, what: str) -> str:
    from infra.secrets import resolve

    try:
        reference = parse_secret(text, Path.cwd())
    except ValueError as error:
        # The text is not repeated: it may be the password itself.
        raise Rejected("bad-secret-reference", str(error)) from error
    try:
        return resolve(str(reference), what=what).decode()
    except UnicodeDecodeError as error:
        raise Rejected("bad-secret", f"{what}: is not text in UTF-8") from error


def _der(pem: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.load(pem.encode(), "the instance's answer").public_bytes(Encoding.DER)


def _friendly_name(pem: str) -> str:
    """What a browser's list of certificates shows: the common name, else the serial number."""
    from cryptography.x509.oid import NameOID

    found = certificate.load(pem.encode(), "the instance's answer")
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else format_serial(found.serial_number)
