"""The script: who takes part, and what is done step by step, as TOML read into typed values."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from infra.errors import Rejected
from pki.algorithms import KeyType
from pki.ceremony.share import MOST, check_quorum

MAXIMUM_SIZE: Final = 256 * 1024  # octets
MAXIMUM_STEPS: Final = 100

Name: TypeAlias = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]
"""Of a key, a CA, an input: goes into file names and URLs."""
Label: TypeAlias = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
Span: TypeAlias = Annotated[str, Meta(pattern="^[1-9][0-9]{0,3}[ydh]$")]
Sentence: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2000)]
Url: TypeAlias = Annotated[str, Meta(pattern="^https?://[^\\s/][^\\s]*[^\\s/]$", max_length=200)]


class Role(StrEnum):
    """What somebody is in a ceremony."""

    administrator = "administrator"
    custodian = "custodian"
    witness = "witness"
    auditor = "auditor"


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text in both languages."""

    en: Sentence
    zh: Sentence

    def of(self, language: str) -> str:
        """The text in ``language``."""
        return self.zh if language == "zh" else self.en


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="act", kw_only=True):
    """What all steps have. ``confirm``: the roles of which everybody confirms it before it is done;
    ``say``: what is read out before."""

    confirm: tuple[Role, ...] = (Role.administrator, Role.auditor)
    say: Words | None = None


class Attend(Step, frozen=True, tag="attend"):
    """Those present say who they are and get the key they confirm with."""


class Check(Step, frozen=True, tag="check"):
    """Something that people see to, and vouch for. ``say`` tells what."""


class Inspect(Step, frozen=True, tag="inspect"):
    """The machine says what it runs, what time it has, and which token it sees."""


class ShareSecret(Step, frozen=True, tag="share-secret"):
    """A new secret for the token, split among the custodians. ``keep``: the secret stays, and only
    its shares are new."""

    threshold: Annotated[int, Meta(ge=2, le=MOST)]
    keep: bool = False


class InitialiseToken(Step, frozen=True, tag="initialise-token"):
    """A token whose PINs come from the shared secret."""


class ChangePin(Step, frozen=True, tag="change-pin"):
    """The token's PINs from the new secret, in place of the old."""


class MakeKey(Step, frozen=True, tag="make-key"):
    """A key pair on the token. ``backup``: it is wrapped once under a key from the secret, and can
    never be read out afterwards."""

    key: Name
    key_type: KeyType
    backup: bool = False


class RestoreKey(Step, frozen=True, tag="restore-key"):
    """A key from its backup onto this token."""

    key: Name


class DestroyKey(Step, frozen=True, tag="destroy-key"):
    """A private key, gone from this token."""

    key: Name


class Receive(Step, frozen=True, tag="receive"):
    """A file from a medium that holds nothing else."""

    input: Name
    kind: Literal["request", "certificate"]


