"""RFC 5280 §6.3 and RFC 6960 §4.2.2.2, turned against us: whatever does not clearly say that a
certificate is good does not make it valid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.validation import Revocation
from tests.conformance.crl_evidence_fixtures import (
    entry,
    listing,
    point,
    pointing,
    resigned,
    scope,
    with_key,
)
from tests.conformance.test_rfc5280_validation import (
    ADA,
    CLEAN,
    COMPROMISED,
    DAY,
    ISSUING,
    MAKERS,
    NO_CHECK,
    NOW,
    ROOT,
    Entity,
    check,
    crl,
    digest,
    issue,
    name,
    ocsp_response,
)

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
CRL_SIGN = frozenset({"crl_sign"})
OCSP_SIGNING = [ExtendedKeyUsageOID.OCSP_SIGNING]
ROOTS = CLEAN[0]
HERE, THERE, DELTA = (f"http://127.0.0.1/crl/{one}.crl" for one in ("here", "there", "delta"))


async def code(leaf: Entity, *crls: bytes, via: Sequence[Entity] = (ISSUING,), **how: Any) -> str:
    how = {"revocation": Revocation.CRL, "crls": crls} | how
    return (await check(leaf, via=via, **how)).code


# §6.1.3 (a) (1): what is believed of no certificate is believed of no evidence


def over_sha1(data: bytes, signed: bytes, signer: Entity) -> bytes:
    """The same with a good signature over SHA-1. ``signed``: its to-be-signed octets."""
    sha256, sha1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    octets = signed.replace(sha256, sha1)
    signature = signer.key.sign(octets, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    old = signer.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    assert data.count(old) == 1
    return data.replace(old, signature).replace(signed, octets).replace(sha256, sha1)


@pytest.mark.parametrize("kind", [Revocation.CRL, Revocation.OCSP])
@pytest.mark.parametrize("weak", [False, True])
async def test_evidence_over_sha1_counts_for_nothing(kind: Revocation, weak: bool) -> None:
    root = issue("R", key_type="rsa-2048", ca=True)
    leaf = issue("L", root)
    crls, responses = [listing(root)], [ocsp_response(leaf, root, root)]
    if weak:
        tbs = x509.load_der_x509_crl(crls[0]).tbs_certlist_bytes
        crls = [over_sha1(crls[0], tbs, root)]
        tbs = ocsp.load_der_ocsp_response(responses[0]).tbs_response_bytes
        responses = [over_sha1(responses[0], tbs, root)]
    how: Any = {"crls": crls} if kind is Revocation.CRL else {"ocsp_responses": responses}
    outcome = await check(leaf, anchors=(root,), via=(), revocation=kind, **how)
    assert outcome.code == ("revocation-unknown" if weak else "valid")


# §6.3.3 (b) (1): an indirect CRL, and its signer

SIGNER = issue("Revocations", ROOT, usage=CRL_SIGN, extensions=pointing(point(THERE)))
INDIRECT = scope(HERE, indirect_crl=True)
BOB = issue("Bob", ISSUING, extensions=pointing(point(HERE, SIGNER)))
BOBS_CA = (x509.CertificateIssuer([x509.DirectoryName(name("Issuing"))]), True)


async def test_an_indirect_crl_counts_if_its_signer_is_good() -> None:
    via = (ISSUING, SIGNER)
    assert await code(BOB, ROOTS, listing(SIGNER, INDIRECT), via=via) == "valid"
    listed = listing(SIGNER, INDIRECT, entries=[entry(BOB, BOBS_CA)])
    assert await code(BOB, ROOTS, listed, via=via) == "revoked"
    assert await code(BOB, ROOTS, listing(SIGNER, INDIRECT)) == "revocation-unknown"


@pytest.mark.parametrize("why", ["unknown", "revoked", "expired"])
async def test_the_signer_of_a_crl_must_be_good_itself(why: str) -> None:
    roots = {
        # The CA's status is known, the signer's is not: it is on another CRL.
        "unknown": listing(ROOT, scope(only_contains_ca_certs=True), lifetime=30 * DAY),
        "revoked": listing(ROOT, entries=[entry(SIGNER)], lifetime=30 * DAY),
        "expired": ROOTS,
    }
    signer = SIGNER
    if why == "expired":
        signer = issue("Revocations", ROOT, usage=CRL_SIGN, lifetime=DAY)
    made = listing(signer, INDIRECT)
    outcome = await check(
        BOB, via=(ISSUING, signer), crls=(roots[why], made), revocation=Revocation.CRL
    )
    assert outcome.code == "revocation-unknown"
    [line] = (line for line in outcome.explanation if "Revocations does not count" in line)
    assert {"unknown": "only contains ca", "revoked": "revoked at", "expired": "expired"}[
        why
    ] in line.lower()


@pytest.mark.parametrize("extensions", [[], [INDIRECT], [scope(indirect_crl=True)]])
async def test_nobody_vouches_for_himself(extensions: list[Any]) -> None:
    signer = issue("Revocations", ISSUING, usage=CRL_SIGN)
    own = listing(signer, *extensions)
    assert await code(signer, ROOTS, own) == "revocation-unknown"
    bob = issue("Bob", ISSUING, extensions=pointing(point(HERE, signer)))
    assert await code(bob, ROOTS, own, via=(ISSUING, signer)) == "revocation-unknown"


@pytest.mark.parametrize("extensions", [[], [scope(indirect_crl=True)]])
async def test_a_crl_by_somebody_the_certificate_does_not_name(extensions: list[Any]) -> None:
    vouched = listing(ISSUING, scope(HERE))  # of a shard that ADA is not in, but he is
    stranger = issue("Stranger", ISSUING, usage=CRL_SIGN, extensions=pointing(point(HERE)))
    made = (ROOTS, vouched, listing(stranger, *extensions))
    assert await code(ADA, *made, via=(ISSUING, stranger)) == "revocation-unknown"


@pytest.mark.parametrize("usage", ["digital_signature", "key_cert_sign", None])
async def test_a_signer_needs_crl_sign_by_name(usage: str | None) -> None:
    signer = issue("Revocations", ROOT, usage=frozenset({usage} if usage else ()))
    if usage is None:  # as if everything were allowed
        bare = (
            x509.CertificateBuilder(subject_name=name("Revocations"), issuer_name=name("Root"))
            .public_key(signer.key.public_key())
            .serial_number(1)
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
        )
        signer = Entity(signer.key, bare.sign(ROOT.key, digest(ROOT.key)))
    made = listing(signer, INDIRECT)
    assert await code(BOB, ROOTS, made, via=(ISSUING, signer)) == "revocation-unknown"


async def test_signers_that_vouch_for_each_other() -> None:
    keys = {who: issue(who, ROOT, usage=CRL_SIGN) for who in ("Revocations", "Other")}
    one, two = (
        issue(who, ROOT, key=keys[who].key, usage=CRL_SIGN,
              extensions=pointing(point(None, keys[by])))
        for who, by in (("Revocations", "Other"), ("Other", "Revocations"))
    )  # fmt: skip
    made = (listing(one, scope(indirect_crl=True)), listing(two, scope(indirect_crl=True)))
    for leaf in (BOB, one):
        assert await code(leaf, ROOTS, *made, via=(ISSUING, one, two)) == "revocation-unknown"


async def test_a_crl_of_a_ca_says_nothing_of_its_sibling() -> None:
    """Nor when an OCSP response brings the sibling's certificate along."""
    sibling = issue("Sibling", ROOT, ca=True)
    answer = ocsp_response(ADA, ISSUING, sibling)
    made = (crl(ISSUING), crl(sibling))
    for via in ((ISSUING,), (ISSUING, sibling)):
        how: dict[str, Any] = {"via": via, "ocsp_responses": [answer]}
        for revocation in (Revocation.CRL, Revocation.EITHER):
            found = await code(ADA, *made, revocation=revocation, **how)
            assert found == "revocation-unknown"


