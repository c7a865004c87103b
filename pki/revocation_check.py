"""Whether one certificate of a path is revoked (RFC 5280 §6.1.3 (a) (3)): every CRL and OCSP answer
is authenticated and heard by itself, and then ``pki.revocation_status`` weighs what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509

from pki.crl_evidence import (
    Listing,
    crls_by,
    is_over,
    is_released,
    listings_for,
    named,
    number_of,
    said_of,
    signers_about,
)
from pki.evidence import instant
from pki.ocsp_evidence import Answer, answers_about, said_in
from pki.path_processing import Failure, hear_answer, hear_crls, process
from pki.path_search import CertificationPath, issued_by
from pki.revocation_status import EVERY_REASON, SaysGood, Status, Word, weigh


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was given; ``signers``: certificates of possible signers of indirect CRLs."""

    crls: tuple[asn1_crl.CertificateList, ...] = ()
    ocsp_responses: tuple[asn1_ocsp.OCSPResponse, ...] = ()
    signers: tuple[asn1_x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Hearing:
    """How a certificate is asked about: at ``moment``, with ``evidence``.

    ``until``: revocations from after it are still to come; ``horizon``: evidence from after it is
    of later; ``retroactive``: that may prove it good, too;
    ``by_crl``, ``by_ocsp``: which evidence counts; ``vouching``: it is the certificate of a
    responder, for which none may vouch that needs somebody to vouch for him.
    """

    moment: datetime
    until: datetime
    horizon: datetime
    evidence: Evidence
    retroactive: bool
    by_crl: bool = True
    by_ocsp: bool = True
    vouching: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """``failure``: None if it is good; ``notes``: for people, what was weighed all the same;
    ``revoked_itself``: it is the first of its path that is revoked, not a CA above it."""

    failure: Failure | None
    notes: tuple[str, ...] = ()
    revoked_itself: bool = False


async def ask(path: CertificationPath, hearing: Hearing) -> Finding:
    """Whether the first of ``path`` is good at the moment of the ``hearing``, the others being
    good. The codes of failures are ``revoked``, ``revocation-unknown`` and ``revocation-stale``."""
    case = _Case(path, hearing)
    if hearing.by_ocsp:
        await case.hear_answers()
    if hearing.by_crl:
        await case.hear_crls_of(path[1])
        for signer in signers_about(path[0], hearing.evidence.signers):
            await case.hear_crls_of(signer)
    return case.find()


class _Case:
    """The hearing of one certificate, as it goes on."""

    def __init__(self, path: CertificationPath, hearing: Hearing) -> None:
        self.path = path
        self.hearing = hearing
        self.words: list[Word] = []
        self.failures: list[Failure] = []
        self.remarks: list[str] = []
        # What is issued after a certificate has expired may have dropped it (RFC 5280 §3.3,
        # RFC 6960 §4.4.4), and proves nothing.
        self.proves_until = min(one.not_valid_after for one in path)

    def find(self) -> Finding:
        who = self.path[0].subject.human_friendly
        asked = self.hearing
        verdict = weigh(
            who, self.words, asked.until, horizon=asked.horizon, retroactive=asked.retroactive
        )
        remarks = tuple(dict.fromkeys(self.remarks))
        match verdict.status:
            case Status.GOOD:
                return Finding(None, (*remarks, *verdict.lines))
            case Status.REVOKED:
                return Finding(Failure("revoked", (*remarks, *verdict.lines)))
        failure = next(
            (one for one in self.failures if one.code == "revocation-stale"),
            self.failures[0] if self.failures else None,
        )
        if failure is None:
            failure = Failure("revocation-unknown", (f"nothing that counts tells of {who}",))
        return Finding(replace(failure, lines=(*failure.lines, *remarks)))

    def _note(self, failure: Failure | None) -> None:
        """Why a piece of evidence does not prove the certificate good. What says that it is
        revoked was read already."""
        if failure is not None and failure.code != "revoked":
            stale = failure.code == "revocation-stale"
            code = failure.code if stale else "revocation-unknown"
            self.failures.append(Failure(code, failure.lines))

    # ── CRLs ──────────────────────────────────────────────────────────────────────────────────────

    async def hear_crls_of(self, signer: asn1_x509.Certificate) -> None:
        """Take the CRLs by ``signer`` in: the issuer, or whom the certificate names."""
        certificate, issuer, *_ = self.path
        crls, remarks = crls_by(signer, self.hearing.evidence.crls)
        self.remarks += remarks
        if not crls:
            return
        if signer is not issuer and (failure := await self._why_no_signer(signer)):
            who = signer.subject.human_friendly
            self.remarks += [f"the CRL of {who} does not count: {one}" for one in failure.lines]
            return
        readable = [one for one in crls if self._read(one, signer)]
        hearing = self.hearing
        listings, remarks = listings_for(certificate, readable, hearing.moment, hearing.horizon)
        self.remarks += remarks
        other = None if signer is issuer else signer
        for listing in listings:
            failure = await hear_crls(self.path, self.hearing.moment, listing.crls, other)
            if failure is None or failure.code == "revocation-partial":
                self._take(listing, signer, whole=failure is None)
            self._note(failure)

    def _take(self, listing: Listing, signer: asn1_x509.Certificate, *, whole: bool) -> None:
        """Take it in that a CRL does not list the certificate; ``whole``: for any reason."""
        reasons = EVERY_REASON if whole else listing.reasons
        newest = listing.crls[-1]
        self.words.append(
            Word(
                named(newest),
                signer.sha256_fingerprint,
                listing.told,
                SaysGood(reasons, released=is_released(self.path[0], listing)),
                current=listing.told <= self.proves_until,
                number=number_of(newest),
            )
        )

    def _read(self, one: asn1_crl.CertificateList, signer: asn1_x509.Certificate) -> bool:
        """Take in what it says of revocation; whether it could be read."""
        try:
            said = said_of(self.path[0], one)
        except Exception as error:  # what nobody foresaw in octets from outside says nothing
            self.remarks.append(f"{named(one)} does not count: it cannot be read: {error}")
            return False
        told, end = (one["tbs_cert_list"][field] for field in ("this_update", "next_update"))
        current, teller = not is_over(end, self.hearing.moment), signer.sha256_fingerprint
        self.words += [
            Word(named(one), teller, told.native, each, current=current, number=number_of(one))
            for each in said
        ]
        return True

    async def _why_no_signer(self, signer: asn1_x509.Certificate) -> Failure | None:
        """Why ``signer`` may sign no CRL about the first of the path: its own path must end at the
        same anchor (RFC 5280 §6.3.3 (f)), and its CA must say that it is good, not a signer."""
        path = self.path
        above = next((path[n:] for n in range(1, len(path)) if issued_by(signer, path[n])), None)
        if above is None:
            return Failure("issuer-missing", ("no CA of the path issued its signer's certificate",))
        way = (signer, *above)
        failure = await process(way, self.hearing.moment)
        if failure is not None:
            return failure
        evidence = replace(self.hearing.evidence, signers=())
        hearing = replace(self.hearing, evidence=evidence, by_crl=True, by_ocsp=True)
        return (await ask(way, hearing)).failure

    # ── OCSP ──────────────────────────────────────────────────────────────────────────────────────

    async def hear_answers(self) -> None:
        """Take the OCSP answers in."""
        certificate, issuer, *_ = self.path
        responses = self.hearing.evidence.ocsp_responses
        answers, remarks = answers_about(certificate, issuer, responses)
        self.remarks += remarks
        refused: dict[tuple[bytes, datetime], Failure | None] = {}
        for answer in answers:
            responder = answer.responder
            if responder is not None:
                key = responder.dump(), answer.told
                if key not in refused:
                    refused[key] = await self._why_no_responder(responder, answer.told)
                failure = refused[key]
                if failure is not None:
                    self.remarks += [f"{answer} does not count: {one}" for one in failure.lines]
                    continue
            await self._hear(answer)

    async def _hear(self, answer: Answer) -> None:
        said = said_in(answer)
        if said is None:
            who = self.path[0].subject.human_friendly
            self.remarks.append(f"{answer} of {instant(answer.told)} does not know {who}")
            return
        current = not is_over(answer.single["next_update"], self.hearing.moment)
        if isinstance(said, SaysGood):
            failure = await hear_answer(self.path, self.hearing.moment, answer.container)
            self._note(failure)
            if failure is not None and failure.code != "revocation-stale":
                return
            current = failure is None and answer.told <= self.proves_until
        self.words.append(
            Word(str(answer), str(answer), answer.told, said, current=current, by_ocsp=True)
        )

    async def _why_no_responder(
        self, responder: asn1_x509.Certificate, told: datetime
    ) -> Failure | None:
        """Why the CA's delegate is not to be heard (RFC 6960 §4.2.2.2.1): the delegation must hold,
        at the moment or when it answered, and its CA must say that it is good; or be silent, where
        it says that it need not be asked."""
        way = (responder, *self.path[1:])
        failure = await process(way, self.hearing.moment)
        if failure is not None and await process(way, told) is not None:
            return failure
        unchecked = responder.ocsp_no_check_value is not None
        if self.hearing.vouching:
            line = "its responder must be vouched for, and cannot vouch for another"
            return None if unchecked else Failure("revocation-unknown", (line,))
        found = (await ask(way, replace(self.hearing, vouching=True))).failure
        return None if unchecked and found is not None and found.code != "revoked" else found
