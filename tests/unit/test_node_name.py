"""The name under which a node takes its turn with the CRLs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.errors import Failure
from infra.state import node_name


def test_a_node_keeps_its_name_and_a_copy_of_it_has_another(tmp_path: Path) -> None:
    one, copy = tmp_path / "one", tmp_path / "copy"
    name = node_name(one)
    assert node_name(one) == name
    shutil.copytree(one, copy)
    assert node_name(copy) != name
    assert node_name(tmp_path / "other") not in (name, node_name(copy))
    one.rename(tmp_path / "moved")
    assert node_name(tmp_path / "moved") == name


def test_two_hosts_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = node_name(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert node_name(tmp_path) != name


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure):
        node_name(tmp_path / "file")
