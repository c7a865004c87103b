"""Steps with the shared secret, the token and its keys."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace
from typing import Any

from infra.errors import Broken, Rejected
from pki.algorithms import KeyType, key_type_of
from pki.ceremony.custody import give_out
from pki.ceremony.desk import Desk, Fields, Shown, Wrong
from pki.ceremony.place import Made
from pki.ceremony.script import (
    ChangePin,
    DestroyKey,
    InitialiseToken,
    MakeKey,
    RestoreKey,
    Role,
    ShareSecret,
)
from pki.ceremony.share import SECRET, SET_IDENTIFIER, share_out
from pki.ceremony.state import Key, State, known, read_set, write_set
from pki.ceremony.text import say
from pki.ceremony.words import in_groups


class ShareSecretAct:
    """Draw or keep the secret, split it, seal each share to its custodian."""

    def intend(self, step: ShareSecret, desk: Desk) -> dict[str, Any]:
        label = desk.script.token.label
        if desk.script.token.opened_by is not None:
            raise Rejected("bad-script", "the secret of another token opens this one")
        if step.keep and label not in desk.state.kept.sets:
            raise Rejected("unknown-name", f"token {label} has no shared secret to keep")
        custodians = [p.id for p in desk.state.people.values() if p.role is Role.custodian]
        return {"label": label, "custodians": custodians, "threshold": step.threshold}

    def show(self, step: ShareSecret, intent: Fields, state: State, language: str) -> Shown:
        first = (
            "The secret of token {label} stays; its shares are made anew. Old and new shares do "
            "not go together."
            if step.keep
            else "A new random secret for token {label} is drawn and split into shares."
        )
        people = [known(state.people, each, "custodian").name for each in intent["custodians"]]
        return [
            [say(language, first, label=intent["label"])],
            [
                say(
                    language,
                    "Any {threshold} of {count} shares rebuild it; fewer say nothing about it.",
                    threshold=intent["threshold"],
                    count=len(people),
                )
            ],
            [say(language, "custodians"), ", ".join(people)],
            [
                say(
                    language,
                    "Each custodian seals one share by a passphrase, to a public key (age1…) or to "
                    "the RSA key of a card (its pkcs11: URI), and takes the file away on a medium "
                    "of their own.",
                )
            ],
        ]

    def perform(self, step: ShareSecret, intent: Fields, desk: Desk) -> dict[str, Any]:
        label, people = intent["label"], intent["custodians"]
        random = desk.tools.random
        secret = desk.secret(label) if step.keep else bytearray(random(SECRET))
        sharing, shares = share_out(
            bytes(secret),
            random(SET_IDENTIFIER),
            label,
            step.threshold,
            len(people),
            random((step.threshold - 1) * SECRET),
        )
        seals = give_out(desk, sharing, shares, people)
        desk.remember(sharing.identifier, secret)
        return {"set": write_set(sharing), "seals": seals}

    def fold(self, step: ShareSecret, intent: Fields, result: Fields, state: State) -> State:
        sharing, kept = read_set(result["set"]), state.kept
        if step.keep or sharing.label not in kept.sets:
            return state.keep(sets={**kept.sets, sharing.label: sharing})
        return state.keep(coming={**kept.coming, sharing.label: sharing})

    def check(self, step: ShareSecret, intent: Fields, result: Fields, state: State) -> Wrong:
        sharing = read_set(result["set"])
        said = (sharing.label, sharing.threshold, len(sharing.shares))
        if said != (intent["label"], step.threshold, len(intent["custodians"])):
            yield "wrong-quorum", "the sharing is not the one that was confirmed"
        sizes = {len(c) for c in (*sharing.shares.values(), sharing.secret)}
        if sizes != {32} or len(sharing.identifier) != SET_IDENTIFIER:
            yield "wrong-quorum", "a commitment is not a hash"
        if len(result["seals"]) != len(intent["custodians"]):
            yield "wrong-quorum", "a share was sealed to nobody"
        if len(set(sharing.shares.values())) != len(sharing.shares):
            yield "wrong-quorum", "two shares are the same"


class InitialiseTokenAct:
    """A token opened by the shared secret, and by nothing else."""

    def intend(self, step: InitialiseToken, desk: Desk) -> dict[str, Any]:
        token = desk.script.token
        known(desk.state.kept.sets, token.set_label, "shared secret for token")
        return {"label": token.label, "opened_by": token.set_label, "store": token.store}

    def show(self, step: InitialiseToken, intent: Fields, state: State, language: str) -> Shown:
        return [
            [
                say(
                    language,
                    "Token {label} is initialised. Its user PIN and its security officer's PIN "
                    "are derived from the shared secret; nobody ever sees them.",
                    label=intent["label"],
                )
            ],
            [say(language, "secret of"), intent["opened_by"]],
            [say(language, "kind"), intent["store"]],
        ]

    def perform(self, step: InitialiseToken, intent: Fields, desk: Desk) -> dict[str, Any]:
        desk.place.initialise(desk.secret(intent["opened_by"]))
        return {"token": dict(desk.place.facts())}

    def fold(self, step: InitialiseToken, intent: Fields, result: Fields, state: State) -> State:
        facts = {**result["token"], "opened_by": intent["opened_by"]}
        return state.keep(tokens={**state.kept.tokens, intent["label"]: facts})

    def check(self, step: InitialiseToken, intent: Fields, result: Fields, state: State) -> Wrong:
        if result["token"].get("label") != intent["label"]:
            yield "wrong-token", "another token was initialised than confirmed"


class ChangePinAct:
    """The token's PINs from the new secret."""

    def intend(self, step: ChangePin, desk: Desk) -> dict[str, Any]:
        label = desk.script.token.label
        known(desk.state.kept.coming, label, "new secret for token")
        held = [n for n, key in desk.state.kept.keys.items() if key.backup and label in key.tokens]
        if held:
            raise Rejected(
                "backup-needs-secret",
                f"the backup of {', '.join(held)} opens with the secret of today; share that one "
                "anew instead (share-secret with keep = true)",
            )
        return {"label": label}

    def show(self, step: ChangePin, intent: Fields, state: State, language: str) -> Shown:
        return [
            [
                say(
                    language,
                    "The PINs of token {label} are changed to those of the new secret. The shares "
                    "of the old one open nothing afterwards.",
                    label=intent["label"],
                )
            ]
        ]

    def perform(self, step: ChangePin, intent: Fields, desk: Desk) -> dict[str, Any]:
        label = intent["label"]
        desk.place.change(desk.secret(label), desk.secret(label, coming=True))
        return {"set": desk.state.kept.coming[label].identifier.hex()}

    def fold(self, step: ChangePin, intent: Fields, result: Fields, state: State) -> State:
        coming = dict(state.kept.coming)
        sharing = coming.pop(intent["label"])
        return state.keep(sets={**state.kept.sets, intent["label"]: sharing}, coming=coming)

    def check(self, step: ChangePin, intent: Fields, result: Fields, state: State) -> Wrong:
        coming = state.kept.coming.get(intent["label"])
        if coming is None or coming.identifier.hex() != result["set"]:
            yield "wrong-quorum", "the new PINs are not from the secret that was shared"


