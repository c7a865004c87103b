"""What a certificate profile fixes, as typed values."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeAlias

from infra.errors import Rejected
from pki import der, oids
from pki.algorithms import Family, KeyType
from pki.general_name import GeneralName, GeneralNameKind

_CRL_SIGN: Final = oids.KEY_USAGE_BITS.index("cRLSign")


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A span of calendar years and of exact time: five years end on the same day of the month."""

    years: int
    exact: timedelta

    def after(self, start: datetime) -> datetime:
        """The moment that lies this long after ``start``. Errors: ``bad-validity`` past 9999."""
        year = start.year + self.years
        try:
            if start.month == 2 and start.day == 29 and not calendar.isleap(year):
                start = start.replace(day=28)
            return start.replace(year=year) + self.exact
        except (ValueError, OverflowError) as error:
            raise Rejected("bad-validity", "a certificate cannot outlast the year 9999") from error


class AtIssuerEnd(StrEnum):
    """What to do when a certificate would outlast its issuer."""

    cap = "cap"
    refuse = "refuse"


@dataclass(frozen=True, slots=True)
class Validity:
    """``backdate``: how far notBefore lies before the time of issue, for clocks that are slow;
    ``postdate``: how far ahead an order may put it."""

    lifetime: Lifetime
    backdate: timedelta
    postdate: timedelta
    at_issuer_end: AtIssuerEnd


class Semantics(StrEnum):
    """Rules for identifiers in names (EN 319 412-1 §5.1.3 to §5.1.6)."""

    natural_person = "natural-person"
    legal_person = "legal-person"
    eidas_natural_person = "eidas-natural-person"
    eidas_legal_person = "eidas-legal-person"


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """One attribute of the subject.

    ``tag``: the string type that is written, ``tags``: those that are accepted; ``maximum_length``:
    characters; ``count``: how often it may occur; ``fixed``: its only value, which the profile adds
    by itself; ``pattern``: matches the whole value; ``national_schemes``: whether identifiers of
    national schemes will do (EN 319 412-1 NAT-5.1.3-05); ``in_alternative_names``: whether each
    value is that of an alternative name, too (CA/Browser Forum BR §7.1.4.3).
    """

    type: str
    short: str
    required: bool
    count: int
    tag: der.Tag
    tags: frozenset[der.Tag]
    minimum_length: int
    maximum_length: int
    fixed: str | None
    pattern: re.Pattern[str] | None
    semantics: Semantics | None
    national_schemes: bool
    in_alternative_names: bool


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """The subject template; the attributes stand in the order of the certificate's name.

    ``rewrite``: the name is written anew in that order and in the profile's string types; else a
    name that conforms stays as it was requested, octet for octet; ``one_of``: sets of attributes
    of which one at least is complete; ``never_together``: attributes of which one at most is
    there; ``ignore``: attributes that are left out of the certificate when a request has them.
    """

    attributes: Mapping[str, AttributeRule]
    rewrite: bool
    one_of: tuple[frozenset[str], ...]
    never_together: tuple[frozenset[str], ...]
    ignore: frozenset[str]
    order: Mapping[str, int]
    required: tuple[str, ...]
    fixed: tuple[str, ...]
    in_alternative_names: frozenset[str]


Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AlternativeNameRule:
    """One kind of alternative name; an empty ``suffixes``, ``schemes`` or ``networks`` allows all.

    ``suffixes``: domains that a DNS name or the domain of a mailbox lies in; ``schemes``: of a
    URI, ``did:key`` for one method of DID; ``single_label``: whether a DNS name may be of one
    label, which is no domain's.
    """

    kind: GeneralNameKind
    minimum: int
    maximum: int
    pattern: re.Pattern[str] | None
    suffixes: tuple[str, ...]
    schemes: tuple[str, ...]
    networks: tuple[Network, ...]
    wildcard: bool
    single_label: bool


@dataclass(frozen=True, slots=True)
class AlternativeNamesRule:
    """``minimum``: how many alternative names there are at least, of whatever kind."""

    kinds: Mapping[GeneralNameKind, AlternativeNameRule]
    minimum: int
    ignore: frozenset[GeneralNameKind]

    @property
    def least(self) -> bool:
        """Whether there must be any alternative name."""
        return self.minimum > 0 or any(rule.minimum for rule in self.kinds.values())


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """``usages``: the positions of the bits (RFC 5280 §4.2.1.3), by the family of the key."""

    usages: Mapping[Family, frozenset[int]]
    critical: bool


@dataclass(frozen=True, slots=True)
class ExtendedKeyUsage:
    """``purposes``: KeyPurposeIds in dotted form, in the order of the certificate."""

    purposes: tuple[str, ...]
    critical: bool


@dataclass(frozen=True, slots=True)
class BasicConstraints:
    """RFC 5280 §4.2.1.9."""

    ca: bool
    path_length: int | None
    critical: bool


@dataclass(frozen=True, slots=True)
class PolicyInformation:
    """A policy and, when it is published, where (RFC 5280 §4.2.1.4)."""

    oid: str
    cps: str | None


@dataclass(frozen=True, slots=True)
class CertificatePolicies:
    """RFC 5280 §4.2.1.4."""

    policies: tuple[PolicyInformation, ...]
    critical: bool


@dataclass(frozen=True, slots=True)
class Subtree:
    """The base of a GeneralSubtree: a name, or for ``ip`` a network (RFC 5280 §4.2.1.10)."""

    kind: GeneralNameKind
    value: str


@dataclass(frozen=True, slots=True)
class NameConstraints:
    """RFC 5280 §4.2.1.10; always critical."""

    permitted: tuple[Subtree, ...]
    excluded: tuple[Subtree, ...]


