"""Mutated certificates, CRLs and OCSP responses: an outcome or a refusal, and never more trust."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Any

import pytest
from asn1crypto import crl as asn1_crl
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509

from infra.errors import Rejected
from pki import der
from pki.validation import Revocation, validate
from tests.conformance.crl_evidence_fixtures import entry, listing, point
from tests.conformance.test_rfc5280_validation import (
    ADA,
    CLEAN,
    COMPROMISED,
    DAY,
    ISSUING,
    NOW,
    RESPONDER,
    ROOT,
    Entity,
    crl,
    ocsp_response,
    sign,
)

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
ROUNDS = 300
LONG_AGO = NOW - 60 * DAY
HOLD = (x509.CRLReason(x509.ReasonFlags.certificate_hold), False)
FRESHEST = (x509.FreshestCRL([point("http://127.0.0.1/crl/delta.crl")]), False)
REVOKED = crl(ISSUING, (ADA, NOW - 2 * DAY, COMPROMISED))
ANSWERED = ocsp_response(ADA, ISSUING, RESPONDER)
DENIED = ocsp_response(ADA, ISSUING, RESPONDER, revoked=NOW - 2 * DAY)


def mutate(chance: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(data))
        if chance.random() < 0.7:
            data[place] = chance.choice((0, 1, 5, 0x30, 0x80, 0xFF, chance.randrange(256)))
        elif chance.random() < 0.5:
            del data[place]
        else:
            data[place:place] = chance.randbytes(1)
    return bytes(data)


def signed(tbs: bytes, algorithm: bytes, signer: Entity, *more: bytes) -> bytes:
    return der.sequence(tbs, algorithm, der.bit_string(sign(signer.key, tbs)), *more)


def crl_anew(chance: random.Random, seed: bytes, signer: Entity) -> bytes:
    """Garbage that its CA has signed: lengths in the way to it are kept right."""
    made = asn1_crl.CertificateList.load(seed)
    tbs = der.sequence(mutate(chance, made["tbs_cert_list"].contents))
    return signed(tbs, made["signature_algorithm"].dump(), signer)


def answer_anew(chance: random.Random, seed: bytes, signer: Entity) -> bytes:
    basic = asn1_ocsp.OCSPResponse.load(seed).basic_ocsp_response
    tbs = der.sequence(mutate(chance, basic["tbs_response_data"].contents))
    certificates = der.explicit(0, der.sequence(signer.der))
    made = signed(tbs, basic["signature_algorithm"].dump(), signer, certificates)
    kind = der.object_identifier("1.3.6.1.5.5.7.48.1.1")
    content = der.explicit(0, der.sequence(kind, der.octet_string(made)))
    return der.sequence(der.enumerated(0), content)


@dataclass(frozen=True)
class Case:
    """What is given, and which pieces of it are mutated: ``(kind, place)``.

    ``signers``: the CRLs and responses are signed anew after that, by these; ``revocation``: what
    is asked for, or anything.
    """

    crls: tuple[bytes, ...]
    ocsp_responses: tuple[bytes, ...]
    mutated: tuple[tuple[str, int], ...]
    at: datetime = NOW
    signers: dict[tuple[str, int], Entity] = field(default_factory=dict)
    revocation: Revocation | None = None


def case(crls: tuple[bytes, ...], ocsp_responses: tuple[bytes, ...], **how: Any) -> Case:
    """Any of it may be mutated, if nothing else is said."""
    counts = {"crls": len(crls), "ocsp_responses": len(ocsp_responses)}
    counts |= dict.fromkeys(("certificate", "anchors", "intermediates"), 1)
    places = tuple((kind, place) for kind, count in counts.items() for place in range(count))
    return Case(crls, ocsp_responses, how.pop("mutated", places), **how)


def beside(
    given_crls: tuple[bytes, ...], responses: tuple[bytes, ...], **signers: tuple[Entity, ...]
) -> Case:
    """Only these pieces, which their CAs sign anew; others tell of the revocation."""
    anew = {(kind, place): one for kind, who in signers.items() for place, one in enumerate(who)}
    return Case(
        given_crls, responses, tuple(anew), signers=anew, revocation=Revocation.EITHER
    )  # fmt: skip


STALE = ocsp_response(ADA, ISSUING, RESPONDER, this_update=LONG_AGO)
LATER = ocsp_response(ADA, ISSUING, RESPONDER, this_update=NOW + DAY)
HELD = listing(ISSUING, FRESHEST, entries=[entry(ADA, HOLD)])
BASE = listing(ISSUING, FRESHEST, number=7)
DELTA = listing(ISSUING, (x509.DeltaCRLIndicator(7), True), FRESHEST, number=8)
NEVER_VALID = {
    "all say that it is revoked": case((CLEAN[0], REVOKED), (DENIED,)),
    "what is good is stale": case((CLEAN[0], crl(ISSUING, this_update=LONG_AGO)), (STALE,)),
    "what is good is from beyond now": case(
        (CLEAN[0], crl(ISSUING, this_update=NOW + DAY)), (LATER,)
    ),
    "what is good is by others": case(
        (CLEAN[0], crl(Entity(ROOT.key, ISSUING.certificate))),
        (ocsp_response(ADA, ISSUING, ADA),),
    ),
    "it is the future that is asked about": case(CLEAN, (ANSWERED,), at=NOW + DAY),
    "a good answer, mutated, beside a list that tells": case(
        (CLEAN[0], REVOKED),
        (ANSWERED,),
        mutated=(("ocsp_responses", 0), ("crls", 0), ("anchors", 0), ("intermediates", 0)),
        revocation=Revocation.EITHER,
    ),
    "a good answer of signed garbage beside a list that tells": beside(
        (CLEAN[0], REVOKED), (ANSWERED,), ocsp_responses=(RESPONDER,)
    ),
    "lists of signed garbage beside an answer that tells": beside(
        (CLEAN[0], CLEAN[1], HELD), (DENIED,), crls=(ROOT, ISSUING, ISSUING)
    ),
    "a delta of signed garbage beside an answer that tells": beside(
        (CLEAN[0], BASE, DELTA), (DENIED,), crls=(ROOT, ISSUING, ISSUING)
    ),
}
GIVEN = ((*CLEAN, HELD, REVOKED), (ANSWERED, DENIED, STALE))
PERHAPS_VALID = {
    "mutated": case(*GIVEN),
    "signed garbage": beside(
        *GIVEN, crls=(ROOT, ISSUING, ISSUING, ISSUING), ocsp_responses=(RESPONDER,) * 3
    ),
}


async def outcome_of(chance: random.Random, case: Case) -> str:
    given = {
        "certificate": [ADA.der],
        "anchors": [ROOT.der],
        "intermediates": [ISSUING.der],
        "crls": list(case.crls),
        "ocsp_responses": list(case.ocsp_responses),
    }
    kind, place = chance.choice(case.mutated)
    seed, signer = given[kind][place], case.signers.get((kind, place))
    if signer is None:
        made = mutate(chance, seed)
    else:
        made = (crl_anew if kind == "crls" else answer_anew)(chance, seed, signer)
    given[kind][place] = made
    (certificate,) = given.pop("certificate")
    revocation = case.revocation or chance.choice(
        (Revocation.CRL, Revocation.OCSP, Revocation.EITHER)
    )
    how: dict[str, Any] = {**given, "at": case.at, "now": NOW, "revocation": revocation}
    try:
        outcome = await validate(certificate, **how)
    except Rejected as rejected:
        return rejected.code
    assert outcome.explanation
    assert outcome.valid == (outcome.code == "valid")
    return outcome.code


@pytest.mark.parametrize("which", NEVER_VALID)
async def test_mutated_evidence_never_makes_a_certificate_valid(which: str) -> None:
    case = NEVER_VALID[which]
    chance = random.Random(5280)
    end = monotonic() + SECONDS / len(NEVER_VALID)
    codes: dict[str, int] = {}
    while sum(codes.values()) < ROUNDS or monotonic() < end:
        found = await outcome_of(chance, case)
        codes[found] = codes.get(found, 0) + 1
    assert "valid" not in codes
    assert set(codes) & {"bad-crl", "bad-ocsp-response"}
    assert set(codes) & {"revoked", "revocation-unknown", "revocation-stale"}


@pytest.mark.parametrize("which", PERHAPS_VALID)
async def test_mutated_evidence_is_refused_or_explained(which: str) -> None:
    """Nothing happens that nobody foresaw, at whatever time."""
    chance = random.Random(6960)
    end = monotonic() + SECONDS / len(PERHAPS_VALID)
    count = 0
    while count < ROUNDS or monotonic() < end:
        count += 1
        at = NOW + DAY * chance.choice((0, 0, -3, -40, 1))
        await outcome_of(chance, replace(PERHAPS_VALID[which], at=at))
