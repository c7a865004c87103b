"""A small hierarchy with software keys, and a fitting request for every profile that is shipped."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki import der, oids
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import Order, assemble, build, parse_certificate, parse_tbs
from pki.conformance import check
from pki.extensions import extension
from pki.general_name import encode_general_names, parse_general_name
from pki.issuer import Issuer, Urls
from pki.names import parse_rfc4514
from pki.profile import Profile, load_profiles, parse_profile
from pki.request import CertificateRequest, RequestedExtension
from pki.serial import new_serial

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
ESTABLISHED = NOW - timedelta(days=30)
ALGORITHM = usual_algorithm(KeyType.P_256)
PROFILES = load_profiles(Path("conf/profiles"))
SERIAL = new_serial(NOW, bytes(range(10)))

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@cache
def key(label: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that is the same in every run."""
    return ec.derive_private_key(random.Random(label).getrandbits(250) + 2, ec.SECP256R1())


def public_key_info(private: Key) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def request(
    subject: str,
    *extensions: RequestedExtension,
    private: Key | None = None,
    key_type: KeyType = KeyType.P_256,
) -> CertificateRequest:
    """A request as ``parse_request`` returns it."""
    info = public_key_info(private or key("subject"))
    return CertificateRequest(b"", parse_rfc4514(subject).der, info, key_type, extensions)


def san(*names: str) -> RequestedExtension:
    """A requested subjectAltName."""
    value = encode_general_names([parse_general_name(name) for name in names])
    return RequestedExtension(oids.SUBJECT_ALT_NAME, False, value)


def sign(private: ec.EllipticCurvePrivateKey, tbs: bytes) -> bytes:
    return assemble(tbs, ALGORITHM, private.sign(tbs, ec.ECDSA(hashes.SHA256())))


def as_issuer(name: str, certificate: bytes, *chain: bytes) -> Issuer:
    """The CA whose certificate this is."""
    urls = Urls.below("http://pki.example.org", name)
    return parse_certificate(certificate).as_issuer(name, urls, chain)


_CA = "organizationIdentifier=NTRAQ-1,O=Registry,C=AQ"
ROOT_REQUEST = request(f"CN=Root,{_CA}", private=key("root"))
ROOT_TBS = build(
    PROFILES["root"],
    ROOT_REQUEST,
    None,
    signature_algorithm=ALGORITHM,
    serial=SERIAL,
    now=ESTABLISHED,
)
ROOT = as_issuer("root", sign(key("root"), ROOT_TBS))
ISSUING_REQUEST = request(f"CN=Issuing,{_CA}", private=key("issuing"))
ISSUING_TBS = build(
    PROFILES["subordinate-ca"],
    ISSUING_REQUEST,
    ROOT,
    signature_algorithm=ALGORITHM,
    serial=SERIAL,
    now=ESTABLISHED,
)
ISSUING = as_issuer("issuing", sign(key("root"), ISSUING_TBS), ROOT.certificate)

REQUESTS = {
    "root": ROOT_REQUEST,
    "subordinate-ca": ISSUING_REQUEST,
    "link": request(f"CN=Root,{_CA}", private=key("new root")),
    "cross-certificate": request("C=AQ,O=Neighbour,CN=Other CA"),
    "log-signer": request("C=AQ,O=Registry,CN=Log"),
    "ocsp-responder": request("C=AQ,O=Registry,CN=OCSP responder"),
    "crl-issuer": request("C=AQ,O=Registry,CN=CRL issuer"),
    "citizen-authentication": request(
        "C=AQ,CN=Alice Example",
        san("email:alice@example.org", "uri:did:key:z6MkpTHR8VNs", "upn:alice@example.org"),
    ),
    "citizen-signature": request(
        "C=AQ,CN=Alice Example,givenName=Alice,surname=Example,serialNumber=PNOAQ-12"
    ),
    "citizen-encryption": request("C=AQ,CN=Alice Example", san("email:alice@example.org")),
    "enterprise-seal": request("C=AQ,O=Penguin Ltd,organizationIdentifier=NTRAQ-12,CN=Penguin Ltd"),
    "officer": request("C=AQ,O=Registry,CN=Bob Officer", san("email:bob@example.org")),
    "tls-server": request("CN=www.example.org", san("dns:www.example.org", "ip:192.0.2.1")),
    "time-stamping": request("C=AQ,O=Registry,CN=Time-stamping unit 1"),
    "document-signer": request("C=AQ,O=Registry,CN=Civil registry"),
}


