"""The directory as its users have it: issue, look up, validate, revoke, erase, check, repair."""

from __future__ import annotations

import base64
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.slapd_fixtures import Server, running_slapd
from tests.journeys.product import Product, require, run


@pytest.fixture(name="server")
def open_server(tmp_path: Path) -> Iterator[Server]:
    require("openssl", "ldapsearch", "curl")
    with running_slapd(tmp_path / "slapd") as running:
        yield running


def settings(server: Server, home: Path) -> dict[str, Any]:
    """By TLS with a password, as a directory on another host is reached."""
    secret = home / "secrets" / "directory.password"
    secret.parent.mkdir(parents=True, mode=0o700)
    secret.write_text(f"{server.password}\n")
    secret.chmod(0o600)
    return {
        "url": server.ldaps,
        "ca": str(server.ca),
        "bind_dn": server.writer,
        "base": server.suffix,
        "public_url": server.ldap,
    }


@pytest.fixture(name="product")
def start_product(tmp_path: Path, server: Server) -> Iterator[Product]:
    home = tmp_path / "home"
    product = Product(home, keys="file", directory=settings(server, home))
    product.start()
    yield product
    if product.process is not None:
        product.stop()


def found(server: Server, filter: str, attribute: str) -> list[bytes]:
    """The values of an attribute as anybody reads them, in the clear."""
    said = run(
        *("ldapsearch", "-x", "-H", server.ldap, "-LLL", "-o", "ldif-wrap=no"),
        *("-b", server.suffix, filter, attribute),
        ok=False,  # its tree may not be there yet
    ).decode()
    values = re.findall(rf"^{attribute}(?:;binary)?(::?) (.+)$", said, re.M | re.I)
    return [base64.b64decode(v) if colons == "::" else v.encode() for colons, v in values]


def until(done: Callable[[], object], within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not done():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


def issue(product: Product, name: str, *more: str, profile: str = "citizen-encryption") -> Path:
    out = product.home / f"{name}.pem"
    request = product.request(
        name, f"/C=AQ/CN={name}", "-addext", f"subjectAltName=email:{name}@example.org"
    )
    product.cli(
        *("cert", "issue", "--profile", profile, "--csr", request, "--out", out, "--consent"), *more
    )
    return out


def der(pem: Path) -> bytes:
    return run("openssl", "x509", "-in", pem, "-outform", "DER")


def test_what_is_issued_is_found_and_validated_from_the_directory_alone(
    product: Product, server: Server, tmp_path: Path
) -> None:
    pem = issue(product, "alice")
    filter = product.json("directory", "filter", "--mail", "alice@example.org")["filter"]
    assert filter == "(mail=alice@example.org)"
    until(lambda: found(server, filter, "userCertificate"))
    [certificate] = found(server, filter, "userCertificate")
    assert certificate == der(pem)
    files = {"alice.der": certificate}
    for name, attribute in (("issuing", "cACertificate"), ("root", "cACertificate")):
        [files[f"{name}.der"]] = found(server, f"(&(objectClass=pkiCA)(cn={name}))", attribute)
    [pair] = found(server, "(&(objectClass=pkiCA)(cn=issuing))", "crossCertificatePair")
    assert files["issuing.der"] in pair
    [crl] = found(server, "(&(objectClass=pkiCA)(cn=issuing))", "certificateRevocationList")
    [root_crl] = found(server, "(&(objectClass=pkiCA)(cn=root))", "authorityRevocationList")
    files |= {"issuing.crl": crl, "root.crl": root_crl}
    for name, octets in files.items():
        kind = "crl" if name.endswith("crl") else "x509"
        path = tmp_path / name
        path.write_bytes(octets)
        pemmed = run("openssl", kind, "-inform", "DER", "-in", path, "-outform", "PEM")
        path.with_suffix(f".{kind}.pem").write_bytes(pemmed)
    (tmp_path / "crls.pem").write_bytes(
        (tmp_path / "issuing.crl.pem").read_bytes() + (tmp_path / "root.crl.pem").read_bytes()
    )
    said = run(
        *("openssl", "verify", "-CAfile", tmp_path / "root.x509.pem"),
        *("-untrusted", tmp_path / "issuing.x509.pem", "-crl_check_all"),
        *("-CRLfile", tmp_path / "crls.pem", tmp_path / "alice.x509.pem"),
    )
    assert said.rstrip().endswith(b"OK")


def test_it_is_found_by_serial_number_identifier_and_exact_match(
    product: Product, server: Server
) -> None:
    request = product.request(
        "seal", "/C=AQ/O=Penguin Ltd/organizationIdentifier=NTRAQ-12345678/CN=Penguin Ltd"
    )
    out = product.home / "seal.pem"
    product.cli("cert", "issue", "--profile", "enterprise-seal", "--csr", request, "--out", out)
    shown = product.json("cert", "show", out)
    by_identifier = product.json(
        "directory", "filter", "--identifier-from", "-", stdin=b"NTRAQ-12345678\n"
    )["filter"]
    until(lambda: found(server, by_identifier, "userCertificate"))
    exact = (
        "(userCertificate:certificateExactMatch:="
        f"{{ serialNumber {int(shown['serial'], 16)}, "
        f'issuer rdnSequence:"{shown["issuer"]}" }})'
    )
    serial = product.json("directory", "filter", "--serial", shown["serial"])["filter"]
    for filter in (by_identifier, exact, serial, "(o=Penguin Ltd)"):
        assert found(server, filter, "userCertificate") == [der(out)], filter
    text = run("ldapsearch", "-x", "-H", server.ldap, "-LLL", "-b", server.suffix, serial).decode()
    assert "12345678" not in text


def test_who_did_not_agree_is_nowhere(product: Product, server: Server) -> None:
    out = product.home / "bob.pem"
    request = product.request("bob", "/C=AQ/CN=Bob")
    words = ("cert", "issue", "--profile", "citizen-encryption", "--csr", request, "--out", out)
    product.cli(*words)
    issue(product, "alice")
    until(lambda: found(server, "(mail=alice@example.org)", "userCertificate"))
    assert found(server, "(cn=Bob)", "cn") == []
    view = product.json("cert", "show", product.home / "alice.pem")
    assert view["consent"] is True
    assert "consent" not in product.json("cert", "show", out)
    assert product.json("directory", "check")["differences"] == 0


def test_revoked_erased_checked_and_repaired(product: Product, server: Server) -> None:
    alice, bob, carol = (issue(product, name) for name in ("alice", "bob", "carol"))
    until(lambda: len(found(server, "(objectClass=pkiUser)", "userCertificate")) == 3)
    product.cli("cert", "revoke", alice, "--reason", "keyCompromise")
    until(lambda: not found(server, "(mail=alice@example.org)", "uid"))
    [dn] = re.findall(r"dn: (.+)", server.search("(mail=bob@example.org)", "dn"))
    product.cli("directory", "erase", bob)
    until(lambda: not found(server, "(mail=bob@example.org)", "uid"))
    log = product.json("log", "verify")
    assert log["ok"]
    # Somebody takes an entry out by hand, and puts one in.
    [other] = re.findall(r"dn: (.+)", server.search("(mail=carol@example.org)", "dn"))
    run("ldapdelete", "-Q", "-Y", "EXTERNAL", "-H", server.ldapi, other)
    server.add(
        f"dn: {dn}\nobjectClass: account\nobjectClass: digitalidHolder\n"
        f"uid: {dn[4:36]}\nmail: bob@example.org\n"
    )
    report = product.json("directory", "check", code=1)
    listed = report["directories"]["main"]["listed"]
    assert {(one["kind"], one["dn"]) for one in listed} == {("missing", other), ("surplus", dn)}
    said = product.cli("directory", "check", code=1)
    assert "missing" in said and other in said
    assert product.json("directory", "repair")["differences"] == 2
    assert product.json("directory", "check")["differences"] == 0
    assert found(server, "(mail=carol@example.org)", "userCertificate") == [der(carol)]
    assert not found(server, "(mail=bob@example.org)", "uid")


def test_issuance_goes_on_while_the_directory_is_down_and_the_operator_sees_it(
    product: Product, server: Server
) -> None:
    server.stop()
    issue(product, "alice")
    until(lambda: product.json("directory", "status", code=1)["directories"]["main"]["failing"])
    view = product.json("directory", "status", code=1)["directories"]["main"]
    assert (view["failing"], view["behind"] > 0) == ("directory-unavailable", True)
    status, health = product.get("/health")
    assert (status, health["directory_failing"]) == (200, {"main": "directory-unavailable"})
    metrics = run("curl", "-s", f"http://127.0.0.1:{product.app_port}/metrics").decode()
    assert 'digitalid_directory_failing{directory="main"} 1.0' in metrics
    product.refused("directory", "check", code="directory-unavailable", says="reached", exit=4)
    server.start()
    until(lambda: found(server, "(mail=alice@example.org)", "userCertificate"), within=60)
    assert product.json("directory", "status")["directories"]["main"]["failing"] == ""


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2])
def test_a_kill_of_the_ca_loses_nothing(product: Product, server: Server, moment: float) -> None:
    for number in range(5):
        issue(product, f"citizen{number}")
    time.sleep(moment)
    product.stop(signal.SIGKILL)
    product.start()
    until(lambda: len(found(server, "(objectClass=pkiUser)", "userCertificate")) == 5)
    assert product.json("directory", "check")["differences"] == 0


