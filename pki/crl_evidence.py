"""Which CRLs may say whether a certificate is revoked (RFC 5280 §6.3.3), before any is believed.

pyhanko-certvalidator 0.33 asks less than the RFC: it takes the CRL of any signer below the same
CA, looks for critical extensions in one entry only, joins any delta to any base, and remembers
signers by the value of a signature. So it is given only what passes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from asn1crypto import algos, core, crl, x509
from pyhanko_certvalidator.revinfo.constants import (
    KNOWN_CRL_ENTRY_EXTENSIONS,
    KNOWN_CRL_EXTENSIONS,
)
from pyhanko_certvalidator.sig_validate import DefaultSignatureValidator

from pki.revocation_status import EVERY_REASON, SaysRevoked
from pki.status import RevocationReason

_TRUE: Final = b"\x01\x01\xff"  # how every critical extension says so in DER

_CERTIFICATE_ISSUER: Final = crl.CRLEntryExtensionId("certificate_issuer").dump()

_WEAK: Final = frozenset({"md2", "md5", "sha1"})


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete CRL, with the delta at hand that continues it."""

    complete: crl.CertificateList
    delta: crl.CertificateList | None = None

    @property
    def told(self) -> datetime:
        """The later thisUpdate of the two."""
        told: datetime = max(one["tbs_cert_list"]["this_update"].native for one in self.crls)
        return told

    @property
    def crls(self) -> tuple[crl.CertificateList, ...]:
        return (self.complete,) if self.delta is None else (self.complete, self.delta)

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons of revocation that it covers (RFC 5280 §5.2.5)."""
        return _some_reasons(self.complete) or EVERY_REASON


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


def crls_by(
    signer: x509.Certificate, crls: Sequence[crl.CertificateList]
) -> tuple[tuple[crl.CertificateList, ...], tuple[str, ...]]:
    """The CRLs that ``signer`` has signed and that can be understood whole, and of each other one
    in his name why it does not count."""
    usable, remarks = [], []
    for one in crls:
        if one.issuer != signer.subject:
            continue
        why = _why_not(one, signer)
        if why is None:
            usable.append(one)
        else:
            remarks.append(f"{named(one)} does not count: {why}")
    return tuple(usable), tuple(remarks)


def listings_for(
    certificate: x509.Certificate,
    crls: Sequence[crl.CertificateList],
    moment: datetime,
    horizon: datetime,
) -> tuple[tuple[Listing, ...], tuple[str, ...]]:
    """Those of ``crls``, all by one signer, that may show ``certificate`` not to be listed at
    ``moment``: by what was there up to ``horizon``, and by all; no complete one without the newest
    delta at hand."""
    remarks: list[str] = []
    points = certificate.crl_distribution_points_value or ()
    if any(point["reasons"].native for point in points):  # §6.3.3 (d) (3)
        remarks += [
            f"{named(one)} does not count: the certificate expects only some reasons there"
            for one in crls
            if not _some_reasons(one)
        ]
        crls = [one for one in crls if _some_reasons(one)]
    begun = [one for one in crls if one["tbs_cert_list"]["this_update"].native <= horizon]
    found = dict.fromkeys((*_fitting(begun, moment, remarks), *_fitting(crls, moment, remarks)))
    return tuple(found), tuple(dict.fromkeys(remarks))


def said_of(certificate: x509.Certificate, one: crl.CertificateList) -> tuple[SaysRevoked, ...]:
    """The revocations of ``certificate`` that a CRL lists, whatever its scope and currency: whose
    CA has signed that it is revoked, is revoked. The release of a hold by a delta is none."""
    complete = _base(one) is None
    return tuple(
        said
        for said in _listed(certificate, one)
        if complete or said.reason is not RevocationReason.removeFromCRL
    )


def is_released(certificate: x509.Certificate, listing: Listing) -> bool:
    """Whether its delta says by name that a hold of ``certificate`` ended (§5.3.1)."""
    said = () if listing.delta is None else _listed(certificate, listing.delta)
    return any(one.reason is RevocationReason.removeFromCRL for one in said)


def _listed(certificate: x509.Certificate, one: crl.CertificateList) -> list[SaysRevoked]:
    scope = one.issuing_distribution_point_value
    entries = one["tbs_cert_list"]["revoked_certificates"]
    serial = certificate["tbs_certificate"]["serial_number"].dump()
    if serial not in entries.dump() or (scope and scope["only_contains_attribute_certs"].native):
        return []
    found = []
    issuer: x509.Name | None = one.issuer
    for entry in entries:
        content = entry.dump()
        if _CERTIFICATE_ISSUER in content:  # counts for those after it too (§5.3.3)
            issuer = _issuer_in(entry) or issuer
        if entry["user_certificate"].dump() == serial and issuer == certificate.issuer:
            found.append(_revocation(entry))
    return found


def _issuer_in(entry: crl.RevokedCertificate) -> x509.Name | None:
    try:
        return entry.issuer_name
    except (ValueError, TypeError):
        return None


def _revocation(entry: crl.RevokedCertificate) -> SaysRevoked:
    """What an entry says; of what cannot be read, it says only that it is revoked."""
    at = time_of(entry["revocation_date"]) or datetime.min.replace(tzinfo=UTC)
    reasons, invalid = [], None
    try:
        for extension in entry["crl_entry_extensions"]:
            match extension["extn_id"].native:
                case "crl_reason":
                    reasons.append(extension["extn_value"].parsed)
                case "invalidity_date":
                    invalid = time_of(extension["extn_value"].parsed)
    except (ValueError, TypeError):
        return SaysRevoked(at, RevocationReason.unspecified)
    return SaysRevoked(at, reason_of(reasons), invalid)


def reason_of(reasons: Sequence[crl.CRLReason]) -> RevocationReason:
    """The one reason; unspecified, as none means (RFC 5280 §5.3.1), where there are several or it
    is none that is known."""
    try:
        [reason] = reasons
        return RevocationReason(int.from_bytes(reason.contents))
    except ValueError:
        return RevocationReason.unspecified


def time_of(value: core.Asn1Value | None) -> datetime | None:
    """None also for what is no time, or one of no time zone or before the year 1."""
    try:
        found = None if value is None else value.native
    except (ValueError, TypeError):
        return None
    return found if isinstance(found, datetime) and found.tzinfo is not None else None


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


def _why_not(one: crl.CertificateList, signer: x509.Certificate) -> str | None:
    if one.critical_extensions - KNOWN_CRL_EXTENSIONS or _unknown_in_entries(one):
        return "it has a critical extension that is not known here"  # §5.2 and §5.3
    if is_weak(one["signature_algorithm"]):
        return "its signature is over a hash that collisions are known of"
    if not is_signed_by(signer, one, one["tbs_cert_list"]):
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


def is_signed_by(signer: x509.Certificate, signed: Any, content: Any) -> bool:
    """Whether the signature on ``signed``, a CRL or a basic OCSP response, is one by ``signer``
    over its ``content``."""
    try:
        DefaultSignatureValidator().validate_signature(
            signed["signature"].native,
            content.dump(),
            signer.public_key,
            signed["signature_algorithm"],
        )
    except Exception:  # keys and algorithms that do not fit fail in as many ways as there are
        return False
    return True


def _fitting(
    crls: Sequence[crl.CertificateList], moment: datetime, remarks: list[str]
) -> Iterator[Listing]:
    """Per scope the newest delta, if it is current, with the complete CRLs that it continues, and
    those that are newer: a delta at hand is not passed over, for it may list what the others do
    not."""
    deltas: dict[Any, crl.CertificateList] = {}
    for one in sorted((one for one in crls if _base(one) is not None), key=number_of):
        deltas[_scope(one)] = one
    for one in (one for one in crls if _base(one) is None):
        delta = deltas.get(_scope(one))
        if delta is None or (not one.freshest_crl_value and number_of(one) > number_of(delta)):
            yield Listing(one)
        elif one.freshest_crl_value and _continues(delta, one):
            yield Listing(one, delta if _current(delta, moment) else None)
        else:
            remarks.append(f"{named(one)} does not count: {named(delta)} does not add to it")


def _continues(delta: crl.CertificateList, complete: crl.CertificateList) -> bool:
    return (_base(delta) or 0) <= number_of(complete) <= number_of(delta)  # §5.2.4


def _some_reasons(one: crl.CertificateList) -> frozenset[str]:
    """Those that it is restricted to, if it is (§5.2.5)."""
    scope = one.issuing_distribution_point_value
    some = scope["only_some_reasons"].native if scope else None
    return frozenset(some or ())


def is_over(next_update: core.Asn1Value, moment: datetime) -> bool:
    """Whether something better was to be had by ``moment``: the last second counts."""
    end = time_of(next_update)
    return end is not None and moment > end.replace(microsecond=999_999)


def _current(one: crl.CertificateList, moment: datetime) -> bool:
    end = one["tbs_cert_list"]["next_update"]
    return end.native is not None and not is_over(end, moment)


def _base(one: crl.CertificateList) -> int | None:
    """The BaseCRLNumber of a delta (§5.2.4), None of a complete CRL."""
    value = one.delta_crl_indicator_value
    return None if value is None else int(value.native)


def number_of(one: crl.CertificateList) -> int:
    """The CRL number, -1 if it has none."""
    value = one.crl_number_value
    return -1 if value is None else int(value.native)


def _scope(one: crl.CertificateList) -> tuple[bytes | None, bytes | None]:
    scope = one.issuing_distribution_point_value
    return one.authority_key_identifier, None if scope is None else scope.dump()


def named(one: crl.CertificateList) -> str:
    """A CRL by kind, number and issuer."""
    kind = "the CRL" if _base(one) is None else "the delta CRL"
    number = number_of(one)
    return f"{kind}{f' {number}' if number >= 0 else ''} of {one.issuer.human_friendly}"
