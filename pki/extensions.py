"""Certificate extensions in DER, those that a profile and an issuer fix (RFC 5280 §4.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from infra.errors import Rejected
from pki import der, oids
from pki.directory.naming import ca_url, crl_url
from pki.general_name import encode_subtree_base
from pki.issuer import Issuer
from pki.profile.model import (
    AccessMethod,
    BasicConstraints,
    CertificatePolicies,
    KeyIdentifierMethod,
    NameConstraints,
    Profile,
    Subtree,
)
from pki.qualified import encode_qc_statements

_URI: Final = 6
_KEY_HASHES: Final[Mapping[KeyIdentifierMethod, Callable[[bytes], bytes]]] = {
    KeyIdentifierMethod.sha1: lambda key: hashlib.sha1(key, usedforsecurity=False).digest(),
    KeyIdentifierMethod.sha256_160: lambda key: hashlib.sha256(key).digest()[:20],
}


def extension(oid: str, critical: bool, value: bytes) -> bytes:
    """Extension (§4.1.2.9); ``value``: the DER that goes inside extnValue."""
    return der.sequence(
        der.object_identifier(oid), der.TRUE if critical else b"", der.octet_string(value)
    )


def subject_key_identifier(key_identifier: bytes) -> bytes:
    """The whole extension (§4.2.1.2); ``key_identifier``: 20 octets."""
    return _SKI_HEAD + key_identifier


_SKI_HEAD: Final = extension(oids.SUBJECT_KEY_IDENTIFIER, False, der.octet_string(bytes(20)))[:-20]


def make_key_identifier(method: KeyIdentifierMethod, public_key_info: bytes) -> bytes:
    """The 20 octets of a subjectKeyIdentifier (RFC 5280 §4.2.1.2 (1), RFC 7093 §2 (1))."""
    inside = der.one(public_key_info, der.SEQUENCE)
    inside.header()
    return _KEY_HASHES[method](inside.content(der.BIT_STRING)[1:])


def encode_key_usage(usages: frozenset[int]) -> bytes:
    """KeyUsage (§4.2.1.3)."""
    return der.named_bits(usages)


def encode_purposes(purposes: Iterable[str]) -> bytes:
    """ExtKeyUsageSyntax (§4.2.1.12)."""
    return der.sequence(*map(der.object_identifier, purposes))


def encode_basic_constraints(constraints: BasicConstraints) -> bytes:
    """BasicConstraints (§4.2.1.9); cA false is the default and left out."""
    length = constraints.path_length
    return der.sequence(
        der.TRUE if constraints.ca else b"", b"" if length is None else der.integer(length)
    )


def encode_policies(policies: CertificatePolicies) -> bytes:
    """CertificatePolicies (§4.2.1.4), with the CPS pointer where there is one."""
    return der.sequence(
        *(
            der.sequence(
                der.object_identifier(policy.oid),
                der.sequence(
                    der.sequence(der.object_identifier(oids.QT_CPS), der.ia5_string(policy.cps))
                )
                if policy.cps
                else b"",
            )
            for policy in policies.policies
        )
    )


def encode_name_constraints(constraints: NameConstraints) -> bytes:
    """NameConstraints (§4.2.1.10)."""
    return der.sequence(
        *(
            der.tlv(tag, b"".join(map(_subtree, subtrees)))
            for tag, subtrees in ((0xA0, constraints.permitted), (0xA1, constraints.excluded))
            if subtrees
        )
    )


def _subtree(subtree: Subtree) -> bytes:
    return der.sequence(encode_subtree_base(subtree.kind, subtree.value))


def encode_distribution_points(urls: Iterable[str], crl_issuer: bytes | None) -> bytes:
    """CRLDistributionPoints with one point (§4.2.1.13); ``urls``: where the same CRL is found;
    ``crl_issuer``: Name in DER of who signs an indirect CRL."""
    full_name = der.explicit(0, b"".join(der.implicit(_URI, _ascii(url)) for url in urls))
    signer = b"" if crl_issuer is None else der.tlv(0xA2, der.explicit(4, crl_issuer))
    return der.sequence(der.sequence(der.explicit(0, full_name), signer))


def crl_locations(profile: Profile, issuer: Issuer) -> list[str]:
    """Where the CRL of what this issuer certifies is found."""
    found = [issuer.crl_url]
    if profile.directory.uris:
        scope = issuer.crl_url.rpartition("/")[2].removesuffix(".crl")
        found.append(crl_url(_directory(issuer), scope, issuer.name))
    return found


def encode_access_descriptions(profile: Profile, issuer: Issuer) -> bytes:
    """AuthorityInfoAccessSyntax (§4.2.2.1)."""
    return der.sequence(
        *(
            der.sequence(der.object_identifier(oid), der.implicit(_URI, _ascii(url)))
            for oid, url in access_locations(profile, issuer)
        )
    )


def access_locations(profile: Profile, issuer: Issuer) -> list[tuple[str, str]]:
    """The access methods' OIDs, and where they lead for this issuer."""
    found = []
    for method in profile.authority_information_access:
        if method is AccessMethod.ocsp:
            found.append((oids.AD_OCSP, issuer.ocsp_url))
            continue
        found.append((oids.AD_CA_ISSUERS, issuer.certificate_url))
        if profile.directory.uris:
            found.append((oids.AD_CA_ISSUERS, ca_url(_directory(issuer), issuer.name)))
    return found


