"""Validation of a certificate, now or at a time in the past, and why it came out as it did.

The rules are those of RFC 5280 §6 and RFC 6960 as pyhanko-certvalidator carries them out on such
evidence as ``pki.crl_evidence`` and ``pki.ocsp_evidence`` let pass, and that of docs/adr/0020:
whatever does not clearly say that a certificate is good is no proof that it is. Nothing is fetched:
anchors, intermediates, CRLs and OCSP responses are given. One certificate is checked per second of
``at``: both ends of a validity period count (RFC 5280 §4.1.2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from asn1crypto import x509 as asn1_x509

from infra.errors import Rejected
from pki.crl_evidence import named
from pki.evidence import describe_certificate, describe_crl, describe_ocsp_response, instant
from pki.path_processing import Failure, process
from pki.path_search import CertificationPath, search_paths
from pki.purpose import Purpose, why_not_for
from pki.revocation_check import Evidence, Finding, Hearing, ask
from pki.validation_input import load_certificate, load_crl, load_ocsp_response

MAXIMUM_CERTIFICATES: Final = 100  # anchors and intermediates each
_MAXIMUM_PATHS: Final = 8
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""By how much the clocks of CAs and responders may be ahead of ours."""


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
    the anchor, as far as it was found; ``retroactive``: it rests on revocation data issued after
    the time asked about.
    """

    valid: bool
    code: str
    explanation: tuple[str, ...]
    path: tuple[bytes, ...]
    retroactive: bool = False


async def validate(
    certificate: bytes,
    *,
    anchors: Sequence[bytes],
    intermediates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
    ocsp_responses: Sequence[bytes] = (),
    at: datetime,
    now: datetime,
    revocation: Revocation = Revocation.NONE,
    purpose: Purpose = Purpose.ANY,
) -> Outcome:
    """Validate ``certificate`` at ``at``, with everything in DER; ``now``: when this is asked.

    That a certificate is good is shown by revocation data that was current at ``at``; failing that,
    by data that was issued later, which the outcome then says: it cannot show a hold that was
    released meanwhile. Data from beyond ``now`` counts for nothing, and nothing shows that a
    certificate is going to be good: when ``at`` lies ahead, what is not revoked now is
    ``revocation-unknown``. ``CLOCK_TOLERANCE`` is granted for both.
    Errors: ``bad-certificate``, ``bad-crl``, ``bad-ocsp-response``, ``too-many-certificates``.
    """
    if max(len(anchors), len(intermediates)) > MAXIMUM_CERTIFICATES:
        raise Rejected("too-many-certificates", f"give at most {MAXIMUM_CERTIFICATES} of a kind")
    leaf = load_certificate(certificate)
    trusted = [load_certificate(data) for data in anchors]
    others = [load_certificate(data) for data in intermediates]
    given = Evidence(
        tuple(load_crl(data) for data in crls),
        tuple(load_ocsp_response(data) for data in ocsp_responses),
        tuple(other for other in others if not other.ca),
    )
    case = _Case(given, *_until(given, now), at=at, now=now, revocation=revocation)

    search = search_paths(leaf, trusted, others)
    if not search.paths:
        return _without_path(search.longest, at)
    outcomes = []
    for path in search.paths[:_MAXIMUM_PATHS]:
        found, later = await _walk(path, case, retroactive=False), False
        if found.failure is not None and found.failure.code.startswith("revocation-"):
            again = await _walk(path, case, retroactive=True)
            if again.failure is None or not again.failure.code.startswith("revocation-"):
                found, later = again, True
        failure = found.failure
        if failure is None and (why := why_not_for(purpose, leaf)):
            failure = Failure("wrong-purpose", (why,))
        lines = (*_explain(path, case, later=later), *found.notes)
        if failure is None:
            lines = (*lines, f"valid at {instant(at)}")
            outcome = Outcome(True, "valid", lines, _octets(path), later)
        else:
            lines = (*lines, *failure.lines)
            outcome = Outcome(False, failure.code, lines, _octets(path), later)
        outcomes.append((outcome, found.revoked_itself))
    return _choose(outcomes)


def _choose(outcomes: Sequence[tuple[Outcome, bool]]) -> Outcome:
    """With several paths, what is revoked itself on one of them is so on all; else one that holds
    is enough, and one that fails at its signature only says that it was the wrong one."""
    order = (
        [outcome for outcome, revoked_itself in outcomes if revoked_itself]
        + [outcome for outcome, _ in outcomes if outcome.valid]
        + [outcome for outcome, _ in outcomes if outcome.code != "bad-signature"]
    )
    return order[0] if order else outcomes[0][0]


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
class _Case:
    """``given``: all evidence; ``evidence``: without that from beyond ``now``, of which
    ``refused`` tells."""

    given: Evidence
    evidence: Evidence
    refused: tuple[str, ...]
    at: datetime
    now: datetime
    revocation: Revocation

    @property
    def moment(self) -> datetime:
        # A revocation in this very second counts, and so does the last second of a validity.
        return self.at.astimezone(UTC).replace(microsecond=999_999)

    @property
    def ahead(self) -> bool:
        """Whether it is the future that is asked about."""
        return self.at > self.now + CLOCK_TOLERANCE


def _until(given: Evidence, now: datetime) -> tuple[Evidence, tuple[str, ...]]:
    """What was issued up to ``now``, and of the rest why it does not count: nobody can have it, or
    one of the clocks is wrong."""
    latest = now + CLOCK_TOLERANCE
    crls, responses, refused = [], [], []
    for crl in given.crls:
        if (told := crl["tbs_cert_list"]["this_update"].native) <= latest:
            crls.append(crl)
        else:
            refused.append((named(crl), told))
    for response in given.ocsp_responses:
        data = response.response_data
        times = (data["produced_at"], *(single["this_update"] for single in data["responses"]))
        told = max(time.native for time in times)
        if told <= latest:
            responses.append(response)
        else:
            refused.append(("the OCSP response", told))
    lines = tuple(
        f"{which} of {instant(told)} does not count: it is from after now, {instant(now)}; look at "
        "the clocks"
        for which, told in refused
    )
    return Evidence(tuple(crls), tuple(responses), given.signers), lines


async def _walk(path: CertificationPath, case: _Case, *, retroactive: bool) -> Finding:
    """The path itself, and then from the anchor down whether each certificate is revoked."""
    if len(path) > 1 and not path[-1].ca:
        return Finding(Failure("not-a-ca", ("the trust anchor is not a CA",)))
    failure = await process(path, case.moment)
    if failure is not None or case.revocation is Revocation.NONE:
        return Finding(failure)
    notes: tuple[str, ...] = ()
    past = case.moment < case.now
    for place in reversed(range(len(path) - 1)):
        above = place > 0 and case.revocation is Revocation.OCSP
        hearing = Hearing(
            # Of the future, what is known is what is known now.
            min(case.moment, case.now) if case.ahead else case.moment,
            # Now, whoever is on a list is revoked, whatever the date beside him (RFC 5280 §6.3.3).
            case.moment if past else datetime.max.replace(tzinfo=UTC),
            case.moment if past else case.now + CLOCK_TOLERANCE,
            case.evidence,
            retroactive,
            by_crl=above or case.revocation is not Revocation.OCSP,
            by_ocsp=case.revocation is not Revocation.CRL,
        )
        found = await ask(path[place:], hearing)
        notes += found.notes
        if (failure := found.failure) is not None:
            itself = place == 0 and failure.code == "revoked"
            return Finding(failure, notes, revoked_itself=itself)
    if case.ahead and len(path) > 1:
        return Finding(Failure("revocation-unknown", (_ahead(case),)), notes)
    return Finding(None, notes)


def _ahead(case: _Case) -> str:
    return (
        f"by what is known at {instant(case.now)}, nothing of it is revoked; whether it will be "
        f"by {instant(case.at)}, nobody can tell yet: ask then, or about now, or without revocation"
    )


# ── Explaining ────────────────────────────────────────────────────────────────────────────────────


def _line(describe: Callable[..., str | None], *about: object) -> str:
    try:
        return describe(*about) or ""
    except ValueError as error:
        return f"something that was given cannot be read whole: {error}"


def _explain(path: Sequence[asn1_x509.Certificate], case: _Case, *, later: bool) -> tuple[str, ...]:
    at, revocation = case.at, case.revocation
    lines = [_line(describe_certificate, certificate.dump(), at) for certificate in path]
    lines[-1] += " (trust anchor)"
    if revocation is Revocation.NONE:
        return (*lines, "revocation was not asked about")
    for certificate in path[:-1]:
        if revocation is not Revocation.OCSP or certificate is not path[0]:
            lines.extend(
                _line(describe_crl, crl.dump(), certificate.serial_number, at)
                for crl in case.given.crls
                if crl.issuer == certificate.issuer
            )
        if revocation is not Revocation.CRL:
            for response in case.given.ocsp_responses:
                line = _line(describe_ocsp_response, response.dump(), certificate.serial_number, at)
                lines.extend([line] if line else [])
    lines += case.refused
    if later:
        lines.append(
            "this rests on revocation data issued after the time asked about, which cannot show "
            "a hold that was released in between"
        )
    return tuple(lines)
