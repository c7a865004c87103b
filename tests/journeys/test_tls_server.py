"""A TLS server with a certificate of ours: openssl's server, and the product's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import Product, free_ports, require, run

NAME = "ca.example.org"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("openssl", "curl")
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.cli("init")
    product.cli("ca", "export", "root", "--out", "root.pem")
    product.cli("ca", "export", "issuing", "--out", "issuing.pem")
    yield product
    assert product.process is None


@pytest.fixture(scope="module")
def server(product: Product) -> Path:
    """A certificate for this machine, its key beside it, the CA's certificates after it."""
    request = product.request(
        "server", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"
    )
    out = product.home / "server.pem"
    product.cli(
        "cert", "issue", "--profile", "tls-server", "--csr", request, "--chain", "--out", out
    )
    return out


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_serves_and_accepts_it(product: Product, server: Path, version: str) -> None:
    home = product.home
    (port,) = free_ports(1)
    serving = subprocess.Popen(
        [
            "openssl", "s_server", "-accept", f"127.0.0.1:{port}", version,
            "-cert", server, "-cert_chain", home / "issuing.pem", "-key", home / "server.key",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        while b"ACCEPT" not in (line := serving.stdout.readline()):
            assert line, "openssl s_server ended"
        ask = (
            "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-verify_return_error",
            "-CAfile", home / "root.pem",
        )  # fmt: skip
        said = run(*ask, "-verify_ip", "127.0.0.1", stdin=b"")
        assert b"Verify return code: 0 (ok)" in said
        said = run(*ask, "-verify_hostname", NAME, stdin=b"")
        assert f"Verified peername: {NAME}".encode() in said
        said = run(*ask, "-verify_hostname", "www.example.org", stdin=b"", ok=False)
        assert b"hostname mismatch" in said
    finally:
        serving.kill()
        serving.communicate()


def test_the_application_serves_itself_with_it(product: Product, server: Path) -> None:
    home = product.home
    settings = {
        "DIGITALID_HTTP_TLS_CERTIFICATE": str(server),
        "DIGITALID_HTTP_TLS_KEY": str(home / "server.key"),
        "DIGITALID_HTTP_APP_HOST": "0.0.0.0",  # noqa: S104 - that it may is what is tested
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Product, "environment", product.environment | settings)
        said = product.start()
    try:
        assert f"https://0.0.0.0:{product.app_port}/" in said
        url = f"https://{NAME}:{product.app_port}/api/v1/log"
        token = ("-H", f"Authorization: Bearer {product.operator_token}")
        there = ("--resolve", f"{NAME}:{product.app_port}:127.0.0.1")
        curl = ("curl", "-sS", "-i", *token, *there, url)
        by_address = ("curl", "-sS", "-i", *token, url.replace(NAME, "127.0.0.1"))
        for each in (curl, by_address):
            answer = run(*each, "--cacert", home / "root.pem")
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/2 200"))
            assert b"Strict-Transport-Security: max-age=" in answer
        # Without our root it is a stranger, and without TLS it is nobody.
        assert b"SSL certificate problem" in run(*curl, ok=False)
        plain = url.replace("https", "http")
        words = ["curl", "-sS", *there, plain]
        done = subprocess.run(words, capture_output=True, check=False, timeout=60)
        assert done.returncode != 0
        assert done.stdout == b""
        old = ("curl", "-sS", "--tls-max", "1.1", *there, url)
        assert b"curl:" in run(*old, "--cacert", home / "root.pem", ok=False)
        # Commands go through the instance's socket and do not mind.
        assert product.json("log", "verify")["ok"] is True
    finally:
        assert product.stop() == 0


@pytest.mark.parametrize("wrong", ["other.key", "nowhere.key"])
def test_a_key_that_is_not_the_certificate_s(product: Product, server: Path, wrong: str) -> None:
    product.request("other", "/CN=other")
    product.refused(
        "--set", f"http.tls_certificate={server}", "--set", f"http.tls_key={product.home / wrong}",
        "serve", code="bad-tls-certificate", says=wrong,
    )  # fmt: skip


def test_no_half_of_a_pair(product: Product, server: Path) -> None:
    product.refused(
        "--set", f"http.tls_certificate={server}", "serve", code="bad-setting", says="tls_key"
    )