# §6.3.3 (g): signatures


async def test_a_crl_by_a_ca_of_the_same_name_with_another_key() -> None:
    for twin in (issue("Issuing", ca=True), issue("Issuing", issue("Root", ca=True), ca=True)):
        assert await code(ADA, ROOTS, crl(twin), via=(ISSUING, twin)) == "revocation-unknown"
        lonely = issue("Issuing", Entity(twin.key, twin.certificate), usage=CRL_SIGN)
        assert await code(ADA, ROOTS, crl(lonely), via=(ISSUING, lonely)) == "revocation-unknown"


async def test_a_signature_copied_from_another_crl() -> None:
    stale = crl(ISSUING, (ADA, NOW - 20 * DAY, COMPROMISED), this_update=NOW - 30 * DAY)
    for _ in range(50):  # ECDSA signatures differ in length
        forger = Entity(MAKERS["p-256"](), ISSUING.certificate)
        forged = crl(forger, this_update=NOW - 31 * DAY, lifetime=60 * DAY)
        lengths = {len(x509.load_der_x509_crl(one).signature) for one in (forged, stale)}
        if len(lengths) == 1:
            break
    # The identifier of the forger's key would tell him apart; write in the CA's.
    mine, true = (
        x509.SubjectKeyIdentifier.from_public_key(one.key.public_key()).digest
        for one in (forger, ISSUING)
    )
    forged = resigned(forged, stale).replace(mine, true)
    for crls in ((stale, forged), (forged, stale)):
        assert await code(ADA, ROOTS, *crls) == "revoked"