class Certify(Step, frozen=True, tag="certify"):
    """A certificate. ``issuer``: a CA, or ``self``; for what: a key of this hierarchy (``key``) or
    an input; ``name``: of the file; ``authority``: whether a CA of this name comes into being;
    ``subject``: RFC 4514, else that of the input, or of the CA whose key it is; ``until``: the
    certificate at whose end it ends at the latest."""

    name: Name
    issuer: Name
    profile: Name
    key: Name | None = None
    input: Name | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    until: Name | None = None
    authority: bool = False


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate to be listed: by the name that it got in a ceremony, or its serial number."""

    reason: Literal[
        "cACompromise", "keyCompromise", "superseded", "cessationOfOperation", "affiliationChanged"
    ]
    name: Name | None = None
    serial: Annotated[str, Meta(pattern="^[0-9a-f]{2,40}$")] | None = None


class SignCrl(Step, frozen=True, tag="sign-crl"):
    """A CRL of a CA whose key is here. ``lifetime``: until nextUpdate; ``revoke``: what is new."""

    issuer: Name
    lifetime: Span
    revoke: tuple[Revocation, ...] = ()


class HandOver(Step, frozen=True, tag="hand-over"):
    """What was made, file by file, copied to a medium that is otherwise empty."""

    files: tuple[Annotated[str, Meta(pattern="^[a-z0-9-]{1,64}\\.[a-z]{2,8}$")], ...]


class Close(Step, frozen=True, tag="close"):
    """Everybody signs the whole."""


AnyStep: TypeAlias = (
    Attend
    | Check
    | Inspect
    | ShareSecret
    | InitialiseToken
    | ChangePin
    | MakeKey
    | RestoreKey
    | DestroyKey
    | Receive
    | Certify
    | SignCrl
    | HandOver
    | Close
)


class People(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many there are of each role."""

    administrator: Annotated[int, Meta(ge=1, le=4)] = 1
    custodian: Annotated[int, Meta(ge=0, le=MOST)] = 0
    witness: Annotated[int, Meta(ge=0, le=16)] = 0
    auditor: Annotated[int, Meta(ge=0, le=4)] = 0

    def each(self) -> Iterator[tuple[Role, str]]:
        """Every place, with the identifier of who takes it."""
        for role in Role:
            for number in range(1, getattr(self, role.value) + 1):
                yield role, f"{role.value}-{number}"


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where keys are. ``store``: a SoftHSM token of this home folder, a vendor's PKCS#11
    ``module``, or encrypted files; ``opened_by``: the token whose shared secret opens this one."""

    store: Literal["softhsm", "pkcs11", "file"]
    label: Label
    module: Annotated[str, Meta(pattern="^/[^\\0]{1,250}$")] | None = None
    opened_by: Label | None = None

    @property
    def set_label(self) -> str:
        """Whose shared secret opens it."""
        return self.opened_by or self.label


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ceremony as it is meant to go."""

    kind: Name
    title: Words
    people: People
    token: Token
    public_url: Url
    step: Annotated[tuple[AnyStep, ...], Meta(min_length=2, max_length=MAXIMUM_STEPS)]


def parse_script(text: str) -> Script:
    """Read a script. Errors: ``bad-script``, ``bad-quorum``."""
    if len(text) > MAXIMUM_SIZE:
        raise _bad(f"it has more than {MAXIMUM_SIZE} characters")
    try:
        script = msgspec.convert(tomllib.loads(text), Script)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise _bad(str(error)) from error
    _check(script)
    return script


def _check(script: Script) -> None:
    kinds = Counter(type(step) for step in script.step)
    if not isinstance(script.step[0], Attend) or kinds[Attend] != 1:
        raise _bad("the first step, and no other, is attend")
    if not isinstance(script.step[-1], Close) or kinds[Close] != 1:
        raise _bad("the last step, and no other, is close")
    if script.token.store == "pkcs11" and script.token.module is None:
        raise _bad("token: store = pkcs11 needs a module")
    inputs: set[str] = set()
    outputs: set[str] = set()
    for number, step in enumerate(script.step, 1):
        here = f"step {number} ({step_name(step)})"
        present = [role for role in step.confirm if getattr(script.people, role.value)]
        if not present:
            raise _bad(f"{here}: nobody of those who are to confirm it takes part")
        match step:
            case Check() if step.say is None:
                raise _bad(f"{here}: say tells what is to be seen to")
            case ShareSecret():
                check_quorum(step.threshold, script.people.custodian)
            case Receive():
                if step.input in inputs:
                    raise _bad(f"{here}: there is an input {step.input} already")
                inputs.add(step.input)
            case Certify():
                if (step.key is None) == (step.input is None):
                    raise _bad(f"{here}: key or input, one of them")
                if step.input is not None and step.input not in inputs:
                    raise _bad(f"{here}: no step before receives {step.input}")
                if step.name in outputs:
                    raise _bad(f"{here}: there is a certificate {step.name} already")
                if step.authority and step.key is None:
                    raise _bad(f"{here}: a CA of this hierarchy has its key here")
                outputs.add(step.name)
            case SignCrl():
                for each in step.revoke:
                    if (each.name is None) == (each.serial is None):
                        raise _bad(f"{here}: revoke names a certificate or its serial number")
            case _:
                pass


def step_name(step: Step) -> str:
    """What a script calls an act."""
    return str(step.__struct_config__.tag)


def _bad(why: str) -> Rejected:
    return Rejected("bad-script", f"this is not a script of a ceremony: {why}")
