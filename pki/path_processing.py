"""A certification path carried out by pyhanko-certvalidator: the one place that calls it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
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

from pki.path_search import CertificationPath


@dataclass(frozen=True, slots=True)
class Failure:
    """``code``: as in ``pki.validation.Outcome``; ``path``: in DER, where it is known."""

    code: str
    lines: tuple[str, ...]
    path: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Hearing:
    """What one certificate is judged by; ``signer``: of all these CRLs, found good already."""

    moment: datetime
    retroactive: bool
    crls: tuple[asn1_crl.CertificateList, ...] = ()
    ocsp_responses: tuple[asn1_ocsp.OCSPResponse, ...] = ()
    signer: asn1_x509.Certificate | None = None


async def process(
    path: CertificationPath, rule: RevocationCheckingRule, hearing: Hearing
) -> Failure | None:
    """RFC 5280 §6.1 over the path, and §6.3 or RFC 6960 over the first of it alone."""
    *below, top = path
    anchor = _anchor(top)
    signers = [] if hearing.signer is None else [hearing.signer]
    context = ValidationContext(
        trust_manager=SimpleTrustManager.build(trust_roots=[anchor]),
        other_certs=[*below, *signers],
        moment=hearing.moment,
        crls=hearing.crls,
        ocsps=hearing.ocsp_responses,
        revinfo_policy=CertRevTrustPolicy(
            RevocationCheckingPolicy(rule, RevocationCheckingRule.NO_CHECK),
            retroactive_revinfo=hearing.retroactive,
        ),
        time_tolerance=timedelta(seconds=1),
    )
    walked = ValidationPath(anchor, below[:0:-1], below[0] if below else None)
    for signer in signers:
        context.record_validation(signer, walked)  # type: ignore[no-untyped-call]
    try:
        # Parameters, though the usual ones: without them those of the anchor replace the rest.
        await async_validate_path(context, walked, PKIXValidationParams())
    except ValidationError as error:
        return Failure(_code(error), (_sentence(error),))
    except Exception as error:  # what nobody foresaw in octets from outside is no proof of validity
        return Failure("path-invalid", (f"the path cannot be processed: {error}",))
    return None


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
