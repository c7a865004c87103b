"""What an operator can get wrong: each has a stable code, says what to do, and loses nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import COMMAND, Product, require, run


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.start()
    yield product
    assert product.stop() == 0


def refused(product: Product, request: Path | str, *more: str, profile: str = "tls-server") -> str:
    """The code with which issuing is refused."""
    out = product.home / "refused.pem"
    answer = product.json(
        "cert", "issue", "--profile", profile, "--csr", request, "--out", out, *more, code=3
    )
    assert not out.exists()
    assert answer["error"]["detail"]
    code: str = answer["error"]["code"]
    return code


@pytest.fixture(scope="module")
def request_der(product: Product) -> bytes:
    path = product.request(
        "server", "/CN=www.example.org", "-addext", "subjectAltName=DNS:www.example.org"
    )
    out = product.home / "server.der"
    run("openssl", "req", "-in", path, "-outform", "DER", "-out", out)
    return out.read_bytes()


def test_a_request_signed_by_another_key(product: Product, request_der: bytes) -> None:
    # The subject is what changes; the signature stays that of the old one.
    assert request_der.count(b"www.example.org") >= 2
    forged = product.home / "forged.der"
    forged.write_bytes(request_der.replace(b"www.example.org", b"www.evil-pl.org", 1))
    assert refused(product, forged) == "bad-request-signature"


@pytest.mark.parametrize("cut", [1, 10, 100, 250])
def test_a_request_that_is_cut_short(product: Product, request_der: bytes, cut: int) -> None:
    short = product.home / "short.der"
    short.write_bytes(request_der[:-cut])
    assert refused(product, short) == "bad-request"


def test_garbage(product: Product) -> None:
    garbage = product.home / "garbage.der"
    garbage.write_bytes(os.urandom(500))
    assert refused(product, garbage) == "bad-request"


def test_ten_megabytes(product: Product) -> None:
    large = product.home / "large.der"
    large.write_bytes(b"\x30\x84\x00\x9f\xff\xfa" + bytes(10 * 1024 * 1024))
    assert refused(product, large) in ("request-too-large", "file-too-large")
    said = run(
        "curl", "-sS", "-X", "POST", "--data-binary", f"@{large}", "-H", "Expect:",
        "-H", f"Authorization: Bearer {(product.home / 'secrets/operator.token').read_text().strip()}",
        f"http://127.0.0.1:{product.app_port}/api/v1/certificates", "-w", "%{http_code}",
    )  # fmt: skip
    assert said.endswith(b"413")


def test_an_unknown_profile(product: Product) -> None:
    request = product.request("unknown", "/CN=x")
    assert refused(product, request, profile="no-such-profile") == "unknown-profile"


def test_a_forbidden_subject(product: Product) -> None:
    request = product.request("forbidden", "/C=AQ/CN=Alice/title=Queen")
    code = refused(product, request, profile="citizen-authentication")
    assert code == "subject-attribute-not-allowed"


def test_a_missing_subject_attribute(product: Product) -> None:
    request = product.request("missing", "/CN=Alice")
    code = refused(product, request, profile="citizen-authentication")
    assert code == "subject-attribute-missing"


def test_a_forbidden_alternative_name(product: Product) -> None:
    request = product.request("san", "/C=AQ/CN=Alice", "-addext", "subjectAltName=DNS:evil.example")
    code = refused(product, request, profile="citizen-authentication")
    assert code == "san-not-allowed"


def test_a_forbidden_extension(product: Product) -> None:
    request = product.request(
        "ca", "/CN=www.example.org", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "subjectAltName=DNS:www.example.org",
    )  # fmt: skip
    assert refused(product, request) == "extension-not-allowed"


def test_an_oversized_name(product: Product) -> None:
    # openssl keeps to the upper bound of X.520 by itself unless it is told not to.
    configuration = product.home / "long.cnf"
    configuration.write_text(
        "[req]\nprompt = no\ndistinguished_name = dn\nstring_mask = utf8only\n[dn]\nC = AQ\n"
        f"2.5.4.42 = {'x' * 3000}\nCN = y\n"
    )
    out = product.home / "long.csr"
    run(
        "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", product.home / "long.key", "-config", configuration, "-out", out,
    )  # fmt: skip
    code = refused(product, out, profile="citizen-authentication")
    assert code in ("name-too-long", "bad-name")


def test_a_key_of_another_subject(product: Product) -> None:
    first = product.request("owner", "/C=AQ/CN=Owner")
    product.cli(
        "cert", "issue", "--profile", "citizen-authentication", "--csr", first, "--out", "owner.pem"
    )
    second = product.home / "thief.csr"
    run(
        "openssl", "req", "-new", "-key", product.home / "owner.key", "-subj", "/C=AQ/CN=Thief",
        "-out", second,
    )  # fmt: skip
    assert refused(product, second, profile="citizen-authentication") == "key-reused"
    product.cli("cert", "revoke", "owner.pem", "--reason", "keyCompromise")
    assert refused(product, first, profile="citizen-authentication") == "key-compromised"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("-newkey", "rsa:1024"), "key-type"),
        (("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"), "key-type"),
        (("-newkey", "rsa:2048", "-pkeyopt", "rsa_keygen_pubexp:3"), "rsa-exponent"),
    ],
)
def test_weak_keys(product: Product, options: tuple[str, ...], code: str) -> None:
    out = product.home / "weak.csr"
    run(
        "openssl", "req", "-new", *options, "-nodes", "-keyout", product.home / "weak.key",
        "-subj", "/C=AQ/CN=Weak", "-out", out,
    )  # fmt: skip
    assert refused(product, out, profile="citizen-authentication") == code


def test_a_second_instance_on_the_same_state(product: Product) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--app-port", "0", "--validation-port", "0"],
        capture_output=True,
        env=product.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert b"state-locked" in done.stderr
    assert str(product.process and product.process.pid).encode() in done.stderr


def test_a_port_that_is_taken(product: Product, tmp_path: Path) -> None:
    other = Product(tmp_path / "other", keys="file")
    done = subprocess.run(
        [COMMAND, "serve", "--app-port", str(product.app_port)],
        capture_output=True,
        env=other.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert b"address-in-use" in done.stderr


def test_no_tls_off_loopback(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    done = subprocess.run(
        [COMMAND, "--set", "http.app_host=0.0.0.0", "serve"],
        capture_output=True,
        env=product.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert b"tls-required" in done.stderr


def test_a_clock_that_went_back(tmp_path: Path) -> None:
    require("faketime")
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    request = product.request("late", "/C=AQ/CN=Late")
    done = subprocess.run(
        ["faketime", "-f", "-2d", COMMAND, "cert", "issue", "--profile", "citizen-authentication",
         "--csr", request, "--out", product.home / "late.pem"],
        capture_output=True, env=product.environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert b"clock-went-back" in done.stderr
    product.issue("later", "/C=AQ/CN=Later", "citizen-authentication")
    assert product.json("log", "verify")["ok"] is True


def test_a_ca_that_ended(tmp_path: Path) -> None:
    require("faketime")
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    request = product.request("ended", "/C=AQ/CN=Ended")
    done = subprocess.run(
        ["faketime", "-f", "+11y", COMMAND, "cert", "issue", "--profile", "citizen-authentication",
         "--csr", request, "--out", product.home / "ended.pem"],
        capture_output=True, env=product.environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert b"ca-expired" in done.stderr
