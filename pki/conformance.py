"""The check before signing: what is about to be signed, read back and held against the profile.

It shares nothing with ``pki.certificate.build`` but the profile and the request: the octets are
read by cryptography and by ``der.Reader``, fixed extensions are compared with those of
``pki.reference``, and the rules are gone through once more here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, TypeAlias

from asn1crypto import core
from cryptography import x509

from infra.errors import Rejected
from pki import der, oids
from pki.algorithms import Family, SignatureAlgorithm
from pki.findings import Finding, Severity
from pki.general_name import GeneralName, GeneralNameKind, parse_general_names
from pki.issuer import Issuer
from pki.names import parse_name
from pki.profile.alternative import check_alternative_name
from pki.profile.model import AtIssuerEnd, KeyIdentifierMethod, Order, Profile, SubjectRule
from pki.profile.subject import check_semantics
from pki.reference import (
    NOT_SIGNED,
    plain,
    read_alternative_names,
    reference_extensions,
    whole_extension,
)
from pki.request import CertificateRequest
from pki.serial import LIMIT

_SECOND: Final = timedelta(seconds=1)
_PLAIN: Final = Order()
_EMPTY: Final = b"\x30\x00"

_UNREADABLE: Final = (
    Rejected,
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_Found: TypeAlias = Iterator[tuple[str, str]]


@lru_cache(maxsize=256)
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
            *_frame(tbs, certificate, fields, serial, signature_algorithm),
            *_names(fields, issuer),
            *_validity(certificate, fields, profile, issuer, now, order),
            *_subject(fields, profile.subject, order.subject or request.subject),
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

    __slots__ = ("algorithm", "extensions", "issuer", "public_key_info", "subject", "time_tags")

    def __init__(self, tbs: bytes) -> None:
        reader = der.one(tbs, der.SEQUENCE)
        reader.raw(0xA0)
        reader.raw(der.INTEGER)
        self.algorithm = reader.raw(der.SEQUENCE)
        self.issuer = reader.raw(der.SEQUENCE)
        validity = reader.enter(der.SEQUENCE)
        self.time_tags = (validity.header()[0], validity.header()[0])
        validity.done()
        self.subject = reader.raw(der.SEQUENCE)
        self.public_key_info = reader.raw(der.SEQUENCE)
        extensions = reader.enter(0xA3)
        reader.done()
        listed = extensions.enter(der.SEQUENCE)
        extensions.done()
        self.extensions: list[bytes] = []
        while listed:
            self.extensions.append(listed.raw(der.SEQUENCE))


def _frame(
    tbs: bytes,
    certificate: x509.Certificate,
    fields: _Fields,
    serial: int,
    algorithm: SignatureAlgorithm,
) -> _Found:
    if certificate.tbs_certificate_bytes != tbs:
        yield "not-der", "the octets do not encode back to themselves"
    if certificate.version is not x509.Version.v3:
        yield "version", "the version is not 3"
    if certificate.serial_number != serial or not 0 < serial < LIMIT:
        yield "serial", "the serial number is not the one that was reserved, or out of range"
    if fields.algorithm != algorithm.identifier:
        yield "signature-algorithm", f"the signature algorithm is not {algorithm}"


def _names(fields: _Fields, issuer: Issuer | None) -> _Found:
    if issuer is None:
        if fields.issuer != fields.subject:
            yield "issuer", "a self-signed certificate whose issuer is not its subject"
    elif fields.issuer != issuer.subject:
        yield "issuer", f"the issuer's name is not that of CA {issuer.name}"
    if fields.issuer == _EMPTY:
        yield "issuer", "the issuer has no name"


def _validity(
    certificate: x509.Certificate,
    fields: _Fields,
    profile: Profile,
    issuer: Issuer | None,
    now: datetime,
    order: Order,
) -> _Found:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    for moment, tag in zip((start, end), fields.time_tags, strict=True):
        if tag != (der.UTC_TIME if moment.year < 2050 else der.GENERALIZED_TIME):
            yield "time-form", "a time up to 2049 is UTCTime, a later one GeneralizedTime"
    rule = profile.validity
    now = now.astimezone(UTC).replace(microsecond=0)
    wanted = now - rule.backdate
    if order.not_before is not None:
        if not wanted <= start <= now + rule.postdate:
            yield "validity-start", "notBefore lies outside of what the profile lets an order set"
        wanted = order.not_before.astimezone(UTC).replace(microsecond=0)
    if issuer is not None:
        wanted = max(wanted, issuer.not_before)
    if start != wanted:
        yield "validity-start", f"notBefore is {start}, not {wanted}"
    latest = rule.lifetime.after(start) - _SECOND
    wanted = latest if order.lifetime is None else start + order.lifetime - _SECOND
    if issuer is not None and wanted > issuer.not_after:
        if rule.at_issuer_end is AtIssuerEnd.refuse:
            yield "validity-end", "the certificate outlasts its issuer"
        wanted = issuer.not_after
    if end != wanted or end > latest:
        yield "validity-end", f"notAfter is {end}, not {min(wanted, latest)}"
    if end < start:
        yield "validity-end", "notAfter lies before notBefore"


# How the characters of each string type are written (RFC 5280 §4.1.2.4).
_CHARSETS: Final = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    0x14: "latin-1",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


def _rdns(name: bytes) -> list[list[tuple[str, str, der.Tag]]]:
    """The attributes of each RDN: type, text, string type; cryptography's Name takes longer."""
    rdns = []
    outer = der.one(name, der.SEQUENCE)
    while outer:
        rdn = outer.enter(der.SET)
        pairs = []
        while rdn:
            attribute = rdn.enter(der.SEQUENCE)
            oid = attribute.object_identifier()
            tag, start, stop = attribute.header()
            attribute.done()
            charset = _CHARSETS.get(tag)
            pairs.append((oid, name[start:stop].decode(charset) if charset else "", tag))
        rdns.append(pairs)
    return rdns


