"""``digitalid verify`` with files: what it says, as text and as JSON, where evidence differs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509

from cli.main import digitalid
from tests.conformance.crl_evidence_fixtures import entry, listing
from tests.conformance.test_rfc5280_validation import DAY, PEM, Entity, issue, ocsp_response

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
ROOT = issue("Root", ca=True, not_before=NOW - 90 * DAY)
ISSUING = issue("Issuing", ROOT, ca=True, not_before=NOW - 90 * DAY)
ADA = issue("Ada", ISSUING, not_before=NOW - 90 * DAY)
HOLD = (x509.CRLReason(x509.ReasonFlags.certificate_hold), False)


def crl(signer: Entity, told: datetime, *entries: x509.RevokedCertificate) -> bytes:
    return listing(signer, entries=entries, this_update=told)


@pytest.fixture
def verify(tmp_path: Path) -> Any:
    for name, entity in (("root", ROOT), ("issuing", ISSUING), ("ada", ADA)):
        (tmp_path / name).write_bytes(entity.certificate.public_bytes(PEM))
    (tmp_path / "root.crl").write_bytes(crl(ROOT, NOW - DAY))

    def verify(*arguments: str, as_json: bool = False, code: int = 1, **evidence: bytes) -> Any:
        command = ["--home", str(tmp_path / "home"), *(["--json"] if as_json else []), "verify"]
        command += [str(tmp_path / "ada"), "--anchor", str(tmp_path / "root")]
        command += ["--intermediate", str(tmp_path / "issuing"), *arguments]
        if evidence:
            command += ["--crl", str(tmp_path / "root.crl")]
        for kind, content in evidence.items():
            (tmp_path / kind).write_bytes(content)
            command += [f"--{kind}", str(tmp_path / kind)]
        done = CliRunner().invoke(digitalid, command)
        assert done.exit_code == code, done.output
        return json.loads(done.output) if as_json else done.output

    return verify


def test_a_revocation_against_a_good_answer(verify: Any) -> None:
    listed = crl(ISSUING, NOW - DAY, entry(ADA, at=NOW - 2 * DAY))
    answer = ocsp_response(ADA, ISSUING, ISSUING, this_update=NOW - HOUR)
    text = verify(crl=listed, ocsp=answer)
    assert text.startswith("NOT VALID: revoked.")
    assert "they contradict each other. The revocation counts" in text
    said = verify(crl=listed, ocsp=answer, as_json=True)
    assert (said["valid"], said["code"], said["retroactive"]) == (False, "revoked", False)
    [line] = (line for line in said["explanation"] if "contradict" in line)
    assert "the OCSP response by the CA of" in line
    assert "the CRL 7 of" in line


def test_a_hold_that_was_released(verify: Any) -> None:
    held = crl(ISSUING, NOW - DAY, entry(ADA, HOLD, at=NOW - 2 * DAY))
    newer = ocsp_response(ADA, ISSUING, ISSUING, this_update=NOW - HOUR)
    text = verify(crl=held, ocsp=newer, code=0)
    assert text.startswith("Valid.")
    assert "is newer and says that the hold was released" in text
    older = ocsp_response(ADA, ISSUING, ISSUING, this_update=NOW - 25 * HOUR, lifetime=9 * DAY)
    assert "is on hold since" in verify(crl=held, ocsp=older)


def test_what_rests_on_evidence_of_later(verify: Any) -> None:
    past = f"{NOW - 5 * DAY:%Y-%m-%dT%H:%M:%SZ}"
    said = verify("--at", past, crl=crl(ISSUING, NOW - DAY), as_json=True, code=0)
    assert (said["valid"], said["retroactive"], said["at"]) == (True, True, past)


def test_the_future_and_what_comes_from_it(verify: Any) -> None:
    clean = crl(ISSUING, NOW - DAY)
    future = f"{NOW + 3 * DAY:%Y-%m-%dT%H:%M:%SZ}"
    text = verify("--at", future, crl=clean)
    assert text.startswith("NOT VALID: revocation-unknown.")
    assert "nobody can tell yet" in text
    assert verify("--at", future, "--no-revocation", code=0).startswith("Valid.")
    text = verify("--at", future, crl=crl(ISSUING, NOW - DAY, entry(ADA, at=NOW - 2 * DAY)))
    assert text.startswith("NOT VALID: revoked.")
    text = verify(crl=crl(ISSUING, NOW + DAY))
    assert text.startswith("NOT VALID: revocation-unknown.")
    assert "does not count: it is from after now" in text
    assert verify("--at", future, crl=crl(ISSUING, NOW + 2 * DAY)).count("from after now") == 1
