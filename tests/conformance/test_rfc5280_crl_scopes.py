"""RFC 5280 §5.2.3 to §5.2.6, §5.3.3 and §6.3: openssl and pkilint read CRLs of every scope."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from crl.history import END_OF_TIME, Publication
from crl.scope import Contents, parse_issuing_distribution_point
from crl.source import Part
from crl.terms import Terms
from infra.clock import FixedClock
from pki.algorithms import KeyType
from pki.findings import Severity
from pki.lint import lint_crl
from pki.partition import partition_of, partition_url
from pki.status import RevocationReason
from tests.contract.crl_fixtures import DAY, Authority, _hash, authority, private_key
from tests.contract.crl_series_fixtures import House, open_house_store

# openssl has no fixed clock for `crl`, so these CRLs are from today.
NOW = datetime.now(UTC).replace(microsecond=0)
URL = "http://crl.test/issuing.crl"
DELTA_URL = "http://crl.test/issuing.delta.crl"


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def house(
    tmp_path: Path, threads: ThreadPoolExecutor, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    store = await open_house_store(tmp_path)
    key_type = getattr(request, "param", KeyType.P_256)
    yield House(authority(threads, key_type, now=NOW), store, tmp_path / "crl", FixedClock(NOW))
    await store.close()


def openssl(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def certify(
    ca: Authority, serial: int, *, url: str | None = None, crl_issuer: x509.Name | None = None
) -> x509.Certificate:
    """A citizen's certificate; its CRL distribution point names ``url`` or ``crl_issuer``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Citizen {serial}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.certificate.subject)
        .public_key(private_key(KeyType.P_256).public_key())
        .serial_number(serial)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .add_extension(x509.AuthorityKeyIdentifier(ca.issuer.key_identifier, None, None), False)
        .add_extension(x509.BasicConstraints(False, None), True)
    )
    if url is not None or crl_issuer is not None:
        point = x509.DistributionPoint(
            [x509.UniformResourceIdentifier(url)] if url else None,
            None,
            None,
            [x509.DirectoryName(crl_issuer)] if crl_issuer else None,
        )
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), False)
    return builder.sign(ca.key, _hash(ca.key))


