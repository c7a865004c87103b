"""CRLs of partitions, with deltas: made, served, checked and compared, with openssl beside us."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.journeys.product import Product, require, run


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("openssl", "curl")
    crl = {"partitions": 2, "delta": True, "debounce": "0s"}
    product = Product(tmp_path_factory.mktemp("home"), keys="file", crl=crl)
    product.start()
    product.cli("ca", "export", "issuing", "--out", "issuing.pem")
    product.cli("ca", "export", "root", "--out", "root.pem")
    yield product
    assert product.stop() == 0


@pytest.fixture(scope="module")
def people(product: Product) -> dict[str, list[Path]]:
    """Certificates by the URL of their CRL, at least two at each."""
    found: dict[str, list[Path]] = {}
    for number in range(60):
        path = product.issue(f"p{number}", f"/C=AQ/CN=P {number}", "citizen-authentication")
        points = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        [point] = points.get_extension_for_class(x509.CRLDistributionPoints).value
        assert point.full_name is not None
        found.setdefault(str(point.full_name[0].value), []).append(path)
        if len(found) == 2 and min(map(len, found.values())) > 1:
            break
    return found


def refused(product: Product, certificate: Path, *crls: Path) -> bool:
    """What openssl says of a certificate with these CRLs."""
    home = product.home
    said = run(
        "openssl", "verify", "-x509_strict", "-crl_check", "-extended_crl", "-use_deltas",
        "-CAfile", home / "root.pem", "-untrusted", home / "issuing.pem",
        *(word for crl in crls for word in ("-CRLfile", crl)), certificate, ok=False,
    ).decode()  # fmt: skip
    assert ("certificate revoked" in said) != ("OK" in said), said
    return "certificate revoked" in said


def fetched(product: Product, url: str) -> Path:
    path = product.home / url.rpartition("/")[2].replace(".crl", ".pem")
    run("curl", "-fsS", "-o", path, url.replace(".crl", ".pem"))
    return path


def test_certificates_name_their_partition(product: Product, people: dict[str, list[Path]]) -> None:
    base = f"{product.validation}/crl/issuing"
    assert sorted(people) == [f"{base}.1.crl", f"{base}.2.crl"]
    for url, paths in people.items():
        assert url == f"{base}.{product.json('cert', 'show', paths[0])['partition']}.crl"


def test_a_revocation_is_in_the_delta_of_its_partition_only(
    product: Product, people: dict[str, list[Path]]
) -> None:
    (url, [bad, good, *_]), (other, _) = people.items()
    name, elsewhere = (one.rpartition("/")[2].removesuffix(".crl") for one in (url, other))
    before = product.json("crl", "show", name)["crls"][0]
    product.cli("cert", "revoke", bad, "--reason", "keyCompromise")
    # Full ones stay; asking for a delta waits for whatever is being made.
    [delta] = product.json("crl", "issue", name, "--delta")["crls"]
    assert (delta["kind"], delta["base"], delta["entries"]) == ("delta", before["number"], 1)
    assert product.json("crl", "issue", elsewhere, "--delta")["crls"][0]["entries"] == 0
    full = fetched(product, url)
    newest = fetched(product, url.replace(".crl", "-delta.crl"))
    assert not refused(product, good, full, newest)
    assert refused(product, bad, full, newest)
    assert not refused(product, bad, full)
    made = product.json("crl", "issue", name)["crls"]
    assert [one["kind"] for one in made] == ["full", "delta"]
    assert refused(product, bad, fetched(product, url))
    serial = product.json("cert", "show", bad)["serial"]
    assert product.json("crl", "show", name, "--serial", serial)["entry"]["serial"] == serial
    assert product.json("crl", "show", elsewhere, "--serial", serial, code=1)["entry"] is None
    listed = product.json("crl", "show", name, "--entries", "--limit", "1")["crls"][0]
    assert ([one["serial"] for one in listed["revoked"]], listed["more"]) == ([serial], False)
    found = product.json("crl", "diff", f"{name}/{before['number']}", name)
    assert [one["serial"] for one in found["added"]] == [serial]
    assert (found["removed_count"], found["changed_count"]) == (0, 0)
    history = product.json("crl", "history", name)["crls"]
    assert [one["number"] for one in history] == sorted(
        (one["number"] for one in history), reverse=True
    )
    assert {one["state"] for one in history} == {"published"}
    assert before["number"] in [one["number"] for one in history]
    run("curl", "-fsS", f"{product.validation}/crl/{name}/{before['number']}.crl")


def test_a_crl_is_verified(product: Product, people: dict[str, list[Path]]) -> None:
    url = next(iter(people))
    path = fetched(product, url)
    assert product.json("crl", "verify", path)["ok"] is True
    assert product.json("crl", "verify", path, "--issuer", "issuing.pem")["ok"] is True
    said = product.json("crl", "verify", path, "--issuer", "root.pem", code=1)
    assert said["ok"] is False
    assert any("signature" in finding for finding in said["findings"])


def test_many_are_revoked(product: Product, people: dict[str, list[Path]]) -> None:
    everybody = [path for paths in people.values() for path in paths]
    views = [product.json("cert", "show", path) for path in everybody]
    good = [view["serial"] for view in views if view["status"] == "good"]
    listed = product.home / "serials.txt"
    listed.write_text("# stolen cards\n" + "\n".join([*good, "0bad"]) + "\n")
    how = ("--reason", "keyCompromise", "--serials", listed)
    rehearsed = product.json("cert", "revoke-many", *how, "--rehearse")
    assert (rehearsed["revoked"], rehearsed["unknown"]) == (len(good), ["0bad"])
    assert sum(crl["entries"] for crl in rehearsed["crls"].values()) >= len(good)
    assert product.json("cert", "show", everybody[-1])["status"] == "good"
    done = product.json("cert", "revoke-many", *how)
    assert (done["revoked"], done["already"]) == (len(good), 0)
    assert {product.json("cert", "show", path)["status"] for path in everybody} == {"revoked"}
    by_profile = ("--reason", "superseded", "--profile", "citizen-authentication")
    again = product.json("cert", "revoke-many", *by_profile)
    assert (again["revoked"], again["already"]) == (0, len(everybody))
    assert product.json("cert", "revoke-many", "--resume")["jobs"] == []
    batch = product.home / "keys.txt"
    ids = [x509.load_pem_x509_certificate(path.read_bytes()).public_key() for path in everybody]
    spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in ids]
    batch.write_text("".join(f"{hashlib.sha256(one).hexdigest()}\n" for one in spki))
    keys = ("--reason", "keyCompromise", "--keys", batch)
    assert product.json("cert", "revoke-many", *keys)["already"] == len(everybody)
    signed = ("--reason", "superseded", "--algorithm", "ecdsa-with-sha256", "--rehearse")
    assert product.json("cert", "revoke-many", *signed)["already"] == len(everybody)
    product.refused(
        "cert", "revoke-many", *signed[:3], "md5", code="unknown-algorithm", says="sha256-with-rsa"
    )
    listed.write_text("not a serial\n")
    product.refused("cert", "revoke-many", *how, code="bad-serial", says="line 1")


def test_a_delta_is_refused_where_there_is_none(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    product.refused("crl", "issue", "issuing", "--delta", code="no-delta-crls", says="crl.delta")
    [made] = product.json("crl", "issue", "issuing", "--final")["crls"]
    assert made["next_update"] is None
    product.refused("crl", "issue", "issuing", code="crl-series-ended", says="the last one")
