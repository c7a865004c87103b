"""Shares in their envelopes: what is wrong with one is named before it is used."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from infra.errors import Rejected
from pki.ceremony import seal as seals
from pki.ceremony.seal import (
    ByKey,
    ByPassphrase,
    open_by_key,
    open_by_passphrase,
    recipient_of,
    seal_by_passphrase,
    seal_to_key,
)
from pki.ceremony.share import (
    Envelope,
    Share,
    ShareSet,
    bound,
    check_envelope,
    check_share,
    encode_envelope,
    parse_envelope,
    rebuild,
    share_out,
    wipe,
)

SECRET = hashlib.sha256(b"secret").digest()
PASSPHRASE = b"correct horse battery"
# Made by age-keygen 1.2.1.
IDENTITY = "AGE-SECRET-KEY-1H90K0ACD53KY9CCFM93P2085U2E8K0KY9WHAECUPUVCMRHKU89US0U2QM6"
RECIPIENT = "age1s6h968vlp8xs0dq30e7emez4f46q8zt7ks8klapkfdvfjn9j2aeqsm3vr5"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)


def shared(
    identifier: bytes = b"1" * 16, random: bytes = bytes(range(64))
) -> tuple[ShareSet, list[Share]]:
    return share_out(SECRET, identifier, "root", 3, 5, random)


def sealed(share: Share, sharing: ShareSet, custodian: str = "Grace Hopper") -> Envelope:
    blank = Envelope(
        sharing.identifier, "root", 3, 5, share.place, custodian, ByPassphrase(b"", b"", b"")
    )
    seal = seal_by_passphrase(share.value, PASSPHRASE, bound(blank), bytes(28))
    return replace(blank, seal=seal)


def code_of(act: object, *arguments: object) -> str:
    assert callable(act)
    with pytest.raises(Rejected) as caught:
        act(*arguments)
    return caught.value.code


def test_any_three_of_five_rebuild_it() -> None:
    sharing, shares = shared()
    for chosen in ((0, 1, 2), (4, 2, 0), (1, 3, 4)):
        assert rebuild([shares[place] for place in chosen], sharing) == SECRET
    assert rebuild(shares, sharing) == SECRET


def test_two_are_too_few() -> None:
    sharing, shares = shared()
    assert code_of(rebuild, shares[:2], sharing) == "too-few-shares"


def test_a_share_given_twice_is_named() -> None:
    sharing, shares = shared()
    assert code_of(rebuild, [shares[0], shares[1], shares[0]], sharing) == "duplicate-share"
    assert code_of(check_envelope, sealed(shares[0], sharing), sharing, [1]) == "duplicate-share"


def test_a_share_of_another_set_is_named_though_the_secret_is_the_same() -> None:
    sharing, shares = shared()
    _, renewed = shared(b"2" * 16, bytes(64))
    assert code_of(rebuild, [*shares[:2], renewed[2]], sharing) == "foreign-share"
    other = sealed(renewed[2], shared(b"2" * 16)[0])
    assert code_of(check_envelope, other, sharing, []) == "foreign-share"


def test_a_share_that_was_exchanged_is_named_whoever_sealed_it() -> None:
    sharing, shares = shared()
    wrong = Share(sharing.identifier, 2, bytearray(32))
    assert code_of(check_share, wrong, sharing) == "wrong-share"
    assert code_of(rebuild, [shares[0], wrong, shares[2]], sharing) == "wrong-share"
    assert code_of(check_share, replace(wrong, place=9), sharing) == "wrong-share"


def test_renewed_shares_give_the_same_secret_and_are_all_different() -> None:
    sharing, shares = shared()
    renewed, others = shared(b"2" * 16, hashlib.shake_256(b"r").digest(64))
    assert rebuild(others[:3], renewed) == rebuild(shares[:3], sharing)
    assert all(old.value != new.value for old, new in zip(shares, others, strict=True))


def test_an_envelope_read_back_is_the_same() -> None:
    sharing, shares = shared()
    envelope = sealed(shares[3], sharing, "王小明")
    assert parse_envelope(encode_envelope(envelope)) == envelope
    assert isinstance(envelope.seal, ByPassphrase)
    assert open_by_passphrase(envelope.seal, PASSPHRASE, bound(envelope)) == shares[3].value


@pytest.mark.parametrize(
    "change",
    [
        {"custodian": "Somebody Else"},
        {"place": 2},
        {"threshold": 2},
        {"count": 4},
        {"label": "other"},
        {"set_identifier": b"3" * 16},
    ],
)
def test_every_readable_word_is_bound_to_the_seal(change: dict[str, object]) -> None:
    sharing, shares = shared()
    envelope = sealed(shares[3], sharing)
    altered = replace(envelope, **change)
    assert isinstance(altered.seal, ByPassphrase)
    assert (
        code_of(open_by_passphrase, altered.seal, PASSPHRASE, bound(altered)) == "wrong-passphrase"
    )


@pytest.mark.parametrize("change", [{"threshold": 2}, {"count": 6}, {"label": "x"}, {"place": 6}])
def test_an_envelope_that_says_otherwise_than_the_transcript_is_named(
    change: dict[str, object],
) -> None:
    sharing, shares = shared()
    envelope = replace(sealed(shares[0], sharing), **change)
    assert code_of(check_envelope, envelope, sharing, []) == "altered-share"


def test_any_octet_of_a_seal_flipped_is_noticed() -> None:
    sharing, shares = shared()
    envelope = sealed(shares[0], sharing)
    seal = envelope.seal
    assert isinstance(seal, ByPassphrase)
    for name in ("salt", "nonce", "sealed"):
        octets = bytearray(getattr(seal, name))
        octets[-1] ^= 1
        altered = replace(seal, **{name: bytes(octets)})
        assert (
            code_of(open_by_passphrase, altered, PASSPHRASE, bound(envelope)) == "wrong-passphrase"
        )


@pytest.mark.parametrize("passphrase", [b"short", b"aaaaaaaaaaaaaaaaaaaa", b"", b"abababababab"])
def test_a_passphrase_that_is_soon_guessed_is_refused(passphrase: bytes) -> None:
    assert code_of(seal_by_passphrase, b"x", passphrase, b"", bytes(28)) == "weak-passphrase"


def test_composed_and_decomposed_letters_are_the_same_passphrase() -> None:
    one, other = "café au lait noir".encode(), "cafe\u0301 au lait noir".encode()
    assert one != other
    assert open_by_passphrase(seal_by_passphrase(b"x", one, b"h", bytes(28)), other, b"h") == b"x"


def test_keys_are_those_of_age() -> None:
    assert recipient_of(IDENTITY) == RECIPIENT
    seal = seal_to_key(SECRET, RECIPIENT, b"header")
    assert open_by_key(seal, IDENTITY, b"header") == SECRET
    assert code_of(open_by_key, seal, IDENTITY, b"other header") == "wrong-identity"
    assert code_of(open_by_key, seal, seals.new_identity(), b"header") == "wrong-identity"
    altered = ByKey(RECIPIENT, seal.sealed[:-1] + bytes((seal.sealed[-1] ^ 1,)))
    assert code_of(open_by_key, altered, IDENTITY, b"header") == "wrong-identity"
    assert code_of(open_by_key, ByKey(RECIPIENT, b"short"), IDENTITY, b"") == "wrong-identity"


@pytest.mark.parametrize(
    "text",
    ["", "age1", RECIPIENT[:-1] + "q", RECIPIENT.replace("s6h9", "s6h8"), RECIPIENT + "q",
     RECIPIENT.title(), IDENTITY, "age1" + "b" * 58, "ssh-ed25519 AAAA", RECIPIENT[4:]],
)  # fmt: skip
def test_a_mistyped_key_is_refused(text: str) -> None:
    assert code_of(seal_to_key, b"x", text, b"") == "bad-recipient"


@pytest.mark.parametrize("numbers", [(1, 5), (6, 5), (2, 33), (0, 0)])
def test_a_quorum_that_makes_no_sense_is_refused(numbers: tuple[int, int]) -> None:
    threshold, count = numbers
    random = bytes(max(threshold - 1, 0) * 32)
    assert code_of(share_out, SECRET, bytes(16), "root", threshold, count, random) == "bad-quorum"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 5000,
        b"x" * 9000,
        encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 1, "G", ByKey("age1x", b"z")))[:-20],
        encode_envelope(Envelope(b"1" * 16, "root", 1, 5, 1, "G", ByKey("age1x", b"z"))),
        encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 6, "G", ByKey("age1x", b"z"))),
        encode_envelope(Envelope(b"1" * 16, "../x", 3, 5, 1, "G", ByKey("age1x", b"z"))),
        encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 1, "G\x1b[2J", ByKey("age1x", b"z"))),
        encode_envelope(Envelope(b"1" * 15, "root", 3, 5, 1, "G", ByKey("age1x", b"z"))),
        encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 1, "G", ByKey("", b"z"))),
        encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 1, "G", ByPassphrase(b"1", b"2", b"z"))),
    ],
)
def test_what_is_no_share_file_is_refused(data: bytes) -> None:
    assert code_of(parse_envelope, data) == "bad-share"


def test_a_card_s_envelope_is_read_back_and_sealed_in_one_way_only() -> None:
    seal = seals.ByCard("pkcs11:token=mine;object=k", b"k" * 256, b"n" * 12, b"z" * 48)
    envelope = Envelope(b"1" * 16, "root", 3, 5, 1, "Grace", seal)
    data = encode_envelope(envelope)
    assert parse_envelope(data) == envelope
    for more in (b'"recipient":"age1x",', b'"salt":"' + b"0" * 32 + b'",'):
        assert code_of(parse_envelope, data.replace(b'"set"', more + b'"set"')) == "bad-share"


def test_wiping_overwrites_in_place() -> None:
    secret = bytearray(SECRET)
    same = secret
    wipe(secret)
    assert same == bytes(32)