async def test_a_forged_crl_is_not_believed_while_its_signer_is_looked_at() -> None:
    """pyhanko-certvalidator takes a CRL whose signer it is just validating as signed."""
    signer = issue("Revocations", ROOT, usage=CRL_SIGN)
    bob = issue("Bob", ISSUING, extensions=pointing(point(None, signer)))
    forged = listing(Entity(MAKERS["p-256"](), signer.certificate), scope(indirect_crl=True))
    for leaf in (bob, signer):
        crls = (crl(ISSUING), forged) if leaf is signer else (ROOTS, forged)
        assert await code(leaf, *crls, via=(ISSUING, signer)) == "revocation-unknown"


@pytest.mark.parametrize("carried_by", ["intermediates", "OCSP response"])
async def test_a_key_written_into_a_certificate_of_the_path(carried_by: str) -> None:
    """Same issuer, serial and signature value, and still another certificate."""
    twin = with_key(ISSUING, MAKERS["p-256"]())
    forged = ocsp_response(ADA, ISSUING, twin)
    for revocation in (Revocation.OCSP, Revocation.EITHER, Revocation.CRL):
        how: dict[str, Any] = {"revocation": revocation}
        if carried_by == "intermediates":
            how["via"] = (ISSUING, twin)
        else:
            how["ocsp_responses"] = [forged]
        for crls in ((ROOTS,), (ROOTS, crl(twin)), (ROOTS, crl(Entity(twin.key, ADA.certificate)))):
            assert await code(ADA, *crls, **how) == "revocation-unknown"


async def test_a_signature_copied_into_the_certificate_of_a_signer() -> None:
    forger = Entity(MAKERS["p-256"](), ROOT.certificate)
    true = ISSUING.certificate.signature
    root = Entity(MAKERS["p-384"](), ROOT.certificate)
    signer = issue("Issuing", root, key=forger.key, usage=CRL_SIGN)
    while len(signer.certificate.signature) != len(true):
        signer = issue("Issuing", root, key=forger.key, usage=CRL_SIGN)
    der = signer.der.replace(signer.certificate.signature, true)
    feigned = Entity(forger.key, x509.load_der_x509_certificate(der))
    assert await code(ADA, ROOTS, crl(feigned), via=(ISSUING, feigned)) == "revocation-unknown"


# RFC 6960 §4.2.2.2.1: a delegated responder's own revocation


@pytest.mark.parametrize("revocation", [Revocation.OCSP, Revocation.EITHER])
async def test_a_responder_without_no_check_must_be_good_itself(revocation: Revocation) -> None:
    responder = issue("Responder", ISSUING, extended=OCSP_SIGNING)
    answers = [ocsp_response(one, ISSUING, responder) for one in (ADA, responder)]
    shard = listing(ISSUING, scope(HERE))
    for given in (answers[:1], answers):
        how: dict[str, Any] = {"revocation": revocation, "ocsp_responses": given}
        assert await code(ADA, ROOTS, **how) == "revocation-unknown"
        assert await code(ADA, ROOTS, shard, **how) == "revocation-unknown"
        revoked = listing(ISSUING, scope(only_some_reasons=frozenset({COMPROMISED})),
                          entries=[entry(responder)])  # fmt: skip
        assert await code(ADA, ROOTS, revoked, **how) == "revocation-unknown"
    # The CA vouches for its responder.
    both = [answers[0], ocsp_response(responder, ISSUING, ISSUING)]
    assert await code(ADA, ROOTS, ocsp_responses=both, revocation=revocation) == "valid"
    bad = [answers[0], ocsp_response(responder, ISSUING, ISSUING, revoked=NOW - DAY)]
    assert await code(ADA, ROOTS, ocsp_responses=bad, revocation=revocation) == "revocation-unknown"


