"""Whatever comes in as a backup is read, or refused with a code that says what it is; nothing is
ever written outside of the folder that it is restored into."""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.backup.file import LEDGER, MANIFEST, BackupReader, header, padding, seconds
from cli.backup.restore import check, restore
from infra.errors import Rejected
from tests.journeys.product import Product
from tests.unit.test_backup_file import FILES, WHOLE, backup_of, manifest_of

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
EXAMPLES = 1_500
RESTORED = 60

LEDGERS = 40

CODES = {
    "storage-too-new",
    "backup-foreign",
    "backup-too-new",
    "backup-truncated",
    "backup-altered",
}


@contextmanager
def refused_as_such() -> Iterator[None]:
    try:
        yield
    except Rejected as refusal:
        if refusal.code not in CODES:
            raise


def after_manifest(octets: bytes) -> bytes:
    length = int(octets[124:135], 8)
    return octets[512 + length + padding(length) :]


def take(octets: bytes) -> None:
    """What is taken is what its manifest says, to the last octet."""
    found: dict[str, bytes] = {}
    with refused_as_such():
        reader = BackupReader(io.BytesIO(octets))
        for member, content in reader.members():
            found[member.name] = b"".join(content)
        # The manifest's JSON may be written in more than one way, and nothing else.
        length = int(octets[124:135], 8)
        after = 512 + length + padding(length)
        assert octets[after:] == after_manifest(backup_of(found, reader.manifest))


def mutated(octets: bytes, source: random.Random) -> bytes:
    """Cut, doubled, moved and altered here and there, mostly where headers are."""
    out = bytearray(octets)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(out)) if out else 0
        if source.random() < 0.5:
            at -= at % 512
        match source.randrange(6):
            case 0 if out:
                out[min(at + source.randrange(160), len(out) - 1)] = source.randrange(256)
            case 1:
                del out[at : at + 512 * source.randint(1, 4)]
            case 2:
                out[at:at] = out[at : at + 512 * source.randint(1, 3)]
            case 3:
                out[at:at] = bytes(source.randrange(256) for _ in range(source.randint(1, 64)))
            case 4:
                del out[at:]
            case _:
                info = tarfile.TarInfo(source.choice(["../x", "/x", "keys/a", "secrets/empty"]))
                info.type = source.choice([b"0", b"1", b"2", b"3", b"5", b"x", b"g", b"L", b"S"])
                info.linkname, info.size = "/etc", source.choice([0, 1, 8**11 - 1])
                out[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    return bytes(out)


def test_a_mutated_backup_is_read_or_refused() -> None:
    source, until, count = random.Random(23), monotonic() + SECONDS, 0
    while count < EXAMPLES or monotonic() < until:
        take(mutated(WHOLE, source))
        count += 1


@given(st.binary(max_size=2048))
@settings(max_examples=EXAMPLES // 5, deadline=None)
def test_any_octets_are_refused(octets: bytes) -> None:
    take(octets)
    take(header(MANIFEST, len(octets), 0) + octets + bytes(padding(len(octets))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=12,
)


@given(st.sampled_from(["created_at", "members", "log", "format", "with_keys", "more"]), JSON)
@settings(max_examples=EXAMPLES // 5, deadline=None)
def test_any_json_in_the_manifest_is_read_or_refused(key: str, value: object) -> None:
    try:
        octets = msgspec.json.encode(msgspec.to_builtins(manifest_of(FILES)) | {key: value})
    except (UnicodeEncodeError, msgspec.MsgspecError, ValueError):
        return
    first = header(MANIFEST, len(octets), seconds(manifest_of(FILES)))
    take(first + octets + bytes(padding(len(octets))) + after_manifest(WHOLE))


def test_nothing_is_written_beside_the_home_folder() -> None:
    """Its ledger is no database, so that no backup here is ever restored."""
    source, until, count = random.Random(29), monotonic() + SECONDS, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, home = folder / "backup.tar", folder / "in" / "home"
        home.parent.mkdir()
        while count < RESTORED or monotonic() < until:
            file.write_bytes(mutated(WHOLE, source) if count else WHOLE)
            with refused_as_such():
                asyncio.run(
                    restore(file, home, flags={}, expected=None, progress=lambda done, total: None)
                )
            assert [path.name for path in folder.rglob("*")] in (
                ["backup.tar", "in"], ["in", "backup.tar"],
            )  # fmt: skip
            count += 1


def test_any_octets_in_the_ledger_are_read_or_refused(tmp_path: Path) -> None:
    """The manifest agrees with them; what is wrong is found when the ledger is opened."""
    product = Product(tmp_path / "home", keys="file")
    product.cli("init")
    product.cli("backup", "create", tmp_path / "good.tar", "--without-keys")
    with (tmp_path / "good.tar").open("rb") as stream:
        reader = BackupReader(stream)
        files = {member.name: b"".join(content) for member, content in reader.members()}
    bad, source = tmp_path / "bad.tar", random.Random(31)
    until, count = monotonic() + SECONDS, 0
    while count < LEDGERS or monotonic() < until:
        ledger = bytearray(files[LEDGER])
        for _ in range(source.randint(1, 40)):
            at = source.randrange(len(ledger))
            ledger[at] = source.choice([0, 1, 0x7F, 0x80, 0xC1, 0xFF, source.randrange(256)])
        changed = files | {LEDGER: bytes(ledger)}
        members = manifest_of(changed).members
        manifest = msgspec.structs.replace(reader.manifest, members=members)
        bad.write_bytes(backup_of(changed, manifest))
        for home in (None, tmp_path / "restored"):
            more: dict[str, Any] = {"expected": None, "progress": lambda done, total: None}
            with refused_as_such():
                if home is None:
                    asyncio.run(check(bad, **more))
                else:
                    asyncio.run(restore(bad, home, flags={}, **more))
        shutil.rmtree(tmp_path / "restored", ignore_errors=True)
        count += 1
