"""From a profile's TOML to its typed value; every mistake names file, key and reason."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from infra.errors import Rejected
from pki import oids
from pki.algorithms import Family, KeyType
from pki.general_name import GeneralNameKind, encode_subtree_base
from pki.profile.alternative import COMPARED, NO_ALTERNATIVE_NAMES, read_alternative_names
from pki.profile.issuers import read_issuers
from pki.profile.model import (
    ISSUER_COUNTRY,
    AccessMethod,
    AtIssuerEnd,
    BasicConstraints,
    Branch,
    CertificatePolicies,
    DirectoryRule,
    DisclosureStatement,
    ExtendedKeyUsage,
    KeyIdentifierMethod,
    KeyUsage,
    NameConstraints,
    PolicyInformation,
    Profile,
    Publish,
    QcStatements,
    Sample,
    Semantics,
    Subtree,
    Validity,
)
from pki.profile.subject import read_subject
from pki.profile.table import Table

MAXIMUM_SIZE: Final = 256 * 1024  # octets of one file

_BITS: Final = {name: place for place, name in enumerate(oids.KEY_USAGE_BITS)}
_SIGN: Final = frozenset(
    _BITS[usage] for usage in ("digitalSignature", "nonRepudiation", "keyCertSign", "cRLSign")
)
# RFC 3279 §2.3.1, RFC 5480 §3, RFC 8410 §5, RFC 9881 §5.
_POSSIBLE: Final = {
    Family.RSA: _SIGN | {_BITS["keyEncipherment"], _BITS["dataEncipherment"]},
    Family.EC: _SIGN | {_BITS["keyAgreement"], _BITS["encipherOnly"], _BITS["decipherOnly"]},
    Family.ED25519: _SIGN,
    Family.ML_DSA: _SIGN,
}
_CONSTRAINED: Final = (
    GeneralNameKind.directory_name,
    GeneralNameKind.dns,
    GeneralNameKind.email,
    GeneralNameKind.uri,
    GeneralNameKind.ip,
)
_TLS_FEATURES: Final = {"status_request": 5, "status_request_v2": 17}


def load_profiles(folder: Path | Traversable) -> dict[str, Profile]:
    """The profiles of a folder, one ``NAME.toml`` each, by name.

    Errors: ``bad-profile`` with file, key and reason.
    """
    profiles = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        try:
            text = file.read_bytes()
        except OSError as error:
            raise Rejected("bad-profile", f"{file}: cannot be read: {error.strerror}") from error
        if len(text) > MAXIMUM_SIZE:
            raise Rejected("bad-profile", f"{file}: is larger than {MAXIMUM_SIZE} octets")
        try:
            data = tomllib.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise Rejected("bad-profile", f"{file}: is no TOML: {error}") from error
        name = file.name.removesuffix(".toml")
        profiles[name] = parse_profile(name, data, source=str(file))
    return profiles


def parse_profile(name: str, data: Mapping[str, Any], *, source: str | None = None) -> Profile:
    """One profile from the content of its file, all of it checked.

    ``source``: how mistakes name the file. Errors: ``bad-profile`` with file, key and reason.
    """
    table = Table(source or f"{name}.toml", "", data)
    profile = Profile(
        name=name,
        description=table.text("description"),
        fingerprint=_fingerprint(data, table),
        rulebook=_rulebook(table),
        waived_findings=frozenset(table.texts("waived_findings")),
        cas=read_issuers(table),
        self_signed=table.flag("self_signed", False),
        key_types=frozenset(table.choices("key_types", KeyType)),
        validity=_validity(table.table("validity")),
        subject=read_subject(table.table("subject"), national_schemes=_national_schemes(data)),
        alternative_names=table.optional("alternative_names", read_alternative_names)
        or NO_ALTERNATIVE_NAMES,
        key_usage=_key_usage(table.table("key_usage")),
        extended_key_usage=table.optional("extended_key_usage", _extended_key_usage),
        basic_constraints=table.optional("basic_constraints", _basic_constraints),
        certificate_policies=table.optional("certificate_policies", _certificate_policies),
        name_constraints=table.optional("name_constraints", _name_constraints),
        crl_distribution_points=table.flag("crl_distribution_points", False),
        authority_information_access=table.choices("authority_information_access", AccessMethod),
        qc_statements=table.optional("qc_statements", _qc_statements),
        key_identifier=_key_identifier(table),
        ocsp_no_check=table.flag("ocsp_no_check", False),
        tls_features=table.named("tls_features", _TLS_FEATURES, "TLS feature"),
        ignored_extensions=_ignored(table),
        directory=table.optional("directory", _directory) or _UNPUBLISHED,
        for_authority=table.flag("reserved", False),
        sample=table.optional("sample", _sample),
        content=MappingProxyType(dict(data)),
    )
    table.done()
    _agree(profile, table)
    return profile


def _fingerprint(data: Mapping[str, Any], table: Table) -> str:
    # The order of attributes in the subject matters, so keys are not sorted.
    try:
        canonical = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        table.refuse("", f"holds a value that is no text, number, list or table: {error}")
    return hashlib.sha256(canonical.encode()).hexdigest()


def _national_schemes(data: Mapping[str, Any]) -> bool:
    statements = data.get("qc_statements")
    return isinstance(statements, Mapping) and bool(statements.get("registration_authorities"))


def _key_identifier(table: Table) -> KeyIdentifierMethod:
    return table.choice("key_identifier", KeyIdentifierMethod, KeyIdentifierMethod.sha1)


def _rulebook(table: Table) -> str:
    rulebook = table.text("rulebook", "pkix")
    if rulebook != "pkix" and rulebook.partition("/")[0] not in ("etsi", "cabf-serverauth"):
        table.refuse(
            "rulebook",
            "is pkix, etsi or cabf-serverauth, the latter two with a type of "
            "certificate after a slash if need be",
        )
    return rulebook


def _sample(table: Table) -> Sample:
    sample = Sample(table.text("subject"), table.texts("alternative_names"))
    table.done()
    return sample


_UNPUBLISHED: Final = DirectoryRule(Publish.nothing, True, Branch.people, uris=False)


def _directory(table: Table) -> DirectoryRule:
    rule = DirectoryRule(
        publish=table.choice("publish", Publish, Publish.nothing),
        consent=table.flag("consent", True),
        branch=table.choice("branch", Branch, Branch.people),
        uris=table.flag("uris", False),
    )
    table.done()
    return rule


def _ignored(table: Table) -> frozenset[str]:
    return frozenset(
        oids.EXTENSIONS_BY_NAME.get(name) or table.as_oid("ignored_extensions", name)
        for name in table.texts("ignored_extensions")
    )


def _validity(table: Table) -> Validity:
    validity = Validity(
        lifetime=table.lifetime("lifetime"),
        backdate=table.span("backdate", "0m", timedelta(days=2)),
        postdate=table.span("postdate", "0m", timedelta(days=366)),
        at_issuer_end=table.choice("at_issuer_end", AtIssuerEnd, AtIssuerEnd.refuse),
    )
    table.done()
    return validity


def _key_usage(table: Table) -> KeyUsage:
    critical = table.flag("critical", True)
    usual = frozenset(table.named("usages", _BITS, "key usage"))
    usages = {
        family: frozenset(table.named(family, _BITS, "key usage")) if family in table else usual
        for family in Family
    }
    table.done()
    return KeyUsage(MappingProxyType(usages), critical)


def _extended_key_usage(table: Table) -> ExtendedKeyUsage:
    purposes = tuple(
        oids.KEY_PURPOSES.get(name) or table.as_oid("purposes", name)
        for name in table.texts("purposes")
    )
    if not purposes:
        table.refuse("purposes", "names at least one purpose")
    return ExtendedKeyUsage(purposes, table.flag("critical", False))


def _basic_constraints(table: Table) -> BasicConstraints:
    constraints = BasicConstraints(
        ca=table.flag("ca", False),
        path_length=table.optional_count("path_length", 32),
        critical=table.flag("critical", True),
    )
    if constraints.path_length is not None and not constraints.ca:
        table.refuse("path_length", "is for a CA only (RFC 5280 §4.2.1.9)")
    if constraints.ca and not constraints.critical:
        table.refuse("critical", "is true for a CA (RFC 5280 §4.2.1.9)")
    return constraints


def _certificate_policies(table: Table) -> CertificatePolicies:
    policies = []
    for inner in table.tables("policies"):
        cps = inner.url("cps", "http", "https") if "cps" in inner else None
        policies.append(PolicyInformation(inner.oid("oid"), cps))
        inner.done()
    if not policies or len({policy.oid for policy in policies}) != len(policies):
        table.refuse("policies", "names at least one policy, none twice (RFC 5280 §4.2.1.4)")
    return CertificatePolicies(tuple(policies), table.flag("critical", False))


def _name_constraints(table: Table) -> NameConstraints:
    constraints = NameConstraints(
        permitted=table.optional("permitted", _subtrees) or (),
        excluded=table.optional("excluded", _subtrees) or (),
    )
    if not constraints.permitted and not constraints.excluded:
        table.refuse("", "permits or excludes something (RFC 5280 §4.2.1.10)")
    return constraints


def _subtrees(table: Table) -> tuple[Subtree, ...]:
    subtrees = []
    for kind in _CONSTRAINED:
        for value in table.texts(kind):
            try:
                encode_subtree_base(kind, value)
            except Rejected as rejected:
                table.refuse(kind, rejected.detail)
            subtrees.append(Subtree(kind, value))
    return tuple(subtrees)


def _qc_statements(table: Table) -> QcStatements:
    kind = table.optional_text("type")
    if kind is not None and kind not in oids.QC_TYPES:
        table.refuse("type", f"is one of {', '.join(oids.QC_TYPES)}")
    legislation = table.texts("legislation")
    for country in legislation:
        if country != ISSUER_COUNTRY and not _is_country(country):
            table.refuse("legislation", "lists ISO 3166 alpha-2 codes, or says issuer")
    disclosure = []
    for inner in table.tables("disclosure"):
        language = inner.text("language")
        if not (len(language) == 2 and language.isascii() and language.islower()):
            inner.refuse("language", "is an ISO 639-1 code in lower case")
        disclosure.append(DisclosureStatement(inner.url("url", "https"), language))
        inner.done()
    authorities = table.texts("registration_authorities")
    if not all(a.startswith("https://") and a.isascii() for a in authorities):
        table.refuse("registration_authorities", "are https URIs (EN 319 412-1 NAT-5.1.3-06)")
    semantics = table.choice("semantics", Semantics) if "semantics" in table else None
    if authorities and semantics is None:
        table.refuse("semantics", "is needed with registration_authorities")
    return QcStatements(
        compliance=table.flag("compliance", False),
        sscd=table.flag("sscd", False),
        type=kind,
        legislation=legislation,
        retention_years=table.optional_count("retention_years", 100),
        disclosure=tuple(disclosure),
        semantics=semantics,
        registration_authorities=authorities,
    )


def _is_country(text: str) -> bool:
    return len(text) == 2 and text.isascii() and text.isalpha() and text.isupper()


def _agree(profile: Profile, table: Table) -> None:
    """Refuse settings that are right one by one and wrong together."""
    if not profile.key_types:
        table.refuse("key_types", f"names at least one of {', '.join(KeyType)}")
    certifies = _BITS["keyCertSign"]
    for family in {key_type.family for key_type in profile.key_types}:
        usages = profile.key_usage.usages[family]
        if not usages:
            table.refuse(f"key_usage.{family}", "names at least one usage (RFC 5280 §4.2.1.3)")
        if beyond := usages - _POSSIBLE[family]:
            names = ", ".join(oids.KEY_USAGE_BITS[bit] for bit in sorted(beyond))
            table.refuse(f"key_usage.{family}", f"a key of this kind cannot be used for {names}")
        if (certifies in usages) != profile.ca:
            table.refuse("key_usage", "has keyCertSign for a CA and no other (RFC 5280 §4.2.1.9)")
    extended = profile.extended_key_usage or ExtendedKeyUsage((), critical=True)
    purposes = extended.purposes
    if oids.KEY_PURPOSES["timeStamping"] in purposes and (
        len(purposes) > 1 or not extended.critical
    ):
        table.refuse("extended_key_usage", "timeStamping is critical and alone (RFC 3161 §2.3)")
    if profile.ocsp_no_check and oids.KEY_PURPOSES["OCSPSigning"] not in purposes:
        table.refuse("ocsp_no_check", "is for OCSPSigning only (RFC 6960 §4.2.2.2.1)")
    if profile.name_constraints and not profile.ca:
        table.refuse("name_constraints", "are for a CA only (RFC 5280 §4.2.1.10)")
    if profile.self_signed and not profile.ca:
        table.refuse("self_signed", "is for a CA only")
    if profile.self_signed and (
        profile.crl_distribution_points or profile.authority_information_access
    ):
        table.refuse(
            "self_signed",
            "leaves out crl_distribution_points and authority_information_access: nobody above a "
            "root tells its status",
        )
    if profile.ca and profile.directory.publish is not Publish.nothing:
        table.refuse("directory.publish", "is for others than CAs, which are always published")
    if profile.directory.uris and not profile.crl_distribution_points:
        table.refuse("directory.uris", "needs crl_distribution_points")
    if profile.ca and not profile.subject.required:
        table.refuse("subject", "a CA has a name: an attribute is required (RFC 5280 §4.1.2.6)")
    if profile.alternative_names.minimum and not profile.alternative_names.kinds:
        table.refuse("alternative_names.minimum", "needs a kind that is allowed")
    for oid in profile.subject.in_alternative_names:
        if not COMPARED & profile.alternative_names.kinds.keys():
            short = profile.subject.attributes[oid].short
            table.refuse(
                f"subject.{short}.in_alternative_names",
                f"needs one of {', '.join(sorted(COMPARED))} in alternative_names",
            )
    if profile.cas and profile.self_signed:
        table.refuse("cas", "is for profiles that a CA issues: a root signs its own certificate")
    if profile.cas and oids.OCSP_SIGNING in purposes:
        table.refuse("cas", "is not for OCSP responders: each CA has one (RFC 6960 §4.2.2.2)")
