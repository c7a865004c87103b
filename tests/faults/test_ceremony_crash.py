"""A ceremony on SoftHSM, whose process is killed at every step: it goes on where it stood, and
nothing that cannot be undone is done twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pki.algorithms import KeyType
from pki.ceremony import derive
from pki.ceremony.place import TokenPlace, place_of
from pki.ceremony.script import Token
from pki.ceremony.token_work import Work, work
from pki.ceremony.verify import verify_transcript
from pki.signer.softhsm import environment, find_module
from tests.unit.ceremony_fixtures import transcript

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(find_module() is None, reason="apt-get install softhsm2")

CHILD = """
import os, signal, sys
from pathlib import Path
from pki.ceremony import seal
from tests.unit.ceremony_fixtures import hold, shipped
seal._MEMORY, seal._PASSES = 64, 1
home, seen = Path(sys.argv[1]), Path(sys.argv[2])

def point(name):
    known = seen.read_text().splitlines() if seen.exists() else []
    count = str(len(known)) + " " + name
    if name.split(" by ")[0] == "confirmed" and " by " in name:
        return
    if name not in [line.split(" ", 1)[1] for line in known]:
        with seen.open("a") as file:
            file.write(count + "\\n")
        os.kill(os.getpid(), signal.SIGKILL)

hold(home, "root", shipped("root-creation"), point=point)
print("closed")
"""


def test_killed_at_each_point_it_goes_on(tmp_path: Path) -> None:
    home, seen = tmp_path / "home", tmp_path / "seen"
    kills = 0
    while True:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(home), str(seen)],
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if child.returncode == 0:
            break
        assert child.returncode == -9, child.stderr.decode()[-2000:]
        kills += 1
    points = [line.split(" ", 1)[1] for line in seen.read_text().splitlines()]
    assert kills == len(points) > 25
    assert {"performed make-key", "performed certify", "performed initialise-token"} <= set(points)
    verdict = verify_transcript(transcript(home, "root").read_bytes())
    assert verdict.good, verdict.wrong
    kinds = Counter(entry.kind.value for entry in verdict.entries)
    assert kinds["resume"] >= kills - 2
    steps = Counter(
        (entry.kind.value, entry.body["step"])
        for entry in verdict.entries
        if entry.kind.value in ("intend", "done")
    )
    assert set(steps.values()) == {1}
    # What was signed is what was confirmed before the kill; the file is the transcript's.
    made = verdict.told.state.kept.issued["root"]
    assert (home / "ceremonies" / "root" / "out" / "root.cer").read_bytes() == made
    assert not list((home / "ceremonies" / "root" / "people").iterdir())


def test_a_key_whose_backup_was_interrupted_is_backed_up_and_locked(tmp_path: Path) -> None:
    module = find_module()
    assert module is not None
    place = place_of(Token("softhsm", "root"), tmp_path)
    assert isinstance(place, TokenPlace)
    secret = bytearray(range(32))
    place.initialise(secret)
    at = environment(tmp_path / "tokens" / "root")
    pin, wrapping = derive.user_pin(secret), derive.wrapping_key(secret)
    # A crash after the key pair was made, before it was wrapped.
    work(
        Work(
            "make", str(module), "root", pin=pin, key="k", key_type="p-256", wrapping_key=wrapping
        ),
        at,
    )
    made = place.make("k", KeyType.P_256, secret, backup=True)
    assert (tmp_path / "backups" / "k.backup").is_file()
    # A crash after it was wrapped and locked: the backup stays the one that it is.
    assert place.make("k", KeyType.P_256, secret, backup=True) == made


def test_a_pin_change_interrupted_between_its_two_pins_is_completed(tmp_path: Path) -> None:
    place = place_of(Token("softhsm", "root"), tmp_path)
    old, new = bytearray(range(32)), bytearray(range(1, 33))
    place.initialise(old)
    place.change(old, new)
    place.change(old, new)
    assert place.make("k", KeyType.P_256, new, backup=False).uri