# §6.3.3 (a), §5.1.2.4 and §5.1.2.5: currency


async def test_a_crl_counts_from_its_first_to_its_last_second() -> None:
    made = listing(ISSUING, this_update=NOW - DAY, lifetime=DAY)
    second = timedelta(seconds=1)
    assert await code(ADA, ROOTS, made, at=NOW) == "valid"
    assert await code(ADA, ROOTS, made, at=NOW + 3 * second) == "revocation-stale"
    assert await code(ADA, made, listing(ROOT, this_update=NOW - 9 * DAY)) == "revocation-stale"


async def test_a_crl_of_later_counts_only_with_a_remark() -> None:
    later = listing(ISSUING, this_update=NOW + DAY)
    now = NOW + 2 * DAY
    outcome = await check(ADA, crls=(ROOTS, later), revocation=Revocation.CRL, now=now)
    assert outcome.code == "valid"
    assert outcome.retroactive
    assert any("issued after the time" in line for line in outcome.explanation)
    listed = listing(ISSUING, this_update=NOW + DAY, entries=[entry(ADA)])
    assert await code(ADA, ROOTS, listed, now=now) == "revoked"


# §6.3.3 (c) and §5.2.4: deltas

FRESHEST = (x509.FreshestCRL([point(DELTA)]), False)


def delta(base: int, number: int, *entries: x509.RevokedCertificate, **how: Any) -> bytes:
    more = how.pop("more", ())
    indicator = (x509.DeltaCRLIndicator(base), True)
    return listing(ISSUING, indicator, *more, entries=entries, number=number, **how)


async def test_a_delta_adds_to_its_base() -> None:
    base = listing(ISSUING, FRESHEST, number=7)
    assert await code(ADA, ROOTS, base, delta(7, 8)) == "valid"
    assert await code(ADA, ROOTS, base, delta(7, 8, entry(ADA))) == "revoked"
    assert await code(ADA, ROOTS, base, delta(5, 7)) == "valid"


@pytest.mark.parametrize(
    ("base", "added"),
    [
        (None, delta(7, 8)),  # nothing to add it to
        (7, None),  # named by the base, and not at hand
        (7, delta(8, 9)),  # what was revoked between 7 and 8 is in neither
        (7, delta(5, 6)),  # older than the base
        (7, delta(7, 8, more=[(UNKNOWN, True)])),
        (7, delta(7, 8, this_update=NOW - 3 * DAY, lifetime=DAY)),
        (7, delta(7, 8, more=[scope(HERE)])),
        (7, delta(7, 8, entry(BOB, (UNKNOWN, True)))),
    ],
)
async def test_a_delta_that_does_not_fit(base: int | None, added: bytes | None) -> None:
    crls = [ROOTS] + ([] if base is None else [listing(ISSUING, FRESHEST, number=base)])
    crls += [] if added is None else [added]
    assert await code(ADA, *crls) == "revocation-unknown"


async def test_an_old_delta_releases_nobody() -> None:
    released = entry(ADA, (x509.CRLReason(x509.ReasonFlags.remove_from_crl), False))
    again = listing(ISSUING, FRESHEST, number=7, entries=[entry(ADA)])
    assert await code(ADA, ROOTS, again, delta(5, 6, released)) != "valid"
    held = listing(
        ISSUING, FRESHEST, number=7,
        entries=[entry(ADA, (x509.CRLReason(x509.ReasonFlags.certificate_hold), False))],
    )  # fmt: skip
    assert await code(ADA, ROOTS, held, delta(7, 8, released)) == "valid"