def _subject(fields: _Fields, rule: SubjectRule, requested: bytes) -> _Found:
    held: list[tuple[str, str]] = []
    place = -1
    for pairs in _rdns(fields.subject):
        if len(pairs) != 1:
            yield "subject", "an RDN holds several attributes"
        for oid, text, tag in pairs:
            yield from _attribute(rule, oid, text, tag)
            if rule.rewrite and (order := rule.order.get(oid, -1)) < place:
                yield "subject", "the attributes are not in the order of the profile"
            else:
                place = order if rule.rewrite else place
            held.append((oid, text))
    if fields.subject != requested:
        yield from _same_values(rule, held, requested)
    yield from _complete(rule, [oid for oid, _ in held])


def _attribute(rule: SubjectRule, oid: str, value: str, tag: der.Tag) -> _Found:
    allowed = rule.attributes.get(oid)
    if allowed is None:
        yield "subject-attribute", f"attribute {oid} is not in the profile"
        return
    short = allowed.short
    if tag not in ({allowed.tag} if rule.rewrite else allowed.tags):
        yield "subject-attribute", f"{short} has string type {tag:#04x}"
    if not allowed.minimum_length <= len(value) <= allowed.maximum_length:
        yield "subject-attribute", f"{short} is too short or too long"
    if allowed.fixed is not None and value != allowed.fixed:
        yield "subject-attribute", f"{short} is not {allowed.fixed!r}"
    if allowed.pattern is not None and not allowed.pattern.fullmatch(value):
        yield "subject-attribute", f"{short} does not match its pattern"
    if allowed.semantics is not None:
        try:
            check_semantics(allowed, allowed.semantics, value)
        except Rejected as rejected:
            yield "subject-attribute", rejected.detail


def _same_values(rule: SubjectRule, held: list[tuple[str, str]], requested: bytes) -> _Found:
    """A name that was written anew says what was requested, and what the profile adds."""
    if not rule.rewrite and not rule.fixed and not rule.ignore:
        yield "subject", "the subject is not the one that was requested"
        return
    asked = [
        (attribute.type, attribute.value)
        for attribute in parse_name(requested).attributes
        if attribute.type not in rule.ignore
    ]
    present = {oid for oid, _ in asked}
    asked += [(oid, rule.attributes[oid].fixed or "") for oid in rule.fixed if oid not in present]
    if sorted(asked) != sorted(held):
        yield "subject", "the subject does not say what was requested"


def _complete(rule: SubjectRule, held: Sequence[str]) -> _Found:
    present = set(held)
    for oid, allowed in rule.attributes.items():
        if (allowed.required or allowed.fixed is not None) and oid not in present:
            yield "subject-attribute", f"{allowed.short} is missing"
    if len(present) != len(held):
        for oid in present:
            known = rule.attributes.get(oid)
            if known is not None and held.count(oid) > known.count:
                yield "subject-attribute", f"{known.short} occurs too often"
    if rule.one_of and not any(present.issuperset(group) for group in rule.one_of):
        yield "subject-attribute", "of several attributes that stand for each other none is there"
    if any(len(present.intersection(group)) > 1 for group in rule.never_together):
        yield "subject-attribute", "attributes that exclude each other are there"


def _key(fields: _Fields, profile: Profile, request: CertificateRequest) -> _Found:
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
) -> _Found:
    expected = _expected(profile, issuer, request.key_type.family)
    key_identifier = _key_identifier(profile.key_identifier, request.public_key_info)
    names: bytes | None = None
    identifiers = 0
    seen = set()
    for whole in fields.extensions:
        oid = expected.get(whole)
        if oid is None:
            inside = der.one(whole, der.SEQUENCE)
            oid = inside.object_identifier()
            if oid == oids.SUBJECT_KEY_IDENTIFIER:
                identifiers += 1
                if whole != _KEY_IDENTIFIER_HEAD + key_identifier:
                    yield "key-identifier", "subjectKeyIdentifier is not that of the key"
            elif oid == oids.SUBJECT_ALT_NAME:
                names = whole
            else:
                yield _deviation(oid, expected.values())
        if oid in seen:
            yield "extension-duplicate", f"extension {_called(oid)} stands there twice"
        seen.add(oid)
    for oid in expected.values():
        if oid not in seen:
            yield "extension-missing", f"extension {_called(oid)} is missing"
    if not identifiers:
        yield "extension-missing", "subjectKeyIdentifier is missing"
    yield from _alternative_names(fields, profile, request, order, names)


_KEY_IDENTIFIER_HEAD: Final = whole_extension(
    "2.5.29.14", False, core.OctetString(bytes(20)).dump()
)[:-20]


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
) -> _Found:
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
        if wanted:
            yield "alternative-names", "the alternative names are missing"
        if fields.subject == _EMPTY:
            yield "subject", "there is neither a subject nor an alternative name"
        return
    held = read_alternative_names(whole)
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
