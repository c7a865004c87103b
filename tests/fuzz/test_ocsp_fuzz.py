"""Whatever comes in, the OCSP parsers say ``Rejected`` or take it; the responder always answers."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import pytest
from asn1crypto import ocsp as asn1_ocsp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.clock import FixedClock
from infra.errors import Rejected
from ocsp.request import (
    MAX_CERT_IDS,
    MAX_NONCE,
    build_request,
    parse_request,
    read_any_request,
    read_plain_request,
    request_in_path,
)
from ocsp.responder import Responder, SignedRequests
from ocsp.response import ResponseStatus
from pki import der
from pki.status import Good
from tests.conformance.ocsp_fixtures import NOW, Ca, Statuses, cert_id, responder, signer
from tests.unit import test_ocsp_requestor as requestors

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
INPUTS = int(os.environ.get("DIGITALID_FUZZ_INPUTS", "20000"))
EXAMPLES = 2_000

CA = Ca("Fuzzed CA")
RESPONDER = Responder(
    [CA.delegate(signer("ed25519"))],
    Statuses({(CA.name, 1): Good()}),
    FixedClock(NOW),
    timedelta(hours=1),
)


def seeds() -> list[bytes]:
    """Requests with every part that the parser knows."""
    ids = [cert_id(CA.issuer, serial, name) for serial, name in ((1, "sha1"), (2, "sha512"))]
    preferred = der.sequence(der.sequence(der.sequence(der.object_identifier("1.3.101.112"))))
    extensions = [
        der.sequence(der.object_identifier(f"1.3.6.1.5.5.7.48.1.{arc}"), der.octet_string(value))
        for arc, value in ((2, der.octet_string(bytes(32))), (4, der.sequence()), (8, preferred))
    ]
    single = der.explicit(
        0, der.sequence(der.sequence(der.object_identifier("1.2.3"), der.octet_string(b"")))
    )
    full = der.sequence(
        der.explicit(1, der.tlv(0x86, b"https://relying.example")),
        der.sequence(*(der.sequence(one, single) for one in ids)),
        der.explicit(2, der.sequence(*extensions)),
    )
    signature = der.sequence(
        der.sequence(der.object_identifier("1.3.101.112")),
        der.bit_string(bytes(64)),
        der.explicit(0, der.sequence(der.sequence(der.integer(1)))),
    )
    return [
        build_request(ids[:1]),
        build_request(ids, bytes(16)),
        der.sequence(full, der.explicit(0, signature)),
    ]


SEEDS = seeds()
ALLOWED = set(ResponseStatus) - {ResponseStatus.internalError, ResponseStatus.tryLater}
OCTETS = [bytes((octet,)) for octet in range(256)]
TAGS = frozenset(b"\x30\x02\x04\x05\x06\xa0\xa1\xa2")
WELL_FORMED = [
    *SEEDS,
    *(
        build_request([cert_id(CA.issuer, serial, name)], nonce)
        for serial in (1, 0x80, 0x7F01, (1 << 159) - 1, 1 << 159)
        for name in ("sha1", "sha256", "sha384")
        for nonce in (None, bytes(16), bytes(32), bytes(128))
    ),
]


def changed(data: bytes, random_: random.Random) -> bytes:
    """``data`` with one thing wrong, mostly where it matters: cheap enough for millions."""
    size = len(data)
    at = int(random_.random() * size)
    kind = int(random_.random() * 8)
    if kind < 3:  # an octet
        return data[:at] + random_.choice(OCTETS) + data[at + 1 :]
    if kind == 3:  # a bit
        return data[:at] + bytes((data[at] ^ 1 << int(random_.random() * 8),)) + data[at + 1 :]
    if kind == 4:  # cut short, or too long
        return data[:at] if random_.random() < 0.5 else data + data[:at]
    if kind == 5:  # octets gone or come
        more = data[at : at + 4] * int(random_.random() * 3)
        return data[:at] + more + data[at + 4 :]
    other = random_.choice(WELL_FORMED)
    if kind == 6:  # a piece of another request
        return data[:at] + other[at : at + 24] + data[at + 24 :]
    # A length that is one more or less, at each place that looks like one.
    at = next((i for i in range(at, size - 1) if data[i] in TAGS), 0) + 1
    step = random_.choice((1, 2, 127, 128, 255))
    return data[:at] + bytes(((data[at] + step) & 0xFF,)) + data[at + 1 :]


def mutated(data: bytes, random_: random.Random) -> bytes:
    """``data`` with a few octets changed, doubled, cut out or put in."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(out)) if out else 0
        match random_.randrange(6):
            case 0 if out:
                out[at] = random_.randrange(256)
            case 1 if out:
                out[at] = random_.choice((0x00, 0x7F, 0x80, 0x81, 0x84, 0xFF, 0x30, 0x02, 0xA0))
            case 2:
                del out[at : at + random_.randint(1, 8)]
            case 3:
                out[at:at] = out[at : at + random_.randint(1, 40)]
            case 4:
                out[at:at] = random_.randbytes(random_.randint(1, 8))
            case _:
                del out[at:]
    return bytes(out)


