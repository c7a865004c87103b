"""Validation of a certificate, now or at a time in the past, and why it came out as it did.

The rules are those of RFC 5280 §6 and RFC 6960 as pyhanko-certvalidator carries them out on such
CRLs as ``pki.crl_evidence`` lets pass: whatever does not clearly say that a certificate is good is
no proof that it is. Nothing is fetched: anchors, intermediates, CRLs and OCSP responses are given.
One certificate is checked per second of ``at``: both ends of a validity period count (RFC 5280
§4.1.2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from pyhanko_certvalidator.policy_decl import RevocationCheckingRule

from infra.errors import Rejected
from pki.crl_evidence import crls_about, is_weak, signers_about
from pki.evidence import describe_certificate, describe_crl, describe_ocsp_response, instant
from pki.path_processing import Failure, Hearing, process
from pki.path_search import CertificationPath, issued_by, search_paths
from pki.purpose import Purpose, why_not_for
from pki.validation_input import load_certificate, load_crl, load_ocsp_response

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
    leaf = load_certificate(certificate)
    trusted = [load_certificate(data) for data in anchors]
    others = [load_certificate(data) for data in intermediates]
    evidence = _Evidence(
        tuple(load_crl(data) for data in crls),
        tuple(load_ocsp_response(data) for data in ocsp_responses),
        tuple(other for other in others if not other.ca),
    )
    # A revocation in this very second counts, and so does the last second of a validity.
    moment = at.astimezone(UTC).replace(microsecond=999_999)

    search = search_paths(leaf, trusted, others)
    if not search.paths:
        return _without_path(search.longest, at)
    failures: list[Failure] = []
    for path in search.paths[:_MAXIMUM_PATHS]:
        failure = await _walk(path, evidence, moment, revocation, retroactive=False)
        later = False
        if failure is not None and failure.code.startswith("revocation-"):
            usable = evidence.that_covers(path)
            again = await _walk(path, usable, moment, revocation, retroactive=True)
            if again is None or not again.code.startswith("revocation-"):
                failure, later = again, True
        if failure is None and (why := why_not_for(purpose, leaf)):
            failure = Failure("wrong-purpose", (why,))
        lines = _explain(path, evidence, at, revocation, later=later)
        if failure is None:
            return Outcome(True, "valid", (*lines, f"valid at {instant(at)}"), _octets(path))
        failures.append(Failure(failure.code, (*lines, *failure.lines), _octets(path)))
    # With several paths, one that fails at its signature only says that it was the wrong one.
    failure = next((f for f in failures if f.code != "bad-signature"), failures[0])
    return Outcome(False, failure.code, failure.lines, failure.path)


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
    signers: tuple[asn1_x509.Certificate, ...]  # of indirect CRLs

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
            self.signers,
        )


_RULES: Final = {
    Revocation.NONE: RevocationCheckingRule.NO_CHECK,
    Revocation.CRL: RevocationCheckingRule.CRL_REQUIRED,
    Revocation.OCSP: RevocationCheckingRule.OCSP_REQUIRED,
    Revocation.EITHER: RevocationCheckingRule.CRL_OR_OCSP_REQUIRED,
}


async def _walk(
    path: CertificationPath,
    evidence: _Evidence,
    moment: datetime,
    revocation: Revocation,
    *,
    retroactive: bool,
) -> Failure | None:
    """The path itself, and then from the anchor down whether each certificate is revoked."""
    if len(path) > 1 and not path[-1].ca:
        return Failure("not-a-ca", ("the trust anchor is not a CA",))
    hearing = Hearing(moment, retroactive=retroactive)
    failure = await process(path, _RULES[Revocation.NONE], hearing)
    if revocation is Revocation.NONE:
        return failure
    for place in reversed(range(len(path) - 1)):
        if failure is not None:
            break
        above = place > 0 and revocation is Revocation.OCSP
        asked = Revocation.EITHER if above else revocation
        failure = await _ask(path[place:], evidence, hearing, asked)
    return failure


async def _ask(
    path: CertificationPath, evidence: _Evidence, hearing: Hearing, revocation: Revocation
) -> Failure | None:
    """Whether the first of ``path`` is revoked, the others being good. Each signer of CRLs about
    it is heard alone, its CA with the OCSP responses first."""
    certificate, issuer, *_ = path
    crls, remarks = crls_about(certificate, issuer, evidence.crls, hearing)
    answers = tuple(
        one
        for one in evidence.ocsp_responses
        if not (is_weak(one.basic_ocsp_response["signature_algorithm"]) or _feigns(one, issuer))
    )
    own = replace(hearing, crls=crls, ocsp_responses=answers)
    outcomes = [await process(path, _RULES[revocation], own)]
    signers = () if revocation is Revocation.OCSP else evidence.signers
    for signer in signers_about(certificate, signers):
        crls, why_not = crls_about(certificate, signer, evidence.crls, hearing)
        remarks += why_not
        if not crls:
            continue
        failure = await _why_no_signer(signer, path, evidence, hearing)
        if failure is None:
            theirs = replace(hearing, crls=crls, signer=signer)
            outcomes.append(await process(path, _RULES[Revocation.CRL], theirs))
        else:
            who = signer.subject.human_friendly
            remarks += tuple(f"the CRL of {who} does not count: {one}" for one in failure.lines)
    return _sum(outcomes, remarks)


def _sum(outcomes: Sequence[Failure | None], remarks: tuple[str, ...]) -> Failure | None:
    """One that says revoked outweighs all; else one good word is enough."""
    failures = [one for one in outcomes if one is not None]
    chosen = next((one for one in failures if one.code == "revoked"), None)
    if chosen is None:
        if len(failures) < len(outcomes):
            return None
        chosen = next((one for one in failures if one.code == "revocation-stale"), failures[0])
    return replace(chosen, lines=(*remarks, *chosen.lines))


async def _why_no_signer(
    signer: asn1_x509.Certificate,
    path: CertificationPath,
    evidence: _Evidence,
    hearing: Hearing,
) -> Failure | None:
    """Why ``signer`` may sign no CRL about the first of ``path``: its own path must end at the
    same anchor (RFC 5280 §6.3.3 (f)), and its CA must say that it is good, not another signer."""
    above = next((path[n:] for n in range(1, len(path)) if issued_by(signer, path[n])), None)
    if above is None:
        return Failure("issuer-missing", ("no CA of the path issued its signer's certificate",))
    way = (signer, *above)
    return await process(way, _RULES[Revocation.NONE], hearing) or await _ask(
        way, replace(evidence, signers=()), hearing, Revocation.EITHER
    )


def _feigns(response: asn1_ocsp.OCSPResponse, issuer: asn1_x509.Certificate) -> bool:
    """Whether it carries another certificate under the issuer's issuer and serial, which
    pyhanko-certvalidator 0.33 takes for the issuer's if the signature value was copied too."""
    carried = response.basic_ocsp_response["certs"] or ()
    return any(
        one.issuer_serial == issuer.issuer_serial and one.dump() != issuer.dump() for one in carried
    )


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
