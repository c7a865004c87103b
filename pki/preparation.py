"""From what somebody asks to octets that are to be checked: read → build.

Nothing here needs a key or the ledger, so a busy CA does it in processes of its own: hostile
octets meet a process that has nothing to lose, and several processors work on issuance. What
comes back is not believed: the CA compares it with the profile before it signs.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, assert_never

import msgspec

from infra.errors import Broken, Rejected, Unavailable
from infra.worker import Worker, work
from pki.algorithms import SIGNATURE_ALGORITHMS, SignatureAlgorithm
from pki.certificate import draft
from pki.issuer import Issuer
from pki.profile import Order, Profile, parse_profile
from pki.request import MAXIMUM_SIZE, CertificateRequest, parse_request
from pki.serial import SerialNumber
from pki.weak_keys import NO_BLOCKLIST, KeyBlocklist, parse_blocklist


@dataclass(frozen=True, slots=True)
class Prepared:
    """Octets that are to be checked, and what they were made of.

    ``request``: as it was read, its proof of possession checked; ``tbs_certificate``: DER;
    ``subject``: RFC 4514.
    """

    request: CertificateRequest
    tbs_certificate: bytes
    subject: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be prepared: a certificate of ``profile`` for ``request`` (PKCS#10, PEM or DER).

    ``issuer``: None for a self-signed one; ``algorithm``: what it will be signed with.
    """

    profile: Profile
    issuer: Issuer | None
    algorithm: SignatureAlgorithm
    request: bytes
    serial: SerialNumber
    now: datetime
    order: Order


class Prepare(Protocol):
    """``prepare``, wherever it is done."""

    async def __call__(self, task: Task) -> Prepared: ...


def prepare(task: Task, blocked: KeyBlocklist) -> Prepared:
    """Read a request, and build its certificate.

    ``blocked``: keys that are refused. Errors: those of ``parse_request`` and ``draft``.
    """
    asked = parse_request(task.request, blocklist=blocked)
    made = draft(
        task.profile,
        asked,
        task.issuer,
        signature_algorithm=task.algorithm,
        serial=task.serial,
        now=task.now,
        order=task.order,
    )
    return Prepared(asked, made.tbs, made.subject.rfc4514(), made.not_before, made.not_after)


def hash_of(profile: Profile, request: CertificateRequest, order: Order) -> bytes:
    """SHA-256 of what is asked for; the request's signature, which differs each time that it is
    made, is not part of it."""
    digest = hashlib.sha256(profile.name.encode())
    for part in (
        request.subject,
        request.public_key_info,
        *(extension.oid.encode() + extension.value for extension in request.extensions),
        repr(order).encode(),
    ):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


class PrepareHere:
    """``prepare`` in this process."""

    def __init__(self, blocked: KeyBlocklist = NO_BLOCKLIST) -> None:
        self._blocked = blocked

    async def __call__(self, task: Task) -> Prepared:
        """See ``prepare``."""
        return prepare(task, self._blocked)


class _Definitions(msgspec.Struct, frozen=True, array_like=True):
    """What a process must know of a profile and an issuer before it can work with them."""

    profile: str
    content: dict[str, Any]
    issuer: Issuer | None


class _Question(msgspec.Struct, frozen=True, array_like=True):
    fingerprint: str
    issuer: bytes
    crl_url: str
    algorithm: str
    request: bytes
    serial: bytes
    now: datetime
    order: Order
    definitions: _Definitions | None = None


class _Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    prepared: Prepared


class _Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    code: str
    detail: str


class _Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    code: str
    detail: str


class _Undefined(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The process is new, or the profile is: ask again with the definitions."""


_Answer: TypeAlias = _Done | _Refused | _Failed | _Undefined

_encode: Final = msgspec.msgpack.Encoder().encode
_answer: Final = msgspec.msgpack.Decoder(_Answer).decode
_question: Final = msgspec.msgpack.Decoder(_Question).decode


class Preparation:
    """``prepare`` in other processes; the first thing asked starts them.

    ``blocked``: a file of keys that are refused (``pki.weak_keys.parse_blocklist``).
    """

    def __init__(self, processes: int, blocked: Path | None = None) -> None:
        arguments = () if blocked is None else (str(blocked),)
        self._workers = [Worker(__name__, *arguments) for _ in range(processes)]
        self._turns = cycle(self._workers)

    async def __call__(self, task: Task) -> Prepared:
        """See ``prepare``; ``Unavailable("worker-died")`` besides."""
        if len(task.request) > MAXIMUM_SIZE:
            parse_request(task.request)  # refuses it without looking
        question = _Question(
            task.profile.fingerprint,
            b"" if task.issuer is None else task.issuer.certificate,
            "" if task.issuer is None else task.issuer.crl_url,
            task.algorithm.name,
            task.request,
            task.serial.to_bytes(20, "big"),
            task.now,
            task.order,
        )
        worker = next(self._turns)
        try:
            answer = _answer(await worker.ask(_encode(question)))
        except Unavailable:
            # Preparing has no effect, so once more does no harm.
            answer = _answer(await worker.ask(_encode(question)))
        if isinstance(answer, _Undefined):
            definitions = _Definitions(task.profile.name, dict(task.profile.content), task.issuer)
            question = msgspec.structs.replace(question, definitions=definitions)
            answer = _answer(await worker.ask(_encode(question)))
        match answer:
            case _Done(prepared=prepared):
                return prepared
            case _Refused(code=code, detail=detail):
                raise Rejected(code, detail)
            case _Failed(code=code, detail=detail):
                raise Broken(code, detail)
            case _Undefined():
                raise Broken("preparation-undefined", "a process forgets what it was told")
            case _ as never:
                assert_never(never)

    async def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            await worker.close()


class _Desk:
    """In the process: what it was told, and how it answers."""

    def __init__(self, blocked: KeyBlocklist) -> None:
        self._blocked = blocked
        self._profiles: dict[str, Profile] = {}
        self._issuers: dict[bytes, Issuer | None] = {b"": None}

    def answer(self, data: bytes) -> bytes:
        question = _question(data)
        told = question.definitions
        if told is not None:
            self._profiles[question.fingerprint] = parse_profile(told.profile, told.content)
            self._issuers[question.issuer] = told.issuer
        profile = self._profiles.get(question.fingerprint)
        if profile is None or question.issuer not in self._issuers:
            return _encode(_Undefined())
        try:
            issuer = self._issuers[question.issuer]
            if issuer is not None and issuer.crl_url != question.crl_url:
                issuer = replace(issuer, crl_url=question.crl_url)  # that of another partition
            task = Task(
                profile,
                issuer,
                SIGNATURE_ALGORITHMS[question.algorithm],
                question.request,
                SerialNumber(int.from_bytes(question.serial, "big")),
                question.now,
                question.order,
            )
            prepared = prepare(task, self._blocked)
        except Rejected as rejected:
            return _encode(_Refused(rejected.code, rejected.detail))
        except Broken as broken:
            return _encode(_Failed(broken.code, broken.detail))
        except Exception as error:
            # Whatever a request does to us, the next one is answered.
            return _encode(_Failed("preparation-failed", f"{type(error).__name__}: {error}"))
        return _encode(_Done(prepared))


if __name__ == "__main__":
    _blocked = parse_blocklist(Path(sys.argv[2]).read_text()) if sys.argv[2:] else NO_BLOCKLIST
    work(_Desk(_blocked).answer)
