"""Which OCSP responses may say whether a certificate is revoked (RFC 6960 §3.2), before any is
believed: the same for a validation and for an OCSP client.

pyhanko-certvalidator 0.33 asks less: it knows an issuer by the value of the signature on its
certificate, looks at no critical extension, and lets a good answer hide a revocation elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from asn1crypto import crl, ocsp, x509
from pyhanko_certvalidator.revinfo.archival import OCSPContainer

from pki.crl_evidence import is_signed_by, is_weak, reason_of, time_of
from pki.evidence import instant
from pki.revocation_status import SaysGood, SaysRevoked

_KNOWN: Final = frozenset({"nonce", "extended_revoke"})
_KNOWN_SINGLE: Final = frozenset({"crl", "archive_cutoff", "crl_reason", "invalidity_date"})
_SIGNING: Final = frozenset({"digital_signature", "non_repudiation"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer about one certificate; ``responder``: to whom the CA has delegated, None for the
    CA itself."""

    container: OCSPContainer
    responder: x509.Certificate | None

    @property
    def single(self) -> ocsp.SingleResponse:
        return self.container.extract_single_response()

    @property
    def told(self) -> datetime:
        told: datetime = self.single["this_update"].native
        return told

    def __str__(self) -> str:
        by = "the CA" if self.responder is None else self.responder.subject.human_friendly
        return f"the OCSP response by {by}"


Answers: TypeAlias = tuple[tuple[Answer, ...], tuple[str, ...]]
"""The answers that count if their responders do, and of each other one why it does not."""


def answers_about(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    responses: Iterable[ocsp.OCSPResponse],
) -> Answers:
    """What ``issuer``, or whom it names as a responder, answers about ``certificate``. Whether a
    responder's own certificate holds is still to be asked."""
    answers: list[Answer] = []
    remarks = []
    for response in responses:
        found = answers_in(certificate, issuer, response)
        if isinstance(found, str):
            produced = instant(response.response_data["produced_at"].native)
            remarks.append(f"the OCSP response of {produced} does not count: {found}")
        else:
            answers += found
    return tuple(answers), tuple(remarks)


def answers_in(
    certificate: x509.Certificate, issuer: x509.Certificate, response: ocsp.OCSPResponse
) -> tuple[Answer, ...] | str:
    """The same of one successful response, none if it is about others; or why it does not count."""
    try:
        places = list(_about(certificate, issuer, response))
        if not places:
            return ()
        found = _why_not(response, places) or _signer(certificate, issuer, response)
    except Exception as error:  # what nobody foresaw in octets from outside says nothing
        return f"it cannot be processed: {error}"
    if isinstance(found, str):
        return found
    signer = None if found is issuer else found
    return tuple(Answer(OCSPContainer(response, place), signer) for place in places)


def said_in(answer: Answer) -> SaysGood | SaysRevoked | None:
    """What it says; None: that it does not know the certificate."""
    status = answer.single["cert_status"]
    if status.name != "revoked":
        return SaysGood() if status.name == "good" else None
    info = status.chosen
    reason = info["revocation_reason"]
    return SaysRevoked(
        info["revocation_time"].native,
        reason_of([reason] if isinstance(reason, crl.CRLReason) else []),
        time_of(answer.single.invalidity_date_value),
    )


def _about(
    certificate: x509.Certificate, issuer: x509.Certificate, response: ocsp.OCSPResponse
) -> Iterator[int]:
    """Where it answers for this certificate of this CA (§3.2 item 1)."""
    for place, single in enumerate(response.response_data["responses"]):
        asked = single["cert_id"]
        if asked["serial_number"].native != certificate.serial_number:
            continue
        algorithm = asked["hash_algorithm"]["algorithm"].native
        if asked["issuer_name_hash"].native == getattr(certificate.issuer, algorithm) and asked[
            "issuer_key_hash"
        ].native == getattr(issuer.public_key, algorithm):
            yield place


def _why_not(response: ocsp.OCSPResponse, places: Sequence[int]) -> str | None:
    data = response.response_data
    singles = [data["responses"][place]["single_extensions"] for place in places]
    if _critical(data["response_extensions"]) - _KNOWN or any(
        _critical(extensions) - _KNOWN_SINGLE for extensions in singles
    ):
        return "it has a critical extension that is not known here"  # §4.4
    if is_weak(response.basic_ocsp_response["signature_algorithm"]):
        return "its signature is over a hash that collisions are known of"
    return None


def _critical(extensions: Any) -> set[str]:
    """asn1crypto gives a Void, which has none, where there are no extensions."""
    return {one["extn_id"].native for one in extensions if one["critical"].native}


def _signer(
    certificate: x509.Certificate, issuer: x509.Certificate, response: ocsp.OCSPResponse
) -> x509.Certificate | str:
    """Whose signature it is (§4.2.2.2), or why it counts for nothing."""
    basic = response.basic_ocsp_response
    named = response.response_data["responder_id"]
    why = "nobody that it names as its signer is the CA, or is in its certificates"
    for candidate in (issuer, *(basic["certs"] or ())):
        if not _is_named(named, candidate):
            continue
        if candidate is not issuer:
            refused = _why_no_delegate(candidate, certificate, issuer)
            if refused is not None:
                why = refused
                continue
        if is_signed_by(candidate, basic, response.response_data):
            return candidate
        why = "its signature does not verify"
    return why


def _is_named(named: ocsp.ResponderId, candidate: x509.Certificate) -> bool:
    if named.name == "by_name":
        return bool(named.chosen == candidate.subject)
    return bool(named.native == candidate.public_key.sha1)


def _why_no_delegate(
    candidate: x509.Certificate, certificate: x509.Certificate, issuer: x509.Certificate
) -> str | None:
    """Why the certificate of ``candidate`` does not say that the CA has delegated to it; whether it
    holds is said by its path."""
    if candidate.issuer != issuer.subject or candidate.dump() == certificate.dump():
        return "the CA has not delegated to its signer"
    extended, usage = candidate.extended_key_usage_value, candidate.key_usage_value
    # Any purpose is not this one (§4.2.2.2); any signature is one of these (RFC 5280 §4.2.1.12).
    if extended is None or "ocsp_signing" not in extended.native:
        return "its signer's certificate is not for signing OCSP responses"
    if usage is not None and not usage.native & _SIGNING:
        return "its signer's certificate is not for signing OCSP responses: its key usage"
    # It could undo its own revocation, and that of every CA beside it; as mozilla::pkix has it.
    if candidate.ca:
        return "its signer's certificate is that of another CA"
    return None
