"""An integrator's path: certificates found by LDAP, judged by openssl, gone when revoked."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.slapd import find_slapd
from tests.contract.slapd_fixtures import pids
from tests.journeys.product import COMMAND, Product, free_ports, require, run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "directory.md"
BASE = "o=DigitalID"
SUBJECT = "/C=AQ/serialNumber=PNOAQ-12345678/CN=Alice Example"
NAMES = "subjectAltName=email:alice@example.org,URI:did:web:alice.example.org"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A running product with Alice, whose key others encrypt to, and Bob, who did not consent."""
    if find_slapd() is None:
        require("slapd", "setpriv")
    require("openssl", "ldapsearch", "base64", "curl")
    [port] = free_ports(1)
    product = Product(
        tmp_path_factory.mktemp("directory") / "home",
        keys="file",
        slapd={"run": "on", "port": port},
    )
    try:
        said = product.start()
        assert f"ldap://127.0.0.1:{port}" in said
        for name in ("issuing", "root"):
            product.cli("ca", "export", name, "--out", f"{name}.pem")
        product.issue("bob", "/C=AQ/CN=Bob Example", "citizen-encryption")
        request = product.request("alice", SUBJECT, "-addext", NAMES)
        words = ("--profile", "citizen-encryption", "--csr", request, "--out", "alice.pem")
        product.cli("cert", "issue", *words, "--consent")
        until(lambda: b"uid=" in search(product, "(mail=alice@example.org)"))
        yield product
    finally:
        if product.process is not None:
            product.stop()


def url(product: Product) -> str:
    found = re.search(r"\[slapd\].*?port = (\d+)", settings(product), re.DOTALL)
    assert found is not None
    return f"ldap://127.0.0.1:{found[1]}"


def settings(product: Product) -> str:
    return (product.home / "digitalid.toml").read_text()


def search(product: Product, filter: str, *attributes: str, ok: bool = True) -> bytes:
    """As anybody searches, a value a line."""
    return run(
        *("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", url(product)),
        *("-b", BASE, filter, *attributes),
        ok=ok,
    )


def values(product: Product, filter: str, attribute: str) -> list[bytes]:
    said = search(product, filter, attribute).decode()
    return [base64.b64decode(each) for each in re.findall(rf"(?m)^{attribute}:: (.*)$", said)]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def serial(product: Product, name: str) -> str:
    said = run("openssl", "x509", "-in", product.home / f"{name}.pem", "-noout", "-serial")
    return said.decode().strip().partition("=")[2]


def der(product: Product, name: str) -> bytes:
    return run("openssl", "x509", "-in", product.home / f"{name}.pem", "-outform", "DER")


def of_alice(product: Product) -> list[bytes]:
    """Her certificates; the page has another one issued to her."""
    found = values(product, "(mail=alice@example.org)", "userCertificate;binary")
    assert der(product, "alice") in found
    return found


def test_a_certificate_is_found_by_all_that_it_says(product: Product) -> None:
    alice = der(product, "alice")
    issuer = run(
        *("openssl", "x509", "-in", product.home / "alice.pem", "-noout", "-issuer"),
        *("-nameopt", "RFC2253"),
    ).decode()
    hashed = product.cli(
        "directory", "filter", "--identifier-from", "-", stdin=b"pnoaq-1234 5678\n"
    ).strip()
    number = serial(product, "alice")
    exact = (
        f"{{ serialNumber {int(number, 16)}, "
        f'issuer rdnSequence:"{issuer.strip().partition("=")[2].strip()}" }}'
    )
    for filter in (
        f"(digitalidSerialNumber={number})",
        f"(digitalidSerialNumber={number.lower()})",
        "(mail=Alice@Example.org)",
        "(digitalidWeb3Id=did:web:alice.example.org)",
        "(cn=alice example)",
        f"(userCertificate:certificateExactMatch:={exact})",
        f"(userCertificate={exact})",
        hashed,
    ):
        assert values(product, filter, "userCertificate;binary") == [alice], filter
    other = exact.replace("C=AQ", "C=XX")
    assert values(product, f"(userCertificate={other})", "userCertificate;binary") == []


def test_nothing_is_there_of_who_did_not_consent_nor_any_identifier(product: Product) -> None:
    everything = search(product, "(objectClass=*)", "*", "+").decode()
    assert "Bob" not in everything
    assert serial(product, "bob").lower() not in everything.lower()
    shown = [line for line in everything.splitlines() if "PNOAQ" in line]
    assert shown == []
    assert re.findall("(?m)^dn: uid=([0-9a-f]{32}),", everything), "names tell nothing"


