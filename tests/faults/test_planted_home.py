"""A home folder in which somebody else has put secrets that they know, secrets that are none, and
strangers who take what there is."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.journeys.product import Product

KNOWN = "known-to-mallory-known-to-mallory"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away: run as root")


@pytest.fixture
def product(tmp_path: Path) -> Product:
    return Product(tmp_path / "home", keys="file")


def plant(product: Product, name: str, content: str) -> Path:
    folder = product.home / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def asked(product: Product, shown: str) -> int:
    """The status for somebody who shows this."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{product.app_port}/api/v1/certificates",
        headers={"Authorization": shown},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_an_operator_token_that_is_none_stops_the_start(product: Product, content: str) -> None:
    path = plant(product, "operator.token", content)
    for command in ("serve", "init"):
        product.refused(command, code="secret-malformed", says="remove the file")
    path.unlink()
    product.start()
    try:
        assert asked(product, f"Bearer {product.operator_token}") == 200
        for shown in ("Bearer ", "Bearer", f"Bearer {content.strip()}", "Basic Og=="):
            assert asked(product, shown) == 401
        path.write_text("")  # while it runs
        assert asked(product, "Bearer ") == 401
    finally:
        product.stop()


def test_an_operator_token_that_others_can_read_stops_the_start(product: Product) -> None:
    plant(product, "operator.token", KNOWN).chmod(0o644)
    product.refused("serve", code="secret-file-permissions", says="chmod 600")


def test_secrets_where_others_can_write_stop_the_start(product: Product) -> None:
    plant(product, "operator.token", KNOWN)
    for folder in (product.home / "secrets", product.home):
        folder.chmod(0o777)
        product.refused("serve", code="state-exposed", says="chmod go-w")
        folder.chmod(0o755)


@as_root
@pytest.mark.parametrize("whose", ["all", "secrets", "token"])
def test_what_another_user_has_prepared_stops_the_start(product: Product, whose: str) -> None:
    token = plant(product, "operator.token", KNOWN)
    theirs = {"all": [product.home, token.parent, token], "secrets": [token.parent, token]}
    for path in theirs.get(whose, [token]):
        os.chown(path, NOBODY, NOBODY)
    code = "secret-file-permissions" if whose == "token" else "state-exposed"
    for words in (("serve",), ("init",), ("serve", "ocsp")):
        if words == ("serve", "ocsp") and whose == "token":
            continue  # a validation authority has none
        product.refused(*words, code=code, says="another user")
    assert not (product.home / "ledger.sqlite").exists()


@as_root
def test_keys_are_not_made_in_a_folder_of_another_user(product: Product, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    os.chown(product.home, NOBODY, NOBODY)
    words = ("ocsp", "ca", "add", "acme", "--certificate", file, "--crl", file)
    product.refused(*words, code="state-exposed", says="another user")
    assert not (product.home / "keys").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("size", [64 * 1024 + 1, 256 * 1024])
def test_a_body_that_no_ocsp_request_needs_is_not_waited_for(
    tmp_path: Path, workers: int, size: int
) -> None:
    product = Product(tmp_path / "home", keys="file", ocsp={"workers": workers})
    product.start()
    try:
        with socket.create_connection(("127.0.0.1", product.validation_port), 20) as caller:
            caller.sendall(b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            assert caller.recv(65536).startswith(b"HTTP/1.1 413 ")
    finally:
        product.stop()


def test_connections_of_one_address_are_limited_and_counted(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file", http={"max_connections_per_address": 3})
    product.start()
    place = ("127.0.0.1", product.validation_port)
    try:
        held = [socket.create_connection(place, 20) for _ in range(3)]
        with socket.create_connection(place, 20) as caller:
            assert caller.recv(65536).startswith(b"HTTP/1.1 503 ")
        with socket.create_connection(place, 20, ("127.0.0.2", 0)) as other:
            other.sendall(b"GET /crl/issuing.crl HTTP/1.1\r\nHost: a\r\n\r\n")
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        metrics = f"http://127.0.0.1:{product.app_port}/metrics"
        with urllib.request.urlopen(metrics, timeout=20) as response:
            lines = response.read().decode().splitlines()
        assert "digitalid_ocsp_turned_away_total 1.0" in lines
        assert "digitalid_ocsp_connections 3.0" in lines
        for one in held:
            one.close()
    finally:
        product.stop()
