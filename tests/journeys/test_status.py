"""``digitalid status`` as operators and scripts read it: a CA, a validation authority, nobody."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.product import Product, require, run


def until(true: Callable[[], object]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    assert true()


def reads(product: Product, path: str) -> tuple[int, Any]:
    """What anybody who reaches the private port gets, without a token."""
    url = f"http://127.0.0.1:{product.app_port}/api/v1{path}"
    body, _, status = run("curl", "-sS", "-w", "\n%{http_code}", url).rpartition(b"\n")
    return int(status), json.loads(body)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("curl")
    product = Product(
        tmp_path_factory.mktemp("ca"),
        keys="file",
        directory={"url": "ldapi://%2Fnowhere%2Fldapi", "bind": "external"},  # nobody is there
    )
    product.start()
    yield product
    assert product.stop() == 0


def test_where_nothing_runs(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.refused("status", code="not-running", says=str(product.home), exit=4)
    # It was only looked: there is nothing that was not there before.
    assert [path.name for path in product.home.iterdir()] == ["digitalid.toml"]
    nowhere = tmp_path / "absent"
    product.refused("--home", nowhere, "status", code="not-running", says="serve", exit=4)
    assert not nowhere.exists()


def test_after_it_was_killed(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.start()
    assert product.json("status")["status"] == "ok"
    product.stop(signal.SIGKILL)
    assert (product.home / "run" / "admin.sock").exists()
    product.refused("status", code="not-running", says="serve", exit=4)


def test_of_a_ca(ca: Product) -> None:
    document = ca.json("status")
    health = ca.get("/health")[1]
    for name in ("status", "version", "sequence", "log_size", "keys_failing"):
        assert document[name] == health[name]
    assert document["home"] == str(ca.home)
    assert document["keys_failing"] == {}
    by_name = {one["name"]: one for one in document["authorities"]}
    assert set(by_name) == {"root", "issuing"}
    shown = ca.json("ca", "show", "issuing")
    crl = ca.json("crl", "show", "issuing")["crls"][0]
    issuing = by_name["issuing"]
    assert issuing["key"] == issuing["responder_key"] == "available"
    assert issuing["not_after"] == shown["not_after"]
    assert issuing["next_update"] == crl["next_update"]
    said = ca.cli("status")
    [row] = [line for line in said.splitlines() if line.startswith("issuing ")]
    assert row.split() == [
        "issuing", "available", shown["not_after"][:10], f"{crl['next_update'][:16]}Z",
        "available", issuing["responder_not_after"][:10],
    ]  # fmt: skip
    assert document["since"] in said


def test_what_stops_nothing_is_told_all_the_same(ca: Product) -> None:
    until(lambda: ca.get("/health")[1]["directory_failing"])
    assert ca.get("/health")[0] == 200
    [failing] = ca.json("status")["failing"]
    assert (failing["what"], failing["code"]) == ("directory main", "directory-unavailable")
    assert failing["stops"] is False
    said = ca.cli("status")
    assert said.startswith("It issues and answers, but something else fails.")
    assert "directory-unavailable" in said


def test_nobody_but_its_operators_reads_it(ca: Product) -> None:
    status, problem = reads(ca, "/status")
    assert (status, problem["code"]) == (401, "not-authenticated")
    assert ca.get("/status")[0] == 200
    assert reads(ca, "/health")[0] == 200
    assert reads(ca, "/health/live") == (200, {"status": "ok"})


def test_of_a_validation_authority_with_its_token_and_without(ca: Product, tmp_path: Path) -> None:
    require("softhsm2-util")
    va = Product(tmp_path / "va", keys="pkcs11")
    toml = va.home / "digitalid.toml"
    toml.write_text(toml.read_text().replace("[keys]", '[keys]\ncheck_interval = "1s"'))
    said = ca.json("ocsp", "follower", "add", "va-1", "--out", va.home / "from-ca")
    words = shlex.split(said["command"])[3:]
    shutil.copytree(va.home / "from-ca", tmp_path / "from-ca", dirs_exist_ok=True)
    flags = [word.replace("from-ca/", f"{tmp_path}/from-ca/") for word in words]
    va.start("ocsp", *flags, "--workers", "1")
    try:
        document = va.json("status")
        assert (document["status"], document["failing"]) == ("ok", [])
        assert [one["name"] for one in document["authorities"]] == ["root", "issuing"]
        assert reads(va, "/health/live") == (200, {"status": "ok"})
        text = va.cli("status")
        assert text.startswith("It does its work.")
        assert document["feed"]["url"] in text
        assert document["ending"] == []
        metrics = run("curl", "-sS", f"http://127.0.0.1:{va.app_port}/metrics").decode()
        for role, name in (("ca", "root"), ("ca", "issuing"), ("ocsp", "issuing")):
            ends = f'digitalid_certificate_not_after_seconds{{name="{name}",role="{role}"}}'
            assert ends in metrics
        away = (va.home / "softhsm" / "tokens").rename(va.home / "softhsm" / "away")
        until(lambda: reads(va, "/health")[0] == 503)
        status, health = reads(va, "/health")
        assert (status, health["status"]) == (503, "cut off")
        assert health["keys_failing"] == {
            "root-ocsp": "token-unavailable",
            "issuing-ocsp": "token-unavailable",
        }
        assert {one["failing"] for one in health["authorities"]} == {"token-unavailable"}
        assert reads(va, "/health/live")[0] == 200
        assert "token-unavailable" in va.cli("status", code=1)
        away.rename(va.home / "softhsm" / "tokens")
        until(lambda: reads(va, "/health")[0] == 200)
        assert va.json("status")["failing"] == []
        # Its status is for its owner; other commands find no CA here.
        assert reads(va, "/status")[0] == 404
        va.refused("ca", "list", code="not-found", says="")
    finally:
        assert va.stop() == 0
