"""Requests that nobody may have granted: each is refused with a stable code and what to do about
it, over the command and over HTTP, and nothing is lost by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import gcd
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.journeys.product import RESERVED, Product, require, run

CITIZEN = "citizen-authentication"
SERVER = "tls-server"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """An instance that must be in order after all that was asked of it."""
    require("openssl", "curl")
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.start()
    yield product
    product.issue("afterwards", "/C=AQ/CN=Afterwards", CITIZEN)
    assert product.json("log", "verify")["ok"] is True
    errors = (product.home / "serve.err").read_text()
    assert product.stop() == 0
    assert "incident" not in errors, errors


def refused(product: Product, request: Path, code: str, says: str, *, profile: str) -> None:
    """Issuing is refused, and leaves neither a file nor a record."""
    out = request.with_suffix(".refused.pem")
    before = known(product)
    product.refused(
        "cert", "issue", "--profile", profile, "--csr", request, "--out", out, code=code, says=says
    )
    assert not out.exists()
    assert known(product) == before


def known(product: Product) -> int:
    """How many certificates the ledger knows of: intended, issued or void."""
    status, found = product.get("/certificates?limit=1000")
    assert status == 200
    assert found["next"] is None
    return len(found["certificates"])


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
    assert request_der.count(b"www.example.org") == 2
    forged = product.home / "forged.der"
    forged.write_bytes(request_der.replace(b"www.example.org", b"www.evil-pl.org", 1))
    refused(product, forged, "bad-request-signature", "private key", profile=SERVER)


@pytest.mark.parametrize("cut", [1, 10, 100, 250])
def test_a_request_that_is_cut_short(product: Product, request_der: bytes, cut: int) -> None:
    short = product.home / "short.der"
    short.write_bytes(request_der[:-cut])
    refused(product, short, "bad-request", "certification request in DER", profile=SERVER)


def test_garbage(product: Product) -> None:
    garbage = product.home / "garbage.der"
    for content in (os.urandom(500), b"\x30\x82" + os.urandom(500), b"hello\n", bytes(64)):
        garbage.write_bytes(content)
        refused(product, garbage, "bad-request", "", profile=SERVER)
    garbage.write_bytes(b"")
    refused(product, garbage, "bad-request", "a certificate request was expected", profile=SERVER)


def test_a_private_key_in_the_place_of_the_request(product: Product) -> None:
    product.request("mistaken", "/CN=mistaken")
    key = product.home / "mistaken.key"
    refused(product, key, "bad-request", "keep it, and send the request alone", profile=SERVER)


def test_ten_megabytes(product: Product) -> None:
    large = product.home / "large.der"
    large.write_bytes(b"\x30\x84\x00\x9f\xff\xfa" + bytes(10 * 1024 * 1024))
    refused(product, large, "too-large", "more than 1048576 octets", profile=SERVER)
    # What a command reads but no request needs.
    large.write_bytes(b"\x30\x83\x01\x86\xa0" + bytes(100_000))
    refused(product, large, "request-too-large", "at most 65536", profile=SERVER)
    status, problem = product.post("/certificates", bytes(10 * 1024 * 1024))
    assert (status, problem["code"]) == (413, "request-too-large")
    assert "at most" in problem["detail"]


def test_json_that_is_none(product: Product) -> None:
    for body in (b"", b"{", b"[]", b'{"profile": 1}', b'{"csr": "", "profile": "x", "more": 1}'):
        status, problem = product.post("/certificates", body)
        assert status == 400
        assert problem["code"] == "bad-body", problem


def test_json_that_is_not_utf_8(product: Product) -> None:
    for path, body in {
        "/certificates": b'{"profile": "\xff\xfe", "csr": "y"}',
        "/directories/filter": b'{"mail": "\xff"}',
        "/log/verify": b'{"key_pem": "\xff"}',
        "/revocations": b'{"reason": "\xff"}',
    }.items():
        status, problem = product.post(path, body)
        assert (status, problem["code"]) == (400, "bad-body"), path


def test_a_time_that_is_before_the_year_1_in_utc(product: Product) -> None:
    asked = {"reason": "superseded", "rehearse": True, "issued_after": "0001-01-01T00:00:00+23:59"}
    status, problem = product.post("/revocations", asked)
    assert (status, problem["code"]) == (400, "bad-time")


def test_an_unknown_profile(product: Product) -> None:
    request = product.request("unknown", "/CN=x")
    refused(product, request, "unknown-profile", "choose one of", profile="no-such-profile")
    status, problem = product.post(
        "/certificates", {"profile": "no-such-profile", "csr": request.read_text()}
    )
    assert (status, problem["code"]) == (404, "unknown-profile")


@pytest.mark.parametrize("profile", sorted(RESERVED))
def test_a_profile_of_the_authority_itself(product: Product, profile: str) -> None:
    request = product.request(f"my-{profile}", "/C=AQ/O=Registry/CN=My own CA")
    refused(product, request, "profile-reserved", "", profile=profile)


def test_a_forbidden_subject(product: Product) -> None:
    request = product.request("forbidden", "/C=AQ/CN=Alice/title=Queen")
    refused(product, request, "subject-attribute-not-allowed", "title", profile=CITIZEN)


def test_a_missing_subject_attribute(product: Product) -> None:
    request = product.request("missing", "/CN=Alice")
    refused(product, request, "subject-attribute-missing", "C", profile=CITIZEN)


def test_a_forbidden_alternative_name(product: Product) -> None:
    request = product.request("san", "/C=AQ/CN=Alice", "-addext", "subjectAltName=DNS:evil.example")
    refused(product, request, "san-not-allowed", "dns", profile=CITIZEN)


def test_a_wildcard(product: Product) -> None:
    request = product.request(
        "wildcard", "/CN=example.org", "-addext", "subjectAltName=DNS:*.example.org"
    )
    refused(product, request, "san-not-allowed", "wildcard", profile=SERVER)


def test_a_forbidden_extension(product: Product) -> None:
    request = product.request(
        "ca", "/CN=www.example.org", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "subjectAltName=DNS:www.example.org",
    )  # fmt: skip
    refused(product, request, "extension-not-allowed", "", profile=SERVER)


def test_an_oversized_name(product: Product) -> None:
    # X.520 lets a given name have 32768 characters, and openssl no more than 64 of the others.
    request = product.request("long", f"/C=AQ/CN=y/GN={'x' * 3000}")
    refused(product, request, "name-too-long", "", profile=CITIZEN)


def test_a_key_of_another_subject(product: Product) -> None:
    first = product.request("owner", "/C=AQ/CN=Owner")
    product.cli("cert", "issue", "--profile", CITIZEN, "--csr", first, "--out", "owner.pem")
    second = product.home / "thief.csr"
    run(
        "openssl", "req", "-new", "-key", product.home / "owner.key", "-subj", "/C=AQ/CN=Thief",
        "-out", second,
    )  # fmt: skip
    refused(product, second, "key-reused", "make a new key", profile=CITIZEN)
    product.cli("cert", "revoke", "owner.pem", "--reason", "keyCompromise")
    refused(product, first, "key-compromised", "make a new key", profile=CITIZEN)


def test_a_compromised_rsa_key_does_not_come_back_with_another_exponent(product: Product) -> None:
    key = rsa.generate_private_key(65537, 2048)
    ours = csr(product, "modulus", key)
    product.cli("cert", "issue", "--profile", CITIZEN, "--csr", ours, "--out", "modulus.pem")
    product.cli("cert", "revoke", "modulus.pem", "--reason", "keyCompromise")
    refused(product, ours, "key-compromised", "make a new key", profile=CITIZEN)
    again = csr(product, "exponent", with_another_exponent(key))
    refused(product, again, "rsa-exponent", "65537", profile=CITIZEN)


def with_another_exponent(key: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey:
    numbers = key.private_numbers()
    p, q = numbers.p, numbers.q
    order = (p - 1) * (q - 1)
    e = next(odd for odd in range(65539, 1 << 20, 2) if gcd(odd, order) == 1)
    d = pow(e, -1, order)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), numbers.iqmp
    return rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, p * q)).private_key()


def csr(product: Product, name: str, key: rsa.RSAPrivateKey) -> Path:
    subject = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "AQ"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    made = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path = product.home / f"{name}.csr"
    path.write_bytes(made)
    return path


@pytest.mark.parametrize("name", ["Al\u061cice", "Al\U000e0041ice", "\u3164", " Alice"], ids=ascii)
def test_a_name_with_what_nobody_sees(product: Product, name: str) -> None:
    request = product.request("unseen", f"/C=AQ/CN={name}", "-utf8")
    refused(product, request, "bad-character", "", profile=CITIZEN)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("localhost", "san-not-allowed"),
        ("com", "san-not-allowed"),
        ("127.0.0.1", "bad-general-name"),
        ("0x7f.1", "bad-general-name"),
        ("xn--0.example", "bad-general-name"),
        ("ab--cd.example", "bad-general-name"),
    ],
)
def test_a_host_name_that_is_none(product: Product, name: str, code: str) -> None:
    request = product.request("host", "/CN=x", "-addext", f"subjectAltName=DNS:{name}")
    refused(product, request, code, "", profile=SERVER)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("-newkey", "rsa:1024"), "key-type", ""),
        (("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"), "key-type", ""),
        (("-newkey", "rsa:2048", "-pkeyopt", "rsa_keygen_pubexp:3"), "rsa-exponent", ""),
    ],
)
def test_weak_keys(product: Product, options: tuple[str, ...], code: str, says: str) -> None:
    out = product.home / "weak.csr"
    run(
        "openssl", "req", "-new", *options, "-nodes", "-keyout", product.home / "weak.key",
        "-subj", "/C=AQ/CN=Weak", "-out", out,
    )  # fmt: skip
    refused(product, out, code, says, profile=CITIZEN)


def test_a_file_that_is_not_there(product: Product) -> None:
    refused(product, product.home / "nowhere.csr", "cannot-read", "No such file", profile=SERVER)


def test_an_output_that_is_there_already(product: Product) -> None:
    request = product.request("again", "/C=AQ/CN=Again")
    before = known(product)
    product.refused(
        "cert", "issue", "--profile", CITIZEN, "--csr", request, "--out", request,
        code="file-exists", says="--force",
    )  # fmt: skip
    assert b"REQUEST" in request.read_bytes()
    assert known(product) == before


def test_a_ca_that_does_not_exist(product: Product) -> None:
    request = product.request("no-ca", "/C=AQ/CN=Nobody")
    product.refused(
        "cert", "issue", "--profile", CITIZEN, "--csr", request, "--out", "no-ca.pem",
        "--ca", "nobody", code="no-such-authority", says="there are: ",
    )  # fmt: skip


def test_a_reason_that_is_none(product: Product) -> None:
    certificate = product.issue("reason", "/C=AQ/CN=Reason", CITIZEN)
    error = product.json("cert", "revoke", certificate, "--reason", "boredom", code=2)["error"]
    assert error["code"] == "usage"
    assert "keycompromise" in error["detail"].lower()
    assert product.json("cert", "show", certificate)["status"] == "good"


@pytest.mark.parametrize("request_id", [".ocsp/1", ".ca/issuing", "", "a b", "x" * 129])
def test_a_request_id_that_nobody_may_take(product: Product, request_id: str) -> None:
    """Those with a dot in front are the program's own: taken, they would stop its renewals."""
    csr = product.request("id", "/C=AQ/CN=Request Id").read_text()
    status, problem = product.post(
        "/certificates",
        {"profile": "citizen-authentication", "csr": csr, "request_id": request_id},
    )
    assert (status, problem["code"]) == (400, "bad-request-id")
