"""pkilint in its own process: findings, refusals, and what happens when the process does not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from infra.errors import Rejected, Unavailable
from pki.findings import Finding, Severity
from pki.lint import (
    MAXIMUM_CRL_SIZE,
    MAXIMUM_SIZE,
    Linter,
    lint_certificate,
    lint_crl,
    lint_ocsp_response,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "FR"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "DigitalID"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Test Root"),
    ]
)


def root(
    *,
    sign_certificates: bool = True,
    key: ec.EllipticCurvePrivateKey | mldsa.MLDSA44PrivateKey = KEY,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=3650, seconds=-1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, sign_certificates, True, False, False),
            True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256() if key is KEY else None)
    )


def octets(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


GOOD = octets(root())
FAULTY = octets(root(sign_certificates=False))
NO_CERT_SIGN = "pkix.ca_certificate_keycertsign_keyusage_not_set"


def errors(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.code for finding in findings if finding.severity is Severity.ERROR}


def crl(number: int | None = 1) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key()), False)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def ocsp_response() -> bytes:
    issuer = root()
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            issuer, issuer, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD,  # noqa: S303
            NOW, NOW + timedelta(hours=1), None, None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )  # fmt: skip


@pytest.fixture
async def linter() -> AsyncIterator[Linter]:
    linter = Linter()
    yield linter
    await linter.close()


def process_of(linter: Linter) -> subprocess.Popen[bytes]:
    assert linter._worker._line is not None
    return linter._worker._line._process


# The rulebooks


def test_a_sound_root_has_no_errors() -> None:
    assert errors(lint_certificate(GOOD)) == set()


def test_a_fault_is_found_with_its_code_and_place() -> None:
    (finding,) = (found for found in lint_certificate(FAULTY) if found.code == NO_CERT_SIGN)
    assert finding.severity is Severity.ERROR
    assert finding.rulebook == "pkix"
    assert "keyUsage" in finding.detail


def test_an_ml_dsa_certificate_can_be_linted() -> None:
    assert errors(lint_certificate(octets(root(key=mldsa.MLDSA44PrivateKey.generate())))) == set()


def test_etsi_rules_ask_more_than_rfc_5280() -> None:
    found = lint_certificate(GOOD, "etsi/ncp-legal-person-certificate")
    assert any(code.startswith("etsi.") for code in errors(found))
    assert {finding.rulebook for finding in found} == {"etsi"}
    assert lint_certificate(GOOD, "etsi") == found


def test_baseline_requirements_see_a_root_by_itself() -> None:
    assert lint_certificate(GOOD, "cabf-serverauth") == lint_certificate(
        GOOD, "cabf-serverauth/root-ca"
    )
    assert errors(lint_certificate(GOOD, "cabf-serverauth/dv-final-certificate"))


def test_a_crl_without_number_is_an_error() -> None:
    assert errors(lint_crl(crl())) == set()
    assert errors(lint_crl(crl(number=None))) != set()


def test_an_ocsp_response_is_linted() -> None:
    assert errors(lint_ocsp_response(ocsp_response())) == set()
    with pytest.raises(Rejected) as caught:
        lint_ocsp_response(GOOD)
    assert caught.value.code == "bad-der"


@pytest.mark.parametrize("rulebook", ["", "rfc5280", "pkix/x", "etsi/x", "cabf-serverauth/x"])
def test_an_unknown_rulebook_is_refused(rulebook: str) -> None:
    with pytest.raises(Rejected) as caught:
        lint_certificate(GOOD, rulebook)
    assert caught.value.code == "no-such-rulebook"


@pytest.mark.parametrize("der", [b"", b"garbage", GOOD[:-1], b"\x30\x00", crl()])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        lint_certificate(der)
    assert caught.value.code == "bad-der"


# The other process


async def test_the_other_process_finds_the_same(linter: Linter) -> None:
    assert await linter.certificate(FAULTY) == lint_certificate(FAULTY)
    assert await linter.crl(crl()) == lint_crl(crl())
    response = ocsp_response()
    assert await linter.ocsp_response(response) == lint_ocsp_response(response)


async def test_refusals_come_across(linter: Linter) -> None:
    for der, rulebook, code in (
        (b"garbage", "pkix", "bad-der"),
        (GOOD, "rfc5280", "no-such-rulebook"),
        (bytes(MAXIMUM_SIZE + 1), "pkix", "object-too-large"),
    ):
        with pytest.raises(Rejected) as caught:
            await linter.certificate(der, rulebook)
        assert caught.value.code == code
    with pytest.raises(Rejected, match="object-too-large"):
        await linter.crl(bytes(MAXIMUM_CRL_SIZE + 1))


async def test_callers_queue_and_each_gets_its_own(linter: Linter) -> None:
    found = await asyncio.gather(*(linter.certificate(der) for der in (GOOD, FAULTY) * 5))
    assert [NO_CERT_SIGN in errors(findings) for findings in found] == [False, True] * 5


async def test_nothing_starts_before_the_first_object() -> None:
    linter = Linter()
    assert linter._worker._line is None
    await linter.close()


async def test_a_killed_process_is_replaced(linter: Linter) -> None:
    await linter.certificate(GOOD)
    before = process_of(linter)
    before.kill()
    assert NO_CERT_SIGN in errors(await linter.certificate(FAULTY))
    assert process_of(linter).pid != before.pid


async def test_a_process_that_hangs_is_ended_and_replaced() -> None:
    linter = Linter(timeout=20)
    await linter.certificate(GOOD)
    hanging = process_of(linter)
    linter._timeout = 0.2
    os.kill(hanging.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable) as caught:
        await linter.certificate(GOOD)
    assert caught.value.code == "lint-timeout"
    assert hanging.returncode == -signal.SIGKILL
    linter._timeout = 20
    assert NO_CERT_SIGN in errors(await linter.certificate(FAULTY))
    await linter.close()


async def test_a_caller_that_gives_up_does_not_leave_its_answer_to_the_next(
    linter: Linter,
) -> None:
    await linter.certificate(GOOD)
    impatient = asyncio.create_task(linter.certificate(FAULTY))
    await asyncio.sleep(0)  # it has its turn and has asked
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert NO_CERT_SIGN not in errors(await linter.certificate(GOOD))


async def test_a_process_that_cannot_start_is_unavailable(
    linter: Linter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable) as caught:
        await linter.certificate(GOOD)
    assert caught.value.code == "linter-unavailable"


async def test_close_leaves_no_process_and_is_final(linter: Linter) -> None:
    await linter.certificate(GOOD)
    process = process_of(linter)
    await linter.close()
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with pytest.raises(Unavailable, match="closed"):
        await linter.certificate(GOOD)
    await linter.close()


async def test_the_process_is_out_of_reach_of_ctrl_c(linter: Linter) -> None:
    await linter.certificate(GOOD)
    pid = process_of(linter).pid
    assert os.getpgid(pid) == pid != os.getpgrp()


HOLDER = """
import asyncio, os, signal, sys
from pki.lint import Linter

async def main():
    linter = Linter()
    await linter.certificate(bytes.fromhex(sys.argv[1]))
    assert not any(name.split(".")[0] in ("pkilint", "pyasn1") for name in sys.modules)
    print(linter._worker._line._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_the_holder_loads_no_pkilint_and_takes_the_process_with_it() -> None:
    holder = subprocess.run(
        [sys.executable, "-c", HOLDER, GOOD.hex()], capture_output=True, text=True, timeout=60
    )
    assert holder.returncode == -signal.SIGKILL, holder.stderr
    pid = int(holder.stdout)
    async with asyncio.timeout(60):
        while _runs(pid):  # noqa: ASYNC110 - nobody tells when a stranger's child ends
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
