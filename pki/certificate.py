"""Certificates: built to be signed, put together, read back (RFC 5280 §4.1)."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Never

from infra.errors import Broken, Rejected
from pki import der, oids
from pki.algorithms import Family, SignatureAlgorithm, key_type_of
from pki.extensions import (
    after_names,
    before_names,
    extension,
    make_key_identifier,
    subject_key_identifier,
)
from pki.general_name import GeneralName, encode_general_names, parse_general_names
from pki.issuer import Issuer, Urls
from pki.names import Name, parse_name
from pki.profile import (
    Order,
    Profile,
    apply_alternative_names,
    apply_subject,
    check_in_alternative_names,
    decide_validity,
)
from pki.request import CertificateRequest, RequestedExtension
from pki.serial import LIMIT
from pki.tbs_certificate import Extension, TBSCertificate, parse_tbs, read_extension

__all__ = [
    "Certificate",
    "Draft",
    "Extension",
    "Order",
    "TBSCertificate",
    "assemble",
    "build",
    "draft",
    "parse_certificate",
    "parse_tbs",
]

MAXIMUM_SIZE: Final = 64 * 1024  # octets of a certificate that is read

_VERSION_3: Final = der.explicit(0, der.integer(2))
_EMPTY: Final = b"\x30\x00"
_PLAIN: Final = Order()


@dataclass(frozen=True, slots=True)
class _Template:
    """All that stands before a request comes: for one profile, issuer, algorithm, kind of key.

    ``before`` and ``after``: the extensions around those of the subject; ``values``: what the
    fixed extensions hold, by OID.
    """

    algorithm: bytes
    issuer: bytes | None
    before: bytes
    after: bytes
    values: Mapping[str, bytes]


@lru_cache(maxsize=8192)
def _template(
    profile: Profile, issuer: Issuer | None, algorithm: SignatureAlgorithm, family: Family
) -> _Template:
    if issuer is None:
        if not profile.self_signed:
            raise Rejected("issuer-needed", f"profile {profile.name} needs a CA that issues it")
    else:
        if profile.self_signed:
            raise Rejected(
                "self-signed-only",
                f"profile {profile.name} is for roots, which sign their own certificate",
            )
        _check_issuer(profile, issuer, algorithm)
    before = before_names(profile, profile.key_usage.usages[family], issuer)
    after = after_names(profile, issuer)
    return _Template(
        algorithm=algorithm.identifier,
        issuer=None if issuer is None else issuer.subject,
        before=b"".join(before.values()),
        after=b"".join(after.values()),
        values=MappingProxyType({oid: _value(whole) for oid, whole in (before | after).items()}),
    )


def _value(whole: bytes) -> bytes:
    return read_extension(der.Reader(whole)).value


def _check_issuer(profile: Profile, issuer: Issuer, algorithm: SignatureAlgorithm) -> None:
    """That the issuer's own certificate lets it issue (RFC 5280 §6.1.4 (k) to (n))."""
    certificate = parse_certificate(issuer.certificate)
    if certificate.subject.der != issuer.subject:
        raise Broken("issuer-mismatch", f"CA {issuer.name} and its certificate differ in name")
    constraints = certificate.basic_constraints
    if constraints is None or not constraints.ca:
        raise Rejected("issuer-is-no-ca", f"the certificate of {issuer.name} is not that of a CA")
    if profile.ca and constraints.path_length == 0:
        raise Rejected(
            "path-length", f"CA {issuer.name} may not issue CA certificates: its path length is 0"
        )
    if key_type_of(issuer.public_key_info) not in algorithm.key_types:
        raise Broken("issuer-mismatch", f"the key of CA {issuer.name} cannot sign {algorithm}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A certificate that is to be signed: its octets, and what was decided to put there."""

    tbs: bytes
    subject: Name
    not_before: datetime
    not_after: datetime


def build(
    profile: Profile,
    request: CertificateRequest,
    issuer: Issuer | None,
    *,
    signature_algorithm: SignatureAlgorithm,
    serial: int,
    now: datetime,
    order: Order = _PLAIN,
) -> bytes:
    """The TBSCertificate in DER of a ``draft``."""
    return draft(
        profile,
        request,
        issuer,
        signature_algorithm=signature_algorithm,
        serial=serial,
        now=now,
        order=order,
    ).tbs


def draft(
    profile: Profile,
    request: CertificateRequest,
    issuer: Issuer | None,
    *,
    signature_algorithm: SignatureAlgorithm,
    serial: int,
    now: datetime,
    order: Order = _PLAIN,
) -> Draft:
    """What this profile makes of this request, as a TBSCertificate (RFC 5280 §4.1.2).

    ``issuer``: None for a self-signed certificate; ``serial``: positive, at most 20 octets;
    ``now``: with its zone. What the request or the order asks beyond the profile is refused,
    unless the profile ignores it. Errors: ``key-type-not-allowed``, ``extension-not-allowed``,
    ``issuer-needed``, ``self-signed-only``, ``issuer-is-no-ca``, ``path-length``,
    ``bad-issuer-url``, ``issuer-without-country``; those of ``parse_name``,
    ``parse_general_names``, ``apply_subject``, ``apply_alternative_names``,
    ``check_in_alternative_names`` and ``decide_validity``; ``Broken`` for a serial number out of
    range.
    """
    key_type = request.key_type
    if key_type not in profile.key_types:
        raise Rejected(
            "key-type-not-allowed",
            f"profile {profile.name} takes keys of type {', '.join(sorted(profile.key_types))}; "
            f"this one is {key_type}",
        )
    if not 0 < serial < LIMIT:
        raise Broken("serial-range", "a serial number is positive and takes at most 20 octets")
    template = _template(profile, issuer, signature_algorithm, key_type.family)
    if issuer is None and key_type not in signature_algorithm.key_types:
        raise Rejected("key-type", f"a key of type {key_type} cannot sign {signature_algorithm}")
    asked = request.subject if order.subject is None else order.subject
    name = apply_subject(profile.subject, parse_name(asked))
    subject = name.der
    start, end, validity = _validity(
        profile, issuer, now.replace(microsecond=0), order.not_before, order.lifetime
    )
    public_key_info = request.public_key_info
    key_identifier = make_key_identifier(profile.key_identifier, public_key_info)
    kept = _alternative_names(profile, request.extensions, template, key_identifier, order)
    if profile.subject.in_alternative_names:
        check_in_alternative_names(profile.subject, name, kept)
    names = encode_general_names(kept) if kept else b""
    # RFC 5280 §4.1.2.6: the names stand for an empty subject, and must then be understood.
    if subject == _EMPTY and not names:
        raise Rejected("subject-missing", "the request holds neither a subject nor other names")
    extensions = (
        template.before
        + subject_key_identifier(key_identifier)
        + (extension(oids.SUBJECT_ALT_NAME, subject == _EMPTY, names) if names else b"")
        + template.after
    )
    tbs = der.sequence(
        _VERSION_3,
        der.integer(serial),
        template.algorithm,
        subject if template.issuer is None else template.issuer,
        validity,
        subject,
        public_key_info,
        der.explicit(3, der.tlv(der.SEQUENCE, extensions)),
    )
    return Draft(tbs, name, start, end)


# All that is issued within a second has the same.
@lru_cache(maxsize=64)
def _validity(
    profile: Profile,
    issuer: Issuer | None,
    now: datetime,
    not_before: datetime | None,
    lifetime: timedelta | None,
) -> tuple[datetime, datetime, bytes]:
    """notBefore, notAfter, and both as Validity in DER."""
    order = Order(not_before=not_before, lifetime=lifetime)
    start, end = decide_validity(profile.validity, issuer, order, now)
    return start, end, der.sequence(der.time(start), der.time(end))


def _alternative_names(
    profile: Profile,
    requested: tuple[RequestedExtension, ...],
    template: _Template,
    key_identifier: bytes,
    order: Order,
) -> tuple[GeneralName, ...]:
    """What subjectAltName holds; every other extension of the request is refused if the profile
    neither grants nor ignores it."""
    names: tuple[GeneralName, ...] = ()
    for asked in requested:
        if asked.oid in profile.ignored_extensions:
            continue
        if asked.oid == oids.SUBJECT_ALT_NAME:
            names = parse_general_names(asked.value)
        elif not _granted(profile, asked, template, key_identifier):
            known = oids.EXTENSION_NAMES.get(asked.oid, asked.oid)
            raise Rejected(
                "extension-not-allowed",
                f"the request asks for {known} other than profile {profile.name} gives it; leave "
                "it out of the request, or let the profile ignore it (ignored_extensions)",
            )
    if order.alternative_names:
        names += order.alternative_names
    rule = profile.alternative_names
    if not names and not rule.minimum and not rule.kinds:
        return ()
    return apply_alternative_names(rule, names)


def _granted(
    profile: Profile, asked: RequestedExtension, template: _Template, key_identifier: bytes
) -> bool:
    if asked.oid == oids.SUBJECT_KEY_IDENTIFIER:
        return asked.value == der.octet_string(key_identifier)
    value = template.values.get(asked.oid)
    if asked.oid == oids.EXTENDED_KEY_USAGE and value is not None:
        return _elements(asked.value) == _elements(value)
    if asked.oid == oids.BASIC_CONSTRAINTS and not profile.ca:
        return asked.value == _EMPTY  # not a CA, said or unsaid
    return asked.value == value


def _elements(data: bytes) -> frozenset[str]:
    reader = der.one(data, der.SEQUENCE)
    found = set()
    while reader:
        found.add(reader.object_identifier())
    return frozenset(found)


def assemble(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """The Certificate in DER of a signed TBSCertificate (RFC 5280 §4.1.1)."""
    return der.sequence(tbs, algorithm.identifier, der.bit_string(signature))


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(TBSCertificate):
    """A whole certificate; ``signature``: the octets of signatureValue."""

    der: bytes
    signature: bytes

    @property
    def sha256(self) -> bytes:
        """The fingerprint of the whole certificate."""
        return hashlib.sha256(self.der).digest()

    def as_issuer(self, name: str, urls: Urls, chain: tuple[bytes, ...] = ()) -> Issuer:
        """The CA whose certificate this is."""
        return Issuer(
            name=name,
            certificate=self.der,
            subject=self.subject.der,
            public_key_info=self.public_key_info,
            key_identifier=self.subject_key_identifier,
            not_before=self.not_before,
            not_after=self.not_after,
            chain=chain,
            crl_url=urls.crl,
            ocsp_url=urls.ocsp,
            certificate_url=urls.certificate,
            directory_url=urls.directory,
        )


def is_self_issued(certificate: bytes) -> bool:
    """Whether a certificate (DER) names its subject as its issuer (RFC 5280 §3.2)."""
    read = parse_certificate(certificate)
    return read.issuer == read.subject


_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s(?P<body>[A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----"
)


def parse_certificate(data: bytes) -> Certificate:
    """Read a certificate in DER, or the one PEM block of a text; at most 64 KiB.

    Errors: ``certificate-too-large``, ``bad-certificate``, ``bad-der``, those of ``parse_name``.
    """
    if len(data) > MAXIMUM_SIZE:
        raise Rejected(
            "certificate-too-large", f"a certificate takes at most {MAXIMUM_SIZE} octets"
        )
    whole = data if data[:1] == b"\x30" and b"-----BEGIN" not in data[:64] else _unarmour(data)
    outer = der.one(whole, der.SEQUENCE)
    tbs = outer.raw(der.SEQUENCE)
    algorithm = outer.raw(der.SEQUENCE)
    signature, unused = outer.bit_string()
    outer.done()
    if unused:
        _bad("the signature does not fill its octets")
    said = parse_tbs(tbs)
    if said.algorithm != algorithm:
        _bad("the signature algorithm differs inside and outside (RFC 5280 §4.1.1.2)")
    return Certificate(
        der=whole,
        signature=signature,
        tbs=tbs,
        version=said.version,
        serial=said.serial,
        algorithm=algorithm,
        issuer=said.issuer,
        not_before=said.not_before,
        not_after=said.not_after,
        subject=said.subject,
        public_key_info=said.public_key_info,
        extensions=said.extensions,
    )


def _unarmour(data: bytes) -> bytes:
    blocks = _PEM.findall(data)
    if len(blocks) != 1:
        _bad(f"{len(blocks)} PEM blocks of a certificate were found, one is needed")
    try:
        return binascii.a2b_base64(b"".join(blocks[0].split()), strict_mode=True)
    except binascii.Error as error:
        raise Rejected("bad-certificate", f"the PEM block is no base64: {error}") from error


def _bad(why: str) -> Never:
    raise Rejected("bad-certificate", why)
