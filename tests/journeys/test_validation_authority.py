"""OCSP on a host without the CA: from its status feed, and from another CA's CRL."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ocsp.table import TableReader
from tests.journeys.product import COMMAND, Product, require, run

ENOUGH = 30.0
"""Seconds in which whatever should happen has happened."""


class Authority(Product):
    """A validation authority; ``flags``: of ``serve ocsp``."""

    flags: tuple[str | Path, ...] = ()

    def begin(self) -> str:
        return self.start("ocsp", *self.flags)

    @property
    def ocsp(self) -> str:
        return f"{self.validation}/ocsp"

    def health(self) -> dict[str, Any]:
        code, body = http_get(self.app_port, "/api/v1/health")
        found: dict[str, Any] = json.loads(body)
        assert (code == 503) == (found["status"] in ("cut off", "starting"))
        return found

    def log(self) -> str:
        return (self.home / "serve.err").read_text()


def http_get(port: int, path: str) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + ENOUGH
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class World:
    """A CA, a validation authority that follows it, and a relying party with openssl."""

    def __init__(self, folder: Path) -> None:
        self.ca = Product(folder / "ca", keys="file")
        self.ca.start()
        self.va = Authority(folder / "va", keys="file", feed={"most_lag": "3s"})
        self.ca.cli("ca", "export", "issuing", "--out", "issuing.pem")
        self.ca.cli("ca", "export", "root", "--out", "root.pem")

    def follow(self) -> str:
        """What the operator does: add a follower, copy the folder, run the command."""
        said = self.ca.json("ocsp", "follower", "add", "va-1", "--out", self.va.home / "from-ca")
        words = shlex.split(said["command"])
        assert words[:3] == ["digitalid", "serve", "ocsp"]
        self.va.flags = (
            *[word.replace("from-ca/", f"{self.va.home}/from-ca/") for word in words[3:]],
            "--workers", "2",
        )  # fmt: skip
        return self.va.begin()

    def ask(self, certificate: Path, *more: str, issuer: str = "issuing") -> str:
        """What ``openssl ocsp`` says, with a nonce unless told otherwise."""
        said = run(
            "openssl", "ocsp", "-issuer", self.ca.home / f"{issuer}.pem", "-cert", certificate,
            "-url", self.va.ocsp, "-CAfile", self.ca.home / "root.pem", *more, ok=False,
        )  # fmt: skip
        return said.decode()

    def stop(self) -> None:
        for product in (self.va, self.ca):
            if product.process is not None:
                assert product.stop() == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require("openssl", "curl")
    world = World(tmp_path_factory.mktemp("world"))
    try:
        said = world.follow()
        assert "root, issuing" in said
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="module")
def alice(world: World) -> Path:
    return world.ca.issue("alice", "/C=AQ/CN=Alice Example", "citizen-authentication")


def status(said: str) -> str:
    found = re.search(r"\.pem: (good|revoked|unknown)", said)
    return found[1] if found and "Response verify OK" in said else said


def test_good_then_revoked_at_once(world: World, alice: Path) -> None:
    bob = world.ca.issue("bob", "/C=AQ/CN=Bob Example", "citizen-authentication")
    until(lambda: status(world.ask(bob)) == "good")
    assert status(world.ask(bob, "-no_nonce")) == "good"
    assert "WARNING: no nonce" not in world.ask(bob)
    world.ca.cli("cert", "revoke", bob, "--reason", "keyCompromise")
    until(lambda: status(world.ask(bob)) == "revoked")
    # The answer that was kept is gone too.
    said = world.ask(bob, "-no_nonce")
    assert status(said) == "revoked"
    assert "keyCompromise" in said
    assert status(world.ask(alice)) == "good"


def test_what_was_never_issued_is_unknown(world: World) -> None:
    issuer = world.ca.home / "issuing.pem"
    said = run(
        "openssl", "ocsp", "-issuer", issuer, "-serial", "0x1234567890", "-url", world.va.ocsp,
        "-CAfile", world.ca.home / "root.pem",
    )  # fmt: skip
    assert b"0x1234567890: unknown" in said


def test_the_other_ca_of_the_feed_is_answered_for_too(world: World) -> None:
    said = world.ask(world.ca.home / "issuing.pem", issuer="root")
    assert status(said) == "good", said


def test_the_product_s_own_client_believes_it(world: World, alice: Path) -> None:
    said = world.ca.json(
        "ocsp", "query", alice, "--issuer", world.ca.home / "issuing.pem", "--url", world.va.ocsp
    )
    assert (said["status"], said["nonce"], said["delegated"]) == ("good", "echoed", True)


def test_the_host_has_no_key_of_the_ca(world: World) -> None:
    ours = {path.name for path in (world.va.home / "keys").iterdir()}
    assert ours == {"root-ocsp.pem", "issuing-ocsp.pem"}
    theirs = {path.read_bytes() for path in (world.ca.home / "keys").iterdir()}
    files = [path for path in world.va.home.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".pem" and path.read_bytes() in theirs]
    assert not [path for path in files if "ledger" in path.name]
    token = world.va.home / "from-ca" / "feed.token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_health_and_metrics_say_how_far_it_is(world: World) -> None:
    health = world.va.health()
    assert health["status"] == "ok", health
    assert [one["name"] for one in health["authorities"]] == ["root", "issuing"]
    assert health["feed"]["behind"] == 0
    metrics = http_get(world.va.app_port, "/metrics")[1].decode()
    for family in (
        "digitalid_feed_lag_seconds", "digitalid_feed_behind 0.0", "digitalid_feed_applied",
        'digitalid_ocsp_certificate_end_seconds{ca="issuing"}', "digitalid_ocsp_answers_total",
    ):  # fmt: skip
        assert family in metrics
    [followers] = world.ca.json("ocsp", "follower", "list")["followers"]
    assert followers["name"] == "va-1"


def test_hang_up_replaces_the_processes_and_loses_nothing(world: World, alice: Path) -> None:
    process = world.va.process
    assert process is not None
    before = children(process.pid)
    request = world.va.home / "alice.req"
    run(
        "openssl", "ocsp", "-issuer", world.ca.home / "issuing.pem", "-cert", alice,
        "-no_nonce", "-reqout", request,
    )  # fmt: skip
    stop, failures, answers = threading.Event(), list[str](), list[int]()
    port = world.va.validation_port

    def relying_party() -> None:
        headers = {"Content-Type": "application/ocsp-request"}
        while not stop.is_set():
            try:
                with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                    for _ in range(5):
                        connection.request("POST", "/ocsp", request.read_bytes(), headers)
                        answers.append(len(connection.getresponse().read()))
            except (OSError, HTTPException) as error:
                failures.append(repr(error))

    asking = threading.Thread(target=relying_party)
    asking.start()
    try:
        process.send_signal(signal.SIGHUP)
        until(lambda: len(children(process.pid)) == 2 and not before & children(process.pid))
    finally:
        stop.set()
        asking.join()
    assert failures == []
    assert len(answers) > 10
    assert min(answers) > 100
    assert status(world.ask(alice)) == "good"


def test_a_ca_takes_a_hang_up_too(world: World, tmp_path: Path) -> None:
    assert world.ca.process is not None
    world.ca.process.send_signal(signal.SIGHUP)  # nothing to replace
    until(lambda: "were replaced" in (world.ca.home / "serve.err").read_text())
    other = Product(tmp_path / "ca", keys="file", ocsp={"workers": 1})
    other.start()
    try:
        assert other.process is not None
        pid = other.process.pid
        before = children(pid)
        other.process.send_signal(signal.SIGHUP)
        until(lambda: len(children(pid)) == 1 and not before & children(pid))
        alice = other.issue("alice", "/C=AQ/CN=Alice Example", "citizen-authentication")
        assert other.json("ocsp", "query", alice)["status"] == "good"
    finally:
        assert other.stop() == 0


def children(pid: int) -> set[int]:
    """The processes of it that answer OCSP."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == pid and b"ocsp.worker" in command:
            found.add(int(path.parent.name))
    return found


