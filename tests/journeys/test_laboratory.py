"""Somebody who tries things out with one self-signed CA and a profile of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journeys.product import Product, require, run

SHIPPED = Path("conf/profiles/tls-server.toml").read_text()
ASKED = ("/CN=a.example.org", "-addext", "subjectAltName=DNS:a.example.org")


@pytest.fixture
def product(tmp_path: Path) -> Product:
    require("openssl", "curl")
    product = Product(tmp_path / "home", keys="file", issuance={"profiles": "profiles"})
    (product.home / "profiles").mkdir()
    return product


def test_the_key_cas_lets_a_root_issue(product: Product) -> None:
    """As docs/issuing.md says, with the service and without."""
    profile = product.home / "profiles" / "lab.toml"
    profile.write_text(f'cas = ["root"]\n{SHIPPED}')
    product.start()
    product.cli("ca", "export", "root", "--out", "root.pem")
    request, out = product.request("lab", *ASKED), product.home / "lab.pem"
    issue = ("cert", "issue", "--profile", "lab", "--csr", request, "--force", "--out", out)
    product.cli(*issue, "--ca", "root")
    run("openssl", "verify", "-x509_strict", "-CAfile", product.home / "root.pem", out)
    product.refused(*issue, code="profile-not-for-ca", says="for root")
    shown = product.json("profile", "show", "lab")
    assert (shown["cas"], shown["issuers"]) == (["root"], ["root"])
    assert product.stop() == 0
    # The same by a command of its own.
    product.cli(*issue, "--ca", "root")
    product.refused(*issue, code="profile-not-for-ca", says="for root")


def test_a_command_of_its_own_tries_a_profile_out_before_it_issues(product: Product) -> None:
    product.cli("init")
    bad = SHIPPED.replace("dns = { ", "dns = { wildcard = true, ").replace(
        '"dns:www.example.org"', '"dns:www.example.org", "dns:*.example.org"'
    )
    assert bad.count("wildcard = true, ") == 1
    (product.home / "profiles" / "lab.toml").write_text(bad)
    product.refused(
        "cert", "issue", "--profile", "lab", "--csr", product.request("lab", *ASKED), "--out",
        product.home / "lab.pem", code="profile-findings", says="profile lab: pkix.",
    )  # fmt: skip
    found = product.json("cert", "find", "--ca", "issuing")["certificates"]
    assert {one["profile"] for one in found} <= {"ocsp-responder"}


def test_a_ca_that_is_not_there_is_pointed_out(product: Product) -> None:
    profile = product.home / "profiles" / "lab.toml"
    profile.write_text(f'cas = ["rooot"]\n{SHIPPED}')
    product.cli("init")
    request = product.request("lab", *ASKED)
    product.refused(
        "cert", "issue", "--profile", "lab", "--csr", request, "--out", product.home / "lab.pem",
        code="profile-not-for-ca", says="rooot",
    )  # fmt: skip
    said = product.json("profile", "check", "lab")
    [finding] = [f for f in said["profiles"][0]["findings"] if f["code"] == "unknown-ca"]
    assert (finding["severity"], said["ok"]) == ("warning", True)
    assert "root, issuing" in finding["detail"]
    assert product.json("profile", "show", "lab")["issuers"] == []
    # A file that is not in use yet is tried without an instance, so without its CAs.
    assert product.json("profile", "check", "--file", profile)["ok"] is True
    profile.write_text(f"cas = []\n{SHIPPED}")
    product.refused("ca", "list", code="bad-profile", says="lab.toml: cas: names at least one CA")
