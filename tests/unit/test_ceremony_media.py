"""Media carry what is expected and nothing else; scripts say what they must."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import Rejected
from pki.ceremony.media import MAXIMUM_SIZE, read_medium, write_medium
from pki.ceremony.script import parse_script
from tests.unit.ceremony_fixtures import shipped


def code_of(act: object, *arguments: object) -> str:
    assert callable(act)
    with pytest.raises(Rejected) as caught:
        act(*arguments)
    return caught.value.code


def test_the_one_file_comes_in(tmp_path: Path) -> None:
    (tmp_path / "request.pem").write_bytes(b"content")
    (tmp_path / "lost+found").mkdir()
    assert read_medium(tmp_path) == b"content"


def test_a_second_file_is_refused_even_if_hidden(tmp_path: Path) -> None:
    (tmp_path / "request.pem").write_bytes(b"content")
    (tmp_path / ".autorun").write_bytes(b"x")
    assert code_of(read_medium, tmp_path) == "bad-medium"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "empty", "large", "none", "relative"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "medium" / "file"
    path.parent.mkdir()
    match kind:
        case "link":
            path.symlink_to("/etc/hostname")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case "large":
            path.write_bytes(bytes(MAXIMUM_SIZE + 1))
    folder = Path("medium") if kind == "relative" else path.parent
    assert code_of(read_medium, folder) == "bad-medium"


def test_files_go_out_to_an_empty_medium_only_and_twice_if_need_be(tmp_path: Path) -> None:
    files = {"root.cer": b"1", "root.crl": b"2"}
    write_medium(tmp_path, files)
    write_medium(tmp_path, files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    (tmp_path / "other").touch()
    assert code_of(write_medium, tmp_path, files) == "bad-medium"
    assert code_of(write_medium, tmp_path / "nowhere", files) == "bad-medium"


def test_what_goes_out_does_not_follow_a_link(tmp_path: Path) -> None:
    victim, medium = tmp_path / "victim", tmp_path / "medium"
    victim.write_text("precious")
    medium.mkdir()
    (medium / "root.cer").symlink_to(victim)
    assert code_of(write_medium, medium, {"root.cer": b"1"}) == "bad-medium"
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "old, new",
    [
        ('act = "attend"', 'act = "party"'),
        ('act = "attend"', 'act = "check"'),
        ('act = "close"', 'act = "inspect"'),
        ("threshold = 3", "threshold = 6"),
        ("threshold = 3", "threshold = 1"),
        ("threshold = 3", 'threshold = "3"'),
        ('store = "softhsm"', 'store = "cloud"'),
        ('store = "softhsm"', 'store = "pkcs11"'),
        ('label = "root"', 'label = "../root"'),
        ('key_type = "p-384"', 'key_type = "p-192"'),
        ('lifetime = "1y"', 'lifetime = "1"'),
        ("administrator = 1", "administrator = 0"),
        ("administrator = 1", "administrator = 1\nguest = 1"),
        ('public_url = "http://pki.example.org"', 'public_url = "file:///etc"'),
        ('files = ["root.cer", "root.crl"]', 'files = ["../../etc/passwd"]'),
        ('issuer = "self"\nkey = "root"', 'issuer = "self"'),
        ('issuer = "self"\nkey = "root"', 'issuer = "self"\nkey = "root"\ninput = "x"'),
        ('issuer = "self"\nkey = "root"', 'issuer = "self"\ninput = "x"'),
        ('confirm = ["witness", "auditor"]\nsay', 'confirm = []\nsay'),
        ('confirm = ["witness", "auditor"]\nsay', 'confirm = ["pope"]\nsay'),
        ("kind = ", "kin = "),
        ("[people]", "[people"),
    ],
)  # fmt: skip
def test_a_script_that_makes_no_sense_is_refused(old: str, new: str) -> None:
    text = shipped("root-creation")
    assert old in text
    assert code_of(parse_script, text.replace(old, new, 1)) in ("bad-script", "bad-quorum")
