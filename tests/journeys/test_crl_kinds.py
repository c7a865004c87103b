"""CRLs by kind of certificate, and one indirect CRL for several CAs: set up by settings alone,
served, and believed by openssl."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.journeys.product import Product, require, run

pytestmark = pytest.mark.usefixtures("tools")
PROFILE = "citizen-authentication"


@pytest.fixture
def tools() -> None:
    require("openssl", "curl")


@contextmanager
def started(home: Path, like: Product | None = None, **crl: Any) -> Iterator[Product]:
    """It runs while the block does; ``like``: on the ports of this one."""
    http = {}
    if like is not None:
        ports = {"app_port": like.app_port, "validation_port": like.validation_port}
        http = {"http": ports | {"public_url": like.validation}}
    product = Product(home, keys="file", crl=crl, **http)
    if like is not None:
        product.app_port, product.validation_port = like.app_port, like.validation_port
    product.start()
    try:
        for name in ("issuing", "root"):
            product.cli("ca", "export", name, "--out", f"{name}.pem", "--force")
        yield product
    finally:
        assert product.stop() == 0


def point_of(certificate: Path) -> tuple[str, bytes | None]:
    """The URL in a certificate's CRL distribution point, and the name of the CRL's issuer."""
    extensions = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    [point] = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    signer = point.crl_issuer[0].value.public_bytes() if point.crl_issuer else None
    return str(point.full_name[0].value), signer


def fetched(product: Product, name: str) -> Path:
    path = product.home / f"{name}.crl"
    run("curl", "-fsS", "-o", path, f"{product.validation}/crl/{name}.pem")
    return path


def verified(product: Product, certificate: Path, crls: list[Path], *more: str | Path) -> str:
    """What `openssl verify -crl_check_all` says."""
    home = product.home
    return run(
        "openssl", "verify", "-x509_strict", "-crl_check_all", "-extended_crl",
        "-CAfile", home / "root.pem", "-untrusted", home / "issuing.pem", *more,
        *(word for crl in crls for word in ("-CRLfile", crl)), certificate, ok=False,
    ).decode()  # fmt: skip


def says(crl: Path) -> str:
    return run("openssl", "crl", "-in", crl, "-noout", "-text").decode()


def test_by_kind_of_certificate(tmp_path: Path) -> None:
    with started(tmp_path / "home", by_kind=True, delta=True) as product:
        home, base = product.home, f"{product.validation}/crl"
        person = product.issue("person", "/C=AQ/CN=Person", PROFILE)
        assert point_of(person) == (f"{base}/issuing.user.crl", None)
        assert point_of(home / "issuing.pem") == (f"{base}/root.ca.crl", None)
        users, authorities = fetched(product, "issuing.user"), fetched(product, "root.ca")
        assert "Only User Certificates" in says(users)
        assert "Only CA Certificates" in says(authorities)
        # The CRL of everything, which the root's own certificate needs: it names none.
        roots = fetched(product, "root")
        assert "OK" in verified(product, person, [users, authorities, roots])
        # Each covers its kind only.
        swapped = [fetched(product, name) for name in ("issuing.ca", "root.user", "root")]
        assert "different CRL scope" in verified(product, person, swapped)
        product.cli("cert", "revoke", person, "--reason", "keyCompromise")
        product.json("crl", "issue", "issuing.user")
        newest = [fetched(product, "issuing.user"), authorities, roots]
        assert "certificate revoked" in verified(product, person, newest)
        product.cli("cert", "revoke", "issuing.pem", "--reason", "cACompromise", "--authority")
        [full, delta] = product.json("crl", "issue", "root.ca")["crls"]
        assert (full["entries"], delta["entries"]) == (1, 0)
        assert product.json("crl", "issue", "root")["crls"][0]["entries"] == 1
        assert product.json("crl", "show", "root.user")["crls"][0]["entries"] == 0
        assert product.json("crl", "verify", fetched(product, "root.ca"))["ok"] is True
        # A final CRL has nothing after it, and names no delta.
        made = product.json("crl", "issue", "issuing", "--final")["crls"]
        assert sorted(one["ca"] for one in made) == ["issuing", "issuing.ca", "issuing.user"]
        last = says(fetched(product, "issuing.user"))
        assert "Dec 31 23:59:59 9999" in last
        assert "Freshest" not in last
        assert "Freshest" in says(authorities)


def test_shards_and_kinds_come_later(tmp_path: Path) -> None:
    """What was issued before stays where it is, and every CRL says what it covers from then on."""
    with started(tmp_path / "home") as first:
        early = first.issue("early", "/C=AQ/CN=Early", PROFILE)
        assert "Issuing Distribution Point" not in says(fetched(first, "issuing"))
    with started(first.home, first, by_kind=True) as kinds:
        person = kinds.issue("person", "/C=AQ/CN=Person", PROFILE)
        kinds.cli("cert", "revoke", early, "--reason", "superseded")
        kinds.cli("cert", "revoke", person, "--reason", "superseded")
        assert kinds.json("crl", "issue", "issuing")["crls"][0]["entries"] == 2
        assert kinds.json("crl", "issue", "issuing.user")["crls"][0]["entries"] == 1
    with started(first.home, first, partitions=1, by_kind=True, delta=True) as shards:
        # Made anew at the start: it lists what is in no partition, and says so.
        [now] = shards.json("crl", "show", "issuing")["crls"]
        assert now["entries"] == 1
        whole = says(fetched(shards, "issuing"))
        assert f"URI:{shards.validation}/crl/issuing.crl" in whole
        later = shards.issue("later", "/C=AQ/CN=Later", PROFILE)
        assert point_of(later)[0].endswith("/crl/issuing.1.crl")
        assert "Only User Certificates" in says(fetched(shards, "issuing.1"))
        roots = fetched(shards, "root")
        for one in (early, person):
            own = fetched(shards, point_of(one)[0].rpartition("/")[2].removesuffix(".crl"))
            assert "certificate revoked" in verified(shards, one, [own, roots])


def test_an_indirect_crl(tmp_path: Path) -> None:
    with started(tmp_path / "home") as first:
        home = first.home
        before = first.issue("before", "/C=AQ/CN=Before", PROFILE)
    with started(home, first, indirect="revocations", delta=True) as product:
        base = f"{product.validation}/crl"
        person, other = (product.issue(name, f"/C=AQ/CN={name}", PROFILE) for name in ("a", "b"))
        run("curl", "-fsS", "-o", home / "s.cer", f"{product.validation}/aia/revocations.cer")
        signer = x509.load_der_x509_certificate((home / "s.cer").read_bytes())
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.crl_sign, usage.key_cert_sign) == (True, False)
        (home / "s.pem").write_bytes(signer.public_bytes(Encoding.PEM))
        chain = ("-untrusted", home / "s.pem")
        assert point_of(person) == (f"{base}/revocations.crl", signer.subject.public_bytes())
        assert point_of(before) == (f"{base}/issuing.crl", None)
        roots, indirect = fetched(product, "root"), fetched(product, "revocations")
        text = says(indirect)
        assert "Indirect CRL" in text
        assert f"{product.validation}/aia/revocations.cer" in text
        assert "OK" in verified(product, person, [indirect, roots], *chain)
        serial = product.json("cert", "revoke", person, "--reason", "keyCompromise")["serial"]
        product.cli("cert", "revoke", before, "--reason", "superseded")
        full, delta = product.json("crl", "issue", "revocations")["crls"]
        assert (full["entries"], delta["entries"]) == (1, 0)
        indirect = fetched(product, "revocations")
        assert "X509v3 Certificate Issuer: critical" in says(indirect)
        assert "certificate revoked" in verified(product, person, [indirect, roots], *chain)
        assert "OK" in verified(product, other, [indirect, roots], *chain)
        # Our own validator finds CRL, delta and signer where certificate and CRL say.
        ask = ("--anchor", "root.pem", "--crl", "fetch")
        assert product.json("verify", other, *ask)["valid"] is True
        assert product.json("verify", person, *ask, code=1)["code"] == "revoked"
        # What was issued before stays on the CRL of its CA.
        assert product.json("crl", "issue", "issuing")["crls"][0]["entries"] == 1
        assert "certificate revoked" in verified(
            product, before, [fetched(product, "issuing"), roots]
        )
        found = product.json("crl", "show", "revocations", "--serial", serial)
        assert found["entry"] is not None
        assert product.json("crl", "verify", indirect)["ok"] is True
    # Turned off, it is still made: certificates out there name it.
    with started(home, first) as product:
        carl = product.issue("carl", "/C=AQ/CN=Carl", PROFILE)
        assert point_of(carl) == (f"{base}/issuing.crl", None)
        product.cli("cert", "revoke", other, "--reason", "keyCompromise")
        assert product.json("crl", "issue", "revocations")["crls"][0]["entries"] == 2
        indirect = fetched(product, "revocations")
        assert "certificate revoked" in verified(product, other, [indirect, roots], *chain)
