"""When certificates and CRLs end, as Prometheus reads it and as `digitalid status` says it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.product import Product, require, run

DAY = timedelta(days=1)
GAUGE = "digitalid_certificate_not_after_seconds"


def for_tls(folder: Path, ends: datetime) -> dict[str, str]:
    """Settings of a certificate, for 90 days, that ends then."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=ca")
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, ends - 90 * DAY, ends)
    signed = builder.add_extension(names, False).sign(key, hashes.SHA256())
    (folder / "tls.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "tls.key").chmod(0o600)
    return {"tls_certificate": str(folder / "tls.pem"), "tls_key": str(folder / "tls.key")}


ENDS = (datetime.now(UTC) + 20 * DAY).replace(microsecond=0)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("curl")
    folder = tmp_path_factory.mktemp("tls")
    home = tmp_path_factory.mktemp("home")
    crl = {"indirect": "revoked", "debounce": "0s"}
    product = Product(home, keys="file", crl=crl, http=for_tls(folder, ENDS))
    product.start()
    yield product
    assert product.stop() == 0


def exposition(product: Product) -> str:
    url = f"https://127.0.0.1:{product.app_port}/metrics"
    return run("curl", "-fsSk", url).decode()


def gauges(text: str) -> dict[tuple[str, str], float]:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families[GAUGE].type == "gauge"
    return {(one.labels["role"], one.labels["name"]): one.value for one in families[GAUGE].samples}


def end(product: Product, name: str) -> float:
    shown = product.json("ca", "show", name)["not_after"]
    return datetime.fromisoformat(shown).timestamp()


def test_prometheus_reads_when_each_certificate_ends(product: Product) -> None:
    text = exposition(product)
    found = gauges(text)
    ocsp = {
        one["name"]: one["responder_not_after"] for one in product.json("status")["authorities"]
    }
    assert set(found) == {
        ("ca", "root"), ("ca", "issuing"), ("ocsp", "root"), ("ocsp", "issuing"),
        ("crl-issuer", "revoked"), ("tls", "http"),
    }  # fmt: skip
    assert found["tls", "http"] == ENDS.timestamp()
    for name in ("root", "issuing"):
        assert found["ca", name] == end(product, name)
        assert found["ocsp", name] == datetime.fromisoformat(ocsp[name]).timestamp()
    crl = product.json("crl", "show", "issuing")["crls"][0]["next_update"]
    ends = datetime.fromisoformat(crl).timestamp()
    samples = [
        one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "digitalid_crl_next_update_seconds" and one.labels["ca"] == "issuing"
    ]
    assert samples == [ends]


def test_the_operator_is_told_what_ends_and_what_to_do(product: Product) -> None:
    document = product.json("status")
    assert document["status"] == "ok"
    assert document["failing"] == []
    [ending] = document["ending"]
    assert (ending["role"], ending["name"], ending["ended"]) == ("tls", "http", False)
    assert datetime.fromisoformat(ending["not_after"]) == ENDS
    said = " ".join(product.cli("status").split())
    assert said.startswith("It does its work, and a certificate ends.")
    assert f"tls http ends {ENDS:%Y-%m-%dT%H:%M}Z: put another one into" in said


def test_nobody_is_told_before_the_time_that_the_settings_say(
    tmp_path: Path,
) -> None:
    tls = for_tls(tmp_path, ENDS)
    quiet = Product(tmp_path / "home", keys="file", http=tls, expiry={"certificate": "10d"})
    quiet.start()
    try:
        assert quiet.json("status")["ending"] == []
        assert quiet.cli("status").startswith("It does its work. ")
    finally:
        assert quiet.stop() == 0
