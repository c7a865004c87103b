"""A certification path carried out by pyhanko-certvalidator: the one place that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509
from pyhanko_certvalidator.authority import CertTrustAnchor, TrustQualifiers
from pyhanko_certvalidator.context import ValidationContext
from pyhanko_certvalidator.errors import (
    DisallowedAlgorithmError,
    ExpiredError,
    InsufficientRevinfoError,
    NotYetValidError,
    OCSPValidationIndeterminateError,
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
from pyhanko_certvalidator.revinfo.archival import OCSPContainer
from pyhanko_certvalidator.revinfo.validate_ocsp import verify_ocsp_response
from pyhanko_certvalidator.validate import async_validate_path

from pki.path_search import CertificationPath


@dataclass(frozen=True, slots=True)
class Failure:
    """``code``: as in ``pki.validation.Outcome``; ``path``: in DER, where it is known."""

    code: str
    lines: tuple[str, ...]
    path: tuple[bytes, ...] = ()


async def process(path: CertificationPath, moment: datetime) -> Failure | None:
    """RFC 5280 §6.1 over the path, with nothing of revocation."""
    return await _validate(path, _context(path, moment))


async def hear_crls(
    path: CertificationPath,
    moment: datetime,
    crls: Sequence[asn1_crl.CertificateList],
    signer: asn1_x509.Certificate | None = None,
) -> Failure | None:
    """RFC 5280 §6.3 over the first of ``path``, by CRLs that had begun at ``moment`` or did so
    later. ``signer``: of all of them, found good already, if it is not the issuer.

    The failure is ``revocation-partial`` when they count, but only for some reasons.
    """
    signers = [] if signer is None else [signer]
    rule = RevocationCheckingRule.CRL_REQUIRED
    context = _context(path, moment, rule, signers=signers, crls=crls)
    return await _validate(path, context)


async def hear_answer(
    path: CertificationPath, moment: datetime, answer: OCSPContainer
) -> Failure | None:
    """RFC 6960 §3.2 over the first of ``path``, by one answer, as ``hear_crls``; whether the
    certificate of its responder was revoked is another question."""
    context = _context(path, moment, ocsps=[answer])
    try:
        # As part of a path it would be passed over for a certificate that names no responder.
        await verify_ocsp_response(path[0], _walked(path), context)
    except OCSPValidationIndeterminateError as error:
        code = "revocation-unknown" if error.suspect_stale is None else "revocation-stale"
        return Failure(code, tuple(str(failure[0]) for failure in error.failures))
    except ValidationError as error:
        return Failure(_code(error), (str(error),))
    except Exception as error:  # as in _validate
        return Failure("revocation-unknown", (f"the answer cannot be processed: {error}",))
    return None


_NO_CHECK: Final = RevocationCheckingRule.NO_CHECK


def _context(
    path: CertificationPath,
    moment: datetime,
    rule: RevocationCheckingRule = _NO_CHECK,
    *,
    signers: Sequence[asn1_x509.Certificate] = (),
    **evidence: Any,
) -> ValidationContext:
    context = ValidationContext(
        trust_manager=SimpleTrustManager.build(trust_roots=[_anchor(path[-1])]),
        other_certs=[*path[:-1], *signers],
        moment=moment,
        revinfo_policy=CertRevTrustPolicy(
            RevocationCheckingPolicy(rule, _NO_CHECK), retroactive_revinfo=True
        ),
        time_tolerance=timedelta(seconds=1),
        **evidence,
    )
    for signer in signers:
        context.record_validation(signer, _walked(path))  # type: ignore[no-untyped-call]
    return context


def _walked(path: CertificationPath) -> ValidationPath:
    *below, top = path
    return ValidationPath(_anchor(top), below[:0:-1], below[0] if below else None)


async def _validate(path: CertificationPath, context: ValidationContext) -> Failure | None:
    try:
        # Parameters, though the usual ones: without them those of the anchor replace the rest.
        await async_validate_path(context, _walked(path), PKIXValidationParams())
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
_PARTIAL: Final = "do not cover all revocation reasons"  # only where nothing else is the matter
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
    message = str(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            partial = code == "revocation-unknown" and _PARTIAL in message
            return "revocation-partial" if partial else code
    return next((code for part, code in _MESSAGES if part in message), "path-invalid")


def _sentence(error: ValidationError) -> str:
    which = ""
    if isinstance(error, PathValidationError):
        subject = error.current_path.last
        if error.is_side_validation and isinstance(subject, asn1_x509.Certificate):
            which = f" (while checking {subject.subject.human_friendly})"
    return f"{error.failure_msg}{which}".replace("The path could not be validated because ", "")
