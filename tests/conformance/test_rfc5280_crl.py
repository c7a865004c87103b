"""RFC 5280 §5 and RFC 2585: our CRLs read by openssl, cryptography and pkilint, and over HTTP."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7
from pkilint import loader, pkix
from pkilint.pkix import crl as lint_crl
from pkilint.pkix import extension, name
from pkilint.validation import ValidationFindingSeverity

from crl.history import Publication
from crl.http import STATUSES, crl_routes
from crl.series import Series
from crl.terms import Terms
from infra.clock import FixedClock
from infra.http.app import make_app, serve_app
from pki.algorithms import KeyType
from pki.repository import repository_routes
from pki.status import RevocationReason
from tests.contract.crl_fixtures import DAY, authority
from tests.contract.crl_series_fixtures import House, open_house_store

# openssl has no fixed clock for `crl`, so these CRLs are from today.
NOW = datetime.now(UTC).replace(microsecond=0)
REVOKED, ON_HOLD, GOOD = 0x1234, 0x5678, 0x9ABC
KEY_TYPES = [KeyType.P_256, KeyType.P_384, KeyType.RSA_2048, KeyType.ED25519]


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def world(
    tmp_path: Path, threads: ThreadPoolExecutor, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    store = await open_house_store(tmp_path)
    key_type = getattr(request, "param", KeyType.P_256)
    made = House(
        authority(threads, key_type, now=NOW),
        store,
        tmp_path / "crl",
        FixedClock(NOW),
        terms=Terms(lifetime=DAY),
    )
    reason, since = RevocationReason.keyCompromise, NOW - 3 * DAY
    made.ledger.revoke(REVOKED, NOW - DAY, reason, invalidity_date=since)
    made.ledger.hold(ON_HOLD, NOW - DAY)
    yield made
    await store.close()


def openssl(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def write(folder: Path, world: House, made: Publication) -> None:
    (folder / "crl.der").write_bytes(made.read())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(world.authority.certificate.public_bytes(pem))
    crl = openssl(folder, "crl", "-inform", "DER", "-in", "crl.der", "-out", "crl.pem")
    assert crl.returncode == 0, crl.stderr
    for serial in (REVOKED, ON_HOLD, GOOD):
        certificate = world.authority.certify(serial, NOW)
        (folder / f"{serial:x}.pem").write_bytes(certificate.public_bytes(pem))


@pytest.mark.parametrize("world", KEY_TYPES, indirect=True, ids=str)
async def test_6_3_openssl_verifies_the_crl_and_refuses_what_it_lists(
    world: House, tmp_path: Path
) -> None:
    write(tmp_path, world, await world.series().issue_full())
    checked = openssl(
        tmp_path, "crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "ca.pem", "-noout"
    )
    assert "verify OK" in checked.stderr
    verdicts = {
        serial: openssl(
            tmp_path, "verify", "-x509_strict", "-crl_check", "-CAfile", "ca.pem",
            "-CRLfile", "crl.pem", f"{serial:x}.pem",
        )
        for serial in (REVOKED, ON_HOLD, GOOD)
    }  # fmt: skip
    assert verdicts[GOOD].returncode == 0, verdicts[GOOD].stderr
    for serial in (REVOKED, ON_HOLD):
        assert verdicts[serial].returncode != 0
        assert "certificate revoked" in verdicts[serial].stderr


async def test_5_openssl_shows_every_field(world: House, tmp_path: Path) -> None:
    made = await world.series().issue_full()
    write(tmp_path, world, made)
    shown = openssl(tmp_path, "crl", "-inform", "DER", "-in", "crl.der", "-text", "-noout")
    text = " ".join(shown.stdout.split())
    assert "Version 2 (0x1)" in text
    assert f"X509v3 CRL Number: 0x{made.number:X}" in text or f"CRL Number: {made.number}" in text
    identifier = world.authority.issuer.key_identifier.hex(":").upper()
    assert f"X509v3 Authority Key Identifier: {identifier}" in text.replace("keyid:", "")
    assert f"Serial Number: {REVOKED:X}" in text
    assert "X509v3 CRL Reason Code: Key Compromise" in text
    assert "X509v3 CRL Reason Code: Certificate Hold" in text
    assert f"Invalidity Date: {NOW - 3 * DAY:%b} {(NOW - 3 * DAY).day}" in text


async def test_5_3_1_a_reason_of_unspecified_is_absent(world: House, tmp_path: Path) -> None:
    world.ledger.known.clear()
    world.ledger.revoke(REVOKED, NOW - DAY)
    made = await world.series().issue_full()
    [entry] = x509.load_der_x509_crl(made.read())
    assert list(entry.extensions) == []


async def test_5_1_2_6_no_list_when_nothing_is_revoked(world: House, tmp_path: Path) -> None:
    world.ledger.known.clear()
    write(tmp_path, world, await world.series().issue_full())
    shown = openssl(tmp_path, "crl", "-inform", "DER", "-in", "crl.der", "-text", "-noout")
    assert "No Revoked Certificates" in shown.stdout


@pytest.mark.parametrize("world", [*KEY_TYPES, KeyType.ML_DSA_44], indirect=True, ids=str)
async def test_5_cryptography_reads_the_same(world: House) -> None:
    made = await world.series().issue_full()
    read = x509.load_der_x509_crl(made.read())
    assert read.is_signature_valid(world.authority.key.public_key())
    assert read.issuer == world.authority.certificate.subject
    assert (read.last_update_utc, read.next_update_utc) == (made.this_update, made.next_update)
    assert read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == made.number
    identifier = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == world.authority.issuer.key_identifier
    assert [(e.serial_number, e.revocation_date_utc) for e in read] == [
        (REVOKED, NOW - DAY),
        (ON_HOLD, NOW - DAY),
    ]
    revoked = read.get_revoked_certificate_by_serial_number(REVOKED)
    assert revoked is not None
    reason = revoked.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise
    since = revoked.extensions.get_extension_for_class(x509.InvalidityDate).value
    assert since.invalidity_date_utc == NOW - 3 * DAY


@pytest.mark.parametrize("world", KEY_TYPES, indirect=True, ids=str)
async def test_5_pkilint_finds_no_error(world: House) -> None:
    made = await world.series().issue_full()
    assert errors(made.read()) == []


def test_pkilint_would_find_one(threads: ThreadPoolExecutor) -> None:
    ca = authority(threads, now=NOW)
    builder = x509.CertificateRevocationListBuilder(ca.certificate.subject, NOW, NOW - DAY)
    bad = builder.sign(ca.key, ca.certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    assert errors(bad.public_bytes(serialization.Encoding.DER))


def errors(der: bytes) -> list[str]:
    validator = lint_crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            lint_crl.create_issuer_validator_container([]),
            lint_crl.create_validity_validator_container([]),
            lint_crl.create_extensions_validator_container([]),
        ],
    )
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(der, "crl")
    return [
        found.finding.code
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity >= ValidationFindingSeverity.ERROR
    ]


# RFC 2585: over HTTP


class Public:
    """The public repository on loopback."""

    def __init__(self, world: House, issuer: Series, above: bytes = b"") -> None:
        self.above = above
        self.world = world
        self.issuer = issuer

    async def __aenter__(self) -> aiohttp.ClientSession:
        app = make_app(STATUSES, private=False)
        app.add_routes(crl_routes({"issuing": self.issuer}, self.world.clock))
        chained = replace(self.world.authority.issuer, chain=(self.above,))
        app.add_routes(repository_routes({"issuing": chained}))
        self._serving = await serve_app(app, "127.0.0.1", 0)
        self._client = aiohttp.ClientSession(self._serving.urls[0])
        return self._client

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()
        await self._serving.stop()


async def test_4_the_crl_is_served_in_der(world: House) -> None:
    issuer = world.series()
    made = await issuer.issue_full()
    world.clock.at = NOW + timedelta(hours=1)
    async with Public(world, issuer) as client, client.get("/crl/issuing.crl") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/pkix-crl"
        assert response.headers["ETag"] == f'"{made.sha256.hex()}"'
        control = "public, no-transform, must-revalidate, max-age=82800"
        assert response.headers["Cache-Control"] == control
        assert "Content-Encoding" not in response.headers
        assert await response.read() == made.read()


async def test_a_new_crl_replaces_the_old_one_at_once(world: House) -> None:
    issuer = world.series()
    first = await issuer.issue_full()
    async with Public(world, issuer) as client:
        tag = {"If-None-Match": f'"{first.sha256.hex()}"'}
        async with client.get("/crl/issuing.crl", headers=tag) as response:
            assert response.status == 304
        world.ledger.revoke(GOOD, NOW)
        second = await issuer.issue_full()
        async with client.get("/crl/issuing.crl", headers=tag) as response:
            assert await response.read() == second.read()
        for url in (f"/crl/issuing/{first.number}.crl", f"/crl/issuing.crl?number={first.number}"):
            async with client.get(url) as response:
                assert await response.read() == first.read()
                assert "immutable" in response.headers["Cache-Control"]


async def test_a_crl_in_pem_is_the_same(world: House, tmp_path: Path) -> None:
    issuer = world.series()
    made = await issuer.issue_full()
    async with Public(world, issuer) as client:
        for url in ("/crl/issuing.pem", f"/crl/issuing/{made.number}.pem"):
            async with client.get(url) as response:
                pem = await response.read()
            assert response.headers["ETag"] != f'"{made.sha256.hex()}"'
            read = x509.load_pem_x509_crl(pem)
            assert read.public_bytes(serialization.Encoding.DER) == made.read()


@pytest.mark.parametrize(
    "path, status, code",
    [
        ("/crl/other.crl", 404, "no-such-ca"),
        ("/crl/issuing.crl", 503, "no-crl-yet"),
        ("/crl/issuing/7.crl", 404, "no-such-crl"),
        ("/crl/issuing/-7.crl", 400, "bad-crl-number"),
        ("/crl/issuing.crl?number=x", 400, "bad-crl-number"),
        ("/crl/issuing/" + "9" * 19 + ".crl", 400, "bad-crl-number"),
        ("/crl/issuing/٣.crl", 400, "bad-crl-number"),
        ("/crl/issuing.txt", 404, "not-found"),
        ("/aia/other.cer", 404, "no-such-ca"),
    ],
)
async def test_what_is_not_there_is_a_problem(
    world: House, path: str, status: int, code: str
) -> None:
    async with Public(world, world.series()) as client, client.get(path) as response:
        assert (response.status, (await response.json())["code"]) == (status, code)


async def test_4_2_2_1_the_ca_certificate_and_its_chain(
    world: House, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    above = authority(threads, KeyType.P_384, now=NOW).certificate
    der = above.public_bytes(serialization.Encoding.DER)
    async with Public(world, world.series(), der) as client:
        async with client.get("/aia/issuing.cer") as response:
            assert response.headers["Content-Type"] == "application/pkix-cert"
            assert await response.read() == world.authority.issuer.certificate
        async with client.get("/aia/issuing.p7c") as response:
            expected = "application/pkcs7-mime; smime-type=certs-only"
            assert response.headers["Content-Type"] == expected
            bundle = await response.read()
    found = pkcs7.load_der_pkcs7_certificates(bundle)
    assert len(found) == 2
    assert set(found) == {world.authority.certificate, above}
    (tmp_path / "chain.p7c").write_bytes(bundle)
    shown = openssl(
        tmp_path, "pkcs7", "-inform", "DER", "-in", "chain.p7c", "-print_certs", "-noout"
    )
    assert "Test CA p-256" in shown.stdout
    assert "Test CA p-384" in shown.stdout
