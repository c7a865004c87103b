"""SIGKILL at each step of issuing and revoking: nothing is lost, nothing happens twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.product import Product, require

STEPS_OF_ISSUING = [
    "reserved",
    "built",
    "checked",
    "intended",
    "signed",
    "kept",
    "logged",
    "completed",
]
STEPS_OF_REVOKING = ["pending", "pending-logged", "changed"]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.cli("init")
    return product


def child(
    product: Product, step: str, act: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.crash_child", product.home, step, act, *arguments],
        capture_output=True,
        env=product.environment,
        timeout=120,
        check=False,
    )


def all_certificates(product: Product) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = product.json("cert", "find", "--limit", "1000")["certificates"]
    return found


@pytest.mark.parametrize("step", STEPS_OF_ISSUING)
def test_with_a_request_id_the_second_try_gives_the_one_certificate(
    product: Product, step: str
) -> None:
    request = product.request(f"with-{step}", f"/C=AQ/CN=With {step}")
    died = child(product, step, "issue", str(request), f"with/{step}")
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    again = child(product, "never", "issue", str(request), f"with/{step}")
    assert again.returncode == 0, again.stderr.decode()
    mine = [c for c in all_certificates(product) if c["subject"] == f"CN=With {step},C=AQ"]
    assert [c["state"] for c in mine] == ["issued"]
    assert mine[0]["log_index"] is not None
    assert product.json("log", "verify")["ok"] is True


@pytest.mark.parametrize("step", STEPS_OF_ISSUING)
def test_without_a_request_id_an_intent_is_void_and_nothing_is_lost(
    product: Product, step: str
) -> None:
    request = product.request(f"without-{step}", f"/C=AQ/CN=Without {step}")
    died = child(product, step, "issue", str(request), "")
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    mine = [c for c in all_certificates(product) if c["subject"] == f"CN=Without {step},C=AQ"]
    before_intent = step in ("reserved", "built", "checked")
    expected = [] if before_intent else ["void" if step in ("intended", "signed") else "issued"]
    assert [c["state"] for c in mine] == expected
    # What was issued is in the log, and so is what became void.
    for certificate in mine:
        serial = certificate["serial"]
        if certificate["state"] == "issued":
            assert certificate["log_index"] is not None
            product.cli("log", "prove", serial, "--out", f"{serial}.json")
    report = product.json("log", "verify")
    assert report["ok"] is True


@pytest.mark.parametrize("step", STEPS_OF_REVOKING)
def test_a_revocation_that_was_written_down_is_finished(product: Product, step: str) -> None:
    certificate = product.issue(
        f"revoke-{step}", f"/C=AQ/CN=Revoke {step}", "citizen-authentication"
    )
    serial = product.json("cert", "show", certificate)["serial"]
    died = child(product, step, "revoke", serial)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    view = product.json("cert", "show", certificate)
    assert view["status"] == "revoked"
    assert view["reason"] == "superseded"
    again = product.json("cert", "revoke", certificate, "--reason", "superseded", code=3)
    assert again["error"]["code"] == "already-revoked"
    crl = product.json("crl", "show", "issuing", "--entries")
    assert serial in json.dumps(crl)
    assert product.json("log", "verify")["ok"] is True


@pytest.mark.parametrize("step", ["pending:2", "changed:3"])
def test_a_mass_revocation_goes_on_where_it_was_killed(tmp_path: Path, step: str) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    count, profile = 3, "citizen-authentication"
    for number in range(count):
        product.issue(f"m{number}", f"/C=AQ/CN=M {number}", profile)
    died = child(product, step, "revoke-many", "test")
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    done = product.json("cert", "revoke-many", "--profile", profile, "--reason", "superseded")
    assert done["already"] == 0  # the same job: what it revoked before it died is its own
    views = product.json("cert", "find", "--profile", profile)["certificates"]
    assert [view["status"] for view in views] == ["revoked"] * count
    assert product.json("crl", "show", "issuing")["crls"][0]["entries"] == count
    report = product.json("log", "verify")
    assert report["ok"] is True


@pytest.mark.parametrize("step", ["key", "reserved", "intended", "signed", "kept", "logged"])
def test_the_first_start_can_be_interrupted_anywhere(tmp_path: Path, step: str) -> None:
    product = Product(tmp_path / "home", keys="file")
    died = child(product, step, "init")
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    product.cli("init")
    names = [ca["name"] for ca in product.json("ca", "list")["authorities"]]
    assert sorted(names) == ["issuing", "root"]
    certificates = all_certificates(product)
    subjects = [c["subject"] for c in certificates if c["state"] == "issued"]
    assert len(subjects) == len(set(subjects)), "something was issued twice"
    assert product.json("log", "verify")["ok"] is True


def test_a_token_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    require("softhsm2-util")
    product = Product(tmp_path / "home", keys="pkcs11")
    half = product.home / ".softhsm.new" / "tokens" / "half"
    half.mkdir(parents=True)
    (half / "token.object").write_bytes(b"no PIN yet")
    product.cli("init")
    assert not half.exists()
    assert [ca["name"] for ca in product.json("ca", "list")["authorities"]] == ["root", "issuing"]