class MakeKeyAct:
    """A key pair on the token."""

    def intend(self, step: MakeKey, desk: Desk) -> dict[str, Any]:
        if step.key in desk.state.kept.keys:
            raise Rejected("key-exists", f"there was a key {step.key} already; use another name")
        return {"token": desk.script.token.label, "key": step.key, "key_type": step.key_type.value}

    def show(self, step: MakeKey, intent: Fields, state: State, language: str) -> Shown:
        backup = (
            "The private key is wrapped once, under a key from the shared secret (AES-256, "
            "RFC 5649); from then on the token does not let it be read out or wrapped."
            if step.backup
            else "The private key can never be read out of the token; there is no backup of it."
        )
        return [
            [say(language, "A key pair is made on token {label}.", label=intent["token"])],
            [say(language, "key"), intent["key"]],
            [say(language, "type"), intent["key_type"]],
            [say(language, backup)],
        ]

    def perform(self, step: MakeKey, intent: Fields, desk: Desk) -> dict[str, Any]:
        secret = desk.secret(desk.script.token.set_label)
        made = desk.place.make(step.key, step.key_type, secret, backup=step.backup)
        return _write_made(made)

    def fold(self, step: MakeKey, intent: Fields, result: Fields, state: State) -> State:
        made = _read_made(result)
        key = Key(
            made.uri,
            step.key_type.value,
            made.public_key_info,
            (intent["token"],),
            made.backup,
        )
        return state.keep(keys={**state.kept.keys, step.key: key})

    def check(self, step: MakeKey, intent: Fields, result: Fields, state: State) -> Wrong:
        made = _read_made(result)
        if key_type_of(made.public_key_info) is not step.key_type:
            yield "wrong-key", "the key is of another type than confirmed"
        if any(k.public_key_info == made.public_key_info for k in state.kept.keys.values()):
            yield "wrong-key", "this key was there before"
        if bool(made.backup) != step.backup:
            yield "wrong-key", "the backup is not as the script says"
        if (intent["key"], intent["key_type"]) != (step.key, step.key_type.value):
            yield "wrong-key", "another key was confirmed than the script says"