def issuer_of(profile: Profile) -> Issuer | None:
    """The CA that issues this profile here."""
    if profile.self_signed:
        return None
    return ROOT if profile.ca else ISSUING


def build_one(
    name: str,
    *,
    by: CertificateRequest | None = None,
    order: Order | None = None,
    profile: Profile | None = None,
    now: datetime = NOW,
    issuer: Issuer | None = None,
) -> bytes:
    """The to-be-signed octets for a shipped profile, with its own request unless told otherwise."""
    profile = profile or PROFILES[name]
    return build(
        profile,
        by or REQUESTS[name],
        issuer or issuer_of(profile),
        signature_algorithm=ALGORITHM,
        serial=SERIAL,
        now=now,
        order=order or Order(),
    )


def certificate(name: str) -> bytes:
    """A signed certificate of a shipped profile."""
    profile = PROFILES[name]
    above = key("root") if profile.self_signed or profile.ca else key("issuing")
    return sign(above, build_one(name))


def altered(issuer: Issuer, **changes: object) -> Issuer:
    return replace(issuer, **changes)  # type: ignore[arg-type]


def modified(name: str, **changes: Any) -> Profile:
    """A shipped profile with top-level keys set anew."""
    data = tomllib.loads(Path(f"conf/profiles/{name}.toml").read_text())
    return parse_profile(name, data | changes)


def checked(
    name: str,
    tbs: bytes,
    *,
    profile: Profile | None = None,
    by: CertificateRequest | None = None,
    order: Order | None = None,
    issuer: Issuer | None = None,
    now: datetime = NOW,
) -> list[str]:
    """The codes of what the check finds."""
    profile = profile or PROFILES[name]
    found = check(
        tbs,
        profile,
        by or REQUESTS[name],
        issuer or issuer_of(profile),
        signature_algorithm=ALGORITHM,
        serial=SERIAL,
        now=now,
        order=order or Order(),
    )
    assert all(finding.severity == "error" and finding.rulebook == "profile" for finding in found)
    return [finding.code for finding in found]


def elements(sequence: bytes) -> list[bytes]:
    """What stands in a SEQUENCE, each whole."""
    reader = der.one(sequence, der.SEQUENCE)
    found = []
    while reader:
        found.append(reader.raw())
    return found


@dataclass
class Parts:
    """A TBSCertificate taken apart, to be put together wrongly."""

    version: bytes = b""
    serial: bytes = b""
    algorithm: bytes = b""
    issuer: bytes = b""
    validity: bytes = b""
    subject: bytes = b""
    key: bytes = b""
    extensions: dict[str, bytes] = field(default_factory=dict)
    extra: bytes = b""

    @classmethod
    def of(cls, tbs: bytes) -> Parts:
        fields = elements(tbs)
        listed = elements(der.one(fields[7], 0xA3).raw())
        named = {der.one(whole, der.SEQUENCE).object_identifier(): whole for whole in listed}
        return cls(*fields[:7], named)

    def whole(self) -> bytes:
        return der.sequence(
            self.version, self.serial, self.algorithm, self.issuer, self.validity, self.subject,
            self.key, der.explicit(3, der.sequence(*self.extensions.values())), self.extra,
        )  # fmt: skip


def put(**changes: bytes) -> Callable[[Parts], Parts]:
    return lambda parts: replace(parts, **changes)  # type: ignore[arg-type]


def put_extension(
    oid: str, value: bytes | None, *, critical: bool = False
) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        extensions = dict(parts.extensions)
        if value is None:
            del extensions[oid]
        else:
            extensions[oid] = extension(oid, critical, value)
        return replace(parts, extensions=extensions)

    return change


def twice(oid: str) -> Callable[[Parts], Parts]:
    return lambda parts: replace(
        parts, extensions=parts.extensions | {"again": parts.extensions[oid]}
    )


def turn_critical(oid: str) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        found = next(e for e in parse_tbs(parts.whole()).extensions if e.oid == oid)
        return put_extension(oid, found.value, critical=not found.critical)(parts)

    return change


def times(start: bytes, end: bytes) -> Callable[[Parts], Parts]:
    return put(validity=der.sequence(start, end))
