"""The check before signing: what is about to be signed, read back and held against the profile.

It shares nothing with ``pki.certificate.build`` but the profile and the request: the octets are
read by cryptography and by ``der.Reader``, fixed extensions are compared with those of
``pki.reference``, and the rules are gone through once more here. What many certificates have in
common to the octet (the validity of those of one second, the extensions but for the key identifier)
is judged once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from asn1crypto import core
from cryptography import x509

from infra.errors import Rejected
from pki import der, oids
from pki.algorithms import Family, SignatureAlgorithm
from pki.findings import Finding, Severity
from pki.general_name import GeneralName, GeneralNameKind, parse_general_names
from pki.issuer import Issuer
from pki.profile.alternative import check_alternative_name
from pki.profile.model import AtIssuerEnd, KeyIdentifierMethod, Order, Profile
from pki.reference import (
    NOT_SIGNED,
    plain,
    read_alternative_names,
    reference_extensions,
    whole_extension,
)
from pki.request import CertificateRequest
from pki.serial import LIMIT
from pki.subject_check import Found, check_repeated, check_subject

_SECOND: Final = timedelta(seconds=1)
_PLAIN: Final = Order()
_EMPTY: Final = b"\x30\x00"
_VERSION_3: Final = b"\xa0\x03\x02\x01\x02"

_UNREADABLE: Final = (
    Rejected,
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


# With partitions there are as many issuers as CRL URLs.
@lru_cache(maxsize=8192)
def _expected(profile: Profile, issuer: Issuer | None, family: Family) -> dict[bytes, str]:
    """The fixed extensions, whole, with their OIDs."""
    return {whole: oid for oid, whole in reference_extensions(profile, issuer, family).items()}


def check(
    tbs: bytes,
    profile: Profile,
    request: CertificateRequest,
    issuer: Issuer | None,
    *,
    signature_algorithm: SignatureAlgorithm,
    serial: int,
    now: datetime,
    order: Order = _PLAIN,
) -> tuple[Finding, ...]:
    """Whether these to-be-signed octets are what the profile makes of the request.

    The arguments are those of ``build``. Returns what deviates, every finding an error; nothing
    when the octets conform. Raises nothing.
    """
    try:
        certificate = x509.load_der_x509_certificate(
            der.sequence(tbs, signature_algorithm.identifier, NOT_SIGNED)
        )
        fields = _Fields(tbs)
        found = [
            *_frame(certificate, fields, serial, signature_algorithm),
            *_names(fields, issuer),
            *_validity(
                fields.validity,
                profile,
                issuer,
                now.astimezone(UTC).replace(microsecond=0),
                order.not_before,
                order.lifetime,
            ),
            *check_subject(fields.subject, profile.subject, order.subject or request.subject),
            *_key(fields, profile, request),
            *_extensions(fields, profile, request, issuer, order),
        ]
    except x509.InvalidVersion:
        found = [("version", "the version is not 3")]
    except _UNREADABLE as error:
        found = [("not-der", f"the octets cannot be read back: {error}")]
    return tuple(Finding(code, Severity.ERROR, detail, "profile") for code, detail in found)


class _Fields:
    """The fields of a TBSCertificate as they stand in the octets, none of them interpreted."""

    __slots__ = (
        "algorithm",
        "extensions",
        "issuer",
        "public_key_info",
        "serial",
        "subject",
        "validity",
        "version",
    )

    def __init__(self, tbs: bytes) -> None:
        reader = der.one(tbs, der.SEQUENCE)
        self.version = reader.raw(0xA0)
        self.serial = reader.raw(der.INTEGER)
        self.algorithm = reader.raw(der.SEQUENCE)
        self.issuer = reader.raw(der.SEQUENCE)
        self.validity = reader.raw(der.SEQUENCE)
        self.subject = reader.raw(der.SEQUENCE)
        self.public_key_info = reader.raw(der.SEQUENCE)
        extensions = reader.enter(0xA3)
        reader.done()
        self.extensions = extensions.raw(der.SEQUENCE)
        extensions.done()


def _frame(
    certificate: x509.Certificate,
    fields: _Fields,
    serial: int,
    algorithm: SignatureAlgorithm,
) -> Found:
    if fields.version != _VERSION_3:
        yield "version", "the version is not 3"
    if certificate.serial_number != serial or not 0 < serial < LIMIT:
        yield "serial", "the serial number is not the one that was reserved, or out of range"
    if fields.algorithm != algorithm.identifier:
        yield "signature-algorithm", f"the signature algorithm is not {algorithm}"


def _names(fields: _Fields, issuer: Issuer | None) -> Found:
    if issuer is None:
        if fields.issuer != fields.subject:
            yield "issuer", "a self-signed certificate whose issuer is not its subject"
    elif fields.issuer != issuer.subject:
        yield "issuer", f"the issuer's name is not that of CA {issuer.name}"
    if fields.issuer == _EMPTY:
        yield "issuer", "the issuer has no name"


@lru_cache(maxsize=256)
def _validity(
    validity: bytes,
    profile: Profile,
    issuer: Issuer | None,
    now: datetime,
    not_before: datetime | None,
    lifetime: timedelta | None,
) -> tuple[tuple[str, str], ...]:
    """``now``: UTC, to the second; ``not_before``, ``lifetime``: what an order asks for."""
    found = []
    reader = der.one(validity, der.SEQUENCE)
    forms, moments = [], []
    while reader:
        forms.append(reader.peek())
        moments.append(reader.time())
    start, end = moments
    for moment, tag in zip(moments, forms, strict=True):
        if tag != (der.UTC_TIME if moment.year < 2050 else der.GENERALIZED_TIME):
            found.append(("time-form", "a time up to 2049 is UTCTime, a later one GeneralizedTime"))
    rule = profile.validity
    wanted = now - rule.backdate
    if not_before is not None:
        if not wanted <= start <= now + rule.postdate:
            found.append(
                ("validity-start", "notBefore lies outside of what the profile lets an order set")
            )
        wanted = not_before.astimezone(UTC).replace(microsecond=0)
    if issuer is not None:
        wanted = max(wanted, issuer.not_before)
    if start != wanted:
        found.append(("validity-start", f"notBefore is {start}, not {wanted}"))
    latest = rule.lifetime.after(start) - _SECOND
    wanted = latest if lifetime is None else start + lifetime - _SECOND
    if issuer is not None and wanted > issuer.not_after:
        if rule.at_issuer_end is AtIssuerEnd.refuse:
            found.append(("validity-end", "the certificate outlasts its issuer"))
        wanted = issuer.not_after
    if end != wanted or end > latest:
        found.append(("validity-end", f"notAfter is {end}, not {min(wanted, latest)}"))
    if end < start:
        found.append(("validity-end", "notAfter lies before notBefore"))
    return tuple(found)


def _key(fields: _Fields, profile: Profile, request: CertificateRequest) -> Found:
    if fields.public_key_info != request.public_key_info:
        yield "public-key", "the public key is not the one that was requested"
    if request.key_type not in profile.key_types:
        yield "public-key", f"keys of type {request.key_type} are not in the profile"


def _extensions(
    fields: _Fields,
    profile: Profile,
    request: CertificateRequest,
    issuer: Issuer | None,
    order: Order,
) -> Found:
    identifier = _key_identifier(profile.key_identifier, request.public_key_info)
    before, identified, after = fields.extensions.partition(_KEY_IDENTIFIER_HEAD + identifier)
    common = before + _ANY_KEY_IDENTIFIER + after if identified else fields.extensions
    found, names = _common(common, bool(identified), profile, issuer, request.key_type.family)
    yield from found
    yield from _alternative_names(fields, profile, request, order, names)


@lru_cache(maxsize=8192)
def _common(
    extensions: bytes,
    identified: bool,
    profile: Profile,
    issuer: Issuer | None,
    family: Family,
) -> tuple[tuple[tuple[str, str], ...], bytes | None]:
    """What deviates in these extensions, and the alternative names, which are not judged here.

    ``identified``: the right key identifier was there, and ``_ANY_KEY_IDENTIFIER`` stands for it.
    """
    expected = _expected(profile, issuer, family)
    found = []
    names: bytes | None = None
    seen = set()
    reader = der.one(extensions, der.SEQUENCE)
    while reader:
        whole = reader.raw(der.SEQUENCE)
        oid = expected.get(whole)
        if oid is None:
            inside = der.one(whole, der.SEQUENCE)
            oid = inside.object_identifier()
            if oid == oids.SUBJECT_KEY_IDENTIFIER:
                if not identified or whole != _ANY_KEY_IDENTIFIER:
                    found.append(("key-identifier", "subjectKeyIdentifier is not that of the key"))
            elif oid == oids.SUBJECT_ALT_NAME:
                names = whole
            else:
                found.append(_deviation(oid, expected.values()))
        if oid in seen:
            found.append(("extension-duplicate", f"extension {_called(oid)} stands there twice"))
        seen.add(oid)
    found += [
        ("extension-missing", f"extension {_called(oid)} is missing")
        for oid in (*expected.values(), oids.SUBJECT_KEY_IDENTIFIER)
        if oid not in seen
    ]
    return tuple(found), names


_KEY_IDENTIFIER_HEAD: Final = whole_extension(
    "2.5.29.14", False, core.OctetString(bytes(20)).dump()
)[:-20]
_ANY_KEY_IDENTIFIER: Final = _KEY_IDENTIFIER_HEAD + bytes(20)


def _called(oid: str) -> str:
    return oids.EXTENSION_NAMES.get(oid, oid)


def _deviation(oid: str, expected: Iterable[str]) -> tuple[str, str]:
    if oid in expected:
        return "extension-differs", f"extension {_called(oid)} is not what the profile gives"
    return "extension-unexpected", f"extension {_called(oid)} is not in the profile"


def _key_identifier(method: KeyIdentifierMethod, public_key_info: bytes) -> bytes:
    inside = der.one(public_key_info, der.SEQUENCE)
    inside.raw(der.SEQUENCE)
    key, _ = inside.bit_string()
    if method is KeyIdentifierMethod.sha1:
        return hashlib.sha1(key, usedforsecurity=False).digest()
    return hashlib.sha256(key).digest()[:20]


def _alternative_names(
    fields: _Fields,
    profile: Profile,
    request: CertificateRequest,
    order: Order,
    whole: bytes | None,
) -> Found:
    rule = profile.alternative_names
    asked: list[GeneralName] = []
    if oids.SUBJECT_ALT_NAME not in profile.ignored_extensions:
        for extension in request.extensions:
            if extension.oid == oids.SUBJECT_ALT_NAME:
                asked += parse_general_names(extension.value)
    asked += order.alternative_names
    wanted = {name.der: name for name in asked if name.kind not in rule.ignore or name.kind
              in rule.kinds}  # fmt: skip
    if len(wanted) < rule.minimum:
        yield "alternative-names", "too few alternative names"
    for kind, allowed in rule.kinds.items():
        count = sum(name.kind is kind for name in wanted.values()) if wanted else 0
        if not allowed.minimum <= count <= allowed.maximum:
            yield "alternative-names", f"{count} {kind} names"
    for name in wanted.values():
        allowed_kind = rule.kinds.get(name.kind)
        if allowed_kind is None:
            yield "alternative-names", f"{name.kind} names are not in the profile"
            continue
        try:
            check_alternative_name(allowed_kind, name)
        except Rejected as rejected:
            yield "alternative-names", rejected.detail
    if whole is None:
        yield from check_repeated(fields.subject, profile.subject, ())
        if wanted:
            yield "alternative-names", "the alternative names are missing"
        if fields.subject == _EMPTY:
            yield "subject", "there is neither a subject nor an alternative name"
        return
    held = read_alternative_names(whole)
    yield from check_repeated(fields.subject, profile.subject, map(plain, held.value))
    if held.critical != (fields.subject == _EMPTY):
        yield (
            "alternative-names",
            "critical if, and only if, there is no subject (RFC 5280 §4.2.1.6)",
        )
    if sorted(map(plain, held.value)) != sorted((n.kind.value, _plain(n)) for n in wanted.values()):
        yield "alternative-names", "the alternative names are not those that were requested"


def _plain(name: GeneralName) -> str:
    """The value as ``plain`` writes it."""
    if name.kind is not GeneralNameKind.directory_name:
        return name.value
    return der.Reader(name.der).content(0xA4).hex()
