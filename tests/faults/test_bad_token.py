"""A token with the wrong PIN, a locked one, one that is taken away: the product says so, waits,
and goes on by itself where that is possible."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pki.signer import softhsm
from tests.faults.test_token_faults import CKF_USER_PIN_LOCKED
from tests.journeys.product import Product, require, run

CITIZEN = "citizen-authentication"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A state folder with its keys on a SoftHSM token; in order after all that was done to it."""
    require("openssl", "curl", "softhsm2-util")
    product = Product(tmp_path_factory.mktemp("home"), keys="pkcs11")
    set_keys(product, 'check_interval = "1s"')
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
        product.refused(*words, code="token-unavailable", says="put the folder back", exit=4)
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
    for _ in range(600):  # each look at a token that is away puts off the next one, up to 30 s
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


# Health


KEYS = {"root", "issuing", "root-ocsp", "issuing-ocsp", "log", "status-feed"}


def until(true: Callable[[], object]) -> None:
    """Wait until it is so; health looks at the keys every second here, and waits five for one."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    assert true()


def token_processes(product: Product) -> list[int]:
    assert product.process is not None
    parent = str(product.process.pid)
    found = run("pgrep", "-P", parent, "-f", "pki.signer.token_process", ok=False)
    return [int(number) for number in found.split()]


def metric(product: Product, key: str) -> float:
    said = run("curl", "-sS", f"http://127.0.0.1:{product.app_port}/metrics").decode()
    [found] = re.findall(rf'^digitalid_key_available{{key="{key}"}} (.+)$', said, re.MULTILINE)
    return float(found)


def test_health_while_the_token_is_away(product: Product) -> None:
    request = product.request("unwell", "/C=AQ/CN=Unwell")
    product.start()
    try:
        status, health = product.get("/health")
        assert (status, health["status"], health["keys_failing"]) == (200, "ok", {})
        assert health["keys_age"] >= 0
        assert metric(product, "issuing") == 1
        tokens = product.home / "softhsm" / "tokens"
        away = tokens.rename(tokens.with_name("away"))
        # Nobody signs: it is found out all the same.
        until(lambda: product.get("/health")[0] == 503)
        health = product.get("/health")[1]
        assert health["status"] == "failing"
        assert health["keys_failing"] == dict.fromkeys(KEYS, "token-unavailable")
        assert metric(product, "issuing") == 0
        # To start it anew would help nobody.
        assert product.get("/health/live") == (200, {"status": "ok"})
        document = product.json("status", code=1)
        assert {one["name"]: one["key"] for one in document["authorities"]} == {
            "root": "token-unavailable",
            "issuing": "token-unavailable",
        }
        assert {one["what"] for one in document["failing"]} == {f"key {name}" for name in KEYS}
        assert [one["what"] for one in document["failing"] if not one["stops"]] == ["key log"]
        said = product.cli("status", code=1)
        assert said.startswith("It does not do all its work.")
        assert "issuing" in said
        assert "token-unavailable" in said
        away.rename(tokens)
        until(lambda: product.get("/health")[1]["keys_failing"] == {})
        assert product.get("/health")[0] == 200
        assert metric(product, "issuing") == 1
        assert product.json("status")["failing"] == []
        product.cli(*issue(request, "unwell"))
    finally:
        assert product.stop() == 0


def test_health_of_a_token_that_hangs(product: Product) -> None:
    """Health says so, and neither waits for it nor asks it anything when it is asked itself."""
    product.start()
    try:
        [process] = token_processes(product)
        os.kill(process, signal.SIGSTOP)
        for _ in range(50):
            product.get("/health")
        until(lambda: product.get("/health")[0] == 503)
        assert set(product.get("/health")[1]["keys_failing"].values()) == {"token-silent"}
        assert "token-silent" in product.cli("status", code=1)
        os.kill(process, signal.SIGCONT)
        until(lambda: product.get("/health")[0] == 200)
    finally:
        assert product.stop() == 0


def test_a_token_process_that_died_is_there_again_before_anybody_signs(product: Product) -> None:
    product.start()
    try:
        [process] = token_processes(product)
        os.kill(process, signal.SIGKILL)
        until(lambda: token_processes(product) not in ([], [process]))
        until(lambda: product.get("/health")[1]["keys_failing"] == {})
    finally:
        assert product.stop() == 0


class WithModule(Product):
    """An installation with a token of its own choice, by way of a module that can be removed."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | softhsm.environment(self.home / "hsm")


def test_health_while_the_module_is_gone(tmp_path: Path) -> None:
    installed = softhsm.find_module()
    if installed is None:
        pytest.skip("SoftHSM is missing: apt-get install softhsm2")
    product = WithModule(tmp_path / "home")
    module = tmp_path / "vendor.so"
    shutil.copy(installed, module)
    softhsm.init_token(installed, product.home / "hsm", "digitalid", b"87654321", b"12345678")
    secrets = product.home / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "token.pin").write_text("12345678\n")
    (secrets / "token.pin").chmod(0o600)
    set_keys(product, f'module = "{module}"', 'check_interval = "1s"')
    product.start()
    try:
        assert product.get("/health")[0] == 200
        away = module.rename(tmp_path / "away.so")
        [process] = token_processes(product)
        os.kill(process, signal.SIGKILL)
        until(lambda: product.get("/health")[0] == 503)
        assert product.get("/health")[1]["keys_failing"]["issuing"] == "token-unavailable"
        assert str(module) in product.cli("status", code=1).replace("\n      ", "")
        away.rename(module)
        until(lambda: product.get("/health")[0] == 200)
    finally:
        assert product.stop() == 0


def set_keys(product: Product, *lines: str) -> None:
    """Write more settings into the table of keys."""
    file = product.home / "digitalid.toml"
    file.write_text(file.read_text().replace("[keys]\n", "\n".join(("[keys]", *lines, ""))))