def test_killed_it_goes_on_from_its_table(world: World, alice: Path) -> None:
    table = world.va.home / "status" / "table"
    before, applied = table.stat().st_ino, world.va.health()["feed"]["applied"]
    assert applied > 0
    world.va.stop(signal.SIGKILL)
    with closing(TableReader.open(table, most_lag=None)) as reader:
        size = reader.size
    carol = world.ca.issue("carol", "/C=AQ/CN=Carol Example", "citizen-authentication")
    assert f"up to change {applied}" not in world.va.begin()
    assert table.stat().st_ino == before  # the same file: nothing was filled from the start
    with closing(TableReader.open(table, most_lag=None)) as reader:
        assert reader.size >= size
    assert status(world.ask(carol)) == "good"
    assert status(world.ask(alice)) == "good"


def test_without_the_ca_it_answers_for_a_while_then_later(world: World, alice: Path) -> None:
    assert status(world.ask(alice)) == "good"
    world.ca.stop(signal.SIGKILL)
    assert status(world.ask(alice)) == "good"
    until(lambda: "trylater" in world.ask(alice))
    assert "trylater" in world.ask(alice, "-no_nonce")  # nor what was kept
    assert world.va.health()["status"] == "cut off"
    world.ca.start()
    until(lambda: status(world.ask(alice)) == "good")
    world.ca.cli("cert", "hold", alice)
    until(lambda: status(world.ask(alice)) == "revoked")
    world.ca.cli("cert", "release", alice)
    until(lambda: status(world.ask(alice)) == "good")
    assert world.va.health()["status"] == "ok"


