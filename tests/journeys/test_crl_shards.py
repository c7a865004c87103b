"""A CA whose certificates are spread over many CRLs: each is served, and lists its own."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from cryptography import x509

from tests.journeys.product import Product, require, run

SHARDS = 150
PEOPLE = 12


def test_every_shard_is_published_and_lists_its_own(tmp_path: Path) -> None:
    require("openssl", "curl")
    crl = {"partitions": SHARDS, "debounce": "0s"}
    product = Product(tmp_path / "home", keys="file", crl=crl)
    home = product.home
    product.start()
    try:
        for name in ("issuing", "root"):
            product.cli("ca", "export", name, "--out", f"{name}.pem")
        csr = product.request("one", "/C=AQ/CN=One").read_text()
        body = {"profile": "citizen-authentication", "csr": csr}
        issued = [product.post("/certificates", body)[1]["certificate"] for _ in range(PEOPLE)]
        wanted = Counter(int(one["partition"]) for one in issued)
        everything = f"{product.validation}/crl/issuing.[1-{SHARDS}].crl"
        fetch = (
            "curl",
            "-sS",
            "-f",
            "-Z",
            "--parallel-max",
            "8",
            "-o",
            home / "#1.crl",
            everything,
        )
        give_up = time.monotonic() + 60
        while b"error: 503" in run(*fetch, ok=False):
            assert time.monotonic() < give_up
        assert len(list(home.glob("[0-9]*.crl"))) == SHARDS
        how = ("--profile", "citizen-authentication", "--reason", "keyCompromise")
        assert product.json("cert", "revoke-many", *how)["revoked"] == PEOPLE
        while listed(home) != wanted:
            assert time.monotonic() < give_up
            run(*fetch)
        (home / "one.pem").write_text(issued[0]["pem"])
        shard = home / f"{issued[0]['partition']}.crl"
        run("openssl", "crl", "-inform", "DER", "-in", shard, "-out", home / "shard.pem")
        said = run(
            "openssl", "verify", "-crl_check", "-extended_crl", "-CAfile", home / "root.pem",
            "-untrusted", home / "issuing.pem", "-CRLfile", home / "shard.pem",
            home / "one.pem", ok=False,
        )  # fmt: skip
        assert b"certificate revoked" in said
    finally:
        assert product.stop() == 0


def listed(home: Path) -> Counter[int]:
    """How many certificates each CRL lists."""
    crls = {path: x509.load_der_x509_crl(path.read_bytes()) for path in home.glob("[0-9]*.crl")}
    return Counter({int(path.stem): len(crl) for path, crl in crls.items() if len(crl)})
