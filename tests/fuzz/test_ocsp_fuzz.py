"""Whatever comes in, the OCSP parsers say ``Rejected`` or take it; the responder always answers."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from urllib.parse import quote

from asn1crypto import ocsp as asn1_ocsp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.clock import FixedClock
from infra.errors import Rejected
from ocsp.request import MAX_CERT_IDS, MAX_NONCE, build_request, parse_request, request_in_path
from ocsp.responder import Responder
from ocsp.response import ResponseStatus
from pki import der
from pki.status import Good
from tests.conformance.ocsp_fixtures import NOW, Ca, Statuses, cert_id, signer

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
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
    allowed = set(ResponseStatus) - {ResponseStatus.internalError, ResponseStatus.tryLater}

    async def ask() -> set[ResponseStatus]:
        seen = set()
        for _ in range(EXAMPLES):
            answer = await RESPONDER.answer(mutated(random_.choice(SEEDS), random_))
            assert answer.status in allowed, answer.code
            asn1_ocsp.OCSPResponse.load(answer.body, strict=True)
            seen.add(answer.status)
        return seen

    assert asyncio.run(ask()) == {
        ResponseStatus.successful,
        ResponseStatus.malformedRequest,
        ResponseStatus.unauthorized,
    }


def rounds(seconds: float) -> Iterator[None]:
    end = monotonic() + seconds
    while monotonic() < end:
        yield


def test_for_as_long_as_asked() -> None:
    """``DIGITALID_FUZZ_SECONDS``: mutations of requests and of paths, from a fresh seed."""
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    spellings: list[Callable[[str], str]] = [str, quote, lambda text: quote(text, safe="") + "/"]
    for _ in rounds(SECONDS or 0.2):
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
