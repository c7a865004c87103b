"""Frames of the status feed: what a follower takes, and all that it refuses; named tokens."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
    Authorities,
    Changes,
    Entry,
    Frame,
    Heartbeat,
    Void,
    authorities_hash,
    encode,
    parse,
)
from ocsp.feed_progress import TOLERANCE, Progress
from ocsp.feed_wire import FeedKey, Frames, open_frame, seal
from ocsp.follower import Origin
from pki.algorithms import KeyType, public_key_info_of
from pki.certificate import parse_certificate
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
HASH = authorities_hash(ISSUERS)


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
    Changes(2, 9, AT, 12, HASH, ENTRIES),
    Changes(9, 12, AT + SECOND, 12, HASH, (Entry(0, 1, 12, revoked(12)),)),
    Heartbeat(12, AT + SECOND, HASH),
    Heartbeat(12, AT + 2 * SECOND, HASH),
)


def sealed(frame: Frame, key: Ed25519PrivateKey = KEY, name: str = NAME) -> bytes:
    message = encode(name, frame)
    return seal(message, key.sign(message))


def read(data: bytes, key: FeedKey = FEED_KEY, name: str = NAME) -> list[Frame]:
    return [open_frame(signed, key, name) for signed in Frames().feed(data)]


def follow(
    frames: Iterable[Frame], progress: Progress | None = None, now: datetime = AT + 2 * SECOND
) -> Progress:
    progress = progress or Progress(2)
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
    message = encode(NAME, STREAM[1])
    signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    assert read(seal(message, signature), FeedKey.of(key_info(key))) == [STREAM[1]]


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
    data = sealed(STREAM[1])
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
    refused("bad-signature", lambda: read(sealed(STREAM[1], other)))


def test_a_frame_of_another_feed_is_refused() -> None:
    refused("feed-name", lambda: read(sealed(STREAM[1], name="another")))


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
    frame = Changes(0, MAX_ENTRIES, AT, MAX_ENTRIES, HASH, entries)
    assert parse(encode(NAME, frame), NAME) == frame


def test_what_does_not_fit_is_never_sent() -> None:
    long = replace(ISSUER, chain=(ISSUER.certificate,) * 255)
    with pytest.raises(Broken) as broken:
        encode(NAME, Authorities(0, AT, (long,) * 20))
    assert broken.value.code == "feed-frame"


@pytest.mark.parametrize(
    "frame",
    [
        Changes(2, 9, AT, 9, HASH, ()),
        Changes(2, 9, AT, 8, HASH, ENTRIES),
        Changes(2, 10, AT, 12, HASH, ENTRIES),
        Changes(3, 9, AT, 12, HASH, ENTRIES),
        Changes(2, 9, AT, 12, HASH, (ENTRIES[1], ENTRIES[0], *ENTRIES[2:])),
        Changes(2, 9, AT, 12, HASH, (Entry(0, 0, 9, Good()),)),
        Changes(2, 9, AT, 12, HASH, (Entry(0, LIMIT, 9, Good()),)),
        Changes(2, 9, AT, 12, HASH, (Entry(0, 1 << 160, 9, Good()),)),
        Changes(2, 9, AT, 12, HASH, (Entry(0, 5, 9, Revoked(AT, RevocationReason(8), None, 9)),)),
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
    progress = follow(STREAM[:2])
    assert (progress.upto, progress.newest, progress.at) == (9, 12, AT)
    progress = follow(STREAM[2:], progress)
    assert (progress.upto, progress.newest) == (12, 12)
    assert progress.at == AT + 2 * SECOND
    assert progress.issuers == ISSUERS


@pytest.mark.parametrize(
    "frames",
    [
        (STREAM[0], STREAM[2]),  # one is missing
        (STREAM[0], STREAM[1], STREAM[1]),  # one twice
        (STREAM[0], STREAM[2], STREAM[1]),  # in another order
        (STREAM[0], STREAM[3]),  # a heartbeat from beyond
        (*STREAM[:3], STREAM[0]),  # authorities from before
        (Authorities(1, AT, ISSUERS),),
    ],
)
def test_ranges_have_to_join(frames: tuple[Frame, ...]) -> None:
    refused("feed-gap", lambda: follow(frames))


def test_a_heartbeat_from_before_is_refused() -> None:
    refused("feed-time-back", lambda: follow((*STREAM, STREAM[3])))


def test_frames_from_before_the_cut_are_refused_after_it() -> None:
    progress = follow(STREAM).reconnected()
    refused("feed-gap", lambda: follow(STREAM[:1], progress))
    refused("feed-time-back", lambda: follow([Authorities(12, AT, ISSUERS)], progress))
    refused("feed-authorities", lambda: follow(STREAM[4:], progress))


def test_the_future_is_refused() -> None:
    early = AT - TOLERANCE
    follow(STREAM[:2], now=early)
    refused("feed-from-future", lambda: follow(STREAM[:2], now=early - timedelta(microseconds=1)))


def test_entries_of_authorities_that_were_not_announced_are_refused() -> None:
    """Places in a list mean other CAs in another list: a mixture of streams must not pass."""
    swapped = Authorities(2, AT, ISSUERS[::-1])
    refused("feed-authorities", lambda: follow((swapped, STREAM[1])))
    refused("feed-authorities", lambda: follow(STREAM[1:]))
    beyond = Changes(2, 3, AT, 3, HASH, (Entry(2, 1, 3, Good()),))
    refused("feed-malformed", lambda: follow((STREAM[0], beyond)))


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
