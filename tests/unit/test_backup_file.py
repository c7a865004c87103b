"""The file of a backup: what tar makes of it, and what is refused before anything is unpacked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from cli.backup.file import (
    END,
    FORMAT,
    LEDGER,
    MANIFEST,
    BackupReader,
    LogHead,
    Manifest,
    Member,
    encode_manifest,
    file_size,
    header,
    padding,
    seconds,
)
from infra.errors import Rejected

FILES = {
    "digitalid.toml": b"[log]\n",
    LEDGER: bytes(range(256)) * 40,
    "crl/issuing/1.crl": b"0\x82 a list",
    "secrets/empty": b"",
    f"softhsm/tokens/{'a' * 60}/{'b' * 60}.object": b"key" * 171,
}


def manifest_of(files: Mapping[str, bytes], **more: Any) -> Manifest:
    members = [Member(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()]
    head = LogHead("example.org/log", 7, "00" * 32, None)
    whole = Manifest(FORMAT, "1.0", "2026-11-23T00:00:00Z", True, head, members)
    return msgspec.structs.replace(whole, **more)


def backup_of(files: Mapping[str, bytes], manifest: Manifest | None = None) -> bytes:
    manifest = manifest or manifest_of(files)
    try:
        at = seconds(manifest)
    except ValueError:
        at = 0
    whole = b""
    for name, content in {MANIFEST: encode_manifest(manifest), **files}.items():
        whole += header(name, len(content), at) + content + bytes(padding(len(content)))
    return whole + END


def read(octets: bytes) -> dict[str, bytes]:
    return {m.name: b"".join(c) for m, c in BackupReader(io.BytesIO(octets)).members()}


def refused(octets: bytes) -> Rejected:
    with pytest.raises(Rejected) as refusal:
        read(octets)
    return refusal.value


WHOLE = backup_of(FILES)


def test_what_was_written_is_read() -> None:
    assert read(WHOLE) == FILES
    assert len(WHOLE) == file_size(manifest_of(FILES))
    reader = BackupReader(io.BytesIO(WHOLE))
    for _ in reader.members():
        pass  # what the caller leaves is checked all the same
    assert reader.sha256 == hashlib.sha256(WHOLE).hexdigest()


def test_tar_reads_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        found = {member.name: member for member in tar}
        assert list(found) == [MANIFEST, *FILES]
        for name, content in FILES.items():
            file = tar.extractfile(name)
            assert file is not None and file.read() == content
        assert {(m.mode, m.type, m.uid) for m in found.values()} == {(0o600, tarfile.REGTYPE, 0)}


@pytest.mark.parametrize("size", [0, 8**11 - 1, 8**11, 1 << 44])
def test_a_ledger_beyond_8_gib_has_a_header(size: int) -> None:
    made = header(LEDGER, size, 1_800_000_000)
    found = tarfile.TarInfo.frombuf(made, "ascii", "strict")
    assert (found.name, found.size, found.mtime) == (LEDGER, size, 1_800_000_000)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_octet_is_found_and_its_file_named(name: str) -> None:
    content = FILES[name] or header(name, 0, seconds(manifest_of(FILES)))
    at = WHOLE.index(content)
    assert at > len(encode_manifest(manifest_of(FILES)))
    altered = bytearray(WHOLE)
    altered[at] ^= 1
    why = refused(bytes(altered))
    assert why.code == "backup-altered"
    assert why.detail.startswith(f"{name}:")


def test_a_cut_is_found_and_its_file_named() -> None:
    for length in range(0, len(WHOLE), 97):
        why = refused(WHOLE[:length])
        assert why.code == ("backup-foreign" if length < 135 else "backup-truncated"), length
    assert "within crl/issuing/1.crl" in refused(WHOLE[: WHOLE.index(b"0\x82 a list") + 1]).detail
    assert "within the end" in refused(WHOLE[:-1]).detail


def test_what_follows_is_refused() -> None:
    for more in (b"\0", bytes(512), b"x"):
        assert refused(WHOLE + more).code == "backup-altered"


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"S"])
def test_a_link_a_device_or_an_extension_is_refused(kind: bytes) -> None:
    """Every typeflag but that of a regular file, with a checksum that is right."""
    at = WHOLE.index(header("secrets/empty", 0, seconds(manifest_of(FILES))))
    info = tarfile.TarInfo("secrets/empty")
    info.type, info.linkname, info.mode = kind, "/etc/passwd", 0o600
    other = WHOLE[:at] + info.tobuf(tarfile.USTAR_FORMAT)[:512] + WHOLE[at + 512 :]
    assert refused(other).code == "backup-altered"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../out", "keys/../../out", "keys//a", "keys/.", ".restoring/a", ".ssh",
        "keys/", "", "a\\b/../c", "keys/a\nb", "keys/a\0b", "run/admin.sock", "lock", "node",
        "status/table", "directory/data", "log/incidents.log", "lost+found/a", MANIFEST,
        "ledger.sqlite-wal", "data/ledger.sqlite-journal", "ledger.sqlite-shm", "a/" * 8 + "b",
        f"keys/{'k' * 101}", "é", "keys/\ud800", LEDGER + "/a", "crl/issuing/1.crl/x",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    members = [*manifest_of(FILES).members, Member(name, 0, hashlib.sha256(b"").hexdigest())]
    try:
        encoded = encode_manifest(manifest_of(FILES, members=members))
    except UnicodeEncodeError:
        return
    whole = header(MANIFEST, len(encoded), seconds(manifest_of(FILES)))
    why = refused(whole + encoded + bytes(padding(len(encoded))) + WHOLE)
    assert why.code == "backup-foreign"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other/1"},
        {"created_at": "yesterday"},
        {"created_at": "0001-01-01T00:00:00Z"},
        {"created_at": "9999-12-31T23:59:59Z"},
        {"members": []},
        {"members": manifest_of(FILES).members * 2},
        {"members": [Member(LEDGER, -1, "00" * 32)]},
        {"members": [Member(LEDGER, 1 << 60, "00" * 32)]},
        {"members": [Member(LEDGER, 1, "00" * 31)]},
        {"log": LogHead("o", -1, "00" * 32, None)},
        {"log": LogHead("o", 1, "zz" * 32, None)},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    manifest = manifest_of(FILES, **change)
    octets = encode_manifest(manifest)
    whole = header(MANIFEST, len(octets), 0) + octets + bytes(padding(len(octets)))
    assert refused(whole).code == "backup-foreign"


def test_a_later_format_is_told_from_another_program() -> None:
    later = backup_of(FILES, manifest_of(FILES, format="digitalid-backup/2"))
    assert refused(later).code == "backup-too-new"
    for other in (b"", b"age-encryption.org/v1\n", bytes(4096), b"\x1f\x8b" + bytes(4096)):
        assert refused(other).code == "backup-foreign"


def test_a_manifest_is_not_read_beyond_its_limit() -> None:
    huge = header(MANIFEST, 8**11 - 1, 0)
    assert refused(huge).code == "backup-foreign"
