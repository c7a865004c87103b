"""Any octets as another CA's CRL: read, or rejected; where an independent reader reads it too, both
read the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from ocsp.crl_fetch import Seen, _from_file, _unarmour
from ocsp.crl_reading import CrlHead, read_entries, read_head
from pki.status import Revoked
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CODES = {"bad-crl", "crl-delta", "crl-indirect", "crl-partitioned", "crl-critical-extension"}


def _seed() -> bytes:
    def entry(serial: int, *extensions: x509.ExtensionType) -> x509.RevokedCertificate:
        builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.build()

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    listed = [
        entry(2**150 + 1, x509.CRLReason(x509.ReasonFlags.superseded), x509.InvalidityDate(NOW)),
        entry(7),
        entry(8, x509.CRLReason(x509.ReasonFlags.certificate_hold)),
    ]
    builder = x509.CertificateRevocationListBuilder(revoked_certificates=listed)
    builder = builder.issuer_name(name).last_update(NOW).next_update(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.CRLNumber(9), critical=False)
    key = ec.derive_private_key(7, ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


SEED = _seed()
PEM = x509.load_der_x509_crl(SEED).public_bytes(Encoding.PEM)


def read(data: bytes) -> tuple[CrlHead, list[tuple[int, Revoked]]] | None:
    try:
        head = read_head(data)
        return head, list(read_entries(data, head))
    except Rejected as rejected:
        if rejected.code not in CODES:
            raise
        return None


def check(data: bytes) -> None:
    found = read(data)
    if found is None:
        return
    head, entries = found
    try:
        other = x509.load_der_x509_crl(data)
        serials = [one.serial_number for one in other]
        dates = [one.revocation_date_utc for one in other]
    except Exception:  # it raises more kinds than it documents, also where we read what it may not
        return
    assert other.signature == head.signature
    assert other.tbs_certlist_bytes == data[slice(*head.tbs)]
    assert other.last_update_utc == head.this_update
    assert other.next_update_utc == head.next_update
    ours = [(serial, revoked.at) for serial, revoked in entries]
    theirs = list(zip(serials, dates, strict=True))
    assert ours == [(serial, at) for serial, at in theirs if 0 < serial < 1 << 160]


@settings(deadline=None, max_examples=400, derandomize=not SECONDS)
@given(mutated(SEED) | st.binary(max_size=300))
def fuzz_der(data: bytes) -> None:
    check(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crl")


def fuzz_file(folder: Path) -> None:
    @settings(
        deadline=None,
        max_examples=100,
        derandomize=not SECONDS,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(mutated(SEED) | mutated(PEM) | st.binary(max_size=300))
    def fuzz(data: bytes) -> None:
        (folder / "given").write_bytes(data)
        assert _from_file(folder / "given", folder / "taken", Seen()) is not None
        try:
            _unarmour(folder / "taken")
        except Rejected as rejected:
            if rejected.code != "bad-crl":
                raise
            return
        check((folder / "taken").read_bytes())

    fuzz()


def test_any_octets_are_read_or_rejected(folder: Path) -> None:
    seed = read(SEED)
    assert seed is not None
    assert [serial for serial, _ in seed[1]] == [2**150 + 1, 7, 8]

    def both() -> None:
        fuzz_der()
        fuzz_file(folder)

    for_as_long_as_asked(both)
