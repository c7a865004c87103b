"""Whatever comes as a status feed: frames that were signed, or a refusal; never anything else."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from datetime import timedelta
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from ocsp.feed import Changes, Continuation, Frame, encode, parse
from ocsp.feed_wire import Frames, open_frame
from tests.unit.test_status_feed import AT, FEED_KEY, NAME, START, STREAM, sealed

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
EXAMPLES = 3_000

MESSAGES = [encode(NAME, frame) for frame in STREAM]
OCTETS = [sealed(frame) for frame in STREAM]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] = chance.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = chance.choice([b"\0", b"\xff\xff\xff\xff", b"\x80" + bytes(7)])
            case 3:
                del data[at : at + chance.randint(1, 8)]
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case _:
                del data[at:]
    return bytes(data)


def message(data: bytes) -> None:
    """A message that the key signed, but which no server would have made."""
    with suppress(Rejected):
        frame = parse(data, NAME)
        assert encode(NAME, frame) == data
        START.advance(frame, AT)


def stream(data: bytes) -> None:
    """What somebody between the server and the follower makes of the feed."""
    progress, frames, found = START, Frames(), list[Frame]()
    with suppress(Rejected):
        for start in range(0, len(data), 700):
            for signed in frames.feed(data[start : start + 700]):
                frame = open_frame(signed, FEED_KEY, NAME)
                progress = progress.advance(frame, AT + timedelta(seconds=5))
                found.append(frame)
    # Of changes only a beginning of what was sent gets through, each once.
    changes = [frame for frame in found if isinstance(frame, Changes)]
    assert changes == [STREAM[2], STREAM[4]][: len(changes)]
    # And the log is one that was sent, or the one that was known.
    assert progress.head in (START.head, *(f.head for f in found if isinstance(f, Continuation)))
    assert all(frame in STREAM for frame in found)


def test_altered_messages() -> None:
    chance = random.Random(6960)
    end, done = monotonic() + SECONDS / 3, 0
    while done < EXAMPLES or monotonic() < end:
        data = mutated(chance.choice(MESSAGES), chance)
        if chance.random() < 0.8:  # so that not all of them fail for their length
            data = max(0, len(data) - 4).to_bytes(4, "big") + data[4:]
        message(data)
        done += 1


def test_altered_streams() -> None:
    chance = random.Random(5019)
    end, done = monotonic() + SECONDS / 3, 0
    while done < EXAMPLES // 10 or monotonic() < end:
        pieces = list(OCTETS)
        match chance.randrange(4):
            case 0:
                chance.shuffle(pieces)
            case 1:
                pieces.insert(chance.randrange(len(pieces)), chance.choice(OCTETS))
            case 2:
                del pieces[chance.randrange(len(pieces))]
            case _:
                place = chance.randrange(len(pieces))
                pieces[place] = mutated(pieces[place], chance)
        stream(b"".join(pieces))
        done += 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_octets(data: bytes) -> None:
    message(data)
    stream(data)
    for one in MESSAGES[1:3]:
        prefix = one[4:60]
        message((len(prefix) + len(data)).to_bytes(4, "big") + prefix + data)
