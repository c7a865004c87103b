"""From a first start to a proof: what an operator and a relying party do, with real tools."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import Product, require, run


@pytest.fixture(scope="module", params=["pkcs11", "file"])
def product(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    require("openssl", "curl")
    if request.param == "pkcs11":
        require("softhsm2-util", "pkcs11-tool")
    product = Product(tmp_path_factory.mktemp("home"), keys=request.param)
    product.start()
    yield product
    assert product.stop() == 0


@pytest.fixture(scope="module")
def chain(product: Product) -> Path:
    """Root and issuing CA, as openssl wants them."""
    product.cli("ca", "export", "issuing", "--out", "chain.pem", "--chain", "--force")
    product.cli("ca", "export", "issuing", "--out", "issuing.pem", "--force")
    product.cli("ca", "export", "root", "--out", "root.pem", "--force")
    return product.home / "chain.pem"


def test_openssl_trusts_what_was_issued(product: Product, chain: Path) -> None:
    certificate = product.issue("alice", "/C=AQ/CN=Alice Example", "citizen-authentication")
    home = product.home
    said = run(
        "openssl", "verify", "-x509_strict", "-CAfile", home / "root.pem",
        "-untrusted", home / "issuing.pem", certificate,
    )  # fmt: skip
    assert b"OK" in said


def test_a_revocation_shows_in_crl_and_ocsp(product: Product, chain: Path) -> None:
    home = product.home
    certificate = product.issue("bob", "/C=AQ/CN=Bob Example", "citizen-authentication")
    ask = (
        "openssl", "ocsp", "-issuer", home / "issuing.pem", "-cert", certificate,
        "-url", f"{product.validation}/ocsp", "-CAfile", home / "root.pem",
        "-verify_other", home / "issuing.pem",
    )  # fmt: skip
    said = run(*ask)
    assert b"Response verify OK" in said
    assert b"bob.pem: good" in said

    view = product.json("cert", "revoke", certificate, "--reason", "keyCompromise")
    assert view["status"] == "revoked"

    said = run(*ask)
    assert b"bob.pem: revoked" in said
    assert b"keyCompromise" in said
    product.cli("crl", "issue")
    for name in ("issuing", "root"):
        run("curl", "-fsS", "-o", home / f"{name}.crl", f"{product.validation}/crl/{name}.crl")
        run(
            "openssl", "crl", "-inform", "DER", "-in", home / f"{name}.crl",
            "-out", home / f"{name}.crl.pem",
        )  # fmt: skip
    text = run("openssl", "crl", "-in", home / "issuing.crl.pem", "-text", "-noout").decode()
    serial = view["serial"].upper()
    assert re.search(rf"Serial Number: 0*{serial.lstrip('0')}", text)
    check = (
        "openssl", "verify", "-crl_check_all", "-CAfile", home / "root.pem",
        "-untrusted", home / "issuing.pem",
        "-CRLfile", home / "issuing.crl.pem", "-CRLfile", home / "root.crl.pem",
    )  # fmt: skip
    assert b"certificate revoked" in run(*check, certificate, ok=False)
    assert b"OK" in run(*check, product.issue("good", "/C=AQ/CN=Good", "citizen-authentication"))


def test_hold_and_release(product: Product, chain: Path) -> None:
    certificate = product.issue("carol", "/C=AQ/CN=Carol", "citizen-authentication")
    assert product.json("cert", "hold", certificate)["status"] == "hold"
    assert "certificateHold" in product.cli("ocsp", "query", certificate, code=1)
    assert product.json("cert", "release", certificate)["status"] == "good"
    assert product.json("ocsp", "query", certificate)["status"] == "good"
    again = product.json("cert", "release", certificate, code=3)
    assert again["error"]["code"] == "not-on-hold"


def test_a_revocation_is_final(product: Product) -> None:
    certificate = product.issue("dave", "/C=AQ/CN=Dave", "citizen-authentication")
    product.cli("cert", "revoke", certificate, "--reason", "superseded")
    for act in (("cert", "release"), ("cert", "hold")):
        assert product.json(*act, certificate, code=3)["error"]["code"] == "already-revoked"
    again = product.json("cert", "revoke", certificate, "--reason", "keyCompromise", code=3)
    assert again["error"]["code"] == "already-revoked"


def test_a_certificate_is_unknown_to_the_wrong_ca(product: Product, chain: Path) -> None:
    home = product.home
    said = run(
        "openssl", "ocsp", "-issuer", home / "issuing.pem", "-serial", "0x1234567890",
        "-url", f"{product.validation}/ocsp", "-CAfile", home / "root.pem",
        "-verify_other", home / "issuing.pem",
    )  # fmt: skip
    assert b"unknown" in said


def test_our_own_validation_explains(product: Product) -> None:
    certificate = product.issue("erin", "/C=AQ/CN=Erin", "citizen-authentication")
    good = product.json("verify", certificate)
    assert good["valid"] is True
    product.cli("cert", "revoke", certificate, "--reason", "keyCompromise")
    product.cli("crl", "issue", "issuing")
    said = product.cli("verify", certificate, code=1)
    assert "revoked" in said


def test_the_log_proves_an_issuance(product: Product, tmp_path: Path) -> None:
    certificate = product.issue("frank", "/C=AQ/CN=Frank", "citizen-authentication")
    assert product.json("log", "verify")["ok"] is True
    proof = tmp_path / "frank.proof.json"
    product.cli("log", "prove", certificate, "--out", proof)
    key = tmp_path / "log.pem"
    key.write_text(_log_key(product))
    verify = (sys.executable, "-m", "pki.log.verifier", proof, "--log-key", key)
    run(*verify, "--certificate", certificate)
    altered = json.loads(proof.read_text())
    altered["index"] += 1
    proof.write_text(json.dumps(altered))
    assert run(*verify, ok=False)
    with pytest.raises(AssertionError):
        run(*verify)


def _log_key(product: Product) -> str:
    token = (product.home / "secrets" / "operator.token").read_text().strip()
    said = run(
        "curl", "-fsS", "-H", f"Authorization: Bearer {token}",
        f"http://127.0.0.1:{product.app_port}/api/v1/log",
    )  # fmt: skip
    key: str = json.loads(said)["key_pem"]
    return key


def test_the_application_port_wants_the_token(product: Product) -> None:
    url = f"http://127.0.0.1:{product.app_port}/api/v1/certificates"
    for header in ("X: y", "Authorization: Bearer wrong"):
        said = run("curl", "-sS", "-H", header, "-w", "%{http_code}", url)
        assert b"not-authenticated" in said
        assert said.endswith(b"401")


def test_chains_as_relying_parties_download_them(product: Product, chain: Path) -> None:
    home = product.home
    run("curl", "-fsS", "-o", home / "issuing.cer", f"{product.validation}/aia/issuing.cer")
    said = run("openssl", "x509", "-inform", "DER", "-in", home / "issuing.cer", "-noout", "-text")
    assert b"CA:TRUE" in said
    run("curl", "-fsS", "-o", home / "issuing.p7c", f"{product.validation}/aia/issuing.p7c")
    said = run("openssl", "pkcs7", "-inform", "DER", "-in", home / "issuing.p7c", "-print_certs")
    assert said.count(b"BEGIN CERTIFICATE") == 2


def test_a_second_start_keeps_everything(product: Product) -> None:
    before = product.json("ca", "list")
    certificate = product.issue("grace", "/C=AQ/CN=Grace", "citizen-authentication")
    assert product.stop(signal.SIGINT) == 0
    # Nothing runs now: the command works on the state itself.
    shown = product.json("cert", "show", certificate)
    assert shown["status"] == "good"
    assert product.json("cert", "hold", certificate)["status"] == "hold"
    product.start()
    assert product.json("ca", "list") == before
    assert product.json("cert", "show", certificate)["status"] == "hold"
    assert product.json("log", "verify")["ok"] is True


def test_the_same_request_id_gives_the_same_certificate(product: Product) -> None:
    request = product.request("heidi", "/C=AQ/CN=Heidi")
    issue = (
        "cert",
        "issue",
        "--profile",
        "citizen-authentication",
        "--request-id",
        "application-7",
    )
    first = product.json(*issue, "--csr", request, "--out", "heidi.pem")
    second = product.json(*issue, "--csr", request, "--out", "heidi2.pem")
    assert (product.home / "heidi.pem").read_bytes() == (product.home / "heidi2.pem").read_bytes()
    assert first["certificate"]["serial"] == second["certificate"]["serial"]
    other = product.request("ivan", "/C=AQ/CN=Ivan")
    refused = product.json(*issue, "--csr", other, "--out", "ivan.pem", code=3)
    assert refused["error"]["code"] == "request-id-reused"
