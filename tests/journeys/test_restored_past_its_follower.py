"""A CA is restored from a backup and goes on; its validation authority was away meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import require
from tests.journeys.test_validation_authority import World, http_get, status, until

CITIZEN = "citizen-authentication"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    require("openssl", "curl")
    world = World(tmp_path)
    try:
        world.follow()
        yield world
    finally:
        world.stop()


def sequence(world: World) -> int:
    _, body = http_get(world.ca.app_port, "/api/v1/health")
    return int(json.loads(body)["sequence"])


def test_a_restored_ca_that_has_passed_its_follower(world: World, tmp_path: Path) -> None:
    ca, va = world.ca, world.va
    mallory = ca.issue("mallory", "/C=AQ/CN=Mallory Example", CITIZEN)
    held = ca.issue("held", "/C=AQ/CN=Held Example", CITIZEN)
    erin = ca.issue("erin", "/C=AQ/CN=Erin Example", CITIZEN)
    ca.cli("cert", "hold", held)
    file = tmp_path / "monday.tar"
    ca.json("backup", "create", file)
    # What came after it is lost to the CA, but not to who followed.
    ca.cli("cert", "revoke", mallory, "--reason", "keyCompromise")
    ca.cli("cert", "release", held)
    late = ca.issue("late", "/C=AQ/CN=Late Example", CITIZEN)
    until(lambda: status(world.ask(late)) == "good")
    until(lambda: status(world.ask(mallory)) == "revoked")
    applied = va.health()["feed"]["applied"]
    assert va.stop() == 0
    assert ca.stop() == 0
    lost = ca.home.rename(tmp_path / "lost")
    ca.home.mkdir(mode=0o700)
    ca.cli("backup", "restore", file)
    for name in ("issuing.pem", "root.pem"):
        shutil.copyfile(lost / name, ca.home / name)
    ca.start()
    # It gives the numbers that the validation authority knows to something else.
    ca.cli("cert", "revoke", lost / erin.name, "--reason", "superseded")
    for number in range(4):
        ca.issue(f"new-{number}", f"/C=AQ/CN=New {number}", CITIZEN)
    assert sequence(world) > applied
    new = ca.issue("new", "/C=AQ/CN=New", CITIZEN)
    va.begin()
    until(lambda: va.health()["feed"]["failing"] == "feed-restored")
    until(lambda: va.health()["status"] == "behind")
    assert "feed-restored" in va.log()
    assert "digitalid_feed_restored 1.0" in http_get(va.app_port, "/metrics")[1].decode()
    mallory, held, erin, late = (lost / one.name for one in (mallory, held, erin, late))
    # What it learned of is right, and no revocation is taken back; also after another restart.
    for again in (False, True):
        if again:
            va.stop(signal.SIGKILL)
            va.begin()
        assert status(world.ask(erin)) == "revoked"
        assert status(world.ask(new)) == "good"
        assert status(world.ask(mallory)) == "revoked"
        assert ca.json("ocsp", "query", mallory, "--issuer", ca.home / "issuing.pem")["status"] == (
            "good"
        )
    [failing] = va.json("status")["failing"]
    assert (failing["code"], failing["stops"]) == ("feed-restored", False)
    va.cli("ocsp", "accept-restored")
    assert va.process is not None
    va.process.send_signal(signal.SIGHUP)
    until(lambda: status(world.ask(late)) == "unknown")
    until(lambda: status(world.ask(mallory)) == "good")
    until(lambda: status(world.ask(held)) == "revoked")
    assert status(world.ask(erin)) == "revoked"
    until(lambda: va.health()["status"] == "ok")
    assert "digitalid_feed_restored 0.0" in http_get(va.app_port, "/metrics")[1].decode()
    # It goes on as ever from there.
    ca.cli("cert", "revoke", mallory, "--reason", "keyCompromise")
    until(lambda: status(world.ask(mallory)) == "revoked")
