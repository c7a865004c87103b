"""From the octets of a request to those of its answer (RFC 6960 §2, RFC 5019 §2.2).

What answers share is made once a second for each CA, on the first request of that second.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, assert_never

from infra.clock import Clock
from infra.errors import Failure, Rejected, Unavailable
from ocsp import response
from ocsp.delegate import Delegate, Desk, ResponderIdType, open_desk
from ocsp.request import (
    HASH_IDENTIFIERS,
    CertId,
    OcspRequest,
    PreferredAlgorithm,
    parse_request,
)
from ocsp.requestor import SignedRequests, check_requestor, read_anchors
from ocsp.response import CrlReference, ResponseStatus
from ocsp.source import Horizon, StatusSource
from pki import der
from pki.issuer import Issuer
from pki.status import Good, Revoked, Unknown

__all__ = [
    "Answer",
    "CrlReferences",
    "Delegate",
    "Freshness",
    "Practice",
    "Responder",
    "ResponderIdType",
    "SignedRequests",
    "crl_urls",
]

_log = logging.getLogger(__name__)

_SUCCESSFUL: Final = ResponseStatus.successful
_MAX_SERIAL: Final = 1 << 160
_SECOND: Final = timedelta(seconds=1)
_LONGEST_RETENTION: Final = timedelta(days=36525)

CrlReferences: TypeAlias = Callable[[str, int, Revoked], CrlReference | None]
"""Which CRL shows a revocation, by CA and serial number; None when none does (yet). It is asked
while the answer is made and must not wait."""


@dataclass(frozen=True, slots=True)
class Practice:
    """What a responder does beyond the plain answer.

    ``extended_revoke``: what was never issued counts as revoked (RFC 6960 §2.2); ``retention``:
    how long revocations are remembered after a certificate's end, at most 100 years, and said in
    the answers (archive cutoff, §4.4.4); ``signed_requests``: what becomes of signatures on
    requests (§4.1.2); ``requestor_anchors``: whom they must lead to, certificates in DER or PEM.
    Errors: ``bad-retention``, ``no-requestor-anchors``.
    """

    extended_revoke: bool = False
    retention: timedelta | None = None
    signed_requests: SignedRequests = SignedRequests.ignore
    requestor_anchors: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.retention is not None and not timedelta(0) < self.retention <= _LONGEST_RETENTION:
            raise Rejected("bad-retention", "revocations are remembered for up to 100 years")
        if self.signed_requests is not SignedRequests.ignore and not self.requestor_anchors:
            raise Rejected(
                "no-requestor-anchors",
                "name the certificates of those who may sign requests, or of the CAs above them",
            )


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long an answer may be kept (RFC 5019 §6).

    ``max_age``: seconds from now, so that it ends before ``next_update``.
    """

    this_update: datetime
    next_update: datetime
    max_age: int


class Answer(NamedTuple):
    """What goes back to the client.

    ``body``: an OCSPResponse in DER; ``code``: why it is no success, empty if it is one;
    ``freshness``: None when nobody may keep it: with a nonce, to a signed request, about what was
    never issued (it may be in a moment), or an error; ``about``: CA and serial number of each
    certificate in it that a CA can have issued; ``statuses``: ``good``, ``revoked``, ``hold`` or
    ``unknown``, of each that was asked for.
    """

    body: bytes
    status: ResponseStatus
    code: str
    freshness: Freshness | None
    about: tuple[tuple[str, int], ...] = ()
    statuses: tuple[str, ...] = ()


class _Turn:
    """A desk for one second: all octets of its answers that do not depend on the request."""

    __slots__ = ("archive_cutoff", "desk", "freshness", "good", "opening", "times", "unknown")

    def __init__(
        self, desk: Desk, start: datetime, this_update: datetime, next_update: datetime,
        practice: Practice,
    ) -> None:  # fmt: skip
        self.desk = desk
        self.opening = response.build_opening(desk.responder_id, start)
        self.times = response.build_times(this_update, next_update)
        retention = practice.retention
        self.archive_cutoff = None if retention is None else start - retention
        self.good = response.build_verdict(Good(), self.times, archive_cutoff=self.archive_cutoff)
        self.unknown = (
            response.build_never_issued(self.times)
            if practice.extended_revoke
            else response.build_verdict(Unknown(), self.times)
        )
        # RFC 5019 §6.2: max-age ends before nextUpdate, wherever in this second the answer goes.
        max_age = int((next_update - start).total_seconds()) - 2
        self.freshness = Freshness(this_update, next_update, max(max_age, 0))


