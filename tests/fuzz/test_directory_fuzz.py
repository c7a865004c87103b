"""Whatever a directory answers or names: it is understood or refused, and nothing else happens."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st
from ldap3.utils.dn import parse_dn

from infra.errors import Unavailable
from pki.directory import messages
from pki.directory.messages import Incoming
from pki.directory.naming import escape_filter, escape_value, same_name
from tests.unit.test_directory_messages import answer

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
FUZZ = settings(max_examples=500, deadline=None, derandomize=True)

# An entry, a reference and the end of a search, as slapd sends them.
ENTRY = bytes.fromhex(
    "3024020102641f040b636e3d612c6f3d746573743010300e0402636e310804016104036e6f74"
)
SEEDS = [
    answer(1, "addResponse", 0),
    answer(2, "modifyResponse", 10, referral="ldap://a/o=x"),
    answer(3, "delResponse", 32, detail="gone"),
    ENTRY + answer(2, "searchResDone", 0),
]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if at < len(data):
                data[at] = chance.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = chance.choice([b"\x30\x80", b"\x84\xff\xff\xff\xff", b"\xa3\x00"])
            case 3:
                del data[at : at + chance.randint(1, 8)]
            case _:
                data[at:at] = data[at : at + chance.randint(1, 40)]
    return bytes(data)


def takes(data: bytes) -> None:
    incoming = Incoming()
    with suppress(Unavailable):
        for start in range(0, len(data), 7):
            for id, result in incoming.feed(data[start : start + 7]):
                assert isinstance(id, int) and isinstance(result.code, int)
                assert isinstance(result.detail, str)
                assert all(isinstance(url, str) for url in result.referrals)
                for type, values in (result.found or {}).items():
                    assert isinstance(type, str) and all(isinstance(v, bytes) for v in values)


def test_the_seeds_are_understood() -> None:
    [(_, result)] = Incoming().feed(SEEDS[3])
    assert result.found == {"cn": (b"a", b"not")}


@FUZZ
@given(st.binary(max_size=300))
def test_any_octets(data: bytes) -> None:
    takes(data)


def test_mutated_answers() -> None:
    chance = random.Random("directory")
    end, examples = monotonic() + SECONDS, 0
    while examples < 5000 or monotonic() < end:
        takes(mutated(b"".join(chance.sample(SEEDS, 2)), chance))
        examples += 1


NAMES = st.text(alphabet=st.characters(), max_size=60) | st.lists(
    st.sampled_from(["cn=", "uid=", ",", "+", "\\", "\\2c", "\\,", "=", " ", "a", "é", "\0", "#"]),
    max_size=20,
).map("".join)


@FUZZ
@given(NAMES, NAMES)
def test_any_two_names_are_compared(one: str, other: str) -> None:
    assert same_name(one, one)
    assert same_name(one, other) is same_name(other, one)


@FUZZ
@given(st.text(min_size=1, max_size=100))
def test_a_value_never_ends_a_name_or_a_filter(value: str) -> None:
    assert len(parse_dn(f"cn={escape_value(value)},o=x")) == 2
    written = escape_filter(value)
    assert written.isascii() and not set(written) & set("()*\0")
    octets = messages.message(1, messages.delete(f"cn={escape_value(value)}"))
    assert octets[0] == 0x30
