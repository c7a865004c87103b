"""An OCSP client: makes a request, and believes an answer only when it is proved (RFC 6960)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from infra.errors import Failure, Rejected, Unavailable
from pki.algorithms import algorithm_of, verify

HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - names a certificate (RFC 6960 §4.1.1), protects nothing
    "sha256": hashes.SHA256(),
}
SKEW: Final = timedelta(minutes=5)
MAX_SINGLE_RESPONSES: Final = 1000


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


def check(
    content: bytes, request: bytes, issuer: x509.Certificate, nonce: bytes | None, now: datetime
) -> Said:
    """What ``content`` answers to ``request``, after the checks of RFC 6960 §3.2.

    Errors: ``Rejected`` with ``bad-ocsp-answer`` (a check fails; the detail says which) and
    ``ocsp-refused``; ``Unavailable("ocsp-try-later")``.
    """
    try:
        return _check(content, request, issuer, nonce, now)
    except Failure:
        raise
    except Exception as error:  # asn1crypto decodes lazily and raises many kinds
        raise _bad("it is not an OCSP response in DER") from error


def _check(
    content: bytes, request: bytes, issuer: x509.Certificate, nonce: bytes | None, now: datetime
) -> Said:
    from asn1crypto import ocsp as asn1

    response = asn1.OCSPResponse.load(content, strict=True)
    status = response["response_status"].native
    if status == "try_later":
        raise Unavailable("ocsp-try-later", "the responder says: try later")
    if status != "successful":
        raise Rejected("ocsp-refused", f"the responder refuses: {status.replace('_', ' ')}")
    if response["response_bytes"]["response_type"].native != "basic_ocsp_response":
        raise _bad("it is not a basic response")
    basic = response["response_bytes"]["response"].parsed
    data = basic["tbs_response_data"]
    single = _about(data, asn1.OCSPRequest.load(request, strict=True))
    signer, delegated = _signer(basic, data, issuer, now)
    algorithm = algorithm_of(basic["signature_algorithm"].dump())
    try:
        verify(algorithm, _key(signer), basic["signature"].native, data.dump())
    except Rejected as error:
        raise _bad("its signature does not verify") from error
    this_update = single["this_update"].native
    next_update = single["next_update"].native
    if this_update > now + SKEW:
        raise _bad(f"it is from the future: {this_update:%Y-%m-%dT%H:%M:%SZ}")
    if next_update is not None and next_update < now - SKEW:
        raise _bad(f"it was for use until {next_update:%Y-%m-%dT%H:%M:%SZ}")
    kind, revoked = single["cert_status"].name, None
    if kind == "revoked":
        revoked = single["cert_status"].chosen
    reason = None if revoked is None else revoked["revocation_reason"].native
    return Said(
        status=kind,
        revoked_at=None if revoked is None else revoked["revocation_time"].native,
        reason=None if revoked is None else _camel(reason or "unspecified"),
        this_update=this_update,
        next_update=next_update,
        produced_at=data["produced_at"].native,
        responder=signer.subject.rfc4514_string(),
        delegated=delegated,
        signature_algorithm=algorithm.name,
        nonce=_nonce(data, nonce),
    )


def _about(data: Any, request: Any) -> Any:
    """The single response whose CertID is the one asked for (§3.2 item 1)."""
    asked = request["tbs_request"]["request_list"][0]["req_cert"]
    if len(data["responses"]) > MAX_SINGLE_RESPONSES:
        raise _bad("it holds too many answers")
    for single in data["responses"]:
        given = single["cert_id"]
        # By value: parameters of the hash may be NULL or absent and mean the same.
        same = all(
            given[part].native == asked[part].native
            for part in ("issuer_name_hash", "issuer_key_hash", "serial_number")
        )
        if same and (
            given["hash_algorithm"]["algorithm"].dotted
            == asked["hash_algorithm"]["algorithm"].dotted
        ):
            return single
    raise _bad("it is about another certificate")


def _signer(
    basic: Any, data: Any, issuer: x509.Certificate, now: datetime
) -> tuple[x509.Certificate, bool]:
    """Who signed: the CA itself, or a responder that the CA has delegated to (§4.2.2.2)."""
    name = data["responder_id"]
    if _is_named(name, issuer):
        return issuer, False
    for each in list(basic["certs"] or [])[:10]:
        candidate = x509.load_der_x509_certificate(each.dump())
        if not _is_named(name, candidate):
            continue
        try:
            candidate.verify_directly_issued_by(issuer)
        except Exception as error:  # a bad signature, another issuer, an unknown algorithm
            raise _bad(
                "its responder's certificate is not by the CA that is asked about"
            ) from error
        usages = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
            raise _bad("its responder's certificate is not for OCSP signing")
        if not candidate.not_valid_before_utc <= now + SKEW:
            raise _bad("its responder's certificate is not valid yet")
        if candidate.not_valid_after_utc < now - SKEW:
            raise _bad("its responder's certificate has expired")
        return candidate, True
    raise _bad("nobody it names as its signer is the CA or in its certificates")


def _is_named(name: Any, candidate: x509.Certificate) -> bool:
    if name.name == "by_name":
        return bool(name.chosen.untag().dump() == candidate.subject.public_bytes())
    digest = x509.SubjectKeyIdentifier.from_public_key(candidate.public_key()).digest
    return bool(name.chosen.native == digest)


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


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _camel(name: str) -> str:
    special = {"ca_compromise": "cACompromise", "aa_compromise": "aACompromise"}
    first, *rest = name.split("_")
    return special.get(name) or first + "".join(
        "CRL" if word == "crl" else word.capitalize() for word in rest
    )


def _bad(why: str) -> Rejected:
    return Rejected("bad-ocsp-answer", f"the answer is not to be believed: {why}")