class _Duty:
    """Who answers for a CA in the second ``start``; ``turns``: the default first; ``begins``,
    ``ends``: of that second, since 1970."""

    __slots__ = ("begins", "ends", "start", "turns")

    def __init__(self, start: datetime, turns: tuple[_Turn, ...]) -> None:
        self.start = start
        self.begins = start.timestamp()
        self.ends = self.begins + 1.0
        self.turns = turns

    def preferred(self, wanted: Iterable[PreferredAlgorithm]) -> _Turn:
        """The first that the client accepts; the default if it accepts none (§4.4.7.2)."""
        for signature, key in wanted:
            for turn in self.turns:
                desk = turn.desk
                if signature in desk.signature_identifiers and (
                    key is None or key in desk.key_identifiers
                ):
                    return turn
        return self.turns[0]


_NOBODY: Final = _Duty(datetime.fromtimestamp(0, UTC), ())


@dataclass(slots=True)
class _Ca:
    """A CA that is answered for. ``desks``: by the name of their algorithm, the default first."""

    issuer: Issuer
    issuer_ids: tuple[bytes, ...]
    desks: dict[str, Desk] = field(default_factory=dict)
    duty: _Duty = _NOBODY


class Responder:
    """Answers for several CAs, each with delegates of its own, one for each algorithm.

    ``lifetime``: from thisUpdate to nextUpdate, in whole seconds; an answer never outlives the
    certificate that it is verified with, nor what its source is worth. A client that prefers an
    algorithm gets it if there is a delegate for it (RFC 6960 §4.4.7); all others get the delegate
    that was installed first and is valid, which is best the one that signs as the CA's CRLs are
    signed (§4.4.7.2.1). Errors: ``bad-lifetime``, those of ``install`` and ``read_anchors``.
    """

    def __init__(
        self,
        delegates: Iterable[Delegate],
        source: StatusSource,
        clock: Clock,
        lifetime: timedelta,
        practice: Practice = Practice(),
        crl_references: CrlReferences | None = None,
    ) -> None:
        if lifetime < 2 * _SECOND:
            raise Rejected("bad-lifetime", "an OCSP answer must live for two seconds at least")
        self._source = source
        self._clock = clock
        self._lifetime = lifetime
        self._practice = practice
        self._anchors = read_anchors(practice.requestor_anchors)
        self._ignores_signatures = practice.signed_requests is SignedRequests.ignore
        self._crl_references = crl_references
        self._cas: dict[str, _Ca] = {}
        # Every CA under each form in which a CertID may name it.
        self._issuers: dict[bytes, _Ca] = {}
        for delegate in delegates:
            self.install(delegate)

    def install(self, delegate: Delegate) -> None:
        """Let ``delegate`` sign for its CA from the next answer on; those under way stay whole.

        Adds a CA, or an algorithm to one that is there, or takes the place of the delegate with
        that algorithm. Errors: ``duplicate-issuer``, those of ``open_desk``.
        """
        issuer = delegate.issuer
        desk = open_desk(delegate)
        issuer_ids = _issuer_ids(issuer)
        ca = self._cas.get(issuer.name)
        if any(self._issuers.get(one, ca) is not ca for one in issuer_ids) or (
            ca is not None and ca.issuer_ids != issuer_ids
        ):
            raise Rejected(
                "duplicate-issuer",
                f"there is another CA {issuer.name}, or one of the same subject and key; "
                "give each CA its own of both",
            )
        if ca is None:
            ca = self._cas[issuer.name] = _Ca(issuer, issuer_ids)
            self._issuers.update(dict.fromkeys(issuer_ids, ca))
        ca.desks[delegate.signer.algorithm.name] = desk
        ca.duty = _NOBODY

    async def answer(self, request: bytes) -> Answer:
        """The answer to an OCSPRequest; whatever goes wrong becomes an OCSP error (§2.3).

        It waits for nothing but a signer that does.
        """
        try:
            asked = parse_request(request)
        except Rejected as error:
            return _refusal(ResponseStatus.malformedRequest, error)
        cert_ids = asked.cert_ids
        ca = self._issuers.get(cert_ids[0].issuer)
        if ca is None or (len(cert_ids) > 1 and not self._are_all_of(ca, cert_ids)):
            return _NOT_OURS
        try:
            # Before the look-up: thisUpdate is when the status was surely right (§4.2.2.1).
            duty = ca.duty
            if not duty.begins <= self._clock.timestamp() < duty.ends:
                duty = self._begin(ca, self._clock.now())
            if not self._ignores_signatures:
                refusal = self._check_requestor(asked, duty.start)
                if refusal is not None:
                    return refusal
            wanted = asked.preferred_algorithms
            turn = duty.preferred(wanted) if wanted else duty.turns[0]
            response_data, about, statuses = self._decide(ca.issuer.name, turn, asked)
            desk = turn.desk
            signature = await desk.signer.sign(response_data)
        except Unavailable as error:
            return _refusal(ResponseStatus.tryLater, error)
        except Failure as error:
            _log.exception("an OCSP request could not be answered")
            return _refusal(ResponseStatus.internalError, error)
        body = response.assemble_basic(
            response_data, desk.signer.algorithm.identifier, signature, desk.certificates
        )
        kept = asked.nonce is None and asked.signature is None and "unknown" not in statuses
        return Answer(body, _SUCCESSFUL, "", turn.freshness if kept else None, about, statuses)

    def _are_all_of(self, ca: _Ca, cert_ids: Iterable[CertId]) -> bool:
        """One answer has one signature, and that is good for the certificates of one CA only
        (RFC 6960 §4.2.2.2)."""
        return all(self._issuers.get(one.issuer) is ca for one in cert_ids)

    def _check_requestor(self, asked: OcspRequest, now: datetime) -> Answer | None:
        required = self._practice.signed_requests is SignedRequests.require
        if asked.signature is None and not required:
            return None
        try:
            check_requestor(asked, self._anchors, now)
        except Rejected as error:
            if asked.signature is None:
                return _refusal(ResponseStatus.sigRequired, error)
            return _refusal(ResponseStatus.unauthorized, error)
        return None

    def _begin(self, ca: _Ca, now: datetime) -> _Duty:
        """Make all that the answers of this second share."""
        name = ca.issuer.name
        start = now.replace(microsecond=0)
        horizon = self._source.horizon(name, now)
        present = [desk for desk in ca.desks.values() if desk.not_before <= now < desk.not_after]
        if not present:
            raise Unavailable(
                "delegate-expired",
                f"the responder's certificate for CA {name} is not valid now; install a new one",
            )
        turns = tuple(self._turns(present, horizon, start))
        if not turns:
            raise Unavailable(
                "status-outdated",
                f"what is known of CA {name} is too old to be told; see to the source of statuses",
            )
        ca.duty = _Duty(start, turns)
        return ca.duty

    def _turns(self, desks: Iterable[Desk], horizon: Horizon, start: datetime) -> Iterator[_Turn]:
        this_update = min(horizon.known_at.replace(microsecond=0), start)
        until = this_update + self._lifetime
        if horizon.until is not None:
            # Whoever made the statuses said how long they hold, however old they are (a CRL does).
            until = min(start + self._lifetime, horizon.until.replace(microsecond=0))
        for desk in desks:
            next_update = min(until, desk.not_after)
            if next_update > start:
                yield _Turn(desk, start, this_update, next_update, self._practice)

    def _decide(
        self, issuer: str, turn: _Turn, asked: OcspRequest
    ) -> tuple[bytes, tuple[tuple[str, int], ...], tuple[str, ...]]:
        """ResponseData, what it is about, and the statuses that it tells."""
        singles: list[bytes] = []
        about: list[tuple[str, int]] = []
        statuses: list[str] = []
        for _, serial, cert_id in asked.cert_ids:
            # What no CA may issue (RFC 5280 §4.1.2.2) was never issued: it is not looked up.
            if 0 < serial < _MAX_SERIAL:
                about.append((issuer, serial))
                status = self._source.status(issuer, serial)
            else:
                status = Unknown()
            match status:
                case Good():
                    verdict, word = turn.good, "good"
                case Revoked():
                    verdict = self._revoked(issuer, serial, status, turn)
                    word = "hold" if status.on_hold else "revoked"
                case Unknown():
                    verdict, word = turn.unknown, "unknown"
                case _:
                    assert_never(status)
            singles.append(response.build_single(cert_id, verdict))
            statuses.append(word)
        extended_revoke = self._practice.extended_revoke and "unknown" in statuses
        response_data = response.build_response_data(
            turn.opening, singles, asked.nonce, extended_revoke=extended_revoke
        )
        return response_data, tuple(about), tuple(statuses)

    def _revoked(self, issuer: str, serial: int, status: Revoked, turn: _Turn) -> bytes:
        find = self._crl_references
        return response.build_verdict(
            status,
            turn.times,
            archive_cutoff=turn.archive_cutoff,
            crl_reference=None if find is None else find(issuer, serial, status),
        )


def crl_urls(issuers: Iterable[Issuer]) -> CrlReferences:
    """References to where each CA's CRLs are; which of them shows a revocation changes too often
    to be said."""
    references = {one.name: CrlReference(one.crl_url) for one in issuers if one.crl_url}
    return lambda issuer, serial, status: references.get(issuer)


def _refusal(status: ResponseStatus, error: Failure) -> Answer:
    return Answer(response.error_response(status), status, error.code, None)


_NOT_OURS: Final = _refusal(
    ResponseStatus.unauthorized,
    Rejected("not-our-issuer", "ask about certificates of one CA served here"),
)


def _issuer_ids(issuer: Issuer) -> tuple[bytes, ...]:
    """All that ``CertId.issuer`` may hold for this CA."""
    key = response.subject_public_key(issuer.public_key_info)
    return tuple(
        identifier
        + der.octet_string(hashlib.new(name, issuer.subject).digest())
        + der.octet_string(hashlib.new(name, key).digest())
        for name, identifiers in HASH_IDENTIFIERS.items()
        for identifier in identifiers
    )