def test_a_command_fills_a_directory_while_no_service_runs(
    product: Product, server: Server
) -> None:
    product.stop()
    server.stop()
    issue(product, "alice")
    server.start()
    product.cli("directory", "repair")
    assert found(server, "(mail=alice@example.org)", "userCertificate")
    assert product.json("directory", "check")["differences"] == 0


def test_certificates_name_the_directory_when_their_profile_says_so(
    tmp_path: Path, server: Server
) -> None:
    home = tmp_path / "home"
    profiles = home / "profiles"
    profiles.mkdir(parents=True)
    text = Path("conf/profiles/citizen-encryption.toml").read_text()
    (profiles / "named.toml").write_text(
        text.replace("[directory]\n", "[directory]\nuris = true\n")
    )
    product = Product(
        home,
        keys="file",
        directory=settings(server, home),
        issuance={"profiles": str(profiles)},
        crl={"partitions": 2},
    )
    product.start()
    try:
        pem = issue(product, "alice", profile="named")
        text = run("openssl", "x509", "-in", pem, "-noout", "-text").decode()
        urls = re.findall(r"URI:(ldap://\S+)", text)
        assert len(urls) == 2
        until(lambda: found(server, "(cn=issuing.1)", "certificateRevocationList"))
        for url in urls:
            # curl follows RFC 4516 by itself.
            answer = run("curl", "-s", "-g", url.replace(" ", "%20"))
            assert b"MII" in answer, url
        assert any(
            "/cn=issuing." in url and "certificateRevocationList;binary" in url for url in urls
        )
        assert any("cACertificate;binary?base" in url for url in urls)
        product.cli("verify", pem)
    finally:
        product.stop()


def test_without_a_directory_the_commands_say_so(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.start()
    try:
        product.refused("directory", "status", code="no-directory", says="directory.url")
        assert product.get("/health")[1]["directory_failing"] == {}
    finally:
        product.stop()
