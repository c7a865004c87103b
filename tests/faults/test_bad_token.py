"""A token with the wrong PIN, a locked one, one that is taken away: the product says so, waits,
and goes on by itself where that is possible."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_token_faults import CKF_USER_PIN_LOCKED
from tests.journeys.product import Product, require, run

CITIZEN = "citizen-authentication"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A state folder with its keys on a SoftHSM token; in order after all that was done to it."""
    require("openssl", "curl", "softhsm2-util")
    product = Product(tmp_path_factory.mktemp("home"), keys="pkcs11")
    product.cli("init")
    product.cli("ca", "export", "root", "--out", "root.pem")
    product.cli("ca", "export", "issuing", "--out", "issuing.pem")
    yield product
    product.issue("afterwards", "/C=AQ/CN=Afterwards", CITIZEN)
    assert product.json("log", "verify")["ok"] is True


def issue(request: Path, name: str) -> tuple[str | Path, ...]:
    out = request.with_name(f"{name}.pem")
    return ("cert", "issue", "--profile", CITIZEN, "--csr", request, "--out", out)


def ocsp_status(product: Product, certificate: Path) -> str:
    """What openssl hears when it asks with a nonce, which no prepared answer can satisfy."""
    return run(
        "openssl", "ocsp", "-issuer", product.home / "issuing.pem", "-cert", certificate,
        "-url", f"{product.validation}/ocsp", "-CAfile", product.home / "root.pem",
        "-verify_other", product.home / "issuing.pem", ok=False,
    ).decode()  # fmt: skip


def test_a_wrong_pin(product: Product) -> None:
    request = product.request("wrong-pin", "/C=AQ/CN=Wrong PIN")
    pin = product.home / "secrets" / "token.pin"
    right = pin.read_text()
    pin.write_text("not-the-pin\n")
    try:
        for words in (issue(request, "wrong-pin"), ("serve",)):
            product.refused(*words, code="wrong-pin", says="PIN")
        # What needs no key goes on.
        assert product.json("log", "verify")["ok"] is True
    finally:
        pin.write_text(right)
    product.cli(*issue(request, "wrong-pin"))


def test_no_pin(product: Product) -> None:
    request = product.request("no-pin", "/C=AQ/CN=No PIN")
    pin = product.home / "secrets" / "token.pin"
    away = pin.rename(pin.with_suffix(".away"))
    try:
        product.refused(*issue(request, "no-pin"), code="no-such-secret", says=str(pin))
    finally:
        away.rename(pin)
    product.cli(*issue(request, "no-pin"))


def test_a_locked_token(product: Product) -> None:
    request = product.request("locked", "/C=AQ/CN=Locked")
    (token,) = (product.home / "softhsm" / "tokens").glob("*/token.object")
    whole = token.read_bytes()
    token.write_bytes(with_flag(whole, CKF_USER_PIN_LOCKED))
    for words in (issue(request, "locked"), ("serve",)):
        product.refused(*words, code="pin-locked", says="PIN")
    token.write_bytes(whole)
    product.cli(*issue(request, "locked"))


def with_flag(token: bytes, flag: int) -> bytes:
    """SoftHSM's token object with a flag that it knows but never sets itself."""
    # CKA_OS_TOKENFLAGS, its kind (2: a number), its value; each takes 8 octets.
    start = token.index((0x8000534B).to_bytes(8, "big") + (2).to_bytes(8, "big")) + 16
    flags = int.from_bytes(token[start : start + 8], "big") | flag
    return token[:start] + flags.to_bytes(8, "big") + token[start + 8 :]


def test_no_token_at_start(product: Product) -> None:
    """One that is away is not replaced by a new and empty one."""
    request = product.request("no-token", "/C=AQ/CN=No token")
    tokens = product.home / "softhsm" / "tokens"
    away = tokens.rename(tokens.with_name("away"))
    for words in (issue(request, "no-token"), ("serve",)):
        product.refused(*words, code="token-unavailable", says="put that folder back", exit=4)
    assert not tokens.exists()
    away.rename(tokens)
    product.cli(*issue(request, "no-token"))


def test_a_token_that_is_taken_away_and_given_back(product: Product) -> None:
    kept = product.issue("kept", "/C=AQ/CN=Kept", CITIZEN)
    request = product.request("meanwhile", "/C=AQ/CN=Meanwhile")
    body = {"profile": CITIZEN, "csr": request.read_text(), "request_id": "meanwhile/1"}
    product.start()
    try:
        assert "kept.pem: good" in ocsp_status(product, kept)
        tokens = product.home / "softhsm" / "tokens"
        away = tokens.rename(tokens.with_name("away"))
        product.refused(*issue(request, "meanwhile"), code="token-unavailable", says="", exit=4)
        status, problem = product.post("/certificates", body)
        assert (status, problem["code"]) == (503, "token-unavailable")
        assert problem["detail"]
        said = ocsp_status(product, kept)
        assert "trylater" in said, said
        # What was asked before and needs no key is answered.
        assert product.json("cert", "show", kept)["status"] == "good"
        away.rename(tokens)
        answer = issued(product, body)
        assert "kept.pem: good" in ocsp_status(product, kept)
        # The intent that had waited for the token was completed: it is the same certificate.
        again = product.post("/certificates", body)[1]
        assert again["certificate"]["pem"] == answer["certificate"]["pem"]
        assert product.json("log", "verify")["ok"] is True
    finally:
        assert product.stop() == 0


def issued(product: Product, body: dict[str, str]) -> dict[str, dict[str, str]]:
    """The certificate, as soon as the token is looked for again."""
    for _ in range(50):
        status, answer = product.post("/certificates", body)
        if status == 201:
            break
        assert (status, answer["code"]) == (503, "token-unavailable"), answer
        time.sleep(0.2)
    assert status == 201, answer
    found: dict[str, dict[str, str]] = answer
    return found


def test_the_token_process_dies(product: Product) -> None:
    """A module that crashes takes its process along, and not the product."""
    product.start()
    try:
        assert product.process is not None
        parent = str(product.process.pid)
        (signing,) = run("pgrep", "-P", parent, "-f", "pki.signer.token_process").split()
        os.kill(int(signing), signal.SIGSEGV)
        request = product.request("crashed", "/C=AQ/CN=Crashed")
        issued(
            product,
            {"profile": CITIZEN, "csr": request.read_text(), "request_id": "crashed/1"},
        )
    finally:
        assert product.stop() == 0
