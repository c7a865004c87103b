"""The responder: whose question it is, what the answer says, and when there is none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from infra.clock import FixedClock
from infra.errors import Broken, Rejected, Unavailable
from ocsp.request import HASH_OIDS, build_cert_id, build_request
from ocsp.responder import Answer, Delegate, Responder, ResponderIdType
from ocsp.response import ResponseStatus, subject_public_key
from pki.signer.file import FileSigner
from pki.status import CertStatus, Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import (
    ALGORITHMS,
    LIFETIME,
    NOW,
    Ca,
    Statuses,
    cert_id,
    file_signer,
    responder,
    signer,
)

CA = Ca("Issuing")
OTHER = Ca("Other")
DELEGATE = CA.delegate(signer("p-256"))
OTHER_DELEGATE = OTHER.delegate(signer("ed25519"))
THIS_UPDATE = NOW.replace(microsecond=0)


def ask(*serials: int, ca: Ca = CA, nonce: bytes | None = None) -> bytes:
    return build_request([cert_id(ca.issuer, serial) for serial in serials], nonce)


def single(answer: Answer) -> x509_ocsp.OCSPResponse:
    assert answer.status is ResponseStatus.successful, answer.code
    return x509_ocsp.load_der_ocsp_response(answer.body)


def assert_refused(answer: Answer, status: ResponseStatus, code: str) -> None:
    read = x509_ocsp.load_der_ocsp_response(answer.body)
    assert read.response_status.name.replace("_", "") == status.name.upper().replace("_", "")
    assert (answer.status, answer.code, answer.freshness) == (status, code, None)


@pytest.mark.parametrize("hash_name", HASH_OIDS)
async def test_finds_the_issuer_under_every_hash(hash_name: str) -> None:
    statuses = Statuses({("Other", 5): Good()})
    both = responder([DELEGATE, OTHER_DELEGATE], statuses)
    answer = await both.answer(build_request([cert_id(OTHER.issuer, 5, hash_name)]))
    read = single(answer)
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.GOOD
    assert read.hash_algorithm.name == hash_name
    assert statuses.asked == [("Other", 5)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (RevocationReason.unspecified, None),
        (RevocationReason.keyCompromise, x509.ReasonFlags.key_compromise),
        (RevocationReason.certificateHold, x509.ReasonFlags.certificate_hold),
    ],
)
async def test_says_revoked_with_time_and_reason(
    status: RevocationReason, reason: x509.ReasonFlags | None
) -> None:
    at = THIS_UPDATE - timedelta(days=2)
    since = at - timedelta(days=1)
    statuses = Statuses({("Issuing", 5): Revoked(at, status, since, 3)})
    read = single(await responder([DELEGATE], statuses).answer(ask(5)))
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.REVOKED
    assert read.revocation_time_utc == at
    assert read.revocation_reason == reason
    known = read.single_extensions.get_extension_for_class(x509.InvalidityDate)
    assert known.value.invalidity_date_utc == since


async def test_says_unknown_of_what_was_never_issued() -> None:
    read = single(await responder([DELEGATE], Statuses({})).answer(ask(5)))
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.UNKNOWN


@pytest.mark.parametrize("serial", [0, -5, 1 << 160, 1 << 4000])
async def test_does_not_look_up_a_serial_that_no_ca_may_use(serial: int) -> None:
    statuses = Statuses({("Issuing", serial): Good()})
    answer = await responder([DELEGATE], statuses).answer(ask(serial))
    assert answer.status is ResponseStatus.successful
    assert statuses.asked == []
    # The single response carries [2], unknown, behind the CertID that was asked for.
    wanted = cert_id(CA.issuer, serial)
    assert answer.body[answer.body.index(wanted) + len(wanted) :].startswith(b"\x82\x00")


async def test_the_largest_serial_is_looked_up() -> None:
    statuses = Statuses({("Issuing", (1 << 160) - 1): Good()})
    read = single(await responder([DELEGATE], statuses).answer(ask((1 << 160) - 1)))
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.GOOD


async def test_answers_several_ids_in_their_order() -> None:
    revoked = Revoked(THIS_UPDATE, RevocationReason.superseded, None, 1)
    held = Revoked(THIS_UPDATE, RevocationReason.certificateHold, None, 2)
    statuses = Statuses({("Issuing", 1): Good(), ("Issuing", 2): revoked, ("Issuing", 4): held})
    answer = await responder([DELEGATE], statuses).answer(ask(1, 2, 3, 1, 4, -1))
    assert answer.about == tuple(("Issuing", serial) for serial in (1, 2, 3, 1, 4))
    assert answer.statuses == ("good", "revoked", "unknown", "good", "hold", "unknown")
    found = [
        (one.serial_number, one.certificate_status)
        for one in x509_ocsp.load_der_ocsp_response(answer.body).responses
    ]
    good, revoked_, unknown = x509_ocsp.OCSPCertStatus
    assert found == [
        (1, good),
        (2, revoked_),
        (3, unknown),
        (1, good),
        (4, revoked_),
        (-1, unknown),
    ]


async def test_times_and_freshness_without_a_nonce() -> None:
    answer = await responder([DELEGATE], Statuses({("Issuing", 1): Good()})).answer(ask(1))
    read = single(answer)
    assert read.produced_at_utc == read.this_update_utc == THIS_UPDATE
    assert read.next_update_utc == THIS_UPDATE + LIFETIME
    assert answer.freshness is not None
    assert answer.freshness.this_update == THIS_UPDATE
    assert answer.freshness.next_update == THIS_UPDATE + LIFETIME
    assert answer.freshness is not None
    ends = NOW + timedelta(seconds=answer.freshness.max_age)
    assert THIS_UPDATE + LIFETIME - timedelta(seconds=2) <= ends < THIS_UPDATE + LIFETIME


async def test_repeats_the_nonce_and_lets_nobody_keep_the_answer() -> None:
    nonce = bytes(range(128))
    statuses = Statuses({("Issuing", 1): Good()})
    answer = await responder([DELEGATE], statuses).answer(ask(1, nonce=nonce))
    assert answer.freshness is None
    assert answer.freshness is None
    assert single(answer).extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce


@pytest.mark.parametrize("serials", [(2,), (1, 2), (0,)])
async def test_nobody_keeps_that_a_certificate_is_unknown(serials: tuple[int, ...]) -> None:
    answer = await responder([DELEGATE], Statuses({("Issuing", 1): Good()})).answer(ask(*serials))
    assert answer.status is ResponseStatus.successful
    assert answer.freshness is None
    assert answer.freshness is None


def test_a_key_in_memory_answers_without_waiting() -> None:
    waiting = responder([DELEGATE], Statuses({("Issuing", 1): Good()})).answer(ask(1))
    with pytest.raises(StopIteration) as ended:
        waiting.send(None)
    assert ended.value.value.status is ResponseStatus.successful


async def test_an_answer_never_outlives_the_delegates_certificate() -> None:
    until = THIS_UPDATE + timedelta(minutes=7)
    clock = FixedClock(NOW)
    ending = responder([CA.delegate(signer("p-256"), until=until)], Statuses({}), clock)
    read = single(await ending.answer(ask(1)))
    assert read.next_update_utc == until
    clock.at = until
    assert_refused(await ending.answer(ask(1)), ResponseStatus.tryLater, "delegate-expired")
    clock.at = THIS_UPDATE - timedelta(days=2)
    assert_refused(await ending.answer(ask(1)), ResponseStatus.tryLater, "delegate-expired")


@pytest.mark.parametrize(
    "asked",
    [
        build_request([cert_id(OTHER.issuer, 1)]),
        build_request([cert_id(CA.issuer, 1), cert_id(OTHER.issuer, 1)]),
        build_request([cert_id(OTHER.issuer, 1), cert_id(CA.issuer, 1)]),
        build_request([build_cert_id("1.2.840.113549.2.5", b"n" * 16, b"k" * 16, 1)]),
    ],
    ids=["foreign", "ours and foreign", "foreign and ours", "unknown hash"],
)
async def test_is_not_authorized_for_other_issuers(asked: bytes) -> None:
    statuses = Statuses({})
    answer = await responder([DELEGATE], statuses).answer(asked)
    assert_refused(answer, ResponseStatus.unauthorized, "not-our-issuer")
    assert statuses.asked == []


async def test_one_answer_is_never_for_two_cas() -> None:
    both = responder([DELEGATE, OTHER_DELEGATE], Statuses({}))
    asked = build_request([cert_id(CA.issuer, 1), cert_id(OTHER.issuer, 1)])
    answer = await both.answer(asked)
    assert_refused(answer, ResponseStatus.unauthorized, "not-our-issuer")


async def test_the_name_of_one_ca_with_the_key_of_another_is_nobody() -> None:
    key = subject_public_key(OTHER.issuer.public_key_info)
    mixed = build_cert_id(
        HASH_OIDS["sha256"],
        hashlib.sha256(CA.issuer.subject).digest(),
        hashlib.sha256(key).digest(),
        1,
    )
    answer = await responder([DELEGATE, OTHER_DELEGATE], Statuses({})).answer(
        build_request([mixed])
    )
    assert_refused(answer, ResponseStatus.unauthorized, "not-our-issuer")


async def test_garbage_is_malformed() -> None:
    answer = await responder([DELEGATE], Statuses({})).answer(b"garbage")
    assert_refused(answer, ResponseStatus.malformedRequest, "bad-der")


async def test_try_later_when_the_source_is_away() -> None:
    statuses = Statuses({("Issuing", 1): Unavailable("store-unavailable", "wait")})
    answer = await responder([DELEGATE], statuses).answer(ask(2, 1))
    assert_refused(answer, ResponseStatus.tryLater, "store-unavailable")


class AwaySigner(FileSigner):
    """A key whose token has been pulled out."""

    async def sign(self, message: bytes) -> bytes:
        raise Unavailable("token-unavailable", "insert the token")


def away(key: FileSigner) -> FileSigner:
    return AwaySigner(key.uri, None, key.public_key_info, key.algorithm, key._threads)


async def test_try_later_when_the_token_is_away() -> None:
    gone = replace(DELEGATE, signer=away(DELEGATE.signer))  # type: ignore[arg-type]
    answer = await responder([gone], Statuses({})).answer(ask(1))
    assert_refused(answer, ResponseStatus.tryLater, "token-unavailable")


@pytest.mark.parametrize(
    "failure", [Broken("ledger-broken", "secret"), Rejected("key-closed", "opened?")]
)
async def test_internal_error_when_the_fault_is_ours(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = Statuses({("Issuing", 1): failure})
    answer = await responder([DELEGATE], statuses).answer(ask(1))
    assert_refused(answer, ResponseStatus.internalError, failure.code)  # type: ignore[attr-defined]
    assert "could not be answered" in caplog.text


async def test_a_delegate_is_renewed_between_two_answers() -> None:
    statuses = Statuses({("Issuing", 1): Good()})
    ours = responder([DELEGATE, OTHER_DELEGATE], statuses)
    renewed = CA.delegate(signer("p-256"), ResponderIdType.byName)
    before = single(await ours.answer(ask(1)))
    ours.install(renewed)
    after = single(await ours.answer(ask(1)))
    assert [one.public_bytes(DER) for one in before.certificates] == [DELEGATE.certificate]
    assert [one.public_bytes(DER) for one in after.certificates] == [renewed.certificate]
    assert before.responder_name is None
    assert after.responder_name == after.certificates[0].subject
    assert single(await ours.answer(ask(1, ca=OTHER))).signature_algorithm_oid.dotted_string == (
        "1.3.101.112"
    )


async def test_an_answer_under_way_keeps_its_delegate_whole() -> None:
    renewed = CA.delegate(file_signer(ALGORITHMS["p-384"]()[0], "ecdsa-with-sha256"))

    class Renewing(Statuses):
        def status(self, issuer: str, serial: int) -> CertStatus:
            ours.install(renewed)
            return Good()

    ours = responder([DELEGATE], Renewing({}))
    read = single(await ours.answer(ask(1)))
    assert [one.public_bytes(DER) for one in read.certificates] == [DELEGATE.certificate]
    assert read.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.2"
    later = single(await ours.answer(ask(1)))
    assert [one.public_bytes(DER) for one in later.certificates] == [renewed.certificate]


async def test_a_ca_that_signs_for_itself_sends_no_certificate() -> None:
    direct = Delegate(CA.issuer, file_signer(CA.key, "ecdsa-with-sha256"), CA.der)
    read = single(await responder([direct], Statuses({})).answer(ask(1)))
    assert read.certificates == []
    read_key = subject_public_key(CA.issuer.public_key_info)
    assert read.responder_key_hash == hashlib.sha1(read_key, usedforsecurity=False).digest()


def test_refuses_a_delegate_that_no_client_would_accept() -> None:
    key = signer("p-256")
    fit = CA.delegate(key)
    tampered = bytearray(fit.certificate)
    tampered[-1] ^= 1
    impostor = Ca("Issuing").delegate(key)
    cases = {
        "delegate-key": replace(fit, signer=signer("p-256")),
        "delegate-purpose": CA.delegate(key, purpose=ExtendedKeyUsageOID.CLIENT_AUTH),
        "bad-der": replace(fit, certificate=fit.certificate[:-1]),
    }
    for code, delegate in cases.items():
        assert install_code(delegate) == code
    for delegate in (
        replace(fit, issuer=OTHER.issuer),
        replace(fit, certificate=bytes(tampered)),
        replace(fit, certificate=impostor.certificate),
    ):
        assert install_code(delegate) == "delegate-issuer"


async def test_a_refused_delegate_leaves_the_one_that_is_there() -> None:
    ours = responder([DELEGATE], Statuses({}))
    with pytest.raises(Rejected):
        ours.install(replace(DELEGATE, signer=signer("p-256")))
    read = single(await ours.answer(ask(1)))
    assert [one.public_bytes(DER) for one in read.certificates] == [DELEGATE.certificate]


def test_refuses_two_cas_that_cannot_be_told_apart() -> None:
    twin = replace(DELEGATE, issuer=replace(CA.issuer, name="Twin"))
    key = signer("p-256")
    namesake = Ca("Issuing").delegate(key)
    for second in (twin, namesake):
        with pytest.raises(Rejected, match="duplicate-issuer"):
            responder([DELEGATE, second], Statuses({}))


async def test_a_ca_is_added_while_running() -> None:
    ours = responder([DELEGATE], Statuses({("Other", 1): Good()}))
    assert (await ours.answer(ask(1, ca=OTHER))).code == "not-our-issuer"
    ours.install(OTHER_DELEGATE)
    read = single(await ours.answer(ask(1, ca=OTHER)))
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.GOOD


def test_refuses_a_lifetime_without_room() -> None:
    with pytest.raises(Rejected, match="bad-lifetime"):
        Responder([DELEGATE], Statuses({}), FixedClock(NOW), timedelta(seconds=1))


def install_code(delegate: Delegate) -> str:
    with pytest.raises(Rejected) as caught:
        responder([delegate], Statuses({}))
    return caught.value.code


DER = serialization.Encoding.DER
