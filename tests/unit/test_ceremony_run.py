"""A ceremony with keys in files: shares that are wrong, people who stop it, what is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Rejected
from pki.algorithms import KeyType, usual_algorithm
from pki.ceremony import seal as seals
from pki.ceremony.archive import left_by, past
from pki.ceremony.desk import Paused, Shown
from pki.ceremony.people_acts import InspectAct
from pki.ceremony.script import Inspect
from pki.ceremony.seal import new_identity, recipient_of
from pki.ceremony.state import State
from pki.ceremony.verify import verify_transcript
from pki.names import parse_rfc4514
from pki.request import assemble_request, build_request_info
from pki.throwaway import Throwaway
from tests.unit.ceremony_fixtures import ScriptedRoom, hold, on_files, shipped, transcript

ROOT = on_files(shipped("root-creation"))
CRL = on_files(shipped("root-crl"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)


def codes(shown: list[str]) -> list[str]:
    """Of the refusals that were shown."""
    return [found[1] for line in shown if (found := re.match(r"([a-z]+-[a-z-]+): ", line))]


def entries(home: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in transcript(home, name).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which a root was made."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seals, "_MEMORY", 64)
        patch.setattr(seals, "_PASSES", 1)
        hold(home, "root", ROOT)
    return home


def share(home: Path, number: int) -> Path:
    return next((home / "sticks" / str(number)).glob("*.share"))


def test_wrong_shares_are_named_one_after_the_other(made: Path, tmp_path: Path) -> None:
    good = share(made, 1)
    altered = tmp_path / "altered.share"
    altered.write_bytes(good.read_bytes().replace(b"Grace Hopper", b"Grace Popper"))
    foreign = tmp_path / "foreign.share"
    wire = json.loads(good.read_bytes())
    foreign.write_bytes(json.dumps(wire | {"set": "00" * 16}).encode())
    garbage = tmp_path / "garbage.share"
    garbage.write_bytes(b"\x00" * 100)
    override = [
        ("^Share 1 of", str(tmp_path / "nowhere.share")),
        ("^Share 1 of", str(garbage)),
        ("^Share 1 of", str(foreign)),
        ("^Share 1 of", str(altered)),
        ("^Share 2 of", str(good)),
    ]
    told, room = hold(made, "crl-1", CRL, override=override)
    # The altered one is noticed when its passphrase does not open it: the name is bound to it.
    assert codes(room.shown) == [
        "bad-share", "bad-share", "foreign-share", "wrong-passphrase", "duplicate-share"
    ]  # fmt: skip
    assert told.finished


def test_fewer_custodians_than_it_takes_get_nowhere(made: Path) -> None:
    override = [("^Share 3 of", str(share(made, 1)))] * 5 + [("^Share 3 of", "pause")]
    with pytest.raises(Paused):
        hold(made, "crl-2", CRL, override=override)
    assert "done" not in [entry["kind"] for entry in entries(made, "crl-2")][-3:]
    last = [e for e in entries(made, "crl-2") if e["kind"] == "intend"][-1]
    assert last["body"]["act"] == "sign-crl"
    told, _ = hold(made, "crl-2", CRL)
    assert told.finished and verify_transcript(transcript(made, "crl-2").read_bytes()).good


def test_nothing_secret_is_left_on_the_disk(made: Path) -> None:
    folder = made / "ceremonies" / "root"
    assert not list((folder / "people").iterdir())
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "root.cer", "root.crl", "root.pem"
    ]  # fmt: skip
    assert not list(folder.rglob("*.share"))
    for path in (made / "tokens").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_share_sealed_to_an_age_key_is_opened_with_its_identity(tmp_path: Path) -> None:
    identity = new_identity()
    path = tmp_path / "identity.txt"
    path.write_text(f"# created: today\n# public key: {recipient_of(identity)}\n{identity}\n")
    path.chmod(0o600)
    home = tmp_path / "home"
    recipient = recipient_of(identity)
    mistyped = recipient[:-1] + ("x" if recipient[-1] != "x" else "y")
    sealed = [
        ("Grace Hopper: type passphrase", mistyped),
        ("Grace Hopper: type passphrase", recipient),
    ]
    _, room = hold(home, "root", ROOT, override=sealed)
    assert codes(room.shown) == ["bad-recipient"]
    other = tmp_path / "other.txt"
    other.write_text(new_identity())
    other.chmod(0o600)
    exposed = tmp_path / "exposed.txt"
    exposed.write_text(identity)
    exposed.chmod(0o644)
    opened = [("your identity", str(exposed)), ("your identity", str(other)),
              ("your identity", str(path))]  # fmt: skip
    told, room = hold(home, "crl", CRL, override=opened)
    assert codes(room.shown) == ["identity-permissions", "wrong-identity"]
    assert told.finished


def test_two_hierarchies_live_side_by_side(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    other = (
        ROOT.replace('label = "root"', 'label = "other"')
        .replace('key = "root"', 'key = "other"')
        .replace('name = "root"', 'name = "other"')
        .replace('issuer = "root"', 'issuer = "other"')
        .replace('"root.cer", "root.crl"', '"other.cer", "other.crl"')
        .replace("National Root", "Other Root")
    )
    told, _ = hold(home, "other", other)
    assert set(told.state.kept.authorities) == {"root", "other"}
    old_set = told.state.kept.sets["root"].identifier.hex()[:8]
    told, _ = hold(home, "crl-of-the-first", CRL, share_set=old_set)
    assert told.finished and verify_transcript(transcript(home, "other").read_bytes()).good


def test_another_script_does_not_go_on_with_a_ceremony(made: Path) -> None:
    with pytest.raises(Rejected) as caught:
        hold(made, "root", ROOT.replace("P-384", "p-384").replace("Registry", "Elsewhere"))
    assert caught.value.code == "another-script"


def test_an_altered_transcript_is_not_gone_on_with(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    path = transcript(home, "root")
    path.write_bytes(path.read_bytes().replace(b"Ada Lovelace", b"Eve Lovelace", 1))
    with pytest.raises(Rejected) as caught:
        past(home)
    assert caught.value.code == "altered-transcript"


def test_a_ceremony_that_went_missing_is_noticed(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    hold(home, "crl-a", CRL)
    hold(home, "crl-b", CRL)
    assert [each.name for each in past(home)][-2:] == ["crl-a", "crl-b"]
    shutil.rmtree(home / "ceremonies" / "crl-a")
    with pytest.raises(Rejected) as caught:
        past(home)
    assert caught.value.code == "ceremony-missing"


def test_a_root_certifies_no_officer(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    subject = parse_rfc4514("CN=Bob Officer,O=Registry,C=AQ").der
    info = build_request_info(subject, key.public_key_info, ())
    incoming = {name: tmp_path / name for name in ("root-ocsp", "log")}
    for name, medium in incoming.items():
        medium.mkdir()
        request = assemble_request(info, key.algorithm, key.sign(info))
        (medium / f"{name}.csr").write_bytes(request)
    script = on_files(shipped("service-certificates", **{"ocsp-responder": "officer"}))
    shown: list[str] = []

    def show(room: ScriptedRoom, items: Shown) -> None:
        shown.extend(" ".join(item) for item in items)
        room.shown += shown[-len(items) :]

    monkeypatch.setattr(ScriptedRoom, "show", show)
    with pytest.raises(Paused):
        hold(home, "officer", script, incoming=incoming, override=[("^Type again", "pause")])
    assert "profile-not-for-ca: CA root is a root" in shown[-1]
    assert not list((home / "ceremonies" / "officer").rglob("*.cer"))
    # What speaks for the CA is certified, from media of the same form.
    again = tmp_path / "again"
    shutil.copytree(made, again)
    told, _ = hold(again, "services", on_files(shipped("service-certificates")), incoming=incoming)
    assert told.finished


def test_one_ceremony_is_closed_before_the_next_begins(tmp_path: Path) -> None:
    with pytest.raises(Paused):
        hold(tmp_path, "root", ROOT, override=[("type yes", "pause")])
    with pytest.raises(Rejected) as caught:
        left_by(past(tmp_path))
    assert caught.value.code == "ceremony-unfinished"


def test_a_crl_number_grows_even_if_the_clock_went_back(made: Path) -> None:
    from datetime import UTC, datetime

    from tests.unit.ceremony_fixtures import SteppingClock

    before = past(made)[-1].told.state.kept.authorities["root"]
    early = SteppingClock(datetime(2026, 1, 1, tzinfo=UTC))
    told, _ = hold(made, "crl-3", CRL, clock=early)
    after = told.state.kept.authorities["root"]
    assert after.crl_number == before.crl_number + 1
    assert after.this_update == before.this_update


def test_a_disk_that_is_full_stops_before_anything_is_done(tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes writing fail as a full disk does.
    child = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from pki.ceremony import seal\n"
        "from tests.unit.ceremony_fixtures import hold, on_files, shipped\n"
        "from infra.errors import Failure\n"
        "seal._MEMORY, seal._PASSES = 64, 1\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))\n"
        "try:\n"
        "    hold(Path(sys.argv[1]), 'root', on_files(shipped('root-creation')))\n"
        "except Failure as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() in (b"storage-full", b"state-unusable"), done.stderr[-800:]
    told, _ = hold(tmp_path, "root", ROOT)
    assert told.finished and verify_transcript(transcript(tmp_path, "root").read_bytes()).good


def test_a_clock_that_was_set_back_since_the_last_list_is_shown(made: Path) -> None:
    _, kept = left_by(past(made))
    state = State(base="http://pki.example.org", kept=kept)

    def shown(time: str) -> str:
        intent = {"facts": [["time", f"{time} UTC"]]}
        return str(InspectAct().show(Inspect(), intent, state, "en"))

    assert "THE CLOCK WAS SET BACK" in shown("2020-01-01 00:00:00")
    assert "THE CLOCK WAS SET BACK" not in shown("2120-01-01 00:00:00")
