"""Both kinds of place keep the same promises; a card confirms; PINs change with the secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from infra.errors import Rejected
from pki.algorithms import KeyType, usual_algorithm, verify
from pki.ceremony import derive
from pki.ceremony import seal as seals
from pki.ceremony.place import FilePlace, Place, TokenPlace, place_of
from pki.ceremony.script import Token
from pki.ceremony.verify import verify_transcript
from pki.signer.softhsm import environment, find_module
from tests.unit.ceremony_fixtures import hold, shipped, transcript

needs_softhsm = pytest.mark.skipif(find_module() is None, reason="apt-get install softhsm2")
STORES = [pytest.param("softhsm", marks=needs_softhsm), "file"]
SECRET, OTHER = bytearray(range(32)), bytearray(range(1, 33))


def opened(store: str, home: Path, label: str = "root") -> Place:
    place = place_of(Token(store, label), home)  # type: ignore[arg-type]
    place.initialise(SECRET)
    return place


@pytest.mark.parametrize("store", STORES)
class TestPlace:
    def test_a_key_is_made_once_and_signs(self, store: str, tmp_path: Path) -> None:
        place = opened(store, tmp_path)
        made = place.make("k", KeyType.P_256, SECRET, backup=True)
        assert place.make("k", KeyType.P_256, SECRET, backup=True) == made
        algorithm = usual_algorithm(KeyType.P_256)
        signature = place.sign("k", algorithm, b"message", SECRET)
        verify(algorithm, made.public_key_info, signature, b"message")

    def test_another_secret_opens_nothing(self, store: str, tmp_path: Path) -> None:
        place = opened(store, tmp_path)
        place.make("k", KeyType.P_256, SECRET, backup=False)
        with pytest.raises(Rejected) as caught:
            place.sign("k", usual_algorithm(KeyType.P_256), b"message", OTHER)
        assert caught.value.code in ("wrong-pin", "wrong-passphrase")

    def test_a_backup_is_restored_elsewhere(self, store: str, tmp_path: Path) -> None:
        place = opened(store, tmp_path)
        made = place.make("k", KeyType.P_384, SECRET, backup=True)
        spare = opened(store, tmp_path, "spare")
        spare.restore("k", made, "p-384", SECRET)
        spare.restore("k", made, "p-384", SECRET)
        place.destroy("k", SECRET)
        place.destroy("k", SECRET)
        algorithm = usual_algorithm(KeyType.P_384)
        signature = spare.sign("k", algorithm, b"message", SECRET)
        verify(algorithm, made.public_key_info, signature, b"message")
        with pytest.raises(Rejected) as caught:
            place.sign("k", algorithm, b"message", SECRET)
        assert caught.value.code == "no-such-key"

    def test_an_altered_backup_is_named(self, store: str, tmp_path: Path) -> None:
        place = opened(store, tmp_path)
        made = place.make("k", KeyType.P_256, SECRET, backup=True)
        path = tmp_path / "backups" / "k.backup"
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        with pytest.raises(Rejected) as caught:
            opened(store, tmp_path, "spare").restore("k", made, "p-256", SECRET)
        assert caught.value.code == "altered-backup"
        path.unlink()
        with pytest.raises(Rejected) as caught:
            opened(store, tmp_path, "spare2").restore("k", made, "p-256", SECRET)
        assert caught.value.code == "no-such-backup"

    def test_a_token_of_another_secret_is_not_taken_over(self, store: str, tmp_path: Path) -> None:
        opened(store, tmp_path).make("k", KeyType.P_256, SECRET, backup=False)
        with pytest.raises(Rejected) as caught:
            place_of(Token(store, "root"), tmp_path).initialise(OTHER)  # type: ignore[arg-type]
        assert caught.value.code == "token-exists"


@needs_softhsm
def test_the_backup_is_the_key_under_rfc_5649(tmp_path: Path) -> None:
    place = opened("softhsm", tmp_path)
    assert isinstance(place, TokenPlace)
    made = place.make("k", KeyType.P_256, SECRET, backup=True)
    wrapped = (tmp_path / "backups" / "k.backup").read_bytes()
    plain = aes_key_unwrap_with_padding(derive.wrapping_key(SECRET), wrapped)
    # SoftHSM fills up with zeros before it pads.
    assert set(plain[2 + plain[1] :]) <= {0}
    key = load_der_private_key(plain[: 2 + plain[1]], None)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public == made.public_key_info


def test_pins_are_of_their_own_and_long() -> None:
    values = {derive.user_pin(SECRET), derive.so_pin(SECRET), derive.wrapping_key(SECRET)}
    assert len(values) == 3 and len(derive.user_pin(SECRET)) == 32
    assert derive.user_pin(OTHER) not in values
    place = FilePlace(Path("/nonexistent"), Path("/nonexistent"))
    with pytest.raises(Rejected) as caught:
        place.change(SECRET, OTHER)
    assert caught.value.code == "pin-not-changeable"


ROTATE = """
[[step]]
act = "share-secret"
threshold = 2

[[step]]
act = "change-pin"

[[step]]
act = "close"
"""


@needs_softhsm
def test_a_card_confirms_and_pins_change_with_a_new_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)
    card = opened("softhsm", tmp_path / "card", "card")
    card.make("signing", KeyType.P_256, SECRET, backup=False)
    at = environment(tmp_path / "card" / "tokens" / "card")
    uri = f"pkcs11:token=card;object=signing?module-path={find_module()}"
    script = shipped("root-creation").replace("backup = true", "backup = false")
    home = tmp_path / "home"

    # The auditor's card is in a reader of its own: SoftHSM shows the tokens of one folder only.
    from pki.signer import pkcs11

    spawn = pkcs11._spawn
    monkeypatch.setattr(pkcs11, "_spawn", lambda fd, environment: spawn(fd, environment or at))
    pin = derive.user_pin(SECRET).decode()
    cards = [("PIN of the card", pin)] + [("Karen Sparck Jones, your passphrase", pin)] * 20
    first = [*[("^Key: type", "one-time")] * 7, ("^Key: type", "pkcs11:object=x"),
             ("^Key: type", uri), *cards]  # fmt: skip
    told, room = hold(home, "root", script, override=first)
    assert told.state.people["auditor-1"].algorithm == "ecdsa-with-sha256"
    assert any(line.startswith("bad-key-uri") for line in room.shown)
    assert verify_transcript(transcript(home, "root").read_bytes()).good
    # A new secret for other people: the PINs change, the old shares open nothing.
    head = shipped("custodians-change").partition('[[step]]\nact = "share-secret"')[0]
    old_set = told.state.kept.sets["root"].identifier.hex()[:8]
    told, _ = hold(home, "rotate", head + ROTATE, share_set=old_set)
    assert told.finished and not told.state.kept.coming
    assert verify_transcript(transcript(home, "rotate").read_bytes()).good
    new_set = told.state.kept.sets["root"].identifier.hex()[:8]
    told, room = hold(home, "crl", shipped("root-crl"), share_set=new_set, opening=(2, 4))
    assert told.finished
