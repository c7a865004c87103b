"""No process that holds a key, a PIN or a passphrase leaves a core file, or lets others look in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import Product, require

PR_GET_DUMPABLE = 3  # linux/prctl.h


def core_limit(pid: int) -> list[str]:
    """The soft and the hard limit of its core files."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Max core file size")]
    return line.split()[4:6]


def processes(pid: int) -> Iterator[int]:
    """This one, and those that it and its children have started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


@pytest.mark.parametrize("keys", ["file", "pkcs11"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_service_and_its_processes_write_no_core_file(
    tmp_path: Path, keys: str, workers: str
) -> None:
    product = Product(tmp_path / "home", keys=keys, ocsp={"workers": int(workers)})
    product.under = ("prlimit", "--core=unlimited")
    product.start()
    try:
        assert product.process is not None
        found = list(processes(product.process.pid))
        assert len(found) > 1
        assert {tuple(core_limit(pid)) for pid in found} == {("0", "0")}
    finally:
        product.stop()


def test_another_process_of_the_user_may_not_look_in_and_its_own_descriptors_still_serve() -> None:
    """proc(5): what is not dumpable belongs to root there. Run as another user, this shows."""
    require("setpriv")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    program = (
        "import os, socket, tempfile\n"
        "from pathlib import Path\n"
        "from infra.memory import keep_to_ourselves\n"
        "from infra.unix_socket import reachable\n"
        "keep_to_ourselves()\n"
        "print(os.stat('/proc/self/mem').st_uid)\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    path = Path(folder) / ('a' * 100) / 'socket'\n"
        "    path.parent.mkdir()\n"
        "    with reachable(path) as short, socket.socket(socket.AF_UNIX) as listening:\n"
        "        assert short.startswith('/proc/self/fd/')\n"
        "        listening.bind(short)\n"
        "        listening.listen()\n"
        "        with socket.socket(socket.AF_UNIX) as caller:\n"
        "            caller.connect(short)\n"
    )
    done = subprocess.run(
        [*(nobody if os.geteuid() == 0 else []), sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_entry_point_and_those_of_the_token_keep_their_memory() -> None:
    """In processes of their own: there is no way back."""
    for main in ("cli.main", "ocsp.worker", "pki.signer.token_process", "pki.ceremony.token_work"):
        program = (
            "import ctypes, importlib, resource, sys\n"
            f"module = importlib.import_module({main!r})\n"
            "sys.argv[1:] = ['--no-such-option']\n"
            "try: module.main()\n"
            "except BaseException: pass\n"
            f"dumpable = ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0)\n"
            "sys.stdout.flush()\n"
            "print('|', dumpable, *resource.getrlimit(resource.RLIMIT_CORE))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout.rpartition("|")[2].split() == ["0", "0", "0"], (main, done)
