"""RFC 6960 §4.1.2, §2.2 and §4.4 by clause; the other side is openssl, and pkilint for answers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as x509_ocsp

from ocsp.request import HASH_OIDS, MAX_CERT_IDS, build_cert_id, build_request
from ocsp.responder import Answer, Delegate, Practice, SignedRequests
from ocsp.response import CrlReference, ResponseStatus
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import Good, RevocationReason, Revoked
from tests.conformance.ocsp_fixtures import (
    NOW,
    PLAIN,
    Ca,
    Statuses,
    cert_id,
    responder,
    run,
    signer,
    write_pem,
)
from tests.conformance.test_rfc6960 import findings

CA = Ca("RFC 6960 extensions CA")
DELEGATE = CA.delegate(signer("p-256"))
SUBJECT = CA.issue("subject")
SERIAL = SUBJECT.serial_number
AT = (NOW - timedelta(days=2)).replace(microsecond=0)
REVOKED = Revoked(AT, RevocationReason.keyCompromise, None, 1)
CRL = CrlReference("http://crl.example/ca.crl", 4711, AT)


async def answer(
    request: bytes,
    status: Good | Revoked | None,
    practice: Practice = PLAIN,
    delegates: Iterable[Delegate] = (DELEGATE,),
) -> Answer:
    known = Statuses({} if status is None else {(CA.name, SERIAL): status})
    return await responder(
        delegates, known, practice=practice, crl_references=lambda *_: CRL
    ).answer(request)


async def text_of(said: Answer, folder: Path) -> str:
    """As openssl prints it, having verified it; pkilint has nothing against it."""
    assert said.status is ResponseStatus.successful, said.code
    assert findings(said.body) == []
    (folder / "answer.der").write_bytes(said.body)
    ca = write_pem(folder / "ca.pem", CA.certificate)
    text = await run(
        "openssl", "ocsp", "-respin", folder / "answer.der", "-CAfile", ca, "-resp_text"
    )
    assert "Response verify OK" in text
    return text


ASKED = build_request([cert_id(CA.issuer, SERIAL)])
WITH_NONCE = build_request([cert_id(CA.issuer, SERIAL)], bytes(range(32)))


# §4.1.2: a request signed by openssl.


class Requestor:
    """Somebody with a key and a certificate of ``ca`` who asks with openssl."""

    def __init__(self, ca: Ca, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.folder = folder
        write_pem(folder / "client.pem", ca.issue("client", self.key.public_key()))
        write_pem(folder / "issuer.pem", CA.certificate)
        write_pem(folder / "subject.pem", SUBJECT)
        (folder / "client.key").write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    async def request(self, *options: str) -> bytes:
        await run(
            "openssl", "ocsp", "-issuer", self.folder / "issuer.pem",
            "-cert", self.folder / "subject.pem", "-no_nonce", *options,
            "-reqout", self.folder / "request.der",
        )  # fmt: skip
        return (self.folder / "request.der").read_bytes()

    def signing(self) -> tuple[str, ...]:
        return (
            "-signer", str(self.folder / "client.pem"), "-signkey", str(self.folder / "client.key"),
        )  # fmt: skip


CLIENTS = Ca("Requestors CA")
REQUIRED = Practice(signed_requests=SignedRequests.require, requestor_anchors=(CLIENTS.der,))


async def test_4_1_2_a_signature_is_checked_where_it_is_required(tmp_path: Path) -> None:
    requestor = Requestor(CLIENTS, tmp_path)
    signed = await requestor.request(*requestor.signing())
    said = await answer(signed, Good(), REQUIRED)
    assert f"{SERIAL:X}\n    Cert Status: good" in await text_of(said, tmp_path)
    assert said.freshness is None


async def test_4_1_2_an_unknown_requestor_is_not_authorized(tmp_path: Path) -> None:
    requestor = Requestor(CA, tmp_path)
    signed = await requestor.request(*requestor.signing())
    said = await answer(signed, Good(), REQUIRED)
    assert (said.status, said.code) == (ResponseStatus.unauthorized, "requestor-untrusted")
    assert said.body == bytes.fromhex("30030a0106")


async def test_4_1_2_a_signature_needs_its_certificate(tmp_path: Path) -> None:
    requestor = Requestor(CLIENTS, tmp_path)
    signed = await requestor.request(*requestor.signing(), "-no_certs")
    said = await answer(signed, Good(), REQUIRED)
    assert (said.status, said.code) == (ResponseStatus.unauthorized, "requestor-certificates")


async def test_2_3_sig_required(tmp_path: Path) -> None:
    unsigned = await Requestor(CLIENTS, tmp_path).request()
    said = await answer(unsigned, Good(), REQUIRED)
    assert (said.status, said.code) == (ResponseStatus.sigRequired, "request-unsigned")
    assert said.body == bytes.fromhex("30030a0105")


async def test_4_1_2_by_default_signatures_are_not_looked_at(tmp_path: Path) -> None:
    requestor = Requestor(CA, tmp_path)
    signed = await requestor.request(*requestor.signing())
    assert (await answer(signed, Good())).status is ResponseStatus.successful


# §2.2 and §4.4.8: extended revoke.


@pytest.mark.parametrize("asked", [ASKED, WITH_NONCE], ids=["plain", "nonce"])
async def test_2_2_revoked_for_what_was_never_issued(asked: bytes, tmp_path: Path) -> None:
    text = await text_of(await answer(asked, None, Practice(extended_revoke=True)), tmp_path)
    assert "Cert Status: revoked" in text
    assert "Revocation Time: Jan  1 00:00:00 1970 GMT" in text
    assert "Revocation Reason: certificateHold" in text
    assert "        valid: \n" in text  # openssl's old name for id-pkix-ocsp 9
    assert "CRL" not in text
    assert ("OCSP Nonce" in text) == (asked is WITH_NONCE)


async def test_2_2_unknown_by_default(tmp_path: Path) -> None:
    assert "Cert Status: unknown" in await text_of(await answer(ASKED, None), tmp_path)


async def test_4_4_8_not_where_nothing_needs_it() -> None:
    for status in (Good(), REVOKED):
        said = await answer(ASKED, status, Practice(extended_revoke=True))
        assert len(x509_ocsp.load_der_ocsp_response(said.body).extensions) == 0


# §4.4.2 and §4.4.4: single extensions.


async def test_4_4_2_the_crl_that_shows_it(tmp_path: Path) -> None:
    text = await text_of(await answer(ASKED, REVOKED), tmp_path)
    assert "crlUrl: http://crl.example/ca.crl" in text
    assert "crlNum: 1267" in text
    assert f"crlTime: {AT:%b %e %H:%M:%S %Y} GMT" in text
    assert "crlUrl" not in await text_of(await answer(ASKED, Good()), tmp_path)


@pytest.mark.parametrize("status", [Good(), REVOKED], ids=["good", "revoked"])
async def test_4_4_4_archive_cutoff(status: Good | Revoked, tmp_path: Path) -> None:
    retention = timedelta(days=20 * 365)
    text = await text_of(await answer(ASKED, status, Practice(retention=retention)), tmp_path)
    assert "OCSP Archive Cutoff" in text
    assert f"{NOW - retention:%b %e %H:%M:%S %Y} GMT" in text


async def test_4_4_4_no_cutoff_for_what_is_unknown() -> None:
    said = await answer(ASKED, None, Practice(retention=timedelta(days=1)))
    assert len(x509_ocsp.load_der_ocsp_response(said.body).single_extensions) == 0


# §4.4.7: preferred signature algorithms.

P_384 = CA.delegate(signer("p-384"))
ED25519 = CA.delegate(signer("ed25519"))


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ((), "ecdsa-with-SHA256"),
        (("ed25519", "ecdsa-with-sha384"), "ED25519"),
        (("ml-dsa-44", "ecdsa-with-sha384", "ed25519"), "ecdsa-with-SHA384"),
        (("ml-dsa-44",), "ecdsa-with-SHA256"),
    ],
)
async def test_4_4_7_2_the_first_that_is_supported_else_the_default(
    wanted: tuple[str, ...], printed: str, tmp_path: Path
) -> None:
    oid = der.object_identifier("1.3.6.1.5.5.7.48.1.8")
    value = der.sequence(*(der.sequence(SIGNATURE_ALGORITHMS[one].identifier) for one in wanted))
    extension = der.sequence(oid, der.octet_string(value))
    asked = der.sequence(
        der.sequence(
            der.sequence(der.sequence(cert_id(CA.issuer, SERIAL))),
            der.explicit(2, der.sequence(extension)),
        )
    )
    said = await answer(asked, Good(), PLAIN, (DELEGATE, P_384, ED25519))
    text = await text_of(said, tmp_path)
    # What stands before the responder's certificate, whose own signature is the CA's.
    assert f"Signature Algorithm: {printed}" in text.partition("Certificate:")[0]


# §4.1.2 and §4.4: what is not understood.


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("place", ["request", "single"])
async def test_4_4_an_unknown_extension_matters_if_it_is_critical(
    critical: bool, place: str
) -> None:
    marks = (der.TRUE,) if critical else ()
    unknown = der.sequence(der.object_identifier("1.2.3.4"), *marks, der.octet_string(b"\x05\x00"))
    listed = der.sequence(unknown)
    single = der.explicit(0, listed) if place == "single" else b""
    whole = der.explicit(2, listed) if place == "request" else b""
    one = der.sequence(cert_id(CA.issuer, SERIAL), single)
    asked = der.sequence(der.sequence(der.sequence(one), whole))
    said = await answer(asked, Good())
    expected = ResponseStatus.malformedRequest if critical else ResponseStatus.successful
    assert said.status is expected


# §2.2, §2.3 and §4.1.1: what can be asked.


@pytest.mark.parametrize("serial", [0, -1, 1 << 160, 1 << 4000])
async def test_2_2_unknown_for_a_serial_that_no_ca_may_use(serial: int) -> None:
    said = await answer(build_request([cert_id(CA.issuer, serial)]), Good())
    assert (said.status, said.statuses) == (ResponseStatus.successful, ("unknown",))
    read = x509_ocsp.load_der_ocsp_response(said.body)
    assert read.certificate_status is x509_ocsp.OCSPCertStatus.UNKNOWN
    assert read.serial_number == serial


@pytest.mark.parametrize("oid", ["1.2.840.113549.2.5", "2.16.840.1.101.3.4.2.8"])
async def test_2_3_unauthorized_for_a_hash_that_is_not_known(oid: str) -> None:
    said = await answer(build_request([build_cert_id(oid, bytes(32), bytes(32), 1)]), Good())
    assert said.body == bytes.fromhex("30030a0106")


@pytest.mark.parametrize("count", [2, MAX_CERT_IDS])
async def test_4_1_1_several_ids_by_several_hashes_in_their_order(
    count: int, tmp_path: Path
) -> None:
    names = [list(HASH_OIDS)[number % 4] for number in range(count)]
    ids = [cert_id(CA.issuer, SERIAL + number, names[number]) for number in range(count)]
    said = await answer(build_request(ids, bytes(16)), Good())
    await text_of(said, tmp_path)
    whole = asn1_ocsp.OCSPResponse.load(said.body, strict=True)
    data = whole["response_bytes"]["response"].parsed["tbs_response_data"]
    assert [one["cert_id"].dump() for one in data["responses"]] == ids
    assert said.statuses == ("good", *["unknown"] * (count - 1))