class AccessMethod(StrEnum):
    """What authorityInfoAccess tells (RFC 5280 §4.2.2.1)."""

    ocsp = "ocsp"
    ca_issuers = "caIssuers"


@dataclass(frozen=True, slots=True)
class DisclosureStatement:
    """A PKI disclosure statement: https URL and ISO 639-1 language (EN 319 412-5 §4.3.4)."""

    url: str
    language: str


ISSUER_COUNTRY = "issuer"
"""In ``QcStatements.legislation``: the country of the issuer's name."""


@dataclass(frozen=True, slots=True)
class QcStatements:
    """qcStatements (RFC 3739 §3.2.6, EN 319 412-5 §4); never critical.

    ``type``: ``esign``, ``eseal`` or ``web``; ``legislation``: ISO 3166 alpha-2 codes or
    ``issuer``; none means a certificate that is qualified in the European Union;
    ``retention_years``: after the end of the certificate; ``registration_authorities``: https
    URIs that explain national schemes of identifiers (EN 319 412-1 NAT-5.1.3-05).
    """

    compliance: bool
    sscd: bool
    type: str | None
    legislation: tuple[str, ...]
    retention_years: int | None
    disclosure: tuple[DisclosureStatement, ...]
    semantics: Semantics | None
    registration_authorities: tuple[str, ...]


class KeyIdentifierMethod(StrEnum):
    """How a subjectKeyIdentifier is made from the key: RFC 5280 §4.2.1.2 (1), RFC 7093 §2 (1)."""

    sha1 = "sha1"
    sha256_160 = "sha256-160"


class Publish(StrEnum):
    """What of a certificate goes into the directory."""

    nothing = "nothing"
    certificate = "certificate"
    with_attributes = "with-attributes"


class Branch(StrEnum):
    """Where in the directory the holders of certificates are."""

    people = "people"
    enterprises = "enterprises"


@dataclass(frozen=True, slots=True)
class DirectoryRule:
    """What the directory shows of certificates, and what they say of it.

    ``consent``: only those are published whose holder agreed, on record; ``uris``: whether CRL
    distribution point and authority information access name the directory, too.
    """

    publish: Publish
    consent: bool
    branch: Branch
    uris: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """What a certificate of the profile may say, for trying the profile out.

    ``subject``: RFC 4514; ``alternative_names``: as in ``dns:www.example.org``.
    """

    subject: str
    alternative_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """One kind of certificate. Equal profiles have equal fingerprints.

    ``fingerprint``: SHA-256 over the canonical content, in hexadecimal; ``rulebook``: by which
    rules a lint judges what is issued; ``waived_findings``: codes of its findings that do not
    count; ``self_signed``: the issuer is the subject;
    ``ignored_extensions``: requested extensions that are left out without a word; ``cas``: names of
    the CAs that issue under it, empty for those that ``pki.profile.issuers`` names; ``content``: as
    it stands in the file.
    """

    name: str
    description: str
    fingerprint: str
    rulebook: str
    waived_findings: frozenset[str]
    cas: tuple[str, ...]
    self_signed: bool
    key_types: frozenset[KeyType]
    validity: Validity
    subject: SubjectRule
    alternative_names: AlternativeNamesRule
    key_usage: KeyUsage
    extended_key_usage: ExtendedKeyUsage | None
    basic_constraints: BasicConstraints | None
    certificate_policies: CertificatePolicies | None
    name_constraints: NameConstraints | None
    crl_distribution_points: bool
    authority_information_access: tuple[AccessMethod, ...]
    qc_statements: QcStatements | None
    key_identifier: KeyIdentifierMethod
    ocsp_no_check: bool
    tls_features: tuple[int, ...]
    ignored_extensions: frozenset[str]
    directory: DirectoryRule
    for_authority: bool
    sample: Sample | None
    content: Mapping[str, Any]

    @property
    def ca(self) -> bool:
        """Whether the subject may issue certificates."""
        return self.basic_constraints is not None and self.basic_constraints.ca

    def summary(self) -> dict[str, str | bool | list[str]]:
        """What one needs to choose between profiles."""
        return {
            "name": self.name,
            "description": self.description,
            "fingerprint": self.fingerprint,
            "ca": self.ca,
            "key_types": sorted(self.key_types),
            "lifetime": self.content["validity"]["lifetime"],
            "subject": [
                rule.short + ("" if rule.required else "?")
                for rule in self.subject.attributes.values()
            ],
            "alternative_names": list(self.alternative_names.kinds),
        }

    @property
    def reserved(self) -> bool:
        """Whether its certificates speak for a CA or its log, so that they are not made on
        request."""
        purposes = () if self.extended_key_usage is None else self.extended_key_usage.purposes
        signs_crls = any(_CRL_SIGN in usages for usages in self.key_usage.usages.values())
        answers = self.ocsp_no_check or oids.OCSP_SIGNING in purposes
        return self.for_authority or self.ca or answers or signs_crls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and (
            self is other or (self.name, self.fingerprint) == (other.name, other.fingerprint)
        )

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True, slots=True)
class Order:
    """What one certificate is to hold beyond its request.

    ``subject``: Name in DER, instead of the request's; ``alternative_names``: besides the
    request's; ``lifetime``: shorter than the profile's; ``not_before``: instead of the time of
    issue, within the profile's ``backdate`` and ``postdate``.
    """

    subject: bytes | None = None
    alternative_names: tuple[GeneralName, ...] = ()
    lifetime: timedelta | None = None
    not_before: datetime | None = None
