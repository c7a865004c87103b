"""RFC 6960 by clause; the other side is openssl, cryptography, asn1crypto and pkilint."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp as x509_ocsp
from pkilint import loader, pkix
from pkilint.pkix import extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity
from yarl import URL

from infra.clock import SystemClock
from infra.errors import Unavailable
from ocsp.request import MAX_REQUEST, build_request
from ocsp.responder import Delegate, Responder, ResponderIdType
from ocsp.response import (
    ResponseStatus,
    assemble_basic,
    build_opening,
    build_response_data,
    build_single,
    build_times,
    build_verdict,
    error_response,
)
from ocsp.worker import write_access
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown
from tests.conformance.ocsp_fixtures import (
    ALGORITHMS,
    LIFETIME,
    NOW,
    Ca,
    Statuses,
    cert_id,
    file_signer,
    run,
    serving,
    signer,
    write_pem,
)

CA = Ca("RFC 6960 CA")
REVOKED_AT = (NOW - timedelta(days=2)).replace(microsecond=0)
SUSPECT_SINCE = REVOKED_AT - timedelta(days=1)
NONCE = bytes(range(32))

STATUSES: dict[str, CertStatus] = {
    "good": Good(),
    "revoked": Revoked(REVOKED_AT, RevocationReason.keyCompromise, SUSPECT_SINCE, 1),
    "unspecified": Revoked(REVOKED_AT, RevocationReason.unspecified, None, 2),
    "hold": Revoked(REVOKED_AT, RevocationReason.certificateHold, None, 3),
    "unknown": Unknown(),
}
CERTIFICATES = {status: CA.issue(status) for status in STATUSES}


def serial(status: str) -> int:
    return CERTIFICATES[status].serial_number


def statuses() -> Statuses:
    return Statuses({(CA.name, serial(name)): status for name, status in STATUSES.items()})


@cache
def delegate(algorithm: str, responder_id: ResponderIdType = ResponderIdType.byKey) -> Delegate:
    return CA.delegate(signer(algorithm), responder_id)


def ours(*delegates: Delegate) -> Responder:
    return Responder(delegates or [delegate("p-256")], statuses(), SystemClock(), LIFETIME)


@dataclass(frozen=True)
class OpenSsl:
    """``openssl ocsp`` with the CA and the certificates in files."""

    folder: Path

    def pem(self, status: str) -> Path:
        return self.folder / f"{status}.pem"

    async def ask(self, url: str, *names: str, options: tuple[str, ...] = ("-no_nonce",)) -> str:
        certificates: list[str | Path] = []
        for one in names:
            certificates += ["-cert", self.pem(one)]
        ca = self.pem("ca")
        return await run(
            "openssl", "ocsp", *options, "-issuer", ca, *certificates, "-url", url, "-CAfile", ca,
            "-respout", self.folder / "answer.der",
        )  # fmt: skip


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    write_pem(tmp_path / "ca.pem", CA.certificate)
    for status, certificate in CERTIFICATES.items():
        write_pem(tmp_path / f"{status}.pem", certificate)
    return OpenSsl(tmp_path)


def read(body: bytes) -> x509_ocsp.OCSPResponse:
    """A response of several answers has no single one; that is for the caller."""
    return x509_ocsp.load_der_ocsp_response(body)


async def test_2_2_openssl_is_told_every_status(openssl: OpenSsl) -> None:
    async with serving(ours()) as url:
        text = await openssl.ask(url, *STATUSES, options=("-sha256", "-nonce"))
    assert "Response verify OK" in text
    blocks = {part.split(":")[0]: part for part in text.split(str(openssl.folder) + "/")}
    assert "good" in blocks["good.pem"].splitlines()[0]
    assert "Reason: keyCompromise" in blocks["revoked.pem"]
    assert f"Revocation Time: {REVOKED_AT:%b %e %H:%M:%S %Y} GMT" in blocks["revoked.pem"]
    assert "revoked" in blocks["unspecified.pem"].splitlines()[0]
    assert "Reason" not in blocks["unspecified.pem"]
    assert "Reason: certificateHold" in blocks["hold.pem"]
    assert "unknown" in blocks["unknown.pem"].splitlines()[0]
    assert "Next Update" in blocks["good.pem"]


async def test_4_4_5_invalidity_date_for_openssl(openssl: OpenSsl) -> None:
    async with serving(ours()) as url:
        await openssl.ask(url, "revoked")
    text = await run("openssl", "ocsp", "-respin", openssl.folder / "answer.der", "-noverify",
                     "-resp_text")  # fmt: skip
    assert "Invalidity Date" in text
    assert f"{SUSPECT_SINCE:%b %e %H:%M:%S %Y} GMT" in text


async def test_4_1_2_a_signed_request_of_openssl(openssl: OpenSsl, tmp_path: Path) -> None:
    key, _ = ALGORITHMS["p-256"]()
    write_pem(tmp_path / "client.pem", CA.issue("client", key.public_key()))
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    signing = ("-signer", str(tmp_path / "client.pem"), "-signkey", str(tmp_path / "client.key"))
    async with serving(ours()) as url:
        text = await openssl.ask(url, "good", options=("-no_nonce", *signing))
    assert "Response verify OK" in text
    assert "good.pem: good" in text


async def test_4_2_2_2_the_ca_answers_with_its_own_key(openssl: OpenSsl) -> None:
    own = Delegate(CA.issuer, file_signer(CA.key, "ecdsa-with-sha256"), CA.der)
    async with serving(ours(own)) as url:
        text = await openssl.ask(url, "good")
    assert "Response verify OK" in text
    assert "good.pem: good" in text


async def test_4_2_2_2_several_cas_each_with_its_delegate(openssl: OpenSsl) -> None:
    second = Ca("Second CA")
    certificate = second.issue("second")
    known = Statuses({(second.name, certificate.serial_number): Good()})
    both = [delegate("p-256"), second.delegate(signer("rsa"))]
    write_pem(openssl.pem("ca"), second.certificate)
    write_pem(openssl.pem("second"), certificate)
    async with serving(Responder(both, known, SystemClock(), LIFETIME)) as url:
        text = await openssl.ask(url, "second")
    assert "Response verify OK" in text
    assert "second.pem: good" in text


async def test_2_3_unauthorized_for_a_foreign_issuer(openssl: OpenSsl) -> None:
    foreign = Ca("Foreign CA")
    write_pem(openssl.pem("ca"), foreign.certificate)
    write_pem(openssl.pem("foreign"), foreign.issue("foreign"))
    async with serving(ours()) as url:
        with pytest.raises(AssertionError, match=r"unauthorized \(6\)"):
            await openssl.ask(url, "foreign")


async def test_2_3_try_later_while_the_source_is_away(openssl: OpenSsl) -> None:
    away = Statuses({(CA.name, serial("good")): Unavailable("store-unavailable", "wait")})
    async with serving(Responder([delegate("p-256")], away, SystemClock(), LIFETIME)) as url:
        with pytest.raises(AssertionError, match=r"trylater \(3\)"):
            await openssl.ask(url, "good")


@pytest.mark.parametrize("nonce", [None, NONCE], ids=["plain", "nonce"])
@pytest.mark.parametrize("status", STATUSES)
async def test_4_2_pkilint_finds_nothing(status: str, nonce: bytes | None) -> None:
    answer = await ours().answer(build_request([cert_id(CA.issuer, serial(status))], nonce))
    assert findings(answer.body) == []


def test_4_2_pkilint_would_find_something() -> None:
    now = datetime.now(UTC)
    verdict = build_verdict(Good(), build_times(now, now + LIFETIME))
    single = build_single(cert_id(CA.issuer, 1), verdict)
    sha_256 = der.explicit(2, der.octet_string(bytes(32)))
    data = build_response_data(build_opening(sha_256, now), [single], None)
    algorithm = SIGNATURE_ALGORITHMS["ed25519"].identifier
    body = assemble_basic(data, algorithm, b"no signature", b"")
    assert findings(body) == ["pkix.ocsp_responderid_keyhash_is_not_sha1"]


@pytest.mark.parametrize("status", [one for one in ResponseStatus if one])
def test_2_3_pkilint_finds_nothing_in_errors(status: ResponseStatus) -> None:
    assert findings(error_response(status)) == []


def findings(body: bytes) -> list[str]:
    document = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(body)
    return [
        finding.finding.code
        for result in _linter().validate(document.root)
        for finding in result.finding_descriptions
        if finding.finding.severity <= ValidationFindingSeverity.NOTICE
    ]


@cache
def _linter() -> Any:
    return ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )


def get_paths() -> dict[str, str]:
    # Serials are random: search for a request whose base64 has both characters that need care.
    for number in range(1, 10_000):
        text = base64.b64encode(build_request([cert_id(CA.issuer, number)])).decode()
        if "+" in text and "/" in text and text.endswith("="):
            break
    else:
        raise AssertionError("no request has a plus sign and a slash")
    return {
        "as it is": text,
        "percent-encoded": quote(text, safe=""),
        "percent-encoded in part": quote(text, safe="/"),
        "with a slash after it": f"{text}/",
        "percent-encoded, with a slash after it": f"{quote(text, safe='')}/",
        "with a slash before it": f"/{text}",
    }


@pytest.mark.parametrize("spelling", get_paths())
async def test_a_1_get(spelling: str, tmp_path: Path) -> None:
    async with serving(ours()) as url:
        path = get_paths()[spelling]
        await run(
            "curl", "--silent", "--show-error", "--fail", "--path-as-is",
            "--output", tmp_path / "answer.der", f"{url}/{path}",
        )  # fmt: skip
    answer = read((tmp_path / "answer.der").read_bytes())
    assert answer.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL
    assert answer.certificate_status is x509_ocsp.OCSPCertStatus.UNKNOWN


GOOD = build_request([cert_id(CA.issuer, serial("good"))])
POST_TYPE = {"Content-Type": "application/ocsp-request"}


@pytest.mark.parametrize("suffix", ["", "/"])
@pytest.mark.parametrize(
    "content_type", ["application/ocsp-request", "Application/OCSP-Request; charset=binary"]
)
async def test_a_1_post(suffix: str, content_type: str) -> None:
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession() as http,
        http.post(url + suffix, data=GOOD, headers={"Content-Type": content_type}) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/ocsp-response"
        assert read(await response.read()).certificate_status is x509_ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", ""])
async def test_a_1_post_of_another_type(content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else None
    skip = () if content_type else ("Content-Type",)
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession(skip_auto_headers=skip) as http,
        http.post(url, data=b"x", headers=headers) as response,
    ):
        assert response.status == 415


async def test_a_1_post_that_is_compressed() -> None:
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession() as http,
        http.post(url, data=GOOD, headers=POST_TYPE, compress="gzip") as response,
    ):
        assert response.status == 415


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_1_post_over_the_limit(chunked: bool) -> None:
    async with serving(ours()) as url, aiohttp.ClientSession() as http:

        async def body() -> Any:
            for _ in range(MAX_REQUEST // 1024 + 1):
                yield bytes(1024)

        data: Any = body() if chunked else bytes(MAX_REQUEST + 1)
        async with http.post(url, data=data, headers=POST_TYPE) as response:
            assert response.status == 413
            assert (await response.json())["code"] == "request-too-large"
        async with http.post(url, data=bytes(MAX_REQUEST), headers=POST_TYPE) as response:
            assert response.status == 200
            status = read(await response.read()).response_status
            assert status is x509_ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("path", ["/", "//", "/%", "/%00", "/MAA", "/.", "/AAAA", "/é", "/MAAA?x"])
async def test_2_3_malformed_request_in_a_path(path: str) -> None:
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession() as http,
        http.get(URL(url + quote(path, safe="/%?"), encoded=True)) as response,
    ):
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        status = read(await response.read()).response_status
        assert status is x509_ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x30\x80\x00\x00"])
async def test_2_3_malformed_request_in_a_body(body: bytes) -> None:
    async with (
        serving(ours()) as url,
        aiohttp.ClientSession() as http,
        http.post(url, data=body, headers=POST_TYPE) as response,
    ):
        assert response.status == 200
        assert await response.read() == bytes.fromhex("30030a0101")


async def test_a_mistake_of_ours_is_an_internal_error_without_personal_data(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Statuses({(CA.name, serial("good")): ZeroDivisionError()})
    asked = base64.b64encode(GOOD).decode()
    caplog.set_level("DEBUG")
    responder = Responder([delegate("p-256")], broken, SystemClock(), LIFETIME)
    async with (
        serving(responder, access=write_access) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/{asked}") as response,
    ):
        assert await response.read() == bytes.fromhex("30030a0102")
    lines = [record for record in caplog.records if record.name.startswith("ocsp")]
    accesses = [line.getMessage() for line in lines if line.name == "ocsp.access"]
    assert [line.rpartition(" ")[0] for line in accesses] == ["GET internalError internal-error"]
    assert "ZeroDivisionError" in caplog.text
    assert "127.0.0.1" not in "".join(record.getMessage() for record in lines)
    assert asked[:40] not in "".join(record.getMessage() for record in lines)


async def test_4_2_2_1_this_update_is_not_after_the_answer() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    answer = read((await ours().answer(build_request([cert_id(CA.issuer, 1)]))).body)
    assert answer.this_update_utc is not None
    assert before <= answer.this_update_utc <= datetime.now(UTC)
