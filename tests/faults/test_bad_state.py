"""A state folder that fails its instance: full, read-only, taken, altered, from another time.

Each has a stable code and says what to do, and once it is put right everything is there.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tests.faults.store_fixtures import mounts
from tests.journeys.product import Product, require

CITIZEN = "citizen-authentication"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A state folder that is set up, with nothing running."""
    require("openssl", "curl")
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.cli("init")
    return product


@contextmanager
def serving(product: Product) -> Iterator[None]:
    product.start()
    try:
        yield
    finally:
        assert product.stop() == 0


def in_order(product: Product, name: str) -> None:
    """A certificate is issued, and the log holds everything."""
    certificate = product.issue(name, f"/C=AQ/CN={name}", CITIZEN)
    assert product.json("cert", "show", certificate)["status"] == "good"
    assert product.json("log", "verify")["ok"] is True


def issue(request: Path, name: str) -> tuple[str | Path, ...]:
    out = request.with_name(f"{name}.pem")
    return ("cert", "issue", "--profile", CITIZEN, "--csr", request, "--out", out)


class Mount:
    """A product on a file system that only it sees, in a mount namespace of its own."""

    def __init__(self, folder: Path, size: str) -> None:
        self.product = Product(folder, keys="file")
        self._shell = subprocess.Popen(
            [*mounts(), "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.do(
            f"settings=$(cat {folder}/digitalid.toml)"
            f" && mount -t tmpfs -o size={size},mode=0700 tmpfs {folder}"
            f' && echo "$settings" > {folder}/digitalid.toml'
        )
        inside = ("--user", "--mount", "--preserve-credentials", f"--target={self._shell.pid}")
        self.product.under = ("nsenter", *inside)
        # From outside, the namespace is reached through the root of a process in it.
        self.product.seen_at = Path(f"/proc/{self._shell.pid}/root{folder}")

    def do(self, command: str) -> None:
        """Run a command in the namespace, and wait until it has succeeded."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command} && echo done || echo failed\n".encode())
        self._shell.stdin.flush()
        assert self._shell.stdout.readline() == b"done\n", command

    def remount(self, how: str) -> None:
        self.do(f"mount -o remount,{how} {self.product.home}")

    def close(self) -> None:
        with self._shell as shell:
            assert shell.stdin is not None
            shell.stdin.close()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    mount = Mount(tmp_path / "home", "24m")
    try:
        mount.product.cli("init")
        yield mount
    finally:
        mount.close()


def fill(folder: Path) -> Path:
    """Take every octet that is left in a file system."""
    ballast = folder / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while os.write(descriptor, bytes(size)):
                    continue
    finally:
        os.close(descriptor)
    return ballast


def test_a_full_disk(mount: Mount, product: Product, tmp_path: Path) -> None:
    full, outside = mount.product, tmp_path
    request = outside / "first.csr"
    shutil.copy(product.request("first", "/C=AQ/CN=First"), request)
    body = {"profile": CITIZEN, "csr": request.read_text()}
    with serving(full):
        kept = full.json(*issue(request, "kept"))["certificate"]["serial"]
        ballast = fill(full.seen_at)
        # The pages that the database has taken already may hold a few more.
        for _ in range(100):
            status, answer = full.post("/certificates", body)
            if status != 201:
                break
        assert (status, answer["code"]) == (503, "storage-full"), answer
        full.refused(*issue(request, "full"), code="storage-full", says="room", exit=4)
        assert not (outside / "full.pem").exists()
        # What needs no room goes on.
        assert full.json("cert", "show", kept)["status"] == "good"
        assert full.json("log", "verify")["ok"] is True
        ballast.unlink()
        full.cli(*issue(request, "full"))
        assert full.json("log", "verify")["ok"] is True
    ballast = fill(full.seen_at)
    full.refused(*issue(request, "fuller"), code="storage-full", says="room", exit=4)
    full.refused("serve", code="storage-full", says="room", exit=4)
    ballast.unlink()
    full.cli(*issue(request, "fuller"))
    assert full.json("log", "verify")["ok"] is True


def test_a_read_only_state_folder(mount: Mount, product: Product, tmp_path: Path) -> None:
    frozen = mount.product
    request = tmp_path / "first.csr"
    shutil.copy(product.request("frozen", "/C=AQ/CN=Frozen"), request)
    kept = frozen.json(*issue(request, "kept"))["certificate"]["serial"]
    mount.remount("ro")
    for words in (issue(request, "refused"), ("serve",)):
        frozen.refused(*words, code="storage-read-only", says="write access", exit=4)
    assert not (tmp_path / "refused.pem").exists()
    mount.remount("rw")
    frozen.cli(*issue(request, "refused"))
    assert frozen.json("cert", "show", kept)["status"] == "good"
    assert frozen.json("log", "verify")["ok"] is True


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    require("setpriv")
    product = Product(tmp_path / "home", keys="file")
    if os.geteuid() == 0:
        nobody: tuple[str, ...] = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        product.home.chmod(0o755)
        for above in product.home.parents:
            if above.stat().st_uid == 0 and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)
    else:
        nobody = ("env",)
        product.home.chmod(0o500)
    product.refused(
        "init", code="storage-read-only", says="give this user write access", under=nobody, exit=4
    )
    product.home.chmod(0o700)
    product.cli("init")
    in_order(product, "owned")


def test_a_lost_passphrase_is_asked_for_and_not_made_anew(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    passphrase = product.home / "secrets" / "keys.passphrase"
    kept = passphrase.rename(tmp_path / "kept")
    product.refused("ca", "list", code="no-such-secret", says=str(passphrase))
    assert not passphrase.exists()
    kept.rename(passphrase)
    assert len(product.json("ca", "list")["authorities"]) == 2


def test_a_lost_key_of_the_directory_does_not_bring_the_erased_back(tmp_path: Path) -> None:
    """With another key nobody would know who was erased."""
    product = Product(
        tmp_path / "home",
        keys="file",
        directory={"url": "ldapi://%2Fnowhere%2Fldapi", "bind": "external"},
    )
    product.cli("init")
    product.issue("alice", "/C=AQ/CN=Alice", CITIZEN)
    product.cli("directory", "erase", "--subject", "CN=Alice,C=AQ")
    key = product.home / "secrets" / "directory.key"
    key.unlink()
    product.refused("directory", "status", code="no-such-secret", says=str(key))
    assert not key.exists()


def test_a_clock_that_went_back(product: Product) -> None:
    require("faketime")
    back = ("faketime", "-f", "-2d")
    request = product.request("late", "/C=AQ/CN=Late")
    for words in (issue(request, "late"), ("serve",)):
        product.refused(
            *words, code="clock-went-back", says="set the clock right", under=back, exit=4
        )
    in_order(product, "on-time")


def test_a_ca_that_ended(tmp_path: Path) -> None:
    require("faketime")
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    request = product.request("ended", "/C=AQ/CN=Ended")
    product.refused(
        *issue(request, "ended"), code="ca-expired", says="issue from a newer CA",
        under=("faketime", "-f", "+11y"),
    )  # fmt: skip


def test_a_second_instance_on_the_same_state(product: Product) -> None:
    with serving(product):
        assert product.process is not None
        product.refused(
            "serve", "--app-port", "0", "--validation-port", "0", code="state-locked",
            says=f"in use by process {product.process.pid}; stop it, or use its API", exit=4,
        )  # fmt: skip
        in_order(product, "first-instance")


@pytest.mark.parametrize("port", ["--app-port", "--validation-port"])
def test_a_port_that_is_taken(product: Product, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        product.refused("serve", port, taken, code="address-in-use", says=f"port {taken}; stop it")
    in_order(product, f"free{port}")


def test_no_tls_off_loopback(product: Product) -> None:
    product.refused(
        "--set", "http.app_host=0.0.0.0", "serve", code="tls-required",
        says="set one, or listen on 127.0.0.1",
    )  # fmt: skip


def test_commands_at_the_same_time(product: Product) -> None:
    """Nothing runs: each command waits for the state, works on it, and leaves it."""
    requests = [product.request(f"alone-{n}", f"/C=AQ/CN=Alone {n}") for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda request: product.json(*issue(request, request.stem)), requests)
        )
    assert len({answer["certificate"]["serial"] for answer in answers}) == 8
    assert len({answer["certificate"]["log_index"] for answer in answers}) == 8
    assert product.json("log", "verify")["ok"] is True


def test_callers_at_the_same_time(product: Product) -> None:
    requests = [product.request(f"caller-{n}", f"/C=AQ/CN=Caller {n}") for n in range(50)]

    def post(request: Path) -> str:
        status, answer = product.post(
            "/certificates", {"profile": CITIZEN, "csr": request.read_text()}
        )
        assert status == 201, answer
        serial: str = answer["certificate"]["serial"]
        return serial

    with serving(product), ThreadPoolExecutor(50) as threads:
        assert len(set(threads.map(post, requests))) == 50
        assert product.json("log", "verify")["ok"] is True


def test_one_request_id_from_many_callers(product: Product) -> None:
    request = product.request("once", "/C=AQ/CN=Once")
    body = {"profile": CITIZEN, "csr": request.read_text(), "request_id": "application/1"}
    with serving(product), ThreadPoolExecutor(10) as threads:
        before = product.get("/log")[1]["size"]
        answers = list(threads.map(lambda _: product.post("/certificates", body), range(10)))
        assert {status for status, _ in answers} == {201}
        assert len({answer["certificate"]["pem"] for _, answer in answers}) == 1
        assert product.get("/log")[1]["size"] == before + 1


def alter(product: Product, index: int, old: bytes, new: bytes) -> None:
    """What somebody with the disk in hand can do: change a leaf, and hide it in its document."""
    with sqlite3.connect(product.home / "ledger.sqlite") as database:
        id = f"{index:012d}"
        (body,) = database.execute("SELECT body FROM c_log_leaves WHERE id = ?", (id,)).fetchone()
        document = msgspec.msgpack.decode(body)
        assert old in document["leaf"]
        document["leaf"] = document["leaf"].replace(old, new)
        database.execute(
            "UPDATE c_log_leaves SET body = ? WHERE id = ?",
            (msgspec.msgpack.encode(document), id),
        )
    database.close()


def test_an_altered_log(tmp_path: Path) -> None:
    """``log verify`` names the leaf, whether or not an instance can still open the log."""
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    request = product.issue("anna", "/C=AQ/CN=Anna", CITIZEN).with_suffix(".csr")
    product.cli("log", "checkpoint", "--sign")
    product.issue("berta", "/C=AQ/CN=Berta", CITIZEN)
    whole = product.json("log", "verify")
    assert whole["ok"] is True
    for index in (whole["leaves"] - 1, 2):
        alter(product, index, b'"who":"', b'"who":"not ')
        report = product.json("log", "verify", code=1)
        assert report["ok"] is False
        assert report["first_altered"] == index
        assert report["findings"][0]["code"] == "leaf-altered"
        assert f"leaf {index}" in report["findings"][0]["detail"]
        assert "ALTERED" in product.cli("log", "verify", code=1)
        # Nothing is written after a last leaf that is not the one that was written.
        if index == whole["leaves"] - 1:
            error = product.json(*issue(request, "refused"), code=5)["error"]
            assert error["code"] == "log-altered"
        alter(product, index, b'"who":"not ', b'"who":"')
    assert product.json("log", "verify") == whole
    in_order(product, "restored")
