"""Validation of a certificate, now or at a time in the past, and why it came out as it did.

The rules are those of RFC 5280 §6 and RFC 6960 as pyhanko-certvalidator carries them out. Nothing
is fetched: anchors, intermediates, CRLs and OCSP responses are given. One certificate is checked
per second of ``at``: both ends of a validity period count (RFC 5280 §4.1.2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509 import ocsp
from pyhanko_certvalidator.authority import CertTrustAnchor, TrustQualifiers
from pyhanko_certvalidator.context import ValidationContext
from pyhanko_certvalidator.errors import (
    DisallowedAlgorithmError,
    ExpiredError,
    InsufficientRevinfoError,
    NotYetValidError,
    PathValidationError,
    RevokedError,
    StaleRevinfoError,
    ValidationError,
)
from pyhanko_certvalidator.name_trees import process_general_subtrees
from pyhanko_certvalidator.path import ValidationPath
from pyhanko_certvalidator.policy_decl import (
    CertRevTrustPolicy,
    PKIXValidationParams,
    RevocationCheckingPolicy,
    RevocationCheckingRule,
)
from pyhanko_certvalidator.registry import SimpleTrustManager
from pyhanko_certvalidator.validate import async_validate_path

from infra.errors import Rejected
from pki.evidence import describe_certificate, describe_crl, describe_ocsp_response, instant
from pki.path_search import search_paths
from pki.purpose import Purpose, why_not_for

MAXIMUM_CERTIFICATE_SIZE: Final = 64 * 1024
MAXIMUM_OCSP_RESPONSE_SIZE: Final = 256 * 1024
MAXIMUM_CRL_SIZE: Final = 64 * 1024 * 1024
MAXIMUM_CERTIFICATES: Final = 100  # anchors and intermediates each
_MAXIMUM_PATHS: Final = 8


class Revocation(StrEnum):
    """What must show that no certificate of the path is revoked."""

    NONE = "none"
    CRL = "crl"
    OCSP = "ocsp"  # for the certificate itself; for the CAs above it a CRL will do
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a validation came out.

    ``code``: ``valid``, or one of ``issuer-missing``, ``untrusted-root``, ``expired``,
    ``not-yet-valid``, ``revoked``, ``revocation-unknown``, ``revocation-stale``,
    ``weak-algorithm``, ``bad-signature``, ``name-constraint``, ``path-too-long``, ``not-a-ca``,
    ``ca-key-usage``, ``unknown-critical-extension``, ``policy``, ``wrong-purpose``,
    ``path-invalid``; ``explanation``: lines for people; ``path``: DER, from the certificate to
    the anchor, as far as it was found.
    """

    valid: bool
    code: str
    explanation: tuple[str, ...]
    path: tuple[bytes, ...]


async def validate(
    certificate: bytes,
    *,
    anchors: Sequence[bytes],
    intermediates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
    ocsp_responses: Sequence[bytes] = (),
    at: datetime,
    revocation: Revocation = Revocation.NONE,
    purpose: Purpose = Purpose.ANY,
) -> Outcome:
    """Validate ``certificate`` at ``at``, with everything in DER.

    Revocation data that was current at ``at`` is used first; failing that, data that was issued
    later, which the explanation then says: it cannot show a hold that was released meanwhile.
    Errors: ``bad-certificate``, ``bad-crl``, ``bad-ocsp-response``, ``too-many-certificates``.
    """
    if max(len(anchors), len(intermediates)) > MAXIMUM_CERTIFICATES:
        raise Rejected("too-many-certificates", f"give at most {MAXIMUM_CERTIFICATES} of a kind")
    leaf = _load_certificate(certificate)
    trusted = [_load_certificate(data) for data in anchors]
    others = [_load_certificate(data) for data in intermediates]
    evidence = _Evidence(
        tuple(_load_crl(data) for data in crls),
        tuple(_load_ocsp_response(data) for data in ocsp_responses),
    )
    # A revocation in this very second counts, and so does the last second of a validity.
    moment = at.astimezone(UTC).replace(microsecond=999_999)

    search = search_paths(leaf, trusted, others)
    if not search.paths:
        return _without_path(search.longest, at)
    failures: list[_Failure] = []
    for path in search.paths[:_MAXIMUM_PATHS]:
        failure = await _walk(path, evidence, moment, revocation, retroactive=False)
        later = False
        if failure is not None and failure.code.startswith("revocation-"):
            usable = evidence.that_covers(path)
            again = await _walk(path, usable, moment, revocation, retroactive=True)
            if again is None or not again.code.startswith("revocation-"):
                failure, later = again, True
        if failure is None and (why := why_not_for(purpose, leaf)):
            failure = _Failure("wrong-purpose", (why,))
        lines = _explain(path, evidence, at, revocation, later=later)
        if failure is None:
            return Outcome(True, "valid", (*lines, f"valid at {instant(at)}"), _octets(path))
        failures.append(_Failure(failure.code, (*lines, *failure.lines), _octets(path)))
    # With several paths, one that fails at its signature only says that it was the wrong one.
    failure = next((f for f in failures if f.code != "bad-signature"), failures[0])
    return Outcome(False, failure.code, failure.lines, failure.path)