def test_a_ca_that_was_restored_takes_no_revocation_back(world: World, alice: Path) -> None:
    """Until the operator of the validation authority says so."""
    mallory = world.ca.issue("mallory", "/C=AQ/CN=Mallory Example", "citizen-authentication")
    world.ca.stop()
    copy = world.ca.home.with_name("copy")
    run("cp", "-a", world.ca.home, copy)
    world.ca.start()
    late = world.ca.issue("late", "/C=AQ/CN=Late Example", "citizen-authentication")
    until(lambda: status(world.ask(late)) == "good")
    world.ca.cli("cert", "revoke", mallory, "--reason", "keyCompromise")
    until(lambda: status(world.ask(mallory)) == "revoked")
    world.ca.stop()
    kept = late.read_bytes()
    run("rm", "-rf", world.ca.home)
    copy.rename(world.ca.home)
    late.write_bytes(kept)
    world.ca.start()
    until(lambda: world.va.health()["feed"]["failing"] == "feed-restored")
    until(lambda: world.va.health()["status"] == "behind")  # and no more cut off
    # The CA itself says good; here it stays revoked, also in new answers and after a restart.
    assert world.ca.json("ocsp", "query", mallory)["status"] == "good"
    assert status(world.ask(mallory)) == "revoked"
    assert "certificate" in world.va.log() and "stays revoked (keyCompromise)" in world.va.log()
    world.va.stop(signal.SIGKILL)
    world.va.begin()
    assert status(world.ask(mallory)) == "revoked"
    assert status(world.ask(alice)) == "good"
    [failing] = world.va.json("status")["failing"]
    assert (failing["code"], failing["stops"]) == ("feed-restored", False)
    assert "digitalid ocsp accept-restored" in failing["detail"]
    # What the restored CA does counts at once; then its word is taken for all.
    dave = world.ca.issue("dave", "/C=AQ/CN=Dave Example", "citizen-authentication")
    world.ca.cli("cert", "revoke", dave, "--reason", "superseded")
    until(lambda: status(world.ask(dave)) == "revoked")
    world.va.cli("ocsp", "accept-restored")
    assert world.va.process is not None
    world.va.process.send_signal(signal.SIGHUP)
    until(lambda: status(world.ask(late)) == "unknown")
    until(lambda: status(world.ask(mallory)) == "good")
    until(lambda: status(world.ask(alice)) == "good")
    assert status(world.ask(dave)) == "revoked"
    assert world.va.health()["status"] == "ok"
    world.va.refused("ocsp", "accept-restored", code="nothing-retained", says="not restored")


def test_a_follower_that_was_removed_gets_no_more(world: World, alice: Path) -> None:
    world.ca.cli("ocsp", "follower", "remove", "va-1")
    until(lambda: "trylater" in world.ask(alice))
    until(lambda: world.va.health()["feed"]["failing"] == "not-authenticated")
    assert "withdrawn" in world.va.cli("status", code=1)
    world.ca.refused(
        "ocsp", "follower", "remove", "va-1", code="no-such-follower", says="there are: none"
    )


def test_a_start_that_waits_says_for_what_and_can_be_ended(tmp_path: Path, world: World) -> None:
    va = Authority(tmp_path / "va", keys="file")
    token = va.home / "feed.token"
    token.touch(mode=0o600)
    token.write_text("x" * 40)
    command = (
        COMMAND, "serve", "ocsp", "--feed", f"http://127.0.0.1:{world.ca.app_port}",
        "--feed-token-from", f"file:{token}", "--feed-key", world.va.home / "from-ca/feed.pem",
    )  # fmt: skip
    with (va.home / "serve.err").open("wb") as errors:
        starting = subprocess.Popen(command, env=va.environment, stderr=errors)
    try:
        until(lambda: "still waiting" in va.log())
        assert "not-authenticated" in va.log()
        assert va.health()["status"] == "starting"
    finally:
        starting.send_signal(signal.SIGINT)
        assert starting.wait(30) == 0
    assert "Traceback" not in va.log()


def test_nothing_to_follow(tmp_path: Path) -> None:
    va = Authority(tmp_path / "va", keys="file")
    va.refused("serve", "ocsp", code="nothing-to-follow", says="--feed URL")


# A CA that is nobody's we know


CONFIGURATION = """
[ca]
default_ca = acme
[acme]
dir = .
database = index.txt
new_certs_dir = .
serial = serial
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 1
policy = anything
copy_extensions = copy
[anything]
countryName = optional
organizationName = optional
commonName = supplied
[crl]
authorityKeyIdentifier = keyid
"""


