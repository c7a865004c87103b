"""An OCSP client: makes a request, and believes an answer only when it is proved (RFC 6960)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from asn1crypto import ocsp as asn1
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate, ocsp

from infra.errors import Failure, Rejected, Unavailable
from pki.algorithms import algorithm_of
from pki.ocsp_evidence import answers_in
from pki.path_processing import process
from pki.validation_input import (
    MAXIMUM_OCSP_RESPONSE_SIZE,
    load_certificate,
    load_ocsp_response,
)

HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - names a certificate (RFC 6960 §4.1.1), protects nothing
    "sha256": hashes.SHA256(),
}
SKEW: Final = timedelta(minutes=5)
MAX_SINGLE_RESPONSES: Final = 1000
_GRAVITY: Final = {"good": 0, "unknown": 1, "revoked": 2}
"""Of what a response says more than once of the same certificate, the gravest counts."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a responder says of one certificate, checked.

    ``status``: ``good``, ``revoked`` or ``unknown``; ``responder``: the subject that signed;
    ``delegated``: by a key other than the CA's; ``nonce``: ``echoed``, ``absent`` (an answer made
    in advance) or ``not asked``.
    """

    status: str
    revoked_at: datetime | None
    reason: str | None
    this_update: datetime
    next_update: datetime | None
    produced_at: datetime
    responder: str
    delegated: bool
    signature_algorithm: str
    nonce: str


def request_for(
    certificate: x509.Certificate, issuer: x509.Certificate, hash_name: str, nonce: bytes | None
) -> bytes:
    """An OCSPRequest in DER about one certificate, with ``nonce`` (RFC 9654) if given."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, HASHES[hash_name])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


async def check(
    content: bytes,
    request: bytes,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    nonce: bytes | None,
    now: datetime,
) -> Said:
    """What ``content`` answers to ``request``, which is about ``certificate``, after the checks of
    RFC 6960 §3.2; whether the responder's own certificate was revoked is not asked.

    Errors: ``Rejected`` with ``bad-ocsp-answer`` (a check fails; the detail says which),
    ``ocsp-refused`` and ``bad-certificate``; ``Unavailable("ocsp-try-later")``.
    """
    asked, above = (
        load_certificate(one.public_bytes(Encoding.DER)) for one in (certificate, issuer)
    )
    try:
        response = _successful(content)
        hash_name = _hash(asn1.OCSPRequest.load(request, strict=True)["tbs_request"])
        return await _check(response, hash_name, asked, above, nonce, now)
    except Failure:
        raise
    except Exception as error:  # asn1crypto decodes lazily and raises many kinds
        raise _bad("it is not an OCSP response in DER") from error


def _successful(content: bytes) -> asn1.OCSPResponse:
    if len(content) > MAXIMUM_OCSP_RESPONSE_SIZE:
        raise _bad("it is too large")
    response = asn1.OCSPResponse.load(content, strict=True)
    status = response["response_status"].native
    if status == "try_later":
        raise Unavailable("ocsp-try-later", "the responder says: try later")
    if status != "successful":
        raise Rejected("ocsp-refused", f"the responder refuses: {status.replace('_', ' ')}")
    if response["response_bytes"]["response_type"].native != "basic_ocsp_response":
        raise _bad("it is not a basic response")
    if len(response.response_data["responses"]) > MAX_SINGLE_RESPONSES:
        raise _bad("it holds too many answers")
    try:
        return load_ocsp_response(content)
    except Rejected as rejected:
        raise _bad(rejected.detail) from rejected


async def _check(
    response: asn1.OCSPResponse,
    hash_name: str,
    asked: asn1_x509.Certificate,
    above: asn1_x509.Certificate,
    nonce: bytes | None,
    now: datetime,
) -> Said:
    found = answers_in(asked, above, response)
    if isinstance(found, str):
        raise _bad(found)
    answers = [one for one in found if _hash_of(one.single["cert_id"]) == hash_name]
    if not answers:
        raise _bad("it is about another certificate")
    responder = answers[0].responder
    if responder is not None:
        await _require_delegate(responder, above, now)
    for one in answers:
        _require_now(one.single, now)
    single = max(answers, key=lambda one: _GRAVITY[one.single["cert_status"].name]).single
    data = response.response_data
    kind, revoked = single["cert_status"].name, None
    if kind == "revoked":
        revoked = single["cert_status"].chosen
    reason = None if revoked is None else revoked["revocation_reason"].native
    signer = load_der_x509_certificate((responder or above).dump())
    return Said(
        status=kind,
        revoked_at=None if revoked is None else revoked["revocation_time"].native,
        reason=None if revoked is None else _camel(reason or "unspecified"),
        this_update=single["this_update"].native,
        next_update=single["next_update"].native,
        produced_at=data["produced_at"].native,
        responder=signer.subject.rfc4514_string(),
        delegated=responder is not None,
        signature_algorithm=algorithm_of(
            response.basic_ocsp_response["signature_algorithm"].dump()
        ).name,
        nonce=_nonce(data, nonce),
    )


def _require_now(single: asn1.SingleResponse, now: datetime) -> None:
    this_update, next_update = single["this_update"].native, single["next_update"].native
    if this_update > now + SKEW:
        raise _bad(f"it is from the future: {this_update:%Y-%m-%dT%H:%M:%SZ}")
    if next_update is not None and next_update < now - SKEW:
        raise _bad(f"it was for use until {next_update:%Y-%m-%dT%H:%M:%SZ}")


async def _require_delegate(
    responder: asn1_x509.Certificate, above: asn1_x509.Certificate, now: datetime
) -> None:
    """The certificate of the responder is one by the CA, holds now, and has no critical extension
    that is not known (RFC 5280 §4.2, §6.1)."""
    begins, ends = responder.not_valid_before, responder.not_valid_after
    nearest = min(max(now, begins), ends)
    moment = nearest if abs(nearest - now) <= SKEW else now
    failure = await process((responder, above), moment)
    if failure is not None:
        raise _bad(f"its responder's certificate does not hold: {'; '.join(failure.lines)}")


def _hash(tbs_request: Any) -> str:
    return _hash_of(tbs_request["request_list"][0]["req_cert"])


def _hash_of(cert_id: Any) -> str:
    # By value: its parameters may be NULL or absent and mean the same.
    return str(cert_id["hash_algorithm"]["algorithm"].dotted)


def _nonce(data: Any, nonce: bytes | None) -> str:
    if nonce is None:
        return "not asked"
    for extension in data["response_extensions"] or []:
        if extension["extn_id"].native == "nonce":
            # RFC 9654 §2.1: an OCTET STRING inside the extension's OCTET STRING.
            if extension["extn_value"].parsed.native != nonce:
                raise _bad("it repeats another nonce than the one that was sent")
            return "echoed"
    return "absent"


def _camel(name: str) -> str:
    special = {"ca_compromise": "cACompromise", "aa_compromise": "aACompromise"}
    first, *rest = name.split("_")
    return special.get(name) or first + "".join(
        "CRL" if word == "crl" else word.capitalize() for word in rest
    )


def _bad(why: str) -> Rejected:
    return Rejected("bad-ocsp-answer", f"the answer is not to be believed: {why}")
