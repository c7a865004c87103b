"""Steps that bring requests in and sign certificates.

What is to be signed is built, checked and linted before anybody confirms, and written down; the
key is used on those very octets, whenever that comes to pass.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from infra.errors import Broken, Failure, Rejected
from pki import conformance
from pki.algorithms import (
    SignatureAlgorithm,
    algorithm_of,
    key_type_of,
    usual_algorithm,
    verify,
)
from pki.ceremony.decoded import show_key, show_tbs
from pki.ceremony.desk import Desk, Fields, Shown, Wrong
from pki.ceremony.media import read_medium
from pki.ceremony.people_acts import fingerprint, with_files
from pki.ceremony.script import Certify, Receive
from pki.ceremony.state import Authority, Input, State, known
from pki.ceremony.text import say
from pki.ceremony.transcript import read_octets, write_octets
from pki.certificate import Order, assemble, draft, is_self_issued, parse_certificate
from pki.export import encode_pem
from pki.findings import explain
from pki.issuer import Issuer
from pki.names import parse_name, parse_rfc4514
from pki.profile import Profile
from pki.profile.issuers import refusal
from pki.request import CertificateRequest, parse_request
from pki.serial import RANDOM_OCTETS, new_serial
from pki.throwaway import Throwaway
from pki.weak_keys import NO_BLOCKLIST, check_key

SELF: Final = "self"


class ReceiveAct:
    """A request or a certificate from outside."""

    def intend(self, step: Receive, desk: Desk) -> dict[str, Any]:
        while True:
            folder = desk.room.ask(
                desk.say("Folder of the medium with {input}, and nothing else:", input=step.input)
            )
            try:
                der = _read_input(step.kind, read_medium(Path(folder)))
            except Rejected as rejected:
                desk.room.show([[f"{rejected.code}: {rejected.detail}"]])
            else:
                return {"kind": step.kind, "der": write_octets(der)}

    def show(self, step: Receive, intent: Fields, state: State, language: str) -> Shown:
        der = read_octets(intent["der"])
        if step.kind == "request":
            request = parse_request(der)
            shown = [
                [say(language, "A certification request was received.")],
                [say(language, "subject"), parse_name(request.subject).rfc4514()],
                *show_key(request.public_key_info, language),
            ]
        else:
            shown = [
                [say(language, "A certificate was received.")],
                *show_tbs(parse_certificate(der).tbs, language),
            ]
        return [
            *shown,
            *fingerprint(hashlib.sha256(der).digest(), language),
            [
                say(
                    language,
                    "Who brought it reads the fingerprint from their paper; it must be this one.",
                )
            ],
        ]

    def perform(self, step: Receive, intent: Fields, desk: Desk) -> dict[str, Any]:
        return {}

    def fold(self, step: Receive, intent: Fields, result: Fields, state: State) -> State:
        received = Input(step.kind, read_octets(intent["der"]))
        return replace(state, inputs={**state.inputs, step.input: received})

    def check(self, step: Receive, intent: Fields, result: Fields, state: State) -> Wrong:
        if intent["kind"] != step.kind or result:
            yield "wrong-input", "what came in is of another kind than the script says"
        try:
            _read_input(step.kind, read_octets(intent["der"]))
        except Failure as failure:
            yield "wrong-input", f"what came in cannot be read: {failure.detail}"


def _read_input(kind: str, content: bytes) -> bytes:
    """DER of a request or a self-signed certificate, its signature checked."""
    if kind == "request":
        return parse_request(content).der
    certificate = parse_certificate(content)
    algorithm = algorithm_of(certificate.algorithm)
    check_key(certificate.public_key_info, key_type_of(certificate.public_key_info), NO_BLOCKLIST)
    verify(algorithm, certificate.public_key_info, certificate.signature, certificate.tbs)
    return certificate.der


@dataclass(frozen=True, slots=True)
class _Signing:
    """Whose key signs: its issuer (None for its own), and where the key is."""

    issuer: Issuer | None
    key: str
    algorithm: SignatureAlgorithm


def _signing(step: Certify, state: State) -> _Signing:
    if step.issuer == SELF:
        if step.key is None:
            raise Rejected("bad-script", "who signs for themselves has their key here")
        name, issuer = step.key, None
    else:
        authority = known(state.kept.authorities, step.issuer, "CA")
        name, issuer = authority.key, authority.issuer(step.issuer)
    key = known(state.kept.keys, name, "key")
    return _Signing(issuer, name, usual_algorithm(key_type_of(key.public_key_info)))


def _subject_and_key(step: Certify, state: State) -> tuple[bytes, bytes]:
    """Name and SubjectPublicKeyInfo, in DER."""
    if step.input is not None:
        given = known(state.inputs, step.input, "input")
        read = parse_request(given.der) if given.kind == "request" else parse_certificate(given.der)
        subject = read.subject if isinstance(read, CertificateRequest) else read.subject.der
        public_key_info = read.public_key_info
    else:
        public_key_info = known(state.kept.keys, step.key or "", "key").public_key_info
        named = [a for a in state.kept.authorities.values() if a.key == step.key]
        if step.subject is None and not named:
            raise Rejected("bad-script", f"key {step.key} is no CA's yet: its subject is needed")
        subject = parse_certificate(named[0].certificate).subject.der if named else b""
    if step.subject is not None:
        subject = parse_rfc4514(step.subject).der
    return subject, public_key_info


def check_here(name: str, desk: Desk) -> None:
    """Errors: ``key-elsewhere`` when the script's token does not hold the key."""
    key, label = known(desk.state.kept.keys, name, "key"), desk.script.token.label
    if label not in key.tokens:
        raise Rejected(
            "key-elsewhere",
            f"key {name} is on token {', '.join(key.tokens) or 'none: it was destroyed'}, and the "
            f"script names {label}",
        )