async def test_a_delta_that_its_base_does_not_name_is_not_passed_over() -> None:
    for base, number in ((7, 8), (8, 9)):
        added = delta(base, number, entry(ADA))
        assert await code(ADA, ROOTS, listing(ISSUING, number=7), added) == "revoked"
        empty = delta(base, number)
        assert await code(ADA, ROOTS, listing(ISSUING, number=7), empty) == "revocation-unknown"
    stale = delta(7, 8, entry(ADA), this_update=NOW - 3 * DAY, lifetime=DAY)
    assert await code(ADA, ROOTS, listing(ISSUING, number=7), stale) != "valid"
    assert await code(ADA, ROOTS, listing(ISSUING, number=9), delta(7, 8)) == "valid"


# §6.3.3 (b) (2) and (d): what a CRL covers


@pytest.mark.parametrize(
    ("mine", "only"),
    [
        (point(HERE), scope(THERE)),
        (None, scope(THERE)),
        (point(HERE, SIGNER), scope(HERE)),  # by the CA, where a signer is named
        (point(HERE), scope(HERE, only_contains_ca_certs=True)),
        (point(HERE), scope(HERE, only_contains_attribute_certs=True)),
        (point(HERE), scope(HERE, only_some_reasons=frozenset({COMPROMISED}))),
        (point(HERE, reasons=frozenset({COMPROMISED})), scope(HERE)),
    ],
)
async def test_a_crl_that_covers_something_else(mine: Any, only: Any) -> None:
    leaf = issue("L", ISSUING, extensions=pointing(mine) if mine else [])
    assert await code(leaf, ROOTS, listing(ISSUING, only)) == "revocation-unknown"
    user = scope(only_contains_user_certs=True)
    assert await code(ADA, listing(ROOT, user), crl(ISSUING)) == "revocation-unknown"


async def test_reasons_add_up() -> None:
    every = set(x509.ReasonFlags) - {x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl}
    one, rest = ({COMPROMISED}, every - {COMPROMISED})
    first, second = (listing(ISSUING, scope(only_some_reasons=frozenset(r))) for r in (one, rest))
    assert await code(ADA, ROOTS, first) == "revocation-unknown"
    assert await code(ADA, ROOTS, first, second) == "valid"


# §5.2 and §5.3: critical extensions


async def test_an_unknown_critical_extension_spoils_the_whole_crl() -> None:
    critical, quiet = (UNKNOWN, True), (UNKNOWN, False)
    assert await code(ADA, ROOTS, listing(ISSUING, critical)) == "revocation-unknown"
    for whose in (ADA, BOB):
        made = listing(ISSUING, entries=[entry(whose, critical)])
        assert await code(ADA, ROOTS, made) == "revocation-unknown"
    made = listing(ISSUING, quiet, entries=[entry(BOB, quiet)])
    assert await code(ADA, ROOTS, made) == "valid"


# §6.1.3 (a) (3): every certificate of the path


@pytest.mark.parametrize("revocation", [Revocation.CRL, Revocation.OCSP, Revocation.EITHER])
async def test_the_cas_of_the_path_must_be_good_too(revocation: Revocation) -> None:
    deeper = issue("Deeper", issue_ca := issue("Middle", ROOT, ca=True), ca=True)
    leaf, via = issue("L", deeper), (deeper, issue_ca)
    answer = ocsp_response(leaf, deeper, deeper)
    how: dict[str, Any] = {"via": via, "revocation": revocation, "ocsp_responses": [answer]}
    lists = [crl(deeper), crl(issue_ca), ROOTS]
    assert await code(leaf, *lists, **how) == "valid"
    for missing in (1, 2):
        some = [one for number, one in enumerate(lists) if number != missing]
        assert await code(leaf, *some, **how) == "revocation-unknown"
    ended = [crl(deeper), crl(issue_ca, (deeper, NOW - DAY, COMPROMISED)), ROOTS]
    assert await code(leaf, *ended, **how) == "revoked"
    top = crl(ROOT, (issue_ca, NOW - DAY, COMPROMISED))
    assert await code(leaf, crl(deeper), crl(issue_ca), top, **how) == "revoked"


async def test_a_responder_with_no_check_signs_no_crl() -> None:
    responder = issue("Issuing", ISSUING, extended=OCSP_SIGNING, extensions=[NO_CHECK])
    answer = ocsp_response(BOB, ISSUING, responder)
    made = crl(responder)
    assert await code(ADA, ROOTS, made, ocsp_responses=[answer]) == "revocation-unknown"
