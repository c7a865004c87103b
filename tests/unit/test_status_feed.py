"""Frames of the status feed: what a follower takes, and all that it refuses; named tokens."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.errors import Broken, Rejected
from infra.http.auth import RECHECK, TokenFolder
from ocsp.feed import (
    MAX_ENTRIES,
    MAX_FRAME,
    MAX_PROOF,
    WITHOUT_LOG,
    Authorities,
    Changes,
    Continuation,
    Entry,
    Frame,
    Heartbeat,
    Void,
    authorities_hash,
    basis_hash,
    encode,
    parse,
)
from ocsp.feed_progress import TOLERANCE, Progress
from ocsp.feed_wire import FeedKey, Frames, open_frame, seal
from ocsp.follower import Origin
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.algorithms import KeyType, public_key_info_of
from pki.certificate import parse_certificate
from pki.log.merkle import consistency_spans, leaf_hash, root_of
from pki.serial import LIMIT
from pki.status import Good, RevocationReason, Revoked
from tests.unit.certificate_fixtures import ISSUING

NAME = "status"
AT = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def key_info(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


FEED_KEY = FeedKey.of(key_info(KEY))
ISSUER = ISSUING
OTHER = replace(ISSUING, name="other", crl_url="http://crl.example/ü.crl")
ISSUERS = (ISSUER, OTHER)
LEAVES = [leaf_hash(b"%d" % number) for number in range(40)]


def log(size: int, leaves: Sequence[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, root_of(leaves[:size]))


def continuation(
    old: int, new: int, upto: int = 2, at: datetime = AT, leaves: Sequence[bytes] = LEAVES
) -> Continuation:
    """What a feed says whose log has these leaves."""
    spans = consistency_spans(old, new) if old else ()
    proof = tuple(root_of(leaves[span.start : span.end]) for span in spans)
    return Continuation(upto, at, old, log(new, leaves), proof)


BASIS = basis_hash(authorities_hash(ISSUERS), log(13))
LATER = basis_hash(authorities_hash(ISSUERS), log(21))


def revoked(sequence: int, suspect: datetime | None = None) -> Revoked:
    return Revoked(AT, RevocationReason.keyCompromise, suspect, sequence)


ENTRIES = (
    Entry(0, 1, 3, Good()),
    Entry(1, LIMIT - 1, 4, revoked(4)),
    Entry(0, 0x80 << 120, 7, revoked(7, AT - 9000 * SECOND)),
    Entry(1, 255, 9, Void()),
)
STREAM: tuple[Frame, ...] = (
    Authorities(2, AT, ISSUERS),
    continuation(7, 13),
    Changes(2, 9, AT, 12, BASIS, ENTRIES),
    continuation(13, 21, 9, AT + SECOND),
    Changes(9, 12, AT + SECOND, 12, LATER, (Entry(0, 1, 12, revoked(12)),)),
    Heartbeat(12, AT + SECOND, LATER),
    Heartbeat(12, AT + 2 * SECOND, LATER),
)
START = Progress(2, log(7))


def sealed(frame: Frame, key: Ed25519PrivateKey = KEY, name: str = NAME) -> bytes:
    message = encode(name, frame)
    return seal(message, key.sign(message))


def read(data: bytes, key: FeedKey = FEED_KEY, name: str = NAME) -> list[Frame]:
    return [open_frame(signed, key, name) for signed in Frames().feed(data)]


def follow(
    frames: Iterable[Frame], progress: Progress | None = None, now: datetime = AT + 2 * SECOND
) -> Progress:
    progress = progress or START
    for frame in frames:
        progress = progress.advance(frame, now)
    return progress


def refused(code: str, call: Callable[[], object]) -> Rejected:
    with pytest.raises(Rejected) as found:
        call()
    assert found.value.code == code
    return found.value


# Frames


@pytest.mark.parametrize("frame", STREAM)
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert read(sealed(frame)) == [frame]


def test_issuers_come_whole() -> None:
    [frame] = read(sealed(STREAM[0]))
    assert isinstance(frame, Authorities)
    assert frame.issuers[0].public_key_info == parse_certificate(ISSUER.certificate).public_key_info


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_frames_are_found_however_they_are_cut(size: int) -> None:
    data = b"".join(map(sealed, STREAM))
    frames = Frames()
    found = [
        open_frame(signed, FEED_KEY, NAME)
        for start in range(0, len(data), size)
        for signed in frames.feed(data[start : start + size])
    ]
    assert found == list(STREAM)


def test_a_p_256_key_signs_a_feed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    message = encode(NAME, STREAM[2])
    signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    assert read(seal(message, signature), FeedKey.of(key_info(key))) == [STREAM[2]]


@pytest.mark.parametrize(
    "info",
    [
        b"",
        b"no key",
        key_info(ec.generate_private_key(ec.SECP384R1())),
        public_key_info_of(KeyType.ML_DSA_44, bytes(1312)),
    ],
)
def test_other_keys_sign_no_feed(info: bytes) -> None:
    refused("feed-key", lambda: FeedKey.of(info))


def test_every_altered_octet_is_noticed() -> None:
    data = sealed(STREAM[2])
    believed: list[Frame] = []
    refusals: list[str] = []
    for place in range(len(data)):
        try:
            believed += read(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
        except Rejected as rejected:
            refusals.append(rejected.code)
    assert believed == []
    assert set(refusals) == {"bad-signature", "feed-too-large"}
    # Only one that says it is longer than it is has not been refused: it is waited for.
    assert len(data) - len(refusals) < 6


def test_a_frame_by_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.generate()
    refused("bad-signature", lambda: read(sealed(STREAM[2], other)))


def test_a_frame_of_another_feed_is_refused() -> None:
    refused("feed-name", lambda: read(sealed(STREAM[2], name="another")))


def test_what_the_key_signed_for_something_else_is_no_frame() -> None:
    message = b"\0\0\0\x10somethingsigned!"
    refused("feed-malformed", lambda: read(seal(message, KEY.sign(message))))


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_frame_that_is_too_long_is_refused_before_it_is_read(size: int) -> None:
    refused("feed-too-large", lambda: list(Frames().feed(size.to_bytes(4, "big"))))


def test_a_signature_that_is_too_long_is_refused_before_it_is_read() -> None:
    message = encode(NAME, STREAM[-1])
    refused("feed-too-large", lambda: list(Frames().feed(message + b"\xff\xff")))


def test_the_largest_frame_fits() -> None:
    suspect = revoked(1, AT).invalidity_date
    entries = tuple(
        Entry(0, LIMIT - 1 - place, place, revoked(place, suspect))
        for place in range(1, MAX_ENTRIES + 1)
    )
    frame = Changes(0, MAX_ENTRIES, AT, MAX_ENTRIES, BASIS, entries)
    assert parse(encode(NAME, frame), NAME) == frame


def test_what_does_not_fit_is_never_sent() -> None:
    long = replace(ISSUER, chain=(ISSUER.certificate,) * 255)
    with pytest.raises(Broken) as broken:
        encode(NAME, Authorities(0, AT, (long,) * 20))
    assert broken.value.code == "feed-frame"


@pytest.mark.parametrize(
    "frame",
    [
        Changes(2, 9, AT, 9, BASIS, ()),
        Changes(2, 9, AT, 8, BASIS, ENTRIES),
        Changes(2, 10, AT, 12, BASIS, ENTRIES),
        Changes(3, 9, AT, 12, BASIS, ENTRIES),
        Changes(2, 9, AT, 12, BASIS, (ENTRIES[1], ENTRIES[0], *ENTRIES[2:])),
        Changes(2, 9, AT, 12, BASIS, (Entry(0, 0, 9, Good()),)),
        Changes(2, 9, AT, 12, BASIS, (Entry(0, LIMIT, 9, Good()),)),
        Changes(2, 9, AT, 12, BASIS, (Entry(0, 1 << 160, 9, Good()),)),
        Changes(2, 9, AT, 12, BASIS, (Entry(0, 5, 9, Revoked(AT, RevocationReason(8), None, 9)),)),
        Authorities(0, AT, (ISSUER, ISSUER)),
        Authorities(0, AT, (replace(ISSUER, certificate=b"none"),)),
    ],
)
def test_what_no_feed_says_is_refused(frame: Frame) -> None:
    refused("feed-malformed", lambda: parse(encode(NAME, frame), NAME))


@pytest.mark.parametrize("frame", STREAM)
def test_a_message_cut_anywhere_is_refused(frame: Frame) -> None:
    message = encode(NAME, frame)
    for end in range(len(message)):
        cut = (max(0, end - 4)).to_bytes(4, "big") + message[4:end]
        refused("feed-malformed", lambda cut=cut: parse(cut, NAME))  # type: ignore[misc]
    longer = (len(message) - 3).to_bytes(4, "big") + message[4:] + b"\0"
    refused("feed-malformed", lambda: parse(longer, NAME))


# Progress


def test_a_stream_is_followed() -> None:
    progress = follow(STREAM[:3])
    assert (progress.upto, progress.newest, progress.at) == (9, 12, AT)
    progress = follow(STREAM[3:], progress)
    assert (progress.upto, progress.newest) == (12, 12)
    assert progress.at == AT + 2 * SECOND
    assert progress.issuers == ISSUERS


@pytest.mark.parametrize(
    "frames",
    [
        (*STREAM[:2], STREAM[4]),  # one is missing
        (*STREAM[:3], STREAM[2]),  # one twice
        (*STREAM[:2], STREAM[4], STREAM[2]),  # in another order
        (*STREAM[:2], STREAM[5]),  # a heartbeat from beyond
        (*STREAM[:5], STREAM[0]),  # authorities from before
        (*STREAM[:5], STREAM[1]),  # a continuation from before
        (Authorities(1, AT, ISSUERS),),
        (continuation(7, 13, 3),),
    ],
)
def test_ranges_have_to_join(frames: tuple[Frame, ...]) -> None:
    refused("feed-gap", lambda: follow(frames))


def test_a_heartbeat_from_before_is_refused() -> None:
    refused("feed-time-back", lambda: follow((*STREAM, STREAM[5])))


def test_frames_from_before_the_cut_are_refused_after_it() -> None:
    progress = follow(STREAM).reconnected()
    refused("feed-gap", lambda: follow(STREAM[:1], progress))
    refused("feed-time-back", lambda: follow([Authorities(12, AT, ISSUERS)], progress))
    refused("feed-authorities", lambda: follow(STREAM[6:], progress))


def test_the_future_is_refused() -> None:
    early = AT - TOLERANCE
    follow(STREAM[:3], now=early)
    refused("feed-from-future", lambda: follow(STREAM[:3], now=early - timedelta(microseconds=1)))


def test_entries_of_authorities_that_were_not_announced_are_refused() -> None:
    """Places in a list mean other CAs in another list: a mixture of streams must not pass."""
    swapped = Authorities(2, AT, ISSUERS[::-1])
    refused("feed-authorities", lambda: follow((swapped, *STREAM[1:3])))
    refused("feed-authorities", lambda: follow(STREAM[1:]))
    beyond = Changes(2, 3, AT, 3, BASIS, (Entry(2, 1, 3, Good()),))
    refused("feed-malformed", lambda: follow((*STREAM[:2], beyond)))


# The log


def test_a_log_is_known_from_its_first_leaf_on() -> None:
    for size in (0, 1, 2, 13):
        progress = follow((continuation(0, size),), Progress(2))
        assert (progress.head, progress.continued) == (log(size), True)
        again = progress.reconnected()
        assert (again.head, again.continued) == (log(size), False)


@pytest.mark.parametrize("old", range(1, 12))
@pytest.mark.parametrize("more", [0, 1, 2, 5, 20])
def test_another_history_is_a_fork(old: int, more: int) -> None:
    """Whichever of the leaves that are known is another one, also when there are as many."""
    known = Progress(2, log(old))
    assert follow((continuation(old, old + more),), known).head == log(old + more)
    for other in range(old):
        leaves = [*LEAVES[:other], leaf_hash(b"another"), *LEAVES[other + 1 :]]
        said = continuation(old, old + more, leaves=leaves)
        refused("feed-forked", lambda said=said: follow((said,), known))  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"proof": ()},
        {"proof": continuation(7, 12).proof},
        {"proof": continuation(7, 13).proof[::-1]},
        {"proof": (*continuation(7, 13).proof, bytes(32))},
        {"proof": tuple(bytes(32) for _ in continuation(7, 13).proof)},
        {"head": log(14)},
        {"head": TreeHead(13, bytes(32))},
        {"head": TreeHead(7, log(13).root), "proof": ()},
    ],
)
def test_what_proves_nothing_is_a_fork(change: dict[str, Any]) -> None:
    said = replace(continuation(7, 13), **change)
    assert parse(encode(NAME, said), NAME) == said
    refused("feed-forked", lambda: follow((said,)))


@pytest.mark.parametrize("old", [0, 6, 8])
def test_a_log_has_to_go_on_from_what_is_known(old: int) -> None:
    refused("feed-gap", lambda: follow((continuation(old, 13),)))


def test_nothing_counts_that_builds_on_a_log_that_was_not_shown() -> None:
    authorities, first, changes, later, *rest = STREAM
    refused("feed-authorities", lambda: follow((authorities, changes)))
    refused("feed-authorities", lambda: follow((first, changes)))
    refused("feed-authorities", lambda: follow((authorities, continuation(7, 14), changes)))
    refused("feed-authorities", lambda: follow((authorities, first, changes, *rest)))
    # What was shown on another connection does not count.
    half = follow((authorities, first)).reconnected()
    refused("feed-authorities", lambda: follow((authorities, changes), half))
    assert follow((first, authorities, changes, later, *rest)).upto == 12


@pytest.mark.parametrize(
    "said",
    [
        Continuation(2, AT, 8, log(7), ()),
        Continuation(2, AT, 0, log(7), (bytes(32),)),
        Continuation(2, AT, 7, log(13), (bytes(32),) * (MAX_PROOF + 1)),
        Continuation(2, AT, 7, log(13), (b"short",)),
    ],
)
def test_what_no_log_can_say_is_refused(said: Continuation) -> None:
    refused("feed-malformed", lambda: parse(encode(NAME, said), NAME))


def test_the_longest_proof_fits() -> None:
    spans = consistency_spans((1 << 62) + 1, (1 << 63) + (1 << 62) - 1)
    assert len(spans) <= MAX_PROOF
    largest = Continuation(2, AT, 1, TreeHead((1 << 64) - 1, bytes(32)), (bytes(32),) * MAX_PROOF)
    assert parse(encode(NAME, largest), NAME) == largest


@pytest.mark.parametrize("frame", [*STREAM[:3], STREAM[5]])
def test_a_frame_of_another_version_is_refused(frame: Frame) -> None:
    for version in (0, WITHOUT_LOG, 3, 9):
        message = encode(NAME, frame, version)
        why = refused("feed-version", lambda message=message: parse(message, NAME))  # type: ignore[misc]
        assert "upgrade" in why.detail


def test_where_nothing_is_known() -> None:
    assert log(0) == NO_LEAVES
    assert Progress(0).head == NO_LEAVES


# Where a follower may connect to


@pytest.mark.parametrize(
    "url",
    [
        "http://ca.example:8080",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.example:80",
        "ftp://127.0.0.1",
        "https://",
        "ca.example",
        "https://ca.example:port",
        "https://ca.example/?x=1",
        "http://[::2]:80",
    ],
)
def test_a_feed_comes_over_tls_or_from_this_machine(url: str) -> None:
    refused("feed-url", lambda: Origin(url, "t"))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://[::1]:80/", "http://localhost", "https://ca.example/x"]
)
def test_urls_of_a_feed(url: str) -> None:
    assert "secret-token" not in repr(Origin(url, "secret-token"))


def test_a_token_that_is_no_line_is_refused() -> None:
    for token in ("", "a\nb", "é"):
        refused("feed-token", lambda token=token: Origin("https://ca.example", token))  # type: ignore[misc]


# Named tokens


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Ticking:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_tokens_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    clock = Ticking()
    tokens = TokenFolder(tmp_path / "followers", monotonic=clock)
    assert tokens.owner(digest("")) is None
    first = tokens.make("va-1")
    assert tokens.make("va-1") == first
    clock.at += RECHECK
    assert tokens.owner(digest(first)) == "va-1"
    second = tokens.make("va-2")
    assert tokens.owner(digest(second)) is None  # looked at within this second already
    clock.at += RECHECK
    assert tokens.owner(digest(second)) == "va-2"
    assert tokens.holds("va-2", digest(second))
    assert not tokens.holds("va-1", digest(second))
    (tmp_path / "followers" / "va-1.token").unlink()
    clock.at += RECHECK
    assert tokens.owner(digest(first)) is None
    assert tokens.owner(digest(second)) == "va-2"


def test_another_token_of_the_same_name_counts(tmp_path: Path) -> None:
    clock = Ticking()
    tokens = TokenFolder(tmp_path, monotonic=clock)
    old = tokens.make("va")
    assert tokens.owner(digest(old)) == "va"
    (tmp_path / "va.token").unlink()
    new = tokens.make("va")
    clock.at += RECHECK
    assert tokens.owner(digest(old)) is None
    assert tokens.owner(digest(new)) == "va"


@pytest.mark.parametrize("content", ["", "\n", "short", "x" * 2000])
def test_a_file_that_holds_no_token_lets_nobody_in(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "va.token"
    file.touch(mode=0o600)
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert TokenFolder(tmp_path).owner(digest(content.strip())) is None
    assert "does not count" in caplog.text


def test_a_token_that_others_can_read_does_not_count(tmp_path: Path) -> None:
    tokens = TokenFolder(tmp_path)
    token = tokens.make("va")
    (tmp_path / "va.token").chmod(0o644)
    assert tokens.owner(digest(token)) is None


def test_tokens_where_others_can_put_some_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Ticking()
    tokens = TokenFolder(tmp_path / "followers", monotonic=clock)
    token = tokens.make("va")
    assert tokens.owner(digest(token)) == "va"
    (tmp_path / "followers").chmod(0o770)
    for _ in range(3):
        clock.at += RECHECK
        assert tokens.owner(digest(token)) is None
    assert caplog.text.count("chmod go-w") == 1
    (tmp_path / "followers").chmod(0o700)
    clock.at += RECHECK
    assert tokens.owner(digest(token)) == "va"


@pytest.mark.parametrize("name", ["", "UP", "a/b", "..", "a.b", "x" * 33])
def test_names_of_tokens(tmp_path: Path, name: str) -> None:
    refused("bad-token-name", lambda: TokenFolder(tmp_path).make(name))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_no_tokens(tmp_path: Path) -> None:
    for name in ("va", ".token", "VA.token", "va.token.bak"):
        file = tmp_path / name
        file.touch(mode=0o600)
        file.write_text("x" * 43)
    assert TokenFolder(tmp_path).owner(digest("x" * 43)) is None