class Acme:
    """A CA made of openssl alone, with a web server for its CRL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "ca.cnf").write_text(CONFIGURATION)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "crlnumber").write_text("01\n")
        (folder / "www").mkdir()
        self.openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
            "-subj", "/C=AQ/O=Acme/CN=Acme CA", "-days", "90",
        )  # fmt: skip

    def openssl(self, *words: str) -> bytes:
        return run("env", "-C", self.folder, "openssl", *words)

    def issue(self, name: str) -> Path:
        self.openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={name}",
        )  # fmt: skip
        return self.certify(self.folder / f"{name}.csr", name)

    def certify(self, request: Path, name: str) -> Path:
        self.openssl(
            "ca", "-config", "ca.cnf", "-batch", "-in", str(request), "-out", f"{name}.pem",
            "-notext",
        )  # fmt: skip
        return self.folder / f"{name}.pem"

    def publish(self) -> None:
        self.openssl("ca", "-config", "ca.cnf", "-gencrl", "-crlexts", "crl", "-out", "crl.pem")
        self.openssl("crl", "-in", "crl.pem", "-outform", "DER", "-out", "www/next")
        (self.folder / "www" / "next").rename(self.folder / "www" / "acme.crl")

    @contextmanager
    def web(self) -> Iterator[str]:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        handler = partial(Quiet, directory=str(self.folder / "www"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/acme.crl"
        finally:
            server.shutdown()
            server.server_close()


def test_another_ca_by_its_crl(tmp_path: Path) -> None:
    require("openssl")
    acme = Acme(tmp_path / "acme")
    fine, bad, other = (acme.issue(name) for name in ("fine", "bad", "other"))
    acme.openssl("ca", "-config", "ca.cnf", "-revoke", "bad.pem", "-crl_reason", "superseded")
    acme.publish()
    va = Authority(tmp_path / "va", keys="file")

    def ask(certificate: Path) -> str:
        said = run(
            "openssl", "ocsp", "-issuer", acme.folder / "ca.pem", "-cert", certificate,
            "-url", va.ocsp, "-CAfile", acme.folder / "ca.pem", ok=False,
        )  # fmt: skip
        return status(said.decode())

    with acme.web() as url:
        va.refused(
            "ocsp", "ca", "add", "acme", "--certificate", acme.folder / "ca.pem",
            "--crl", acme.folder / "none.crl", code="bad-crl-source", says="there is no file",
        )  # fmt: skip
        added = va.json(
            "ocsp", "ca", "add", "acme", "--certificate", acme.folder / "ca.pem", "--crl", url
        )
        va.refused(
            "ocsp", "ca", "certify", "acme", "--certificate", fine,
            code="delegate-key", says="another key",
        )  # fmt: skip
        responder = acme.certify(Path(added["request"]), "responder")
        assert b"OCSP Signing" in run("openssl", "x509", "-in", responder, "-noout", "-text")
        va.cli("ocsp", "ca", "certify", "acme", "--certificate", responder)
        [listed] = va.json("ocsp", "ca", "list")["authorities"]
        assert (listed["name"], listed["crl"], listed["lacks"]) == ("acme", url, None)
        va.begin()
        try:
            until(lambda: ask(fine) == "good")
            assert ask(bad) == "revoked"
            [health] = va.health()["authorities"]
            assert (health["source"], health["crl_number"], health["entries"]) == ("crl", 1, 1)
            acme.openssl("ca", "-config", "ca.cnf", "-revoke", "other.pem")
            acme.publish()
            assert va.process is not None
            va.process.send_signal(signal.SIGHUP)  # else it would look in an hour
            until(lambda: ask(other) == "revoked")
            assert [ask(fine), ask(bad)] == ["good", "revoked"]
            # One that is added while it runs, here by the CRL in a file.
            beta = Acme(tmp_path / "beta")
            good = beta.issue("good")
            beta.publish()
            request = va.json(
                "ocsp", "ca", "add", "beta", "--certificate", beta.folder / "ca.pem",
                "--crl", beta.folder / "crl.pem",
            )["request"]  # fmt: skip
            answer = beta.certify(Path(request), "responder")
            va.cli("ocsp", "ca", "certify", "beta", "--certificate", answer)
            va.cli("ocsp", "ca", "remove", "acme")
            va.process.send_signal(signal.SIGHUP)
            names = {"issuer": beta.folder / "ca.pem"}

            def ask_beta() -> str:
                said = run(
                    "openssl", "ocsp", "-issuer", names["issuer"], "-cert", good,
                    "-url", va.ocsp, "-CAfile", names["issuer"], ok=False,
                )  # fmt: skip
                return status(said.decode())

            until(lambda: ask_beta() == "good")
            until(lambda: "unauthorized" in ask(fine))
        finally:
            assert va.stop() == 0