@dataclass(frozen=True, slots=True)
class _Failure:
    code: str
    lines: tuple[str, ...]
    path: tuple[bytes, ...] = ()


# ── Reading what was given ────────────────────────────────────────────────────────────────────────


def _load_certificate(data: bytes) -> asn1_x509.Certificate:
    return _load(
        asn1_x509.Certificate,
        x509.load_der_x509_certificate,
        data,
        MAXIMUM_CERTIFICATE_SIZE,
        "certificate",
    )


def _load_crl(data: bytes) -> asn1_crl.CertificateList:
    return _load(asn1_crl.CertificateList, x509.load_der_x509_crl, data, MAXIMUM_CRL_SIZE, "crl")


def _load_ocsp_response(data: bytes) -> asn1_ocsp.OCSPResponse:
    response = _load(
        asn1_ocsp.OCSPResponse,
        ocsp.load_der_ocsp_response,
        data,
        MAXIMUM_OCSP_RESPONSE_SIZE,
        "ocsp-response",
    )
    status = response["response_status"].native
    if status != "successful":
        raise Rejected("bad-ocsp-response", f"the responder answered {status}, which says nothing")
    for single in response.response_data["responses"]:
        # pyhanko-certvalidator compares no others.
        if single["cert_id"]["hash_algorithm"]["algorithm"].native not in ("sha1", "sha256"):
            raise Rejected(
                "bad-ocsp-response", "its CertID is hashed with neither SHA-1 nor SHA-256"
            )
    return response


def _load(kind: Any, check: Any, data: bytes, maximum: int, what: str) -> Any:
    """Read with two parsers, the whole of it: asn1crypto alone would fail in the middle of the
    validation, at the first field that is broken."""
    if len(data) > maximum:
        raise Rejected(f"bad-{what}", f"{len(data)} octets are more than the {maximum} allowed")
    try:
        value = kind.load(data, strict=True)
        if kind is asn1_x509.Certificate and value.serial_number <= 0:
            raise ValueError("a serial is positive (RFC 5280 §4.1.2.2)")
        check(data)
        if kind is asn1_crl.CertificateList:
            for field in ("signature", "issuer", "this_update", "next_update", "crl_extensions"):
                value["tbs_cert_list"][field].native  # noqa: B018 - all but the many entries
            value.issuer.hashable  # noqa: B018 - prepares the name for comparison
        else:
            value.native  # noqa: B018 - reads every field
        if kind is asn1_x509.Certificate:
            value.subject.hashable, value.issuer.hashable  # noqa: B018
    except Exception as error:  # asn1crypto raises whatever it stumbles over
        raise Rejected(f"bad-{what}", f"these octets are not a valid {what} in DER") from error
    return value


def _without_path(found: tuple[asn1_x509.Certificate, ...], at: datetime) -> Outcome:
    lines = tuple(_line(describe_certificate, one.dump(), at) for one in found)
    last = found[-1]
    if last.self_issued:
        code = "untrusted-root"
        why = "the path ends at a root that is not among the trust anchors"
    else:
        code = "issuer-missing"
        why = f"no certificate was given of the issuer {last.issuer.human_friendly}"
    return Outcome(False, code, (*lines, why), _octets(found))


def _octets(path: Sequence[asn1_x509.Certificate]) -> tuple[bytes, ...]:
    return tuple(certificate.dump() for certificate in path)


# ── Walking a path ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Evidence:
    crls: tuple[asn1_crl.CertificateList, ...]
    ocsp_responses: tuple[asn1_ocsp.OCSPResponse, ...]

    def that_covers(self, path: Sequence[asn1_x509.Certificate]) -> _Evidence:
        """Without CRLs and responses from after the expiry of a certificate of the path: they may
        have dropped it (RFC 5280 §3.3, RFC 6960 §4.4.4)."""
        ends = min(certificate.not_valid_after for certificate in path)
        return _Evidence(
            tuple(crl for crl in self.crls if crl["tbs_cert_list"]["this_update"].native <= ends),
            tuple(
                response
                for response in self.ocsp_responses
                if all(
                    single["this_update"].native <= ends
                    for single in response.response_data["responses"]
                )
            ),
        )


_RULES: Final = {
    Revocation.NONE: (RevocationCheckingRule.NO_CHECK, RevocationCheckingRule.NO_CHECK),
    Revocation.CRL: (RevocationCheckingRule.CRL_REQUIRED, RevocationCheckingRule.CRL_REQUIRED),
    Revocation.OCSP: (
        RevocationCheckingRule.OCSP_REQUIRED,
        RevocationCheckingRule.CRL_OR_OCSP_REQUIRED,
    ),
    Revocation.EITHER: (
        RevocationCheckingRule.CRL_OR_OCSP_REQUIRED,
        RevocationCheckingRule.CRL_OR_OCSP_REQUIRED,
    ),
}


