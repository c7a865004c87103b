"""Secrets by reference: where they come from, and that they stay out of sight."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from infra.errors import Rejected
from infra.secrets import MAX_SECRET, Secret, resolve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"hush hush\n")
    path.chmod(0o600)
    return path


def test_from_a_file_without_its_line_end(file: Path) -> None:
    assert resolve(f"file:{file}") == b"hush hush"
    file.write_bytes(b" a \n\r\n")
    assert resolve(f"file:{file}") == b" a \n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_file_that_others_reach(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(Rejected, match="secret-file-permissions") as caught:
        resolve(f"file:{file}")
    assert f"chmod 600 {file}" in caught.value.detail


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALID_TEST_PIN", "1234")
    assert resolve("env:DIGITALID_TEST_PIN") == b"1234"
    monkeypatch.delenv("DIGITALID_TEST_PIN")
    with pytest.raises(Rejected, match="no-such-secret"):
        resolve("env:DIGITALID_TEST_PIN")


def test_from_the_terminal() -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "typed"

    assert resolve("prompt:", what="PIN", ask=ask) == b"typed"
    assert resolve("prompt:Passphrase of the root", ask=ask) == b"typed"
    assert asked == ["PIN: ", "Passphrase of the root: "]


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("", "bad-secret-reference"),
        ("my-password", "bad-secret-reference"),
        ("my:password", "bad-secret-reference"),
        ("env:", "bad-secret-reference"),
        ("env:A=B", "bad-secret-reference"),
        ("file:", "bad-secret-reference"),
        ("file:relative", "bad-secret-reference"),
        ("file:/nowhere/secret", "no-such-secret"),
        ("file:/", "no-such-secret"),
        ("file:/a\0b", "no-such-secret"),
    ],
)
def test_refused_without_being_repeated(reference: str, code: str) -> None:
    with pytest.raises(Rejected, match=code) as caught:
        resolve(reference)
    assert "password" not in str(caught.value)


def test_empty_and_oversized(file: Path) -> None:
    file.write_bytes(b"\n")
    with pytest.raises(Rejected, match="secret-empty"):
        resolve(f"file:{file}")
    file.write_bytes(bytes(MAX_SECRET + 1))
    with pytest.raises(Rejected, match="secret-too-long"):
        resolve(f"file:{file}")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Rejected, match="no-such-secret"):
        resolve(f"file:{tmp_path / 'pipe'}")


def test_a_secret_is_fetched_once_and_never_shown(file: Path) -> None:
    secret = Secret(f"file:{file}")
    assert secret() == b"hush hush"
    file.unlink()
    assert secret() == b"hush hush"
    for text in (repr(secret), str(secret), f"{secret}"):
        assert "hush" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