def verdict(
    folder: Path, ca: Authority, certificate: x509.Certificate, crls: list[Publication], *more: str
) -> str:
    """What `openssl verify -crl_check_all` says: empty when the certificate is good."""
    (folder / "ca.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    (folder / "one.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pems = [x509.load_der_x509_crl(crl.read()).public_bytes(Encoding.PEM) for crl in crls]
    (folder / "crls.pem").write_bytes(b"".join(pems))
    done = openssl(
        folder, "verify", "-x509_strict", "-crl_check_all", *more, "-CAfile", "ca.pem",
        "-CRLfile", "crls.pem", "one.pem",
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stderr


def lint_errors(crl: Publication) -> list[str]:
    return [one.code for one in lint_crl(crl.read()) if one.severity is Severity.ERROR]


def openssl_reads(folder: Path, crl: Publication) -> str:
    (folder / "one.crl").write_bytes(crl.read())
    done = openssl(
        folder, "crl", "-inform", "DER", "-in", "one.crl", "-CAfile", "ca.pem", "-noout", "-text"
    )
    assert "verify OK" in done.stderr, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "house", [KeyType.P_256, KeyType.P_384, KeyType.RSA_2048, KeyType.ED25519],
    indirect=True, ids=str,
)  # fmt: skip
async def test_5_2_4_full_and_delta(house: House, tmp_path: Path) -> None:
    house.ledger.revoke(0x1001, NOW - DAY, RevocationReason.keyCompromise)
    house.ledger.hold(0x1002, NOW - DAY)
    series = house.series(house.scope(delta_url=DELTA_URL))
    full = await series.issue_full()
    house.ledger.revoke(0x1003, NOW)
    house.ledger.release(0x1002, NOW)
    delta = await series.issue_delta()
    certificates = {serial: certify(house.authority, serial) for serial in range(0x1001, 0x1005)}

    def revoked(crls: list[Publication], *more: str) -> list[int]:
        found = {
            n: verdict(tmp_path, house.authority, c, crls, *more) for n, c in certificates.items()
        }
        assert all("certificate revoked" in said for said in found.values() if said), found
        return [serial for serial, said in found.items() if said]

    assert revoked([full]) == [0x1001, 0x1002]
    assert revoked([full, delta], "-use_deltas") == [0x1001, 0x1003]
    text = openssl_reads(tmp_path, delta)
    assert "X509v3 Delta CRL Indicator: critical" in text
    assert "Remove From CRL" in text
    assert "X509v3 Freshest CRL" not in text  # §5.2.6
    assert "X509v3 Freshest CRL" in openssl_reads(tmp_path, full)
    assert lint_errors(full) == lint_errors(delta) == []


async def test_5_2_4_ml_dsa_signs_the_whole_message(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    store = await open_house_store(tmp_path)
    ca = authority(threads, KeyType.ML_DSA_44, now=NOW)
    house = House(ca, store, tmp_path / "crl", FixedClock(NOW))
    house.ledger.revoke(7, NOW)
    made = await house.series().issue_full()
    assert x509.load_der_x509_crl(made.read()).is_signature_valid(ca.key.public_key())
    await store.close()


async def test_5_2_5_partitions(house: House, tmp_path: Path) -> None:
    subject = house.authority.issuer.subject
    urls = {name: partition_url(URL, name) for name in ("1", "2")}
    for serial in range(0x1000, 0x1010):
        house.ledger.issue(serial, partition=partition_of("issuing", serial, 2))
        house.ledger.revoke(serial, NOW)
    made = {}
    for name, url in urls.items():
        part = Part("issuing", subject, name)
        series = house.series(house.scope(f"issuing.{name}", parts=(part,), url=url))
        made[name] = await series.issue_full()
    assert made["1"].count + made["2"].count == 16
    assert 0 < made["1"].count < 16
    for serial in (0x1000, 0x1001, 0x1002):
        name = partition_of("issuing", serial, 2)
        other = {"1": "2", "2": "1"}[name]
        certificate = certify(house.authority, serial, url=urls[name])
        said = verdict(tmp_path, house.authority, certificate, [made[name]])
        assert "certificate revoked" in said
        # The other partition's says nothing of it (§6.3.3 (b)(2)(i)).
        said = verdict(tmp_path, house.authority, certificate, [made[other]])
        assert "different CRL scope" in said
    text = openssl_reads(tmp_path, made["1"])
    assert "X509v3 Issuing Distribution Point: critical" in text
    assert f"URI:{urls['1']}" in text
    assert lint_errors(made["1"]) == []


@pytest.mark.parametrize(
    "contents, says",
    [(Contents.users, "Only User Certificates"), (Contents.authorities, "Only CA Certificates")],
)
async def test_5_2_5_by_kind_of_certificate(
    house: House, tmp_path: Path, contents: Contents, says: str
) -> None:
    house.ledger.revoke(0x1001, NOW)
    made = await house.series(house.scope(url=URL, contents=contents)).issue_full()
    certificate = certify(house.authority, 0x1001, url=URL)
    said = verdict(tmp_path, house.authority, certificate, [made])
    expected = "certificate revoked" if contents is Contents.users else "different CRL scope"
    assert expected in said
    assert says in openssl_reads(tmp_path, made)
    extension = x509.load_der_x509_crl(made.read()).extensions.get_extension_for_class(
        x509.IssuingDistributionPoint
    )
    read = parse_issuing_distribution_point(extension.value.public_bytes())
    assert (read.urls, read.contents, read.indirect) == ((URL,), contents, False)
    assert lint_errors(made) == []


async def test_5_3_3_an_indirect_crl_for_two_issuers(
    house: House, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """The root lists what its two issuing CAs revoked."""
    root = house.authority
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two")}
    issuing = {name: issuing_ca(root, name, key) for name, key in keys.items()}
    parts = tuple(Part(name, ca.certificate.subject.public_bytes()) for name, ca in issuing.items())
    scope = house.scope("all", parts=parts, indirect=True, delta_url=DELTA_URL)
    house.ledger.revoke(0x1001, NOW, RevocationReason.keyCompromise, ca="one")
    house.ledger.revoke(0x1002, NOW, ca="two")
    series = house.series(scope)
    full = await series.issue_full()
    house.ledger.revoke(0x1003, NOW, ca="two")
    delta = await series.issue_delta()
    pem = b"".join(ca.certificate.public_bytes(Encoding.PEM) for ca in issuing.values())
    (tmp_path / "issuing.pem").write_bytes(pem)
    roots = await house.series(house.scope("root")).issue_full()
    options = ("-extended_crl", "-untrusted", "issuing.pem")
    for name, serial, crls, expected in (
        ("one", 0x1001, [full], True),
        ("two", 0x1001, [full], False),
        ("one", 0x1002, [full], False),
        ("two", 0x1002, [full], True),
        ("two", 0x1003, [full], False),
    ):
        certificate = certify(issuing[name], serial, crl_issuer=root.certificate.subject)
        said = verdict(tmp_path, root, certificate, [*crls, roots], *options)
        assert ("certificate revoked" in said) is expected, (name, serial, said)
        assert bool(said) is expected
    assert "Indirect CRL" in openssl_reads(tmp_path, full)
    assert "X509v3 Certificate Issuer: critical" in openssl_reads(tmp_path, delta)
    assert lint_errors(full) == lint_errors(delta) == []


def issuing_ca(root: Authority, name: str, key: Any) -> Authority:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Issuing {name}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 300 * DAY)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), True
        )
        .add_extension(identifier, False)
        .add_extension(x509.AuthorityKeyIdentifier(root.issuer.key_identifier, None, None), False)
        .sign(root.key, _hash(root.key))
    )

    issuer = replace(root.issuer, name=name, key_identifier=identifier.digest)
    return Authority(issuer, root.signer, key, certificate)


async def test_5_1_2_5_the_final_crl(house: House, tmp_path: Path) -> None:
    house.ledger.revoke(0x1001, NOW)
    series = house.series()
    made = await series.issue_full(final=True)
    assert made.next_update == END_OF_TIME
    assert b"\x18\x0f99991231235959Z" in made.read()
    said = verdict(tmp_path, house.authority, certify(house.authority, 0x1001), [made])
    assert "certificate revoked" in said
    assert "Next Update: Dec 31 23:59:59 9999 GMT" in openssl_reads(tmp_path, made)
    with pytest.raises(Exception, match="crl-series-ended"):
        await series.issue_full()


async def test_x509_9_5_2_8_expired_certificates_stay_as_long_as_it_says(
    house: House, tmp_path: Path
) -> None:
    house.terms = Terms(retention=2 * DAY)
    house.ledger.issue(0x1001, NOW + timedelta(hours=1))
    house.ledger.revoke(0x1001, NOW)
    listed = []
    series = house.series()
    for day in range(5):
        house.clock.at = NOW + day * DAY
        made = await series.issue_full()
        listed.append(made.count)
        [extension] = [
            one
            for one in x509.load_der_x509_crl(made.read()).extensions
            if one.oid.dotted_string == "2.5.29.60"
        ]
        assert not extension.critical
    # Past its end by two days on day 3; that CRL has it for the last time (§3.3).
    assert listed == [1, 1, 1, 1, 0]
    assert lint_errors(made) == []
