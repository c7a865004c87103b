"""A share sealed to the RSA key of a card, with SoftHSM for the card."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pki.ceremony import derive, token_work
from pki.ceremony import seal as seals
from pki.ceremony.place import place_of
from pki.ceremony.script import Token
from pki.ceremony.verify import verify_transcript
from pki.signer.softhsm import environment, find_module
from tests.unit.ceremony_fixtures import hold, on_files, shipped, transcript


@pytest.mark.skipif(
    find_module() is None or shutil.which("pkcs11-tool") is None,
    reason="apt-get install softhsm2 opensc",
)
def test_a_card_seals_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)
    secret = bytearray(range(32))
    place_of(Token("softhsm", "card"), tmp_path / "card").initialise(secret)
    at = environment(tmp_path / "card" / "tokens" / "card")
    for name, value in at.items():
        monkeypatch.setenv(name, value)
    pin, module = derive.user_pin(secret).decode(), find_module()
    tool = ["pkcs11-tool", "--module", module, "--token-label", "card", "--login", "--pin", pin]
    for label, number in (("mine", "01"), ("other", "02")):
        named = ["--usage-decrypt", "--label", label, "--id", number]
        subprocess.run(
            [*tool, "--keypairgen", "--key-type", "rsa:2048", *named],
            check=True,
            capture_output=True,
        )
    uri = f"pkcs11:token=card;object=mine?module-path={module}"
    sealed = [
        ("Grace Hopper: type passphrase", "pkcs11:token=card;object=mine"),
        ("Grace Hopper: type passphrase", uri),
        ("PIN of the card", pin),
    ]
    home = tmp_path / "home"
    told, room = hold(home, "root", on_files(shipped("root-creation")), override=sealed)
    assert any(line.startswith("bad-key-uri") for line in room.shown)
    assert verify_transcript(transcript(home, "root").read_bytes()).good
    share = next((home / "sticks" / "1").glob("*.share"))
    exchanged = tmp_path / "exchanged.share"
    exchanged.write_bytes(share.read_bytes().replace(b"object=mine", b"object=other"))
    opened = [("^Share 1 of", str(exchanged)), ("PIN of the card", pin), ("PIN of the card", pin)]
    told, room = hold(home, "crl", on_files(shipped("root-crl")), override=opened)
    assert told.finished
    refused = [line.split(":")[0] for line in room.shown if line.startswith(("wrong-", "token-"))]
    assert len(refused) == 1
    assert token_work.__doc__


def test_a_short_key_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from infra.errors import Rejected

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Rejected) as caught:
        seals.seal_to_card(b"x", "pkcs11:", info, b"", bytes(44))
    assert caught.value.code == "bad-recipient"
