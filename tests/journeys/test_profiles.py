"""Each profile that somebody can ask for, with each kind of key: openssl makes the request, trusts
the certificate and shows what it is for, and pkilint finds no error in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa

from pki.algorithms import KeyType, usual_algorithm
from pki.export import encode_pem
from pki.findings import Severity
from pki.general_name import encode_general_names, parse_general_name
from pki.lint import lint_certificate
from pki.names import parse_rfc4514
from pki.oids import SUBJECT_ALT_NAME
from pki.profile import load_profiles
from pki.request import RequestedExtension, assemble_request, build_request_info
from pki.throwaway import Throwaway
from tests.journeys.product import RESERVED, Product, require, run

KEYS = {
    "p-256": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa-2048": ("-newkey", "rsa:2048"),
    "rsa-3072": ("-newkey", "rsa:3072"),
    "ed25519": ("-newkey", "ed25519"),
}
DOCUMENT_SIGNING = "1.3.6.1.5.5.7.3.36"  # RFC 9336; openssl 3.0 has no name for it


@dataclass(frozen=True)
class Case:
    """``usage`` and ``purposes``: as ``openssl x509 -text`` shows them; ``purpose``: the one that
    ``openssl verify`` checks, by key type where that matters."""

    profile: str
    subject: str
    usage: str
    purposes: str | None
    keys: tuple[str, ...] = ("p-256", "rsa-2048", "ed25519")
    refused: tuple[str, ...] = ()
    purpose: str = "any"
    names: tuple[str, ...] = ()
    ca: str = "issuing"
    shows: tuple[str, ...] = ()
    post_quantum: bool = True
    by_key: dict[str, tuple[str, str]] = field(default_factory=dict)


CASES = (
    Case(
        "citizen-authentication", "/C=AQ/CN=Alice Example/GN=Alice/SN=Example",
        "Digital Signature", "TLS Web Client Authentication", purpose="sslclient",
        names=("email:alice@example.org", "URI:did:key:z6MkpTHR8VNs"),
    ),
    Case(
        "citizen-signature", "/C=AQ/CN=Alice Example/GN=Alice/SN=Example/serialNumber=PNOAQ-1234",
        "Non Repudiation", DOCUMENT_SIGNING, keys=("p-256", "rsa-2048"), refused=("ed25519",),
        shows=("qcStatements", "https://www.example.org/pds-en.pdf"), post_quantum=False,
    ),
    Case(
        "citizen-encryption", "/C=AQ/CN=Alice Example", "Key Agreement", "E-mail Protection",
        keys=("p-256", "rsa-2048"), refused=("ed25519",), post_quantum=False,
        by_key={"rsa-2048": ("Key Encipherment", "smimeencrypt")},
    ),
    Case(
        "enterprise-seal",
        "/C=AQ/O=Penguin Ltd/organizationIdentifier=NTRAQ-12345678/CN=Penguin Ltd",
        "Non Repudiation", DOCUMENT_SIGNING, keys=("p-256", "rsa-2048"), refused=("ed25519",),
        shows=("qcStatements", "https://www.example.org/pds-en.pdf"), post_quantum=False,
    ),
    Case(
        "document-signer", "/C=AQ/O=Registry/CN=Civil registry", "Digital Signature",
        DOCUMENT_SIGNING,
    ),
    Case(
        "officer", "/C=AQ/O=Registry/CN=Bob Officer/title=Registrar", "Digital Signature",
        "TLS Web Client Authentication", keys=("p-256", "rsa-3072", "ed25519"),
        refused=("rsa-2048",), purpose="sslclient",
    ),
    Case(
        "time-stamping", "/C=AQ/O=Registry/CN=Time-stamping unit 1", "Digital Signature",
        "Time Stamping", keys=("p-256", "rsa-3072", "ed25519"), refused=("rsa-2048",),
        purpose="timestampsign",
    ),
    Case(
        "tls-server", "/CN=www.example.org", "Digital Signature", "TLS Web Server Authentication",
        purpose="sslserver", names=("DNS:www.example.org", "IP:192.0.2.1"),
    ),
)  # fmt: skip
ML_DSA = {
    KeyType.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyType.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyType.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}
PROFILES = load_profiles(files("conf") / "profiles")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("openssl")
    # EN 319 412 wants URLs that the public can reach, and every certificate is linted.
    product = Product(
        tmp_path_factory.mktemp("home"),
        keys="file",
        http={"public_url": "http://pki.example.org"},
        issuance={"lint_share": 1.0},
    )
    product.start()
    product.cli("ca", "export", "root", "--out", "root.pem")
    product.cli("ca", "export", "issuing", "--out", "issuing.pem")
    yield product
    assert product.json("log", "verify")["ok"] is True
    assert product.stop() == 0


def test_every_profile_has_a_case() -> None:
    # The others are for the authority itself: tests/faults/test_bad_input.py asks in vain.
    assert {case.profile for case in CASES} == PROFILES.keys() - RESERVED


def make_request(product: Product, case: Case, key: str) -> Path:
    out = product.home / f"{case.profile}-{key}.csr"
    names = ("-addext", f"subjectAltName={','.join(case.names)}") if case.names else ()
    run(
        "openssl", "req", "-new", *KEYS[key], "-nodes", "-keyout", out.with_suffix(".key"),
        "-utf8", "-subj", case.subject, *names, "-out", out,
    )  # fmt: skip
    return out


def issue(product: Product, case: Case, request: Path) -> Path:
    out = request.with_suffix(".pem")
    product.cli(
        "cert", "issue", "--profile", case.profile, "--ca", case.ca, "--csr", request, "--out", out
    )
    return out


def openssl_trusts(product: Product, case: Case, certificate: Path, key: str) -> None:
    purpose = case.by_key.get(key, (case.usage, case.purpose))[1]
    home = product.home
    said = run(
        "openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", home / "root.pem",
        "-untrusted", home / "issuing.pem", certificate,
    )  # fmt: skip
    assert said.endswith(b": OK\n")


def check(case: Case, certificate: Path, key: str) -> None:
    """What a relying party sees in the certificate."""
    usage = case.by_key.get(key, (case.usage, case.purpose))[0]
    text = run("openssl", "x509", "-in", certificate, "-noout", "-text").decode()
    assert extension(text, "X509v3 Key Usage: critical") == usage
    assert extension(text, "X509v3 Extended Key Usage:") == case.purposes
    for shown in (*case.shows, *(name.replace("IP:", "IP Address:") for name in case.names)):
        assert shown in text
    der = run("openssl", "x509", "-in", certificate, "-outform", "DER")
    profile = PROFILES[case.profile]
    errors = [
        finding
        for finding in lint_certificate(der, profile.rulebook)
        if finding.severity is Severity.ERROR and finding.code not in profile.waived_findings
    ]
    assert not errors


def extension(text: str, title: str) -> str | None:
    """What openssl shows below an extension's title, critical or not."""
    found = re.search(rf"{title}[ a-z]*\n +(.*)\n", text)
    return None if found is None else found[1].strip()


