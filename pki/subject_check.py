"""The subject of a certificate that is about to be signed, held against the profile's template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from string import ascii_lowercase, ascii_uppercase
from typing import Final, TypeAlias

from infra.errors import Rejected
from pki import der
from pki.characters import check_text
from pki.names import parse_name
from pki.profile.model import SubjectRule
from pki.profile.subject import check_semantics

Found: TypeAlias = Iterator[tuple[str, str]]

# How the characters of each string type are written (RFC 5280 §4.1.2.4).
_CHARSETS: Final = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    0x14: "latin-1",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


_SMALL: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


def _rdns(name: bytes) -> list[list[tuple[str, str, der.Tag]]]:
    """The attributes of each RDN: type, text, string type; cryptography's Name takes longer."""
    rdns = []
    outer = der.one(name, der.SEQUENCE)
    while outer:
        rdn = outer.enter(der.SET)
        pairs = []
        while rdn:
            attribute = rdn.enter(der.SEQUENCE)
            oid = attribute.object_identifier()
            tag, start, stop = attribute.header()
            attribute.done()
            charset = _CHARSETS.get(tag)
            pairs.append((oid, name[start:stop].decode(charset) if charset else "", tag))
        rdns.append(pairs)
    return rdns


def check_subject(subject: bytes, rule: SubjectRule, requested: bytes) -> Found:
    """What deviates in a subject: code and detail. ``subject``, ``requested``: Name in DER."""
    held: list[tuple[str, str]] = []
    place = -1
    for pairs in _rdns(subject):
        if len(pairs) != 1:
            yield "subject", "an RDN holds several attributes"
        for oid, text, tag in pairs:
            yield from _attribute(rule, oid, text, tag)
            if rule.rewrite and (order := rule.order.get(oid, -1)) < place:
                yield "subject", "the attributes are not in the order of the profile"
            else:
                place = order if rule.rewrite else place
            held.append((oid, text))
    if subject != requested:
        yield from _same_values(rule, held, requested)
    yield from _complete(rule, [oid for oid, _ in held])


def check_repeated(subject: bytes, rule: SubjectRule, names: Iterable[tuple[str, str]]) -> Found:
    """What of a subject must be an alternative name, too, and is none (CA/Browser Forum BR
    §7.1.4.3). ``subject``: Name in DER; ``names``: kind and value, as ``pki.reference.plain``."""
    if not rule.in_alternative_names:
        return
    held = {_comparable(kind, value) for kind, value in names}
    for pairs in _rdns(subject):
        for oid, text, _ in pairs:
            if oid not in rule.in_alternative_names:
                continue
            forms = {_comparable("dns", text), ("other", text)}
            with suppress(ValueError):
                forms.add(_comparable("ip", text))
            if forms.isdisjoint(held):
                short = rule.attributes[oid].short
                yield "subject-attribute", f"{short} is none of the alternative names"


def _comparable(kind: str, value: str) -> tuple[str, str]:
    match kind:
        case "ip":
            return kind, ip_address(value).compressed
        case "dns":
            # Of A to Z alone (RFC 4343 §3): str.lower makes an ASCII k of U+212A, too.
            return kind, value.translate(_SMALL)
        case "directoryName":
            return kind, value
    return "other", value


def _attribute(rule: SubjectRule, oid: str, value: str, tag: der.Tag) -> Found:
    allowed = rule.attributes.get(oid)
    if allowed is None:
        yield "subject-attribute", f"attribute {oid} is not in the profile"
        return
    short = allowed.short
    if tag not in ({allowed.tag} if rule.rewrite else allowed.tags):
        yield "subject-attribute", f"{short} has string type {tag:#04x}"
    if not allowed.minimum_length <= len(value) <= allowed.maximum_length:
        yield "subject-attribute", f"{short} is too short or too long"
    if allowed.fixed is not None and value != allowed.fixed:
        yield "subject-attribute", f"{short} is not {allowed.fixed!r}"
    if allowed.pattern is not None and not allowed.pattern.fullmatch(value):
        yield "subject-attribute", f"{short} does not match its pattern"
    try:
        check_text(short, value)
        if allowed.semantics is not None:
            check_semantics(allowed, allowed.semantics, value)
    except Rejected as rejected:
        yield "subject-attribute", rejected.detail


def _same_values(rule: SubjectRule, held: list[tuple[str, str]], requested: bytes) -> Found:
    """A name that was written anew says what was requested, and what the profile adds."""
    if not rule.rewrite and not rule.fixed and not rule.ignore:
        yield "subject", "the subject is not the one that was requested"
        return
    asked = [
        (attribute.type, attribute.value)
        for attribute in parse_name(requested).attributes
        if attribute.type not in rule.ignore
    ]
    present = {oid for oid, _ in asked}
    asked += [(oid, rule.attributes[oid].fixed or "") for oid in rule.fixed if oid not in present]
    if sorted(asked) != sorted(held):
        yield "subject", "the subject does not say what was requested"


def _complete(rule: SubjectRule, held: Sequence[str]) -> Found:
    present = set(held)
    for oid, allowed in rule.attributes.items():
        if (allowed.required or allowed.fixed is not None) and oid not in present:
            yield "subject-attribute", f"{allowed.short} is missing"
    if len(present) != len(held):
        for oid in present:
            known = rule.attributes.get(oid)
            if known is not None and held.count(oid) > known.count:
                yield "subject-attribute", f"{known.short} occurs too often"
    if rule.one_of and not any(present.issuperset(group) for group in rule.one_of):
        yield "subject-attribute", "of several attributes that stand for each other none is there"
    if any(len(present.intersection(group)) > 1 for group in rule.never_together):
        yield "subject-attribute", "attributes that exclude each other are there"
