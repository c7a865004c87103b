"""Backups that are cut off, that find no room, that were altered: nothing of them, or all."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.backup.file import LEDGER, BackupReader, Manifest, Member
from cli.backup.restore import check, restore
from infra.errors import Rejected
from infra.state import owned
from infra.store.sqlite import SqliteStore
from tests.faults.store_fixtures import ROOT, THINGS
from tests.faults.test_bad_state import Mount, alter, fill
from tests.journeys.product import Product, require
from tests.unit.test_backup_file import backup_of

CITIZEN = "citizen-authentication"

KILLED_AT = """
import os, signal, sys
from cli.main import main
within, fatal, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
seen = 0
def watch(event, arguments):
    global seen
    if event.startswith(("open", "os.", "shutil.")) and any(
        isinstance(a, (str, bytes, os.PathLike)) and os.fsdecode(a).startswith(within)
        for a in arguments
    ):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
try:
    main()
finally:
    open(log, "w").write(str(seen))
"""
"""The command, killed when it is about to touch files below a folder for the so-and-so-manieth
time; how often it does is written to a file."""


class Killed:
    """Runs one command again and again, and kills it each time at a later moment."""

    def __init__(self, product: Product, within: Path, steps: int) -> None:
        self._product = product
        self._within = within
        self._log = within.parent / "count"
        self._steps = steps

    def rounds(self, *words: str | Path) -> Iterator[int]:
        """Yields after each death; how often the command touches files is found out first."""
        assert self.run(0, *words) == 0
        touched = int(self._log.read_text())
        yield 0
        # Most of it is the same again and again; the end, where names change, is looked at closely.
        evenly = {1 + step * touched // self._steps for step in range(self._steps)}
        for fatal in sorted(evenly | set(range(max(touched - 8, 1), touched + 1, 2))):
            if self.run(fatal, *words) != -9:
                assert fatal > touched - 5  # it may have less to do than the first time
            yield fatal

    def run(self, fatal: int, *words: str | Path) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLED_AT, self._within, str(fatal), self._log, *words],
            cwd=ROOT,
            env=self._product.environment,
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A state folder that is set up, with nothing running."""
    require("openssl", "curl")
    product = Product(tmp_path_factory.mktemp("made") / "home", keys="file")
    product.cli("init")
    product.issue("anna", "/C=AQ/CN=Anna", CITIZEN)
    return product