def _anchor(certificate: asn1_x509.Certificate) -> CertTrustAnchor:
    """An anchor that keeps the promises of its certificate: validity, path length and name
    constraints (RFC 5937); its policies bind nobody."""
    constraints = certificate.name_constraints_value
    parameters = None
    if constraints is not None:
        permitted, excluded = constraints["permitted_subtrees"], constraints["excluded_subtrees"]
        parameters = PKIXValidationParams(
            initial_permitted_subtrees=_subtrees(permitted),
            initial_excluded_subtrees=_subtrees(excluded),
        )
    return CertTrustAnchor(
        certificate,
        quals=TrustQualifiers(
            standard_parameters=parameters,
            max_path_length=certificate.max_path_length,
            max_aa_path_length=certificate.max_path_length,
            valid_from=certificate.not_valid_before,
            valid_until=certificate.not_valid_after.replace(microsecond=999_999),
        ),
    )


def _subtrees(subtrees: Any) -> Any:
    present = isinstance(subtrees, asn1_x509.GeneralSubtrees)  # else it is asn1crypto's Void
    return process_general_subtrees(subtrees) if present else None


async def _walk(
    path: Sequence[asn1_x509.Certificate],
    evidence: _Evidence,
    moment: datetime,
    revocation: Revocation,
    *,
    retroactive: bool,
) -> _Failure | None:
    *below, top = path
    anchor = _anchor(top)
    if below and not top.ca:
        return _Failure("not-a-ca", ("the trust anchor is not a CA",))
    context = ValidationContext(
        trust_manager=SimpleTrustManager.build(trust_roots=[anchor]),
        other_certs=below,
        moment=moment,
        crls=evidence.crls,
        ocsps=evidence.ocsp_responses,
        revinfo_policy=CertRevTrustPolicy(
            RevocationCheckingPolicy(*_RULES[revocation]), retroactive_revinfo=retroactive
        ),
        time_tolerance=timedelta(seconds=1),
    )
    walked = ValidationPath(anchor, below[:0:-1], below[0] if below else None)
    try:
        # Parameters, though the usual ones: without them those of the anchor replace the rest.
        await async_validate_path(context, walked, PKIXValidationParams())
    except ValidationError as error:
        return _Failure(_code(error), (_sentence(error),))
    except Exception as error:  # what nobody foresaw in octets from outside is no proof of validity
        return _Failure("path-invalid", (f"the path cannot be processed: {error}",))
    return None


_CODES: Final = (
    (RevokedError, "revoked"),
    (ExpiredError, "expired"),
    (NotYetValidError, "not-yet-valid"),
    (StaleRevinfoError, "revocation-stale"),
    (InsufficientRevinfoError, "revocation-unknown"),
    (DisallowedAlgorithmError, "weak-algorithm"),
)
# pyhanko-certvalidator tells these apart by its message alone; the tests hold it to that.
_MESSAGES: Final = (
    ("could not be verified", "bad-signature"),
    ("signature parameters", "bad-signature"),
    ("permitted namespace", "name-constraint"),
    ("excluded from the namespace", "name-constraint"),
    ("maximum path length", "path-too-long"),
    ("is not a CA", "not-a-ca"),
    ("not allowed to sign certificates", "ca-key-usage"),
    ("unsupported critical extension", "unknown-critical-extension"),
    ("set of policies", "policy"),
)


def _code(error: ValidationError) -> str:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    message = str(error)
    return next((code for part, code in _MESSAGES if part in message), "path-invalid")


def _sentence(error: ValidationError) -> str:
    which = ""
    if isinstance(error, PathValidationError):
        subject = error.current_path.last
        if error.is_side_validation and isinstance(subject, asn1_x509.Certificate):
            which = f" (while checking {subject.subject.human_friendly})"
    return f"{error.failure_msg}{which}".replace("The path could not be validated because ", "")


# ── Explaining ────────────────────────────────────────────────────────────────────────────────────


def _line(describe: Callable[..., str | None], *about: object) -> str:
    try:
        return describe(*about) or ""
    except ValueError as error:
        return f"something that was given cannot be read whole: {error}"


def _explain(
    path: Sequence[asn1_x509.Certificate],
    evidence: _Evidence,
    at: datetime,
    revocation: Revocation,
    *,
    later: bool,
) -> tuple[str, ...]:
    lines = [_line(describe_certificate, certificate.dump(), at) for certificate in path]
    lines[-1] += " (trust anchor)"
    if revocation is Revocation.NONE:
        return (*lines, "revocation was not asked about")
    for certificate in path[:-1]:
        if revocation is not Revocation.OCSP or certificate is not path[0]:
            lines.extend(
                _line(describe_crl, crl.dump(), certificate.serial_number, at)
                for crl in evidence.crls
                if crl.issuer == certificate.issuer
            )
        if revocation is not Revocation.CRL:
            for response in evidence.ocsp_responses:
                line = _line(describe_ocsp_response, response.dump(), certificate.serial_number, at)
                lines.extend([line] if line else [])
    if later:
        lines.append(
            "this rests on revocation data issued after the time asked about, which cannot show "
            "a hold that was released in between"
        )
    return tuple(lines)