def _until(name: str, profile: Profile, signing: _Signing, state: State, now: datetime) -> Order:
    """The lifetime that ends with a certificate of before, counted as ``decide_validity`` does."""
    last = parse_certificate(known(state.kept.issued, name, "certificate")).not_after
    start = now.astimezone(UTC).replace(microsecond=0) - profile.validity.backdate
    if signing.issuer is not None:
        start = max(start, signing.issuer.not_before)
    return Order(lifetime=last + timedelta(seconds=1) - start)


class CertifyAct:
    """A certificate."""

    def intend(self, step: Certify, desk: Desk) -> dict[str, Any]:
        state, tools = desk.state, desk.tools
        if step.name in state.kept.issued:
            raise Rejected("name-taken", f"there is a certificate {step.name} already")
        signing = _signing(step, state)
        check_here(signing.key, desk)
        subject, public_key_info = _subject_and_key(step, state)
        profile = known(tools.profiles, step.profile, "profile")
        if signing.issuer is not None:
            root = is_self_issued(signing.issuer.certificate)
            refused = refusal(profile, step.issuer, root=root)
            if refused is not None:
                raise refused
        key_type = key_type_of(public_key_info)
        request = CertificateRequest(b"", subject, public_key_info, key_type, ())
        now = tools.clock.now()
        serial = new_serial(now, tools.random(RANDOM_OCTETS))
        order = Order() if step.until is None else _until(step.until, profile, signing, state, now)
        made = draft(
            profile,
            request,
            signing.issuer,
            signature_algorithm=signing.algorithm,
            serial=serial,
            now=now,
            order=order,
        )
        findings = conformance.check(
            made.tbs,
            profile,
            request,
            signing.issuer,
            signature_algorithm=signing.algorithm,
            serial=serial,
            now=now,
            order=order,
        )
        if findings:
            raise Broken("check-findings", explain(findings))
        if signing.issuer is not None:
            of = state.kept.keys[signing.key].public_key_info
            key = Throwaway.of(key_type_of(of), signing.algorithm)
            errors = tools.lint(assemble(made.tbs, signing.algorithm, key.sign(made.tbs)), profile)
            if errors:
                raise Rejected("lint-findings", "; ".join(errors))
        return {"tbs": write_octets(made.tbs), "profile": profile.name, "issuer": step.issuer}

    def show(self, step: Certify, intent: Fields, state: State, language: str) -> Shown:
        signer = (
            "This certificate is signed by its own key."
            if step.issuer == SELF
            else "This certificate is signed by CA {issuer}."
        )
        return [
            [say(language, signer, issuer=step.issuer)],
            [say(language, "profile"), intent["profile"]],
            *show_tbs(read_octets(intent["tbs"]), language),
        ]

    def perform(self, step: Certify, intent: Fields, desk: Desk) -> dict[str, Any]:
        tbs, signing = read_octets(intent["tbs"]), _signing(step, desk.state)
        key = desk.state.kept.keys[signing.key]
        secret = desk.secret(desk.script.token.set_label)
        signature = desk.place.sign(signing.key, signing.algorithm, tbs, secret)
        verify(signing.algorithm, key.public_key_info, signature, tbs)
        return {"certificate": write_octets(assemble(tbs, signing.algorithm, signature))}

    def fold(self, step: Certify, intent: Fields, result: Fields, state: State) -> State:
        der = read_octets(result["certificate"])
        state = state.keep(issued={**state.kept.issued, step.name: der})
        if step.authority and step.key is not None:
            authority = Authority(step.key, der, state.base)
            state = state.keep(authorities={**state.kept.authorities, step.name: authority})
        files = {f"{step.name}.cer": der, f"{step.name}.pem": encode_pem("CERTIFICATE", der)}
        return with_files(state, files)

    def check(self, step: Certify, intent: Fields, result: Fields, state: State) -> Wrong:
        tbs = read_octets(intent["tbs"])
        certificate = parse_certificate(read_octets(result["certificate"]))
        if certificate.tbs != tbs:
            yield "wrong-certificate", "what was signed is not what was confirmed"
        if (intent["profile"], intent["issuer"]) != (step.profile, step.issuer):
            yield "wrong-certificate", "profile or issuer is not as the script says"
        signing = _signing(step, state)
        subject, public_key_info = _subject_and_key(step, state)
        if certificate.subject.der != subject and parse_name(subject) != certificate.subject:
            yield "wrong-certificate", "the subject is not the one of the script or the request"
        if certificate.public_key_info != public_key_info:
            yield "wrong-certificate", "the key is not the one that was to be certified"
        issuer = certificate.subject.der if signing.issuer is None else signing.issuer.subject
        if certificate.issuer.der != issuer:
            yield "wrong-certificate", "the issuer's name is another"
        if step.until is not None:
            last = parse_certificate(known(state.kept.issued, step.until, "certificate"))
            if certificate.not_after > last.not_after:
                yield "wrong-certificate", f"it outlasts {step.until}"
        if step.name in state.kept.issued:
            yield "wrong-certificate", f"there was a certificate {step.name} before"
        if any(
            (known.issuer.der, known.serial) == (certificate.issuer.der, certificate.serial)
            for known in map(parse_certificate, state.kept.issued.values())
        ):
            yield "serial-used-twice", "the CA has used this serial number before"
        try:
            by = state.kept.keys[signing.key].public_key_info
            verify(signing.algorithm, by, certificate.signature, certificate.tbs)
        except Rejected:
            yield "wrong-signature", "the signature is not by the key of the issuer"
