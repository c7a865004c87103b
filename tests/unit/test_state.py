"""The state folder is its user's alone, and so are the secrets that are kept in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import Rejected
from infra.secrets import resolve
from infra.state import kept_secret, make_secret, node_name, owned

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away: run as root")


def refused(code: str, act: Callable[[], object]) -> str:
    with pytest.raises(Rejected) as caught:
        act()
    assert caught.value.code == code
    return caught.value.detail


def take(home: Path, *, restoring: bool = False, theirs: bool = False) -> None:
    with owned(home, restoring=restoring, theirs=theirs):
        pass


# Secrets


def test_a_secret_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "operator.token"
    secret = kept_secret(path)
    assert len(secret) >= 43 and kept_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_secret_that_was_used_before_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "directory.key"
    said = refused("no-such-secret", lambda: kept_secret(path, new=False))
    assert "put it back" in said
    assert not path.exists()
    secret = kept_secret(path)
    assert kept_secret(path, new=False) == secret


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"  \n", b"x" * 31, b"x" * 40 + b" " + b"y" * 40, b"\xff" * 43,
                b"x" * 43 + b"\n" + b"y" * 43, bytes(43), b"x" * 1025, b"x" * 100_000, b"=" * 43],
)  # fmt: skip
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "operator.token"
    path.touch(mode=0o600)
    path.write_bytes(content)
    said = refused("secret-malformed", lambda: kept_secret(path))
    assert str(path) in said and "remove" in said and "xxx" not in said
    assert path.read_bytes() == content
    path.unlink()
    assert len(kept_secret(path)) >= 43


@pytest.mark.parametrize(
    "content", ["x" * 32, "0123456789abcdef" * 4, "A" * 43 + "=", "a-._~+/" * 6]
)
def test_a_secret_of_somebody_s_own_making(tmp_path: Path, content: str) -> None:
    path = tmp_path / "operator.token"
    path.touch(mode=0o600)
    path.write_text(f"{content}\r\n")
    assert kept_secret(path) == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_secret_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "operator.token"
    kept_secret(path)
    path.chmod(mode)
    assert "chmod 600" in refused("secret-file-permissions", lambda: kept_secret(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("folder", "pipe"):
        refused("no-such-secret", lambda name=name: kept_secret(tmp_path / name))  # type: ignore[misc]


@as_root
def test_a_secret_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    kept_secret(path)
    os.chown(path, NOBODY, NOBODY)
    for act in (lambda: kept_secret(path), lambda: resolve(f"file:{path}")):
        assert "chown" in refused("secret-file-permissions", act)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_no_secret_is_kept_where_others_can_put_one(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "secrets"
    kept_secret(folder / "operator.token")
    folder.chmod(mode)
    said = refused("state-exposed", lambda: kept_secret(folder / "operator.token"))
    assert f"chmod go-w {folder}" in said
    refused("state-exposed", lambda: make_secret(folder / "other"))
    assert not (folder / "other").exists()


def test_a_pin_may_be_shorter_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "token.pin"
    path.touch(mode=0o600)
    path.write_text("1234 5678\n")
    make_secret(path)
    assert resolve(f"file:{path}") == b"1234 5678"


# The folder


@pytest.mark.parametrize("mode", [0o770, 0o722, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    assert f"chmod go-w {home}" in refused("state-exposed", lambda: take(home))
    assert list(home.iterdir()) == []  # not even the lock
    home.chmod(0o755)
    take(home)


def test_a_folder_in_one_that_others_can_write_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(Rejected, match="state-exposed"), owned(home / "part", within=home):
        pass
    home.chmod(0o755)
    with owned(home / "part", within=home):
        assert (home / "part" / "lock").exists()


@as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    assert "another user" in refused("state-exposed", lambda: take(home))
    assert list(home.iterdir()) == []
    take(home, theirs=True)
    take(home, restoring=True)


@as_root
@pytest.mark.parametrize("name", ["secrets", "run", "ledger.sqlite", "link"])
def test_what_another_user_has_left_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = home / name
    if name == "link":
        path.symlink_to("/etc/passwd")
    elif name == "ledger.sqlite":
        path.touch()
    else:
        path.mkdir()
    take(home)
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    assert str(path) in refused("state-exposed", lambda: take(home))


@pytest.mark.parametrize("theirs", [False, True])
def test_the_lock_is_not_written_through_a_link(tmp_path: Path, theirs: bool) -> None:
    home, precious = tmp_path / "home", tmp_path / "precious"
    home.mkdir()
    precious.write_text("precious")
    (home / "lock").symlink_to(precious)
    refused("state-unusable", lambda: take(home, theirs=theirs))
    assert precious.read_text() == "precious"


def test_the_name_of_a_node_is_not_empty(tmp_path: Path) -> None:
    name = node_name(tmp_path)
    assert node_name(tmp_path) == name
    (tmp_path / "node").write_text("")
    refused("secret-malformed", lambda: node_name(tmp_path))