@pytest.mark.parametrize(
    ("case", "key"),
    [pytest.param(c, key, id=f"{c.profile}-{key}") for c in CASES for key in c.keys],
)
def test_what_is_issued(product: Product, case: Case, key: str) -> None:
    certificate = issue(product, case, make_request(product, case, key))
    openssl_trusts(product, case, certificate, key)
    check(case, certificate, key)


@pytest.mark.parametrize(
    ("case", "key"),
    [pytest.param(c, key, id=f"{c.profile}-{key}") for c in CASES for key in c.refused],
)
def test_keys_that_the_profile_does_not_take(product: Product, case: Case, key: str) -> None:
    refuse_key(product, case, make_request(product, case, key))


def refuse_key(product: Product, case: Case, request: Path) -> None:
    product.refused(
        "cert", "issue", "--profile", case.profile, "--ca", case.ca, "--csr", request,
        "--out", request.with_suffix(".pem"), code="key-type-not-allowed", says="takes",
    )  # fmt: skip


def post_quantum_cases() -> Iterator[object]:
    for case in CASES:
        every = case.profile == "document-signer"
        kinds = ML_DSA if every else {KeyType.ML_DSA_65: ML_DSA[KeyType.ML_DSA_65]}
        for kind in kinds:
            yield pytest.param(case, kind, id=f"{case.profile}-{kind}")


@pytest.mark.parametrize(("case", "key_type"), [*post_quantum_cases()])
def test_post_quantum_keys(product: Product, case: Case, key_type: KeyType) -> None:
    """openssl 3.0 knows no ML-DSA (RFC 9881): the request is made here, and a newer one, within
    cryptography, reads the key and checks the issuer's signature."""
    key = Throwaway(ML_DSA[key_type](), key_type, usual_algorithm(key_type))
    subject = parse_rfc4514(",".join(reversed(case.subject.strip("/").split("/"))))
    names = []
    for name in case.names:
        kind, _, value = name.partition(":")
        names.append(parse_general_name(f"{kind.lower()}:{value}"))
    asked = [RequestedExtension(SUBJECT_ALT_NAME, False, encode_general_names(names))]
    info = build_request_info(subject.der, key.public_key_info, asked if names else ())
    request = product.home / f"{case.profile}-{key_type}.csr"
    der = assemble_request(info, key.algorithm, key.sign(info))
    request.write_bytes(encode_pem("CERTIFICATE REQUEST", der))
    if not case.post_quantum:
        refuse_key(product, case, request)
        return
    out = issue(product, case, request)
    issuer = x509.load_pem_x509_certificate((product.home / f"{case.ca}.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate(out.read_bytes())
    certificate.verify_directly_issued_by(issuer)
    assert certificate.public_key() == key.private_key.public_key()
    check(case, out, str(key_type))
