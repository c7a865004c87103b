"""A root that signs its CRLs elsewhere: what openssl, and we ourselves, make of them there is
imported, published and believed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import Product, require, run

CONFIGURATION = """\
[ca]
default_ca = root
[root]
database = index.txt
crlnumber = crlnumber
default_md = sha384
default_crl_days = 90
crl_extensions = extensions
[extensions]
authorityKeyIdentifier = keyid
"""


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """Where the root's key is used: nothing listens there."""
    require("openssl", "curl")
    ceremony = Product(tmp_path_factory.mktemp("ceremony"), keys="file")
    ceremony.cli("init")
    return ceremony


@pytest.fixture(scope="module")
def product(ceremony: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    home = tmp_path_factory.mktemp("house") / "home"
    shutil.copytree(ceremony.home, home, ignore=shutil.ignore_patterns("crl", "run", "*toml"))
    product = Product(home, keys="file", crl={"offline": "root"})
    product.start()
    for name in ("issuing", "root"):
        product.cli("ca", "export", name, "--out", f"{name}.pem")
    yield product
    assert product.stop() == 0


def signed_by_openssl(product: Product, number: int, *revoked: str) -> Path:
    """What `openssl ca -gencrl` makes with the root's key; ``revoked``: serial numbers."""
    folder = product.home / f"openssl-{number}"
    folder.mkdir()
    (folder / "ca.cnf").write_text(CONFIGURATION)
    rows = (
        f"R\t361122000000Z\t261101000000Z,CACompromise\t{one}\tunknown\t/CN=x\n" for one in revoked
    )
    (folder / "index.txt").write_text("".join(rows))
    (folder / "crlnumber").write_text(number.to_bytes(8, "big").hex())
    secret, key = product.home / "secrets" / "keys.passphrase", product.home / "keys" / "root.pem"
    run(
        "sh", "-ec", 'cd "$1"; openssl ca -config ca.cnf -gencrl -out root.crl -cert ../root.pem '
        '-keyfile "$2" -passin "file:$3"', "sh", folder, key, secret,
    )  # fmt: skip
    return folder / "root.crl"


def checked_all(product: Product, certificate: Path) -> str:
    """What `openssl verify -crl_check_all` says with the CRLs that are served."""
    home = product.home
    for name in ("root", "issuing"):
        run("curl", "-fsS", "-o", home / f"{name}.crl", f"{product.validation}/crl/{name}.pem")
    return run(
        "openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", home / "root.pem",
        "-untrusted", home / "issuing.pem", "-CRLfile", home / "root.crl",
        "-CRLfile", home / "issuing.crl", certificate, ok=False,
    ).decode()  # fmt: skip


def test_what_is_signed_elsewhere_is_published(product: Product, ceremony: Product) -> None:
    awaited = product.get("/health")[1]
    assert (awaited["status"], awaited["crl_awaited"]) == ("ok", {"root": "no-crl-yet"})
    assert b'digitalid_crl_import_due{ca="root"} 1.0' in metrics(product)
    product.refused("crl", "issue", "root", code="no-crl-key", says="where it is kept")
    person = product.issue("person", "/C=AQ/CN=Person", "citizen-authentication")

    number = product.json("crl", "history", "root")["crls"][0]["number"]
    first = signed_by_openssl(product, number + 1)
    said = product.json("crl", "import", first)["crl"]
    assert (said["ca"], said["number"], said["entries"]) == ("root", number + 1, 0)
    assert "person.pem: OK" in checked_all(product, person)
    assert product.get("/health")[1]["crl_awaited"] == {}
    assert product.json("crl", "verify", first)["ok"] is True

    issuing = product.json("cert", "show", "issuing.pem")["serial"]
    early = signed_by_openssl(product, number + 2, issuing)
    product.refused("crl", "import", early, code="crl-differs", says="revoke them here first")
    product.cli("cert", "revoke", "issuing.pem", "--reason", "cACompromise", "--authority")
    assert product.get("/health")[1]["crl_awaited"] == {"root": "crl-import-due"}
    late = signed_by_openssl(product, number + 3)
    product.refused("crl", "import", late, code="crl-differs", says=f"not listed, {issuing}")
    product.refused("crl", "import", first, code="crl-number-used", says="must be greater")
    assert product.json("crl", "import", early)["crl"]["entries"] == 1
    assert product.get("/health")[1]["crl_awaited"] == {}
    assert "certificate revoked" in checked_all(product, person)

    # Our own, made in a home folder that nothing but the ceremony uses.
    ceremony.cli(
        "cert", "revoke", product.home / "issuing.pem", "--reason", "cACompromise", "--authority"
    )
    [made] = ceremony.json("crl", "issue", "root")["crls"]
    said = product.json("crl", "import", made["file"], "root")["crl"]
    assert (said["number"], said["sha256"]) == (made["number"], made["sha256"])
    assert "certificate revoked" in checked_all(product, person)


def test_what_is_none_of_ours_is_refused(product: Product, ceremony: Product) -> None:
    path = product.home / "other.crl"
    good = Path(ceremony.json("crl", "show", "root")["crls"][0]["file"]).read_bytes()
    path.write_bytes(good[:-1] + bytes((good[-1] ^ 1,)))
    product.refused("crl", "import", path, code="bad-signature", says="signature")
    path.write_bytes(b"none")
    product.refused("crl", "import", path, code="bad-crl", says="no CRL")
    issuing = Path(product.json("crl", "show", "issuing")["crls"][0]["file"])
    product.refused("crl", "import", issuing, "root", code="wrong-crl-issuer", says="CA root")
    product.refused("crl", "import", issuing, code="crl-number-used", says="greater")


def metrics(product: Product) -> bytes:
    return run("curl", "-fsS", f"http://127.0.0.1:{product.app_port}/metrics")
