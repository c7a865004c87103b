"""The installer of the bundle looks at every file before it installs any."""

from __future__ import annotations

import hashlib
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

BUNDLE = Path(__file__).parents[2] / "deploy" / "bundle"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose Python is a program that only says that it was reached."""
    spec = spec_from_loader("bundle", SourceFileLoader("bundle", str(BUNDLE)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    installer = tmp_path / "install.sh"
    installer.write_text(module.INSTALLER.replace("PYTHON", "echo reached; exit 7;"))
    installer.chmod(0o755)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_text("a")
    (tmp_path / "requirements.txt").write_text("a==1\n")
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path)}\n"
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file()
    )
    (tmp_path / "SHA256SUMS").write_text(sums)
    return tmp_path


def install(folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([folder / "install.sh"], capture_output=True, check=False, timeout=30)


def test_a_whole_bundle_is_installed(folder: Path) -> None:
    done = install(folder)
    assert done.returncode == 7 and done.stdout == b"reached\n"


@pytest.mark.parametrize("change", ["altered", "missing", "added", "hidden", "unlisted"])
def test_anything_else_is_refused_before_python_is_reached(folder: Path, change: str) -> None:
    match change:
        case "altered":
            (folder / "wheels" / "a.whl").write_text("b")
        case "missing":
            (folder / "requirements.txt").unlink()
        case "added":
            (folder / "wheels" / "evil.whl").write_text("x")
        case "hidden":
            (folder / ".pth").write_text("x")
        case "unlisted":
            sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
            (folder / "SHA256SUMS").write_text("".join(sums[1:]))
    done = install(folder)
    assert done.returncode not in (0, 7) and b"reached" not in done.stdout