def _directory(issuer: Issuer) -> str:
    if not issuer.directory_url:
        raise Rejected(
            "bad-issuer-url",
            "the profile names the directory (directory.uris), and the settings do not say where "
            "it is: set directory.public_url",
        )
    return issuer.directory_url


def _ascii(url: str) -> bytes:
    if not url or not url.isascii():
        raise Rejected("bad-issuer-url", f"{url!r} is no URL in ASCII; mend it in the settings")
    return url.encode("ascii")


def encode_authority_key_identifier(key_identifier: bytes) -> bytes:
    """AuthorityKeyIdentifier with the key identifier alone (§4.2.1.1)."""
    return der.sequence(der.implicit(0, key_identifier))


def encode_tls_features(features: Iterable[int]) -> bytes:
    """TLS Features (RFC 7633 §4)."""
    return der.sequence(*map(der.integer, features))


def before_names(
    profile: Profile, usages: frozenset[int], issuer: Issuer | None
) -> dict[str, bytes]:
    """The extensions that stand before the subject's names, by OID, each whole."""
    constraints, purposes = profile.basic_constraints, profile.extended_key_usage
    found = []
    if constraints is not None:
        value = encode_basic_constraints(constraints)
        found.append((oids.BASIC_CONSTRAINTS, constraints.critical, value))
    found.append((oids.KEY_USAGE, profile.key_usage.critical, encode_key_usage(usages)))
    if purposes is not None:
        value = encode_purposes(purposes.purposes)
        found.append((oids.EXTENDED_KEY_USAGE, purposes.critical, value))
    if issuer is not None:
        value = encode_authority_key_identifier(issuer.key_identifier)
        found.append((oids.AUTHORITY_KEY_IDENTIFIER, False, value))
    return {oid: extension(oid, critical, value) for oid, critical, value in found}


def after_names(profile: Profile, issuer: Issuer | None) -> dict[str, bytes]:
    """The extensions that stand after the subject's names, by OID, each whole."""
    found = []
    if (policies := profile.certificate_policies) is not None:
        found.append((oids.CERTIFICATE_POLICIES, policies.critical, encode_policies(policies)))
    if (constraints := profile.name_constraints) is not None:
        found.append((oids.NAME_CONSTRAINTS, True, encode_name_constraints(constraints)))
    if issuer is not None and profile.crl_distribution_points:
        value = encode_distribution_points(crl_locations(profile, issuer), issuer.crl_issuer)
        found.append((oids.CRL_DISTRIBUTION_POINTS, False, value))
    if issuer is not None and profile.authority_information_access:
        value = encode_access_descriptions(profile, issuer)
        found.append((oids.AUTHORITY_INFORMATION_ACCESS, False, value))
    if (statements := profile.qc_statements) is not None:
        value = encode_qc_statements(statements, issuer)
        found.append((oids.QC_STATEMENTS, False, value))
    if profile.ocsp_no_check:
        found.append((oids.OCSP_NO_CHECK, False, der.NULL_VALUE))
    if profile.tls_features:
        found.append((oids.TLS_FEATURE, False, encode_tls_features(profile.tls_features)))
    return {oid: extension(oid, critical, value) for oid, critical, value in found}