def takes_or_rejects(data: bytes) -> None:
    """The parser may say Rejected and nothing else; what it takes stands in the data as it is."""
    with suppress(Rejected):
        asked = parse_request(data)
        assert 1 <= len(asked.cert_ids) <= MAX_CERT_IDS
        assert asked.nonce is None or 1 <= len(asked.nonce) <= MAX_NONCE
        assert all(one.der in data for one in asked.cert_ids)
        # Nothing is taken that a second parser cannot read as the same question.
        other = asn1_ocsp.OCSPRequest.load(data, strict=True)
        listed = other["tbs_request"]["request_list"]
        assert [one["req_cert"]["serial_number"].native for one in listed] == [
            one.serial for one in asked.cert_ids
        ]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=400))
@example(b"")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80")
@example(b"\x30" * 5000)
def test_parse_any_octets(data: bytes) -> None:
    takes_or_rejects(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_parse_requests_that_went_wrong(seed: bytes, random_: random.Random) -> None:
    takes_or_rejects(mutated(seed, random_))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=200) | st.text("MAB+/=% ?\\.", max_size=60))
@example("%" * 100)
@example("=" * 101)
@example("\udc80")
@example("/" * 4096)
def test_read_any_path(path: str) -> None:
    with suppress(Rejected):
        data = request_in_path(path)
        assert request_in_path(base64.b64encode(data).decode()) == data


def test_the_responder_answers_whatever_comes() -> None:
    random_ = random.Random(6960)

    async def ask() -> set[ResponseStatus]:
        seen = set()
        for _ in range(EXAMPLES):
            answer = await RESPONDER.answer(mutated(random_.choice(SEEDS), random_))
            assert answer.status in ALLOWED, answer.code
            asn1_ocsp.OCSPResponse.load(answer.body, strict=True)
            seen.add(answer.status)
        return seen

    assert asyncio.run(ask()) == {
        ResponseStatus.successful,
        ResponseStatus.malformedRequest,
        ResponseStatus.unauthorized,
    }


def test_a_signature_that_went_wrong_is_refused() -> None:
    """Nothing is answered that differs from what was signed, nor does it stop the responder."""
    random_ = random.Random(6960)
    asked = requestors.signed(
        requestors.CLIENT, (requestors.CLIENT.der, requestors.MIDDLE.der, requestors.ROOT.der)
    )
    tbs = parse_request(asked).signature
    assert tbs is not None
    checking = responder(
        [requestors.DELEGATE],
        Statuses({}),
        practice=requestors.PRACTICES[SignedRequests.require],
    )

    async def ask() -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(EXAMPLES):
            data = changed(asked, random_)
            answer = await checking.answer(data)
            assert answer.status in ALLOWED, data.hex()
            if answer.status is ResponseStatus.successful:
                again = parse_request(data).signature
                assert again is not None and again.signed == tbs.signed, data.hex()
            seen[answer.code] += 1
        return seen

    seen = asyncio.run(ask())
    assert {"bad-der", "requestor-signature", "requestor-untrusted"} <= seen.keys()


def test_for_as_long_as_asked() -> None:
    """``DIGITALID_FUZZ_SECONDS``: mutations of requests and of paths, from a fresh seed, read by a
    second parser as well."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    spellings: list[Callable[[str], str]] = [str, quote, lambda text: quote(text, safe="") + "/"]
    end = monotonic() + (SECONDS or 0.2)
    while monotonic() < end:
        for one in SEEDS:
            data = mutated(one, random_)
            try:
                takes_or_rejects(data)
                path = random_.choice(spellings)(base64.b64encode(data).decode())
                if data[:1] == b"\x30":
                    assert request_in_path(path) == data
                with suppress(Rejected):
                    request_in_path(mutated(path.encode(), random_).decode("latin-1"))
            except Exception as error:
                raise AssertionError(f"seed {seed}, request {data.hex()}") from error


def resident() -> int:
    """Octets of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_many_inputs_leave_no_trace() -> None:
    """``DIGITALID_FUZZ_INPUTS``: so many requests gone wrong, for both readers; every
    hundredth goes through the spelling for GET, and is answered."""
    seed = int(os.environ.get("DIGITALID_FUZZ_SEED", random.randrange(1 << 32)))
    random_ = random.Random(seed)
    print(f"seed {seed}")
    inputs = taken = 0
    warm = resident()
    data = b""
    try:
        while inputs < INPUTS:
            data = changed(random_.choice(WELL_FORMED), random_)
            inputs += 1
            plain = read_plain_request(data)
            try:
                asked = read_any_request(data)
                taken += 1
            except Rejected:
                assert plain is None
            else:
                assert plain is None or plain == asked
            if inputs % 100 == 0:
                with suppress(Rejected):
                    request_in_path(base64.b64encode(data).decode())
                with pytest.raises(StopIteration) as ended:
                    RESPONDER.answer(data).send(None)  # a key in memory makes nobody wait
                assert ended.value.value.status in ALLOWED
            if inputs == INPUTS // 4:
                warm = resident()
    except Exception as error:
        raise AssertionError(f"seed {seed}, input {inputs}: {data.hex()}") from error
    # Caches fill in the first quarter; a leak of an octet each would show in ten million.
    print(f"{inputs} inputs, {taken} taken, {(resident() - warm) / 1e6:+.1f} MB")
    assert 0 < taken < inputs
    assert resident() - warm < 8 << 20
