"""Mutated certificates, CRLs and OCSP responses: an outcome or a refusal, and never more trust."""

from __future__ import annotations

import os
import random
from time import monotonic

from infra.errors import Rejected
from pki.validation import Revocation, validate
from tests.conformance.test_rfc5280_validation import (
    ADA,
    CLEAN,
    COMPROMISED,
    DAY,
    ISSUING,
    NOW,
    RESPONDER,
    ROOT,
    crl,
    ocsp_response,
)

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
GIVEN = {
    "certificate": (ADA.der,),
    "anchors": (ROOT.der,),
    "intermediates": (ISSUING.der,),
    "crls": (CLEAN[0], crl(ISSUING, (ADA, NOW - 2 * DAY, COMPROMISED))),
    "ocsp_responses": (ocsp_response(ADA, ISSUING, RESPONDER, revoked=NOW - 2 * DAY),),
}


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


async def outcome_of(chance: random.Random, which: str) -> str:
    given = {name: list(values) for name, values in GIVEN.items()}
    place = chance.randrange(len(given[which]))
    given[which][place] = mutate(chance, given[which][place])
    (certificate,) = given.pop("certificate")
    revocation = chance.choice((Revocation.CRL, Revocation.OCSP, Revocation.EITHER))
    try:
        outcome = await validate(certificate, **given, at=NOW, revocation=revocation)  # type: ignore[arg-type]
    except Rejected as rejected:
        return rejected.code
    assert outcome.explanation
    return outcome.code


async def test_a_revoked_certificate_never_becomes_valid() -> None:
    chance = random.Random(5280)
    end = monotonic() + SECONDS
    codes = set()
    count = 0
    while count < 300 or monotonic() < end:
        count += 1
        codes.add(await outcome_of(chance, chance.choice(tuple(GIVEN))))
    assert "valid" not in codes
    assert {"revoked", "bad-certificate", "bad-crl", "bad-ocsp-response"} <= codes
