"""Certificates and requests in plain words: what is signed is read back, not what was asked for."""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography import x509

from pki.algorithms import algorithm_of, key_type_of
from pki.ceremony.desk import Shown
from pki.ceremony.text import say
from pki.certificate import assemble as assemble_certificate
from pki.certificate import parse_tbs
from pki.oids import EXTENSION_NAMES
from pki.serial import format_serial


def show_tbs(tbs: bytes, language: str) -> Shown:
    """A TBSCertificate, field by field."""
    said = parse_tbs(tbs)
    algorithm = algorithm_of(said.algorithm)
    whole = x509.load_der_x509_certificate(assemble_certificate(tbs, algorithm, b"\0"))
    return [
        [say(language, "subject"), said.subject.rfc4514()],
        [say(language, "issuer"), said.issuer.rfc4514()],
        [say(language, "serial number"), format_serial(said.serial)],
        [say(language, "valid from"), moment(said.not_before)],
        [say(language, "valid to"), moment(said.not_after)],
        *show_key(said.public_key_info, language),
        [say(language, "signed with"), algorithm.name],
        *_extensions(whole, language),
    ]


def show_key(public_key_info: bytes, language: str) -> Shown:
    """A public key, by its kind and its SHA-256."""
    return [
        [say(language, "key type"), key_type_of(public_key_info).value],
        [say(language, "SHA-256 of the key"), hashlib.sha256(public_key_info).hexdigest()],
    ]


def moment(at: datetime) -> str:
    """A time in UTC, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _extensions(certificate: x509.Certificate, language: str) -> Shown:
    shown = []
    for found in certificate.extensions:
        name = EXTENSION_NAMES.get(found.oid.dotted_string, found.oid.dotted_string)
        critical = f" ({say(language, 'critical')})" if found.critical else ""
        shown.append([name + critical, _value(found.value)])
    return shown


def _value(value: x509.ExtensionType) -> str:
    match value:
        case x509.BasicConstraints():
            length = "" if value.path_length is None else f", pathLen {value.path_length}"
            return f"CA {'yes' if value.ca else 'no'}{length}"
        case x509.KeyUsage():
            names = [n for n in _USAGES if getattr(value, f"_{n}")]
            return ", ".join(names)
        case x509.SubjectKeyIdentifier():
            return value.digest.hex()
        case x509.AuthorityKeyIdentifier():
            return (value.key_identifier or b"").hex()
        case x509.CRLDistributionPoints():
            return ", ".join(n.value for point in value for n in point.full_name or ())
        case x509.AuthorityInformationAccess():
            return ", ".join(str(each.access_location.value) for each in value)
        case x509.CertificatePolicies():
            return ", ".join(each.policy_identifier.dotted_string for each in value)
        case x509.ExtendedKeyUsage():
            return ", ".join(each._name for each in value)
        case _:
            return value.public_bytes().hex()


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