def test_what_the_page_says_works(product: Product, tmp_path: Path) -> None:
    """Every shell command of docs/directory.md, in order, but Java's where there is none."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE.read_text())
    scripts = [block for block in blocks if "java " not in block or shutil.which("java")]
    assert len(scripts) >= 7
    for name in ("alice", "root"):
        shutil.copy(product.home / f"{name}.pem", tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")

    def told(*scripts: str) -> str:
        script = "set -euo pipefail\n" + "\n".join(scripts)
        done = subprocess.run(
            ["bash"],
            input=script.replace("ldap://127.0.0.1:3890", url(product)).encode(),
            cwd=tmp_path,
            env=product.environment
            | {"PATH": f"{COMMAND.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    assert "cert issue" in scripts[0]
    told(scripts[0])
    issued = run("openssl", "x509", "-in", tmp_path / "alice.pem", "-outform", "DER")
    until(lambda: issued in of_alice(product))
    said = told(*scripts[1:])
    assert "found.pem: OK" in said
    assert "Certificate Revocation List (CRL)" in said
    assert "main: equal to the ledger." in said
    found = run("openssl", "x509", "-in", tmp_path / "found.pem", "-outform", "DER")
    assert found in of_alice(product)


@pytest.mark.skipif(
    shutil.which("java") is None, reason="install with apt-get: default-jdk-headless"
)
def test_the_java_example_finds_the_certificate(product: Product) -> None:
    words = (url(product), BASE, "mail", "alice@example.org")
    said = run("java", ROOT / "docs" / "examples" / "LookUp.java", *words)
    assert b"CN=Alice Example" in said
    assert run("openssl", "x509", "-outform", "DER", stdin=said) in of_alice(product)
    hostile = "*)(objectClass=*"
    said = run("java", ROOT / "docs" / "examples" / "LookUp.java", *words[:3], hostile)
    assert b"CERTIFICATE" not in said


def test_the_python_example_finds_the_certificate(product: Product) -> None:
    example = ROOT / "docs" / "examples" / "look_up.py"
    words = (url(product), BASE, "digitalidWeb3Id", "did:web:alice.example.org")
    said = run(sys.executable, "-W", "ignore", example, *words)
    assert run("openssl", "x509", "-outform", "DER", stdin=said) in of_alice(product)
    said = run(sys.executable, "-W", "ignore", example, *words[:3], "*)(objectClass=*")
    assert said == b""


def test_a_revoked_certificate_leaves_and_the_crl_there_lists_it(
    product: Product, tmp_path: Path
) -> None:
    carol = product.request("carol", "/C=AQ/CN=Carol Example")
    words = ("--profile", "citizen-encryption", "--csr", carol, "--out", "carol.pem")
    product.cli("cert", "issue", *words, "--consent")
    number = serial(product, "carol")
    filter = f"(digitalidSerialNumber={number})"
    until(lambda: values(product, filter, "userCertificate;binary") == [der(product, "carol")])
    product.cli("cert", "revoke", "carol.pem", "--reason", "keyCompromise")
    until(lambda: not values(product, filter, "userCertificate;binary"))

    def listed() -> bool:
        [crl] = values(product, "(cn=issuing)", "certificateRevocationList;binary")
        (tmp_path / "issuing.crl").write_bytes(crl)
        text = run("openssl", "crl", "-inform", "DER", "-in", tmp_path / "issuing.crl", "-text")
        return number in text.decode()

    until(listed)
    run("openssl", "crl", "-inform", "DER", "-in", tmp_path / "issuing.crl", "-out", tmp_path / "c")
    judged = run(
        *("openssl", "verify", "-crl_check", "-CAfile", product.home / "root.pem"),
        *("-untrusted", product.home / "issuing.pem", "-CRLfile", tmp_path / "c"),
        product.home / "carol.pem",
        ok=False,
    )
    assert b"certificate revoked" in judged
    assert product.json("directory", "check")["differences"] == 0


def test_a_directory_that_dies_comes_back_and_catches_up(product: Product) -> None:
    [folder] = (product.home / "directory").glob("slapd-*/")
    [pid] = pids(folder)
    os.kill(pid, signal.SIGKILL)
    erin = product.request("erin", "/C=AQ/CN=Erin Example")
    words = ("--profile", "citizen-encryption", "--csr", erin, "--out", "erin.pem")
    product.cli("cert", "issue", *words, "--consent")
    until(lambda: b"Erin" in search(product, "(cn=Erin Example)", ok=False))
    assert "slapd ended with -9" in (product.home / "serve.err").read_text()
    assert product.json("directory", "check")["differences"] == 0


def test_without_a_port_for_it_the_rest_works_and_says_so(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = {"run": "auto", "port": other.getsockname()[1]}
        product = Product(tmp_path, keys="file", slapd=taken)
        said = product.start()
        try:
            assert "directory    none: slapd ends: " in said
            assert "Address already in use" in said
            assert "ldapsearch" not in said
            product.issue("alice", "/C=AQ/CN=Alice Example", "citizen-authentication")
        finally:
            product.stop()
        product.refused("--set", "slapd.run=on", "serve", code="directory-unusable",
                        says="Address already in use", exit=4)  # fmt: skip


def test_erased_people_are_found_no_more_and_a_restart_keeps_it_so(product: Product) -> None:
    dave = product.request("dave", "/C=AQ/CN=Dave Example")
    words = ("--profile", "citizen-encryption", "--csr", dave, "--out", "dave.pem")
    product.cli("cert", "issue", *words, "--consent")
    until(lambda: b"Dave" in search(product, "(cn=Dave Example)"))
    product.cli("directory", "erase", "dave.pem")
    until(lambda: b"Dave" not in search(product, "(cn=Dave Example)"))
    product.stop()
    assert product.json("directory", "check")["differences"] == 0, "without a running instance"
    product.cli("directory", "repair")
    product.start()
    assert b"Dave" not in search(product, "(cn=Dave Example)")
    assert b"Alice" in search(product, "(mail=alice@example.org)", "cn")
    assert product.json("directory", "check")["differences"] == 0
