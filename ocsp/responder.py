"""From the octets of a request to those of its answer (RFC 6960 §2, RFC 5019 §2.2)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, TypeAlias, assert_never

from infra.clock import Clock
from infra.errors import Failure, Rejected, Unavailable
from ocsp import response
from ocsp.request import HASH_OIDS, CertId, OcspRequest, parse_request
from ocsp.response import ResponseStatus
from ocsp.source import StatusSource
from pki import algorithms, der, oids
from pki.certificate import Certificate, parse_certificate
from pki.issuer import Issuer
from pki.signer.port import Signer
from pki.status import CertStatus, Unknown

_log = logging.getLogger(__name__)

_MAX_SERIAL: Final = 1 << 160

_IssuerKey: TypeAlias = tuple[str, bytes, bytes]  # hash OID, issuerNameHash, issuerKeyHash


class ResponderIdType(Enum):
    """How an answer names its signer (ResponderID, RFC 6960 §4.2.1)."""

    byName = "name"
    byKey = "key"


@dataclass(frozen=True, slots=True)
class Delegate:
    """Who signs the answers for one CA.

    ``signer``: the key; ``certificate``: DER, issued to that key by that very CA for OCSP signing
    (RFC 6960 §4.2.2.2), or the CA's own.
    """

    issuer: Issuer
    signer: Signer
    certificate: bytes
    responder_id: ResponderIdType = ResponderIdType.byKey


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long an answer may be kept (RFC 5019 §6).

    ``max_age``: seconds from now, so that it ends before ``next_update``.
    """

    this_update: datetime
    next_update: datetime
    max_age: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client.

    ``body``: an OCSPResponse in DER; ``code``: why it is no success, empty if it is one;
    ``freshness``: None when nobody may keep it, as with a nonce or an error.
    """

    body: bytes
    status: ResponseStatus
    code: str
    freshness: Freshness | None


@dataclass(frozen=True, slots=True)
class _Desk:
    """A delegate with all that its answers have in common."""

    delegate: Delegate
    responder_id: bytes
    certificates: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime


class Responder:
    """Answers for several CAs, each with a key and certificate of its own.

    ``lifetime``: from thisUpdate to nextUpdate, in whole seconds; an answer never outlives the
    certificate that it is verified with. Errors: those of ``install``.
    """

    def __init__(
        self,
        delegates: Iterable[Delegate],
        source: StatusSource,
        clock: Clock,
        lifetime: timedelta,
    ) -> None:
        if lifetime < timedelta(seconds=2):
            raise Rejected("bad-lifetime", "an OCSP answer must live for two seconds at least")
        self._source = source
        self._clock = clock
        self._lifetime = lifetime
        self._desks: dict[str, _Desk] = {}
        # Every known issuer under each hash that a client may name it by.
        self._names: dict[_IssuerKey, str] = {}
        for delegate in delegates:
            self.install(delegate)

    def install(self, delegate: Delegate) -> None:
        """Let ``delegate`` sign for its CA from the next answer on; those under way stay whole.

        Adds a CA, or renews the certificate or key of one that is there. Errors:
        ``delegate-key``, ``delegate-issuer``, ``delegate-purpose``, ``duplicate-issuer``,
        those of ``parse_certificate``.
        """
        issuer = delegate.issuer
        desk = _desk(delegate)
        keys = _issuer_keys(issuer)
        present = self._desks.get(issuer.name)
        if any(self._names.get(key, issuer.name) != issuer.name for key in keys) or (
            present is not None and _issuer_keys(present.delegate.issuer) != keys
        ):
            raise Rejected(
                "duplicate-issuer",
                f"there is another CA {issuer.name}, or one of the same subject and key; "
                "give each CA its own of both",
            )
        self._desks[issuer.name] = desk
        self._names.update(dict.fromkeys(keys, issuer.name))

    async def answer(self, request: bytes) -> Answer:
        """The answer to an OCSPRequest; whatever goes wrong becomes an OCSP error (§2.3)."""
        try:
            asked = parse_request(request)
        except Rejected as error:
            return _refusal(ResponseStatus.malformedRequest, error)
        try:
            issuer = self._issuer_of(asked.cert_ids)
        except Rejected as error:
            return _refusal(ResponseStatus.unauthorized, error)
        try:
            return await self._definitive(asked, issuer)
        except Unavailable as error:
            return _refusal(ResponseStatus.tryLater, error)
        except Failure as error:
            _log.exception("an OCSP request could not be answered")
            return _refusal(ResponseStatus.internalError, error)

    def _issuer_of(self, cert_ids: tuple[CertId, ...]) -> str:
        """The one CA that all of ``cert_ids`` are of: one answer has one signature, and that is
        good for the certificates of one CA only (RFC 6960 §4.2.2.2)."""
        names = {
            self._names.get((one.hash_oid, one.issuer_name_hash, one.issuer_key_hash))
            for one in cert_ids
        }
        name = names.pop()
        if name is None or names:
            raise Rejected("not-our-issuer", "ask about certificates of one CA served here")
        return name

    async def _definitive(self, asked: OcspRequest, issuer: str) -> Answer:
        # Before the look-up: thisUpdate is when the status was surely right (RFC 6960 §4.2.2.1).
        now = self._clock.now()
        desk = self._desks[issuer]
        if not desk.not_before <= now < desk.not_after:
            raise Unavailable(
                "delegate-expired",
                f"the responder's certificate for CA {issuer} is not valid now; install a new one",
            )
        statuses = [await self._status(issuer, cert_id.serial) for cert_id in asked.cert_ids]
        this_update = now.replace(microsecond=0)
        next_update = min(this_update + self._lifetime, desk.not_after)
        response_data = response.build_response_data(
            desk.responder_id,
            this_update,
            [
                response.build_single(cert_id.der, status, this_update, next_update)
                for cert_id, status in zip(asked.cert_ids, statuses, strict=True)
            ],
            asked.nonce,
        )
        signer = desk.delegate.signer
        signature = await signer.sign(response_data)
        body = response.assemble_basic(
            response_data, signer.algorithm.identifier, signature, desk.certificates
        )
        freshness = None
        if asked.nonce is None:
            # RFC 5019 §6.2: max-age ends before nextUpdate.
            max_age = int((next_update - now).total_seconds()) - 1
            freshness = Freshness(this_update, next_update, max(max_age, 0))
        return Answer(body, ResponseStatus.successful, "", freshness)

    async def _status(self, issuer: str, serial: int) -> CertStatus:
        # What no CA may issue (RFC 5280 §4.1.2.2) was never issued: no reason to look it up.
        if not 0 < serial < _MAX_SERIAL:
            return Unknown()
        return await self._source.status(issuer, serial)


def _refusal(status: ResponseStatus, error: Failure) -> Answer:
    return Answer(response.error_response(status), status, error.code, None)


def _issuer_keys(issuer: Issuer) -> list[_IssuerKey]:
    key = response.subject_public_key(issuer.public_key_info)
    return [
        (oid, hashlib.new(name, issuer.subject).digest(), hashlib.new(name, key).digest())
        for name, oid in HASH_OIDS.items()
    ]


def _desk(delegate: Delegate) -> _Desk:
    """Read the delegate's certificate and see that clients will accept it (RFC 6960 §4.2.2.2)."""
    issuer = delegate.issuer
    certificate = parse_certificate(delegate.certificate)
    if certificate.public_key_info != delegate.signer.public_key_info:
        raise Rejected(
            "delegate-key", f"the responder's certificate for CA {issuer.name} is for another key"
        )
    direct = certificate.der == issuer.certificate
    if not direct:
        _require_issued(issuer, certificate)
        if not _is_for_ocsp_signing(certificate):
            raise Rejected(
                "delegate-purpose",
                f"the responder's certificate for CA {issuer.name} lacks id-kp-OCSPSigning",
            )
    match delegate.responder_id:
        case ResponderIdType.byName:
            responder_id = response.responder_by_name(certificate.subject.der)
        case ResponderIdType.byKey:
            responder_id = response.responder_by_key(certificate.public_key_info)
        case _:
            assert_never(delegate.responder_id)
    return _Desk(
        delegate,
        responder_id,
        # Clients have the CA's own certificate already.
        () if direct else (certificate.der,),
        certificate.not_before,
        certificate.not_after,
    )


def _require_issued(issuer: Issuer, certificate: Certificate) -> None:
    refusal = Rejected(
        "delegate-issuer",
        f"the responder's certificate was not issued by CA {issuer.name} itself",
    )
    if certificate.issuer.der != issuer.subject:
        raise refusal
    try:
        algorithms.verify(
            algorithms.algorithm_of(certificate.algorithm),
            issuer.public_key_info,
            certificate.signature,
            certificate.tbs,
        )
    except Rejected as error:
        raise refusal from error


def _is_for_ocsp_signing(certificate: Certificate) -> bool:
    extension = certificate.extension(oids.EXTENDED_KEY_USAGE)
    if extension is None:
        return False
    purposes = der.one(extension.value, der.SEQUENCE)
    stated = set()
    while purposes:
        stated.add(purposes.object_identifier())
    return oids.KEY_PURPOSES["OCSPSigning"] in stated
