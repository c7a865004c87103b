"""Which CRLs may say whether a certificate is revoked (RFC 5280 §6.3.3), before any is believed.

pyhanko-certvalidator 0.33 asks less than the RFC: it takes the CRL of any signer below the same
CA, looks for critical extensions in one entry only, joins any delta to any base, and remembers
signers by the value of a signature. So it is given only what passes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from asn1crypto import algos, crl, x509
from pyhanko_certvalidator.revinfo.constants import (
    KNOWN_CRL_ENTRY_EXTENSIONS,
    KNOWN_CRL_EXTENSIONS,
)
from pyhanko_certvalidator.sig_validate import DefaultSignatureValidator

from pki.path_processing import Hearing

_TRUE: Final = b"\x01\x01\xff"  # how every critical extension says so in DER

_WEAK: Final = frozenset({"md2", "md5", "sha1"})

Sorted: TypeAlias = tuple[tuple[crl.CertificateList, ...], tuple[str, ...]]
"""The CRLs that count, and of each other one why it does not."""


def signers_about(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """Those of ``candidates``, other than its issuer, whose CRLs ``certificate`` lets count: by
    the name of its CA, or by that of a cRLIssuer (RFC 5280 §6.3.3 (b) (1))."""
    names = [certificate.issuer, *_crl_issuers(certificate)]
    for candidate in candidates:
        usage = candidate.key_usage_value  # RFC 5280 §4.2.1.3: signers of CRLs must have it
        signs = usage is not None and "crl_sign" in usage.native
        if signs and candidate.subject in names:
            yield candidate


def crls_about(
    certificate: x509.Certificate,
    signer: x509.Certificate,
    crls: Sequence[crl.CertificateList],
    hearing: Hearing,
) -> Sorted:
    """The CRLs by ``signer`` that may be asked about ``certificate`` in ``hearing``, no base with
    another delta at hand than its own."""
    usable, remarks = [], []
    for one in crls:
        if one.issuer != signer.subject:
            continue
        why = _why_not(one, certificate, signer)
        if why is None:
            usable.append(one)
        else:
            remarks.append(f"{_named(one)} does not count: {why}")
    fitting, why_not = _fitting(usable, hearing)
    return fitting, (*remarks, *why_not)


def is_weak(algorithm: algos.SignedDigestAlgorithm) -> bool:
    """Whether a signature is over a hash that it is not believed over on a certificate either."""
    try:
        return algorithm.hash_algo in _WEAK
    except ValueError:  # Ed25519 and ML-DSA have no such hash; what is unknown does not verify
        return False


def _crl_issuers(certificate: x509.Certificate) -> list[x509.Name]:
    points = certificate.crl_distribution_points_value or ()
    names = [name for point in points for name in point["crl_issuer"] or ()]
    return [name.chosen for name in names if name.name == "directory_name"]


def _why_not(
    one: crl.CertificateList, certificate: x509.Certificate, signer: x509.Certificate
) -> str | None:
    scope = one.issuing_distribution_point_value
    points = certificate.crl_distribution_points_value or ()
    partial = any(point["reasons"].native for point in points)
    if partial and not (scope and scope["only_some_reasons"].native):
        return "the certificate expects only some reasons there"  # §6.3.3 (d) (3)
    if one.critical_extensions - KNOWN_CRL_EXTENSIONS or _unknown_in_entries(one):
        return "it has a critical extension that is not known here"  # §5.2 and §5.3
    if is_weak(one["signature_algorithm"]):
        return "its signature is over a hash that collisions are known of"
    if not _signed_by(one, signer):
        return "its signature does not verify with its issuer's key"
    return None


def _unknown_in_entries(one: crl.CertificateList) -> bool:
    """Whether any entry at all has one: such a CRL says nothing of any certificate (§5.3)."""
    entries = one["tbs_cert_list"]["revoked_certificates"]
    if _TRUE not in entries.dump():
        return False
    try:
        return any(
            entry.critical_extensions - KNOWN_CRL_ENTRY_EXTENSIONS
            for entry in entries
            if _TRUE in entry.dump()
        )
    except (ValueError, TypeError):  # an extension that cannot be read is not known either
        return True


def _signed_by(one: crl.CertificateList, signer: x509.Certificate) -> bool:
    try:
        DefaultSignatureValidator().validate_signature(
            one["signature"].native,
            one["tbs_cert_list"].dump(),
            signer.public_key,
            one["signature_algorithm"],
        )
    except Exception:  # keys and algorithms that do not fit fail in as many ways as there are
        return False
    return True


def _fitting(crls: Sequence[crl.CertificateList], hearing: Hearing) -> Sorted:
    """Per scope the newest delta if it is current, and the complete CRLs that it goes with or
    that are newer: a delta at hand is not passed over, for it may list what the others do not."""
    deltas: dict[Any, crl.CertificateList] = {}
    begun = (one for one in crls if _base(one) is not None and _begun(one, hearing))
    for one in sorted(begun, key=_number):
        deltas[_scope(one)] = one
    fitting = [one for one in deltas.values() if _current(one, hearing)]
    remarks = []
    for one in (one for one in crls if _base(one) is None):
        delta = deltas.get(_scope(one))
        if delta is None or _goes_with(one, delta):
            fitting.append(one)
        else:
            remarks.append(f"{_named(one)} does not count: {_named(delta)} does not add to it")
    return tuple(fitting), tuple(remarks)


def _goes_with(complete: crl.CertificateList, delta: crl.CertificateList) -> bool:
    if not complete.freshest_crl_value:  # pyhanko-certvalidator will not look at the delta
        return _number(complete) > _number(delta)
    return (_base(delta) or 0) <= _number(complete) <= _number(delta)  # §5.2.4


def _begun(one: crl.CertificateList, hearing: Hearing) -> bool:
    start = one["tbs_cert_list"]["this_update"].native
    return hearing.retroactive or bool(start <= hearing.moment)


def _current(one: crl.CertificateList, hearing: Hearing) -> bool:
    """Up to the last second, which counts."""
    end = one["tbs_cert_list"]["next_update"].native
    return end is not None and bool(hearing.moment <= end.replace(microsecond=999_999))


def _base(one: crl.CertificateList) -> int | None:
    """The BaseCRLNumber of a delta (§5.2.4), None of a complete CRL."""
    value = one.delta_crl_indicator_value
    return None if value is None else int(value.native)


def _number(one: crl.CertificateList) -> int:
    value = one.crl_number_value
    return -1 if value is None else int(value.native)


def _scope(one: crl.CertificateList) -> tuple[bytes | None, bytes | None]:
    scope = one.issuing_distribution_point_value
    return one.authority_key_identifier, None if scope is None else scope.dump()


def _named(one: crl.CertificateList) -> str:
    kind = "the CRL" if _base(one) is None else "the delta CRL"
    number = _number(one)
    return f"{kind}{f' {number}' if number >= 0 else ''} of {one.issuer.human_friendly}"