@pytest.fixture(scope="module")
def file(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("backup") / "backup.tar"
    product.cli("backup", "create", file)
    return file


def quiet(done: int, total: int) -> None:
    """Progress that nobody sees."""


def contents(file: Path) -> tuple[Manifest, dict[str, bytes]]:
    with file.open("rb") as stream:
        reader = BackupReader(stream)
        return reader.manifest, {m.name: b"".join(c) for m, c in reader.members()}


def written(file: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """A backup that agrees with itself, whatever is in it."""
    members = [Member(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()]
    file.write_bytes(backup_of(files, msgspec.structs.replace(manifest, members=members)))
    return file


@pytest.mark.parametrize("serving", [False, True], ids=["alone", "serving"])
def test_killed_while_it_is_made(product: Product, tmp_path: Path, serving: bool) -> None:
    out = tmp_path / "out" / "backup.tar"
    out.parent.mkdir()
    if serving:
        product.start()
    try:
        for within in (out.parent, product.home):
            killed = Killed(product, within, 3)
            for _ in killed.rounds("backup", "create", out):
                assert {path.name for path in out.parent.iterdir()} <= {out.name, "backup.tar.part"}
                if out.exists():
                    assert LEDGER in contents(out)[1]
                    out.unlink()
        product.cli("backup", "create", out)
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        left = {path.name for path in (product.home / "run").iterdir()}
        assert not left & {"backup", "ledger.copy", "ledger.copy.part"}
    finally:
        if serving:
            assert product.stop() == 0
    assert product.json("log", "verify")["ok"] is True


def test_what_a_killed_backup_left_is_swept_at_the_next_start(product: Product) -> None:
    left = product.home / "run" / "backup" / "ledger.sqlite"
    left.parent.mkdir(mode=0o700)
    left.write_bytes(bytes(1000))
    product.cli("ca", "list")
    assert not left.parent.exists()


def test_killed_while_it_is_restored(product: Product, file: Path, tmp_path: Path) -> None:
    home, (_, files) = tmp_path / "home", contents(file)
    words = ("--home", home, "backup", "restore", file)
    unfinished = 0
    for _ in Killed(product, home, 3).rounds(*words):
        if (home / ".restoring").exists():
            unfinished += 1
            with pytest.raises(Rejected, match="restore-unfinished"), owned(home):
                pass
        if (home / ".restoring").exists() or not (home / LEDGER).exists():
            asyncio.run(restore(file, home, flags={}, expected=None, progress=quiet))
        found = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        del found[home / "lock"]
        assert found == {home / name: content for name, content in files.items()}
        shutil.rmtree(home)
    assert unfinished > 3
    (home / ".restoring").mkdir(parents=True)
    product.refused("--home", home, "serve", code="restore-unfinished", says="run the same")
    product.cli(*words)
    assert len(product.json("--home", home, "ca", "list")["authorities"]) == 2


EACH_STEP = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
from cli.backup.restore import restore
file, home = map(Path, sys.argv[1:])
def run(fatal):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event.startswith(("open", "os.", "shutil.")) and any(
            isinstance(a, (str, bytes, os.PathLike)) and os.fsdecode(a).startswith(str(home))
            for a in arguments
        ):
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    try:
        asked = restore(file, home, flags={}, expected=None, progress=lambda *_: None)
        os._exit(10 if asyncio.run(asked).already else 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
def found():
    return {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and p.name != "lock"}
assert run(0) == 0
whole, fatal, ends, known = found(), 0, [], 0
while True:
    fatal += 1
    died = run(fatal) == -9
    ends.append(run(0))
    assert ends[-1] in (0, 10), (fatal, ends)
    assert found() == whole, fatal
    assert not (home / ".restoring").exists()
    shutil.rmtree(home)
    if not died:
        break
print(fatal, ends.count(10), ends[-1])
"""
"""A restore, killed at each step, and run again; how many steps it has, and after how many the
second run found it whole."""


@pytest.mark.timeout(900)  # it is a hundred restores and more
def test_a_second_run_completes_or_recognises_each_restore_that_was_killed(
    file: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_STEP, file, tmp_path / "home"],
        cwd=ROOT,
        capture_output=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    steps, recognised, last = map(int, done.stdout.split())
    assert steps > 50
    assert recognised >= 2  # before the empty folder is removed, and after all is done
    assert last == 10


def test_what_is_restored_is_not_restored_again(
    product: Product, file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    again = ("--home", home, "backup", "restore", file)
    assert product.json(*again)["already"] is False
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    del before[home / "lock"]
    second = product.json(*again)
    assert second["already"] is True
    assert second["to_do"] == []
    assert "Restored already" in product.cli(*again)
    assert before.items() <= {p: p.stat().st_mtime_ns for p in home.rglob("*")}.items()
    refused: dict[str, Any] = {"code": "home-not-empty", "says": "not this backup"}
    manifest, files = contents(file)
    first = next(iter(files))
    for others in (files | {"authorities/a": b""}, files | {first: files[first][::-1]}):
        other = written(tmp_path / "other.tar", manifest, others)
        product.refused("--home", home, "backup", "restore", other, **refused)
    # What else may have happened to it: one file more, or less, or of other octets; a link.
    secret = home / "secrets" / "ledger.key"
    kept = secret.read_bytes()
    for change in (
        lambda: (home / "new").write_bytes(b""),
        lambda: (home / "secrets" / "new").mkdir(),
        lambda: secret.chmod(0o644),
        secret.unlink,
        lambda: secret.write_bytes(kept[:-2] + b"x\n"),
        lambda: secret.unlink() or secret.symlink_to(product.home / "secrets" / "ledger.key"),
    ):
        change()
        product.refused(*again, **refused)
        for new in (home / "new", home / "secrets" / "new"):
            if new.exists():
                new.rmdir() if new.is_dir() else new.unlink()
        secret.unlink(missing_ok=True)
        secret.write_bytes(kept)
        secret.chmod(0o600)
    assert product.json(*again)["already"] is True
    altered = tmp_path / "altered.tar"
    octets = bytearray(file.read_bytes())
    octets[octets.index(b"SQLite format 3\0") + 5000] ^= 1
    altered.write_bytes(octets)
    product.refused(
        "--home", home, "backup", "restore", altered, code="backup-altered", says=LEDGER
    )
    product.json("--home", home, "ca", "list")
    product.refused(*again, **refused)


def test_a_ledger_that_was_moved_is_recognised(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file", store={"path": "data/live.sqlite"})
    product.cli("init")
    product.cli("backup", "create", tmp_path / "backup.tar")
    home = tmp_path / "restored"
    again = ("--home", home, "backup", "restore", tmp_path / "backup.tar")
    assert product.json(*again)["already"] is False
    assert (home / "data" / "live.sqlite").exists()
    assert product.json(*again)["already"] is True


def test_no_room_for_a_backup(product: Product, file: Path, tmp_path: Path) -> None:
    size = file.stat().st_size
    for limit in (10_000, size // 2, size - 100):
        out = tmp_path / "backup.tar"
        product.start()
        try:
            few = ("prlimit", f"--fsize={limit}")
            product.refused(
                "backup", "create", out, code="storage-full", says="make room", under=few, exit=4
            )
        finally:
            assert product.stop() == 0
        assert list(tmp_path.iterdir()) == []
    product.refused(
        "backup", "create", tmp_path / "none" / "backup.tar", code="cannot-write", says="folder"
    )
    with file.open("rb") as stream:
        product.refused("backup", "create", file, code="file-exists", says="name another file")
        assert BackupReader(stream).manifest.with_keys


def test_no_room_beside_the_ledger(tmp_path: Path) -> None:
    """The disk of a CA is not filled up for its backup: it goes on issuing."""
    mount = Mount(tmp_path / "home", "24m")
    full = mount.product
    try:
        full.cli("init")
        full.start()
        out = tmp_path / "backup.tar"
        ballast = fill(full.seen_at)
        with ballast.open("r+b") as stream:
            stream.truncate(ballast.stat().st_size - (1 << 20))
        full.refused("backup", "create", out, code="storage-full", says="make room", exit=4)
        request = tmp_path / "first.csr"
        shutil.copy(Product(tmp_path / "beside").request("first", "/C=AQ/CN=First"), request)
        issue = ("cert", "issue", "--profile", CITIZEN, "--csr", request)
        full.cli(*issue, "--out", tmp_path / "first.pem")
        ballast.unlink()
        full.cli("backup", "create", out)
        assert full.json("backup", "check", out)["ok"] is True
        assert full.stop() == 0
        other = mount.product.home / "restored"
        fill(full.seen_at)
        full.refused(
            "--home", other, "backup", "restore", out, code="storage-full", says="make room", exit=4
        )
        assert not (full.seen_at / "restored").exists()
    finally:
        if full.process is not None:
            full.stop()
        mount.close()


def test_no_room_for_what_is_restored(product: Product, file: Path, tmp_path: Path) -> None:
    few = ("prlimit", "--fsize=20000")
    for words in (("restore", file), ("check", file)):
        product.refused(
            "--home", tmp_path / "home", "backup", *words, code="storage-full", says="",
            under=few, exit=4,
        )  # fmt: skip
        assert list(tmp_path.iterdir()) == []


def test_only_into_an_empty_folder(product: Product, file: Path, tmp_path: Path) -> None:
    product.refused("backup", "restore", file, code="home-not-empty", says="new or empty folder")
    product.start()
    try:
        product.refused("backup", "restore", file, code="state-locked", says="in use", exit=4)
    finally:
        assert product.stop() == 0
    (tmp_path / "home" / "lost+found").mkdir(parents=True)  # of a disk that was just made
    other = Product(tmp_path / "home")
    other.refused("backup", "restore", file, code="home-not-empty", says="digitalid.toml")
    assert len(list(other.home.iterdir())) == 3  # lock, lost+found and the settings
    (other.home / "digitalid.toml").unlink()
    other.home.chmod(0o755)
    other.cli("backup", "restore", file)
    assert stat.S_IMODE(other.home.stat().st_mode) == 0o700


def test_a_folder_of_another_user_stays_theirs(
    product: Product, file: Path, tmp_path: Path
) -> None:
    owner = 65534 if os.geteuid() == 0 else os.getuid()  # only root restores for others
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, owner, owner if os.geteuid() == 0 else -1)
    product.cli("--home", home, "backup", "restore", file)
    assert {path.stat().st_uid for path in home.rglob("*")} == {owner}


def test_one_backup_at_a_time(product: Product, tmp_path: Path) -> None:
    run = os.open(product.home / "run", os.O_RDONLY)
    try:
        fcntl.flock(run, fcntl.LOCK_EX)
        out = tmp_path / "backup.tar"
        product.refused("backup", "create", out, code="backup-busy", says="wait", exit=4)
    finally:
        os.close(run)
    product.cli("backup", "create", out)


def no_backup(file: Path, home: Path, code: str, says: str, expected: str | None = None) -> None:
    """Neither checked nor restored, and nothing is left."""
    more: dict[str, Any] = {"expected": expected, "progress": quiet}
    for refusing in (check(file, **more), restore(file, home, flags={}, **more)):
        with pytest.raises(Rejected, match=says) as refusal:
            asyncio.run(refusing)
        assert refusal.value.code == code
        assert not home.exists()


def test_altered_and_cut_off(product: Product, file: Path, tmp_path: Path) -> None:
    home, whole = tmp_path / "home", file.read_bytes()
    ledger = whole.index(b"SQLite format 3\0")
    bad = tmp_path / "bad.tar"
    altered = bytearray(whole)
    altered[ledger + 5000] ^= 1
    for content, code, says in (
        (bytes(altered), "backup-altered", LEDGER),
        (whole[: ledger + 5000], "backup-truncated", f"within {LEDGER}"),
        (whole[:-1], "backup-truncated", "within the end"),
        (whole + whole, "backup-altered", "the end"),
        (b"\x1f\x8b" + whole, "backup-foreign", "no backup"),
    ):
        bad.write_bytes(content)
        no_backup(bad, home, code, says)
    no_backup(file, home, "backup-altered", "whole file", "00" * 32)
    there = ("--home", home, "backup")
    for words in (("check", bad), ("restore", bad)):
        product.refused(*there, *words, code="backup-foreign", says="no backup")
    product.cli(*there, "check", file, "--sha256", "00", code=2)
    for words in (("check", file), ("restore", file)):
        product.refused(
            *there, *words, "--sha256", "00" * 32, code="backup-altered", says="whole file"
        )
    assert not home.exists()


def test_a_log_that_was_altered_in_the_backup(tmp_path: Path) -> None:
    """Everything in it agrees with its manifest, and the ledger was changed before."""
    source = Product(tmp_path / "source", keys="file")
    source.cli("init")
    source.cli("backup", "create", tmp_path / "good.tar")
    manifest, files = contents(tmp_path / "good.tar")
    work = Product(tmp_path / "work")
    (work.home / LEDGER).write_bytes(files[LEDGER])
    alter(work, 2, b'"who":"', b'"who":"not ')
    bad = written(tmp_path / "bad.tar", manifest, files | {LEDGER: changed(work.home)})
    source.refused("backup", "check", bad, code="backup-altered", says="leaf-altered: leaf 2")
    last = manifest.log.size - 1
    with sqlite3.connect(work.home / LEDGER) as database:
        database.execute("DELETE FROM c_log_leaves WHERE id = ?", (f"{last:012d}",))
    database.close()
    bad = written(tmp_path / "bad.tar", manifest, files | {LEDGER: changed(work.home)})
    home = tmp_path / "home"
    no_backup(bad, home, "backup-altered", LEDGER)
    for ledger in (b"", bytes(8192), files[LEDGER][:20_000], b"SQLite format 3\0" + bytes(5000)):
        bad = written(tmp_path / "bad.tar", manifest, files | {LEDGER: ledger})
        no_backup(bad, home, "backup-altered", LEDGER)


def changed(home: Path) -> bytes:
    with sqlite3.connect(home / LEDGER) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    return (home / LEDGER).read_bytes()


async def test_a_copy_that_is_given_up_ends_soon_and_leaves_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", (THINGS,))
    for batch in range(20):
        await asyncio.gather(
            *(store.insert(THINGS, f"{batch}-{n}", {"p": bytes(4000)}) for n in range(100))
        )
    target = tmp_path / "copies" / "copy.db"
    copying = asyncio.create_task(store.backup(target))
    while not target.with_name("copy.db.part").exists() and not copying.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    copying.cancel()
    with suppress(asyncio.CancelledError):
        await copying
    assert [path.name for path in target.parent.iterdir()] in ([], ["copy.db"])
    await store.close()