class RestoreKeyAct:
    """A key from its backup."""

    def intend(self, step: RestoreKey, desk: Desk) -> dict[str, Any]:
        key = known(desk.state.kept.keys, step.key, "key")
        if not key.backup:
            raise Rejected("no-such-backup", f"key {step.key} was made without a backup")
        label = desk.script.token.label
        return {"key": step.key, "token": label, "backup": key.backup}

    def show(self, step: RestoreKey, intent: Fields, state: State, language: str) -> Shown:
        label = intent["token"]
        return [
            [say(language, "A key is restored from its backup onto token {label}.", label=label)],
            [say(language, "key"), intent["key"]],
            [say(language, "SHA-256 of the backup"), in_groups(bytes.fromhex(intent["backup"]))],
        ]

    def perform(self, step: RestoreKey, intent: Fields, desk: Desk) -> dict[str, Any]:
        key = desk.state.kept.keys[step.key]
        secret = desk.secret(desk.script.token.set_label)
        made = Made(key.uri, key.public_key_info, key.backup)
        return {"uri": desk.place.restore(step.key, made, key.key_type, secret)}

    def fold(self, step: RestoreKey, intent: Fields, result: Fields, state: State) -> State:
        key = state.kept.keys[step.key]
        tokens = tuple(dict.fromkeys((*key.tokens, intent["token"])))
        changed = replace(key, uri=result["uri"], tokens=tokens)
        return state.keep(keys={**state.kept.keys, step.key: changed})

    def check(self, step: RestoreKey, intent: Fields, result: Fields, state: State) -> Wrong:
        key = state.kept.keys.get(step.key)
        if key is None or key.backup != intent["backup"] or intent["key"] != step.key:
            yield "wrong-key", "another backup was restored than the one of this key"
        if not isinstance(result["uri"], str):
            yield "wrong-key", "the restored key has no URI"


class DestroyKeyAct:
    """No private key of this name on this token."""

    def intend(self, step: DestroyKey, desk: Desk) -> dict[str, Any]:
        key = known(desk.state.kept.keys, step.key, "key")
        label = desk.script.token.label
        if label not in key.tokens:
            raise Rejected("unknown-name", f"key {step.key} is not on token {label}")
        return {"key": step.key, "token": label}

    def show(self, step: DestroyKey, intent: Fields, state: State, language: str) -> Shown:
        return [
            [
                say(
                    language,
                    "The private key {key} is destroyed on token {label}. This cannot be undone.",
                    key=intent["key"],
                    label=intent["token"],
                )
            ],
            [say(language, "backups"), say(language, "are destroyed by people, in another step")],
        ]

    def perform(self, step: DestroyKey, intent: Fields, desk: Desk) -> dict[str, Any]:
        desk.place.destroy(step.key, desk.secret(desk.script.token.set_label))
        return {"left": 0}

    def fold(self, step: DestroyKey, intent: Fields, result: Fields, state: State) -> State:
        key = state.kept.keys[step.key]
        left = tuple(label for label in key.tokens if label != intent["token"])
        return state.keep(keys={**state.kept.keys, step.key: replace(key, tokens=left)})

    def check(self, step: DestroyKey, intent: Fields, result: Fields, state: State) -> Wrong:
        if result["left"] != 0 or intent["key"] != step.key:
            yield "wrong-key", "the key that was to be destroyed is still there"


def _write_made(made: Made) -> dict[str, Any]:
    spki = base64.b64encode(made.public_key_info).decode()
    return {**asdict(made), "public_key_info": spki}


def _read_made(result: Fields) -> Made:
    try:
        spki = base64.b64decode(result["public_key_info"], validate=True)
        made = Made(str(result["uri"]), spki, str(result["backup"]))
        KeyType(key_type_of(spki))
    except (KeyError, ValueError) as error:
        raise Broken("bad-transcript", "a key's result cannot be read") from error
    return made
