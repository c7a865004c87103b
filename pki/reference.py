"""The extensions that a profile fixes, by other people's encoders; their decoders for names.

``pki.conformance`` compares what is about to be signed with these octets, so that a mistake in
``pki.extensions`` is found before the signature. They come from cryptography (and asn1crypto,
where that has no class) and from the profile alone.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509 import name as x509_name

from pki import der, oids
from pki.algorithms import Family
from pki.extensions import access_locations, crl_locations
from pki.general_name import GeneralNameKind
from pki.issuer import Issuer
from pki.names import parse_rfc4514
from pki.profile.model import (
    CertificatePolicies,
    KeyUsage,
    NameConstraints,
    Profile,
    QcStatements,
    Subtree,
)
from pki.qualified import legislation_countries

NOT_SIGNED: Final = b"\x03\x01\x00"
"""An empty BIT STRING, where the signature will be."""


def reference_extensions(
    profile: Profile, issuer: Issuer | None, family: Family
) -> dict[str, bytes]:
    """The extensions that do not depend on the request, by OID, each whole in DER."""
    found: list[tuple[str, bool, bytes]] = []

    def add(extension: x509.ExtensionType, critical: bool) -> None:
        found.append((extension.oid.dotted_string, critical, extension.public_bytes()))

    if (constraints := profile.basic_constraints) is not None:
        add(x509.BasicConstraints(constraints.ca, constraints.path_length), constraints.critical)
    add(_key_usage(profile.key_usage, family), profile.key_usage.critical)
    if (extended := profile.extended_key_usage) is not None:
        purposes = [x509.ObjectIdentifier(purpose) for purpose in extended.purposes]
        add(x509.ExtendedKeyUsage(purposes), extended.critical)
    if (policies := profile.certificate_policies) is not None:
        add(_policies(policies), policies.critical)
    if (names := profile.name_constraints) is not None:
        add(_name_constraints(names), True)
    if profile.ocsp_no_check:
        add(x509.OCSPNoCheck(), False)
    if profile.tls_features:
        features = [x509.TLSFeatureType(feature) for feature in profile.tls_features]
        add(x509.TLSFeature(features), False)
    if (statements := profile.qc_statements) is not None:
        found.append((oids.QC_STATEMENTS, False, _qc_statements(statements, issuer)))
    if issuer is not None:
        add(x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), False)
        if profile.crl_distribution_points:
            points = _distribution_points(profile, issuer)
            found.append((oids.CRL_DISTRIBUTION_POINTS, False, points))
        if profile.authority_information_access:
            add(_access(profile, issuer), False)
    return {oid: whole_extension(oid, critical, value) for oid, critical, value in found}


def whole_extension(oid: str, critical: bool, value: bytes) -> bytes:
    """Extension in DER (RFC 5280 §4.1.2.9), by asn1crypto."""
    extension = asn1_x509.Extension({"extn_id": oid, "critical": critical})
    extension["extn_value"] = core.ParsableOctetString(value)
    return bytes(extension.dump(force=True))


def _key_usage(rule: KeyUsage, family: Family) -> x509.KeyUsage:
    named = {oids.KEY_USAGE_BITS[bit] for bit in rule.usages[family]}
    return x509.KeyUsage(
        digital_signature="digitalSignature" in named,
        content_commitment="nonRepudiation" in named,
        key_encipherment="keyEncipherment" in named,
        data_encipherment="dataEncipherment" in named,
        key_agreement="keyAgreement" in named,
        key_cert_sign="keyCertSign" in named,
        crl_sign="cRLSign" in named,
        encipher_only="encipherOnly" in named,
        decipher_only="decipherOnly" in named,
    )


def _policies(rule: CertificatePolicies) -> x509.CertificatePolicies:
    return x509.CertificatePolicies(
        [
            x509.PolicyInformation(
                x509.ObjectIdentifier(policy.oid), None if policy.cps is None else [policy.cps]
            )
            for policy in rule.policies
        ]
    )


def _name_constraints(rule: NameConstraints) -> x509.NameConstraints:
    return x509.NameConstraints(
        [_base(subtree) for subtree in rule.permitted] or None,
        [_base(subtree) for subtree in rule.excluded] or None,
    )


def _base(subtree: Subtree) -> x509.GeneralName:
    match subtree.kind:
        case GeneralNameKind.dns:
            return x509.DNSName(subtree.value)
        case GeneralNameKind.email:
            return x509.RFC822Name(subtree.value)
        case GeneralNameKind.ip:
            return x509.IPAddress(ipaddress.ip_network(subtree.value))
        case GeneralNameKind.directory_name:
            return x509.DirectoryName(_name(subtree.value))
        case _:
            return _uri(subtree.value)


def _name(text: str) -> x509.Name:
    return x509.Name(
        x509.RelativeDistinguishedName(
            x509.NameAttribute(
                x509.ObjectIdentifier(attribute.type),
                attribute.value,
                x509_name._ASN1Type(attribute.tag),
            )
            for attribute in rdn
        )
        for rdn in parse_rfc4514(text).rdns
    )


def _distribution_points(profile: Profile, issuer: Issuer) -> bytes:
    urls = crl_locations(profile, issuer)
    if issuer.crl_issuer is None:
        point = x509.DistributionPoint([_uri(url) for url in urls], None, None, None)
        return x509.CRLDistributionPoints([point]).public_bytes()
    # asn1crypto leaves a name as it is, string types and all.
    where = [asn1_x509.GeneralName("uniform_resource_identifier", url) for url in urls]
    signer = asn1_x509.GeneralName("directory_name", asn1_x509.Name.load(issuer.crl_issuer))
    named = {"distribution_point": {"full_name": where}, "crl_issuer": [signer]}
    return bytes(asn1_x509.CRLDistributionPoints([named]).dump())


def _uri(url: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(url)


def _access(profile: Profile, issuer: Issuer) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(x509.ObjectIdentifier(method), _uri(url))
            for method, url in access_locations(profile, issuer)
        ]
    )


class _PdsLocation(core.Sequence):  # type: ignore[misc]
    _fields: Final = [("url", core.IA5String), ("language", core.PrintableString)]


class _PdsLocations(core.SequenceOf):  # type: ignore[misc]
    _child_spec: Final = _PdsLocation


class _Identifiers(core.SequenceOf):  # type: ignore[misc]
    _child_spec: Final = core.ObjectIdentifier


class _Countries(core.SequenceOf):  # type: ignore[misc]
    _child_spec: Final = core.PrintableString


class _SemanticsInformation(core.Sequence):  # type: ignore[misc]
    _fields: Final = [
        ("semantics_identifier", core.ObjectIdentifier, {"optional": True}),
        ("name_registration_authorities", asn1_x509.GeneralNames, {"optional": True}),
    ]


class _QcStatement(core.Sequence):  # type: ignore[misc]
    _fields: Final = [
        ("statement_id", core.ObjectIdentifier),
        ("statement_info", core.Any, {"optional": True}),
    ]


class _QcStatements(core.SequenceOf):  # type: ignore[misc]
    _child_spec: Final = _QcStatement


# RFC 3739 §3.2.6.1, EN 319 412-1 §5.1.3 to §5.1.6, EN 319 412-5 §4.2 and §4.3.
_SEMANTICS: Final = {
    "natural-person": "0.4.0.194121.1.1",
    "legal-person": "0.4.0.194121.1.2",
    "eidas-natural-person": "0.4.0.194121.1.3",
    "eidas-legal-person": "0.4.0.194121.1.4",
}
_QC_TYPES: Final = {"esign": 1, "eseal": 2, "web": 3}


def _qc_statements(rule: QcStatements, issuer: Issuer | None) -> bytes:
    found: list[tuple[str, Any]] = []
    if rule.semantics is not None:
        information: dict[str, Any] = {"semantics_identifier": _SEMANTICS[rule.semantics]}
        if rule.registration_authorities:
            information["name_registration_authorities"] = [
                asn1_x509.GeneralName("uniform_resource_identifier", uri)
                for uri in rule.registration_authorities
            ]
        found.append(("1.3.6.1.5.5.7.11.2", _SemanticsInformation(information)))
    if rule.compliance:
        found.append(("0.4.0.1862.1.1", None))
    if rule.sscd:
        found.append(("0.4.0.1862.1.4", None))
    if rule.type is not None:
        kind = _Identifiers([f"0.4.0.1862.1.6.{_QC_TYPES[rule.type]}"])
        found.append(("0.4.0.1862.1.6", kind))
    if rule.retention_years is not None:
        found.append(("0.4.0.1862.1.3", core.Integer(rule.retention_years)))
    if rule.disclosure:
        pds = [{"url": each.url, "language": each.language} for each in rule.disclosure]
        found.append(("0.4.0.1862.1.5", _PdsLocations(pds)))
    if countries := legislation_countries(rule, issuer):
        found.append(("0.4.0.1862.1.7", _Countries(list(countries))))
    return bytes(
        _QcStatements(
            [
                {"statement_id": oid}
                if information is None
                else {"statement_id": oid, "statement_info": core.Any(information)}
                for oid, information in found
            ]
        ).dump()
    )


# A certificate with one extension costs cryptography a fraction of what all of them would.
_FRAME: Final = b"".join(
    (
        bytes.fromhex("a003020102 020101"),
        _ALGORITHM := bytes.fromhex("300a06082a8648ce3d040302"),
        b"\x30\x00",
        bytes.fromhex("301e170d3236303130313030303030305a170d3236303130313030303030305a"),
        b"\x30\x00",
        bytes.fromhex("300a300506032b6570030100"),
    )
)


def read_alternative_names(whole: bytes) -> x509.Extension[x509.SubjectAlternativeName]:
    """A subjectAltName as cryptography reads it."""
    tbs = der.sequence(_FRAME, der.explicit(3, der.sequence(whole)))
    certificate = x509.load_der_x509_certificate(der.sequence(tbs, _ALGORITHM, NOT_SIGNED))
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


_OTHER_NAMES: Final = {
    "1.3.6.1.4.1.311.20.2.3": "upn",
    "1.3.6.1.5.5.7.8.5": "xmppAddr",
    "1.3.6.1.5.5.7.8.7": "srvName",
    "1.3.6.1.5.5.7.8.9": "smtpUTF8Mailbox",
}


def plain(name: x509.GeneralName) -> tuple[str, str]:
    """Kind and value of a name as cryptography reads it."""
    match name:
        case x509.DNSName():
            return "dns", name.value
        case x509.RFC822Name():
            return "email", name.value
        case x509.UniformResourceIdentifier():
            return "uri", name.value
        case x509.IPAddress():
            return "ip", str(name.value)
        case x509.DirectoryName():
            return "directoryName", name.value.public_bytes().hex()
        case x509.OtherName():
            kind = _OTHER_NAMES.get(name.type_id.dotted_string, "otherName")
            form = core.IA5String if kind == "srvName" else core.UTF8String
            return kind, str(form.load(name.value, strict=True).native)
    return type(name).__name__, ""
