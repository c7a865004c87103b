"""Every alteration of a transcript is found, whether or not the hash chain is mended after it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Rejected
from pki.ceremony import seal as seals
from pki.ceremony.desk import Paused
from pki.ceremony.replay import Wrong
from pki.ceremony.transcript import NOTHING, parse_entry
from pki.ceremony.verify import Verdict, verify_transcript
from tests.unit.ceremony_fixtures import hold, on_files, shipped, transcript


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The transcript of a root's creation, with a comment, a pause and its resumption."""
    home = tmp_path_factory.mktemp("home")
    script = on_files(shipped("root-creation"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seals, "_MEMORY", 64)
        patch.setattr(seals, "_PASSES", 1)
        words = [("type yes", "deviation"), ("Your words", "The door stood open.")]
        with pytest.raises(Paused):
            hold(home, "root", script, override=[*words, ("Folder of the medium", "pause")])
        hold(home, "root", script)
    return transcript(home, "root").read_bytes()


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def written(entries: list[dict[str, Any]], *, mended: bool) -> bytes:
    """Lines again; ``mended``: with number and hash as if nothing had happened."""
    out: list[bytes] = []
    previous = NOTHING
    for number, entry in enumerate(entries):
        if mended:
            entry["n"], entry["prev"] = number, previous
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        out.append(line)
        if mended:
            previous = hashlib.sha256(line).hexdigest()
    return b"".join(line + b"\n" for line in out)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every text and number in an entry."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))
    else:
        yield path


def flip(entry: dict[str, Any], path: tuple[Any, ...]) -> None:
    """Change one text or number, and nothing else."""
    inside: Any = entry
    for key in path[:-1]:
        inside = inside[key]
    value = inside[path[-1]]
    if isinstance(value, int):
        inside[path[-1]] = value + 1
    elif value and value[0].isalnum() and value[0].isascii():
        following = chr(ord(value[0]) + 1) if value[0] not in "9Zz" else chr(ord(value[0]) - 1)
        inside[path[-1]] = following + value[1:]
    else:
        inside[path[-1]] = value + "x"


def test_the_whole_is_good(whole: bytes) -> None:
    verdict = verify_transcript(whole)
    assert verdict.good
    assert verdict.told.finished and len(verdict.told.state.people) == 8
    assert verdict.proven and verdict.rests
    kinds = {entry.kind.value for entry in verdict.entries}
    assert kinds == {
        "begin", "join", "intend", "confirm", "unlock", "done", "note", "pause", "resume"
    } - ({"unlock"} if "unlock" not in kinds else set())  # fmt: skip


def found_at(verdict: Verdict, most: int) -> list[Wrong]:
    return [found for found in verdict.wrong if found.entry <= most]


@pytest.mark.parametrize("mended", [False, True])
def test_each_field_flipped_is_found(whole: bytes, mended: bool) -> None:
    entries = lines(whole)
    for number, entry in enumerate(entries):
        fields = [path for path in places(entry) if not mended or path not in (("n",), ("prev",))]
        # Of what was shown line by line, and of the like, every fifth: they are all one field.
        for path in fields[:12] + fields[12::5]:
            altered = copy.deepcopy(entries[number])
            flip(altered, path)
            around = copy.deepcopy(entries[:number]), copy.deepcopy(entries[number + 1 :])
            verdict = verify_transcript(written([*around[0], altered, *around[1]], mended=mended))
            assert not verdict.good, f"entry {number}, {path} flipped unnoticed"
            if not mended:
                # Named where it is, or in the next entry, whose hash it breaks.
                assert found_at(verdict, number + 1), (number, path, verdict.wrong)


@pytest.mark.parametrize("mended", [False, True])
def test_each_entry_removed_is_found(whole: bytes, mended: bool) -> None:
    entries = lines(whole)
    for number in range(len(entries)):
        left = copy.deepcopy([*entries[:number], *entries[number + 1 :]])
        verdict = verify_transcript(written(left, mended=mended))
        assert not verdict.good, f"entry {number} removed unnoticed"


@pytest.mark.parametrize("mended", [False, True])
def test_each_pair_exchanged_is_found(whole: bytes, mended: bool) -> None:
    entries = lines(whole)
    for number in range(len(entries) - 1):
        order = copy.deepcopy(entries)
        order[number], order[number + 1] = order[number + 1], order[number]
        verdict = verify_transcript(written(order, mended=mended))
        assert not verdict.good, f"entries {number} and {number + 1} exchanged unnoticed"


def test_a_step_removed_as_a_whole_is_found(whole: bytes) -> None:
    entries = lines(whole)
    for step in range(1, 10):
        left = [
            entry
            for entry in entries
            if entry["kind"] not in ("intend", "confirm", "done") or entry["body"]["step"] != step
        ]
        codes = {found.code for found in verify_transcript(written(left, mended=True)).wrong}
        assert "step-out-of-order" in codes, step


def test_each_truncation_is_found(whole: bytes) -> None:
    every = whole.splitlines(keepends=True)
    for count in range(len(every)):
        codes = {found.code for found in verify_transcript(b"".join(every[:count])).wrong}
        assert "not-closed" in codes
    torn = verify_transcript(whole[:-1])
    assert {found.code for found in torn.wrong} >= {"torn-line", "not-closed"}


def test_an_entry_after_the_end_is_found(whole: bytes) -> None:
    entries = lines(whole)
    more = {**copy.deepcopy(entries[-1]), "kind": "pause", "body": {"why": "asked"}}
    more.pop("sig")
    verdict = verify_transcript(written([*entries, more], mended=True))
    assert [found.code for found in verdict.wrong] == ["after-the-end"]
    assert verdict.wrong[0].entry == len(entries)


def test_a_signature_by_somebody_else_is_named(whole: bytes) -> None:
    entries = lines(whole)
    confirms = [entry for entry in entries if entry["kind"] == "confirm"]
    confirms[0]["body"]["person"], person = "auditor-1", confirms[0]["body"]["person"]
    assert person != "auditor-1"
    codes = [found.code for found in verify_transcript(written(entries, mended=True)).wrong]
    assert "bad-signature" in codes


def test_a_certificate_from_elsewhere_is_named(whole: bytes) -> None:
    from pki.profile_check import _ca_certificate

    verdict = verify_transcript(whole, published=[_ca_certificate()])
    assert [found.code for found in verdict.wrong] == ["not-made-here"]
    made = list(verify_transcript(whole).told.state.kept.issued.values())
    assert verify_transcript(whole, published=made).good


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"at":"2026-01-01T00:00:00.000Z","body":{},"kind":"begin","n":0}',
        b'{"at":"2026-01-01T00:00:00Z","body":{},"kind":"begin","n":0,"prev":"%s"}' % (b"0" * 64),
        b'{ "at":"2026-01-01T00:00:00.000Z","body":{},"kind":"begin","n":0,"prev":"%s"}'
        % (b"0" * 64),
        b'{"at":"2026-01-01T00:00:00.000Z","body":{"a":1.5},"kind":"begin","n":0,"prev":"%s"}'
        % (b"0" * 64),
        b'{"at":"2026-01-01T00:00:00.000Z","body":{"a":true},"kind":"begin","n":0,"prev":"%s"}'
        % (b"0" * 64),
        b'{"at":"2026-01-01T00:00:00.000Z","body":%s,"kind":"begin","n":0,"prev":"%s"}'
        % (b'{"a":' * 50 + b"1" + b"}" * 50, b"0" * 64),
    ],
)
def test_a_line_that_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        parse_entry(line)
    assert caught.value.code == "bad-transcript"


def test_a_plain_entry_is_read(tmp_path: Path) -> None:
    line = b'{"at":"2026-01-01T00:00:00.000Z","body":{"a":1},"kind":"pause","n":0,"prev":"%s"}' % (
        b"0" * 64
    )
    assert parse_entry(line).line == line
