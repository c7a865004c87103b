"""When the operator of an instance is told that one of its certificates ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cli.service.ending import Certified, soon, tls_in_use
from conf.load import load
from conf.schema import Expiry, Settings

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
DAY = timedelta(days=1)
USUAL = Expiry(authority=365 * DAY, certificate=30 * DAY)


def lasting(role: str, days: float, of: float, part: int = 3) -> Certified:
    """A certificate that ends in so many days, of so many in all."""
    end = NOW + days * DAY
    return Certified(role, "one", end - of * DAY, end, "do it", part)


@pytest.mark.parametrize(
    ("role", "days", "of", "part", "told"),
    [
        ("ca", 366, 3650, 3, False),
        ("ca", 365, 3650, 3, True),
        ("ca", 200, 500, 3, False),
        ("ca", 160, 500, 3, True),
        ("tls", 31, 398, 3, False),
        ("tls", 30, 398, 3, True),
        ("tls", 3, 7, 3, False),
        ("tls", 2, 7, 3, True),
        # In its last third it is renewed by itself.
        ("ocsp", 9, 30, 6, False),
        ("ocsp", 5, 30, 6, True),
        ("ocsp", -1, 30, 6, True),
    ],
)
def test_so_long_before(role: str, days: float, of: float, part: int, told: bool) -> None:
    assert lasting(role, days, of, part).ends_soon(NOW, USUAL) is told


def test_never_before_the_end_where_the_settings_say_so() -> None:
    never = Expiry(authority=0 * DAY, certificate=0 * DAY)
    for role in ("ca", "tls"):
        assert not lasting(role, 0.1, 398).ends_soon(NOW, never)
        assert lasting(role, -0.1, 398).ends_soon(NOW, never)


def test_the_first_to_end_is_told_first() -> None:
    told = list(
        soon([lasting("tls", 5, 90), lasting("ca", -1, 90), lasting("ca", 80, 90)], NOW, USUAL)
    )
    assert [(one["role"], one["ended"]) for one in told] == [("ca", True), ("tls", False)]
    assert told[0]["not_after"] == "2026-11-22T06:00:00Z"
    assert told[0]["to_do"] == "do it"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(tmp_path, {}, {}).settings


def certificate(days: float) -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=a")
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 7, NOW - 60 * DAY, NOW + days * DAY
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_of_a_chain_for_tls_what_ends_first(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    path.write_bytes(b"a comment\n" + certificate(20) + certificate(10) + certificate(30))
    http = replace(settings.http, tls_certificate=path)
    slapd = replace(settings.slapd, tls_certificate=path)
    found = tls_in_use(replace(settings, http=http, slapd=slapd))
    assert [(one.role, one.name) for one in found] == [("tls", "http"), ("tls", "slapd")]
    assert {one.not_after for one in found} == {NOW + 10 * DAY}
    assert str(path) in found[0].to_do


@pytest.mark.parametrize("octets", [b"", b"none", b"-----BEGIN CERTIFICATE-----\n", b"\xff" * 999])
def test_what_is_no_certificate_is_said_by_whoever_uses_it(
    settings: Settings, tmp_path: Path, octets: bytes
) -> None:
    assert tls_in_use(settings) == []
    path = tmp_path / "tls.pem"
    changed = replace(settings, http=replace(settings.http, tls_certificate=path))
    assert tls_in_use(changed) == []
    path.write_bytes(octets)
    assert tls_in_use(changed) == []
