"""The subject template: what a name must, may and must not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from infra.errors import Rejected
from pki.characters import check_text
from pki.names import ATTRIBUTE_TYPES, BY_SHORT_NAME, Attribute, Name, check_characters, encode_name
from pki.profile.model import AttributeRule, Semantics, SubjectRule
from pki.profile.table import Table

_SETTINGS: Final = ("rewrite", "one_of", "never_together", "ignore")

# EN 319 412-1 §5.1.3 to §5.1.6. A scheme of two letters and a colon is a national one.
_SEMANTICS: Final = {
    Semantics.natural_person: re.compile(r"(?:PAS|IDC|PNO|TIN|TAX|[A-Z]{2}:)[A-Z]{2}-\S.*"),
    Semantics.legal_person: re.compile(
        r"(?:VAT|NTR|PSD|[A-Z]{2}:)[A-Z]{2}-\S.*|LEIXG-[A-Z0-9]{20}"
    ),
    Semantics.eidas_natural_person: re.compile(r"[A-Z]{2}/[A-Z]{2}/\S+"),
    Semantics.eidas_legal_person: re.compile(r"[A-Z]{2}/[A-Z]{2}/\S+"),
}
_FORMS: Final = {
    Semantics.natural_person: "PNO, PAS, IDC or TIN, a country, a hyphen and a number (PNOAQ-12)",
    Semantics.legal_person: "NTR or VAT, a country, a hyphen and a number (NTRAQ-12), or LEIXG-…",
    Semantics.eidas_natural_person: "country/country/identifier (AQ/AQ/12)",
    Semantics.eidas_legal_person: "country/country/identifier (AQ/AQ/12)",
}


def read_subject(table: Table, *, national_schemes: bool) -> SubjectRule:
    """The subject template from its table; ``national_schemes``: whether the profile tells who
    registers them. Errors: ``bad-profile``."""
    rewrite = table.flag("rewrite", True)
    one_of = tuple(_types(table, "one_of", group) for group in table.lists("one_of"))
    apart = tuple(_types(table, "never_together", g) for g in table.lists("never_together"))
    ignore = _types(table, "ignore", table.texts("ignore"))
    attributes = {}
    for key in table.keys:
        kind = BY_SHORT_NAME.get(key.lower())
        if kind is None or kind.short != key:
            known = ", ".join(kind.short for kind in ATTRIBUTE_TYPES.values())
            table.refuse(
                key, f"is neither an attribute ({known}) nor one of {', '.join(_SETTINGS)}"
            )
        attributes[kind.oid] = _read_attribute(table.table(key), key, national_schemes)
    table.done()
    for group in (*one_of, *apart):
        if not group or any(oid not in attributes for oid in group):
            table.refuse("", "one_of and never_together name attributes of this template")
    return SubjectRule(
        attributes=MappingProxyType(attributes),
        rewrite=rewrite,
        one_of=one_of,
        never_together=apart,
        ignore=ignore - attributes.keys(),
        order=MappingProxyType({oid: place for place, oid in enumerate(attributes)}),
        required=tuple(oid for oid, rule in attributes.items() if rule.required),
        fixed=tuple(oid for oid, rule in attributes.items() if rule.fixed is not None),
        in_alternative_names=frozenset(
            oid for oid, rule in attributes.items() if rule.in_alternative_names
        ),
    )


def _types(table: Table, key: str, names: tuple[str, ...]) -> frozenset[str]:
    found = set()
    for name in names:
        kind = BY_SHORT_NAME.get(name.lower())
        if kind is None:
            table.refuse(key, f"{name!r} is no attribute")
        found.add(kind.oid)
    return frozenset(found)


def _read_attribute(table: Table, short: str, national_schemes: bool) -> AttributeRule:
    kind = BY_SHORT_NAME[short.lower()]
    maximum = table.count("maximum_length", kind.maximum, kind.maximum)
    rule = AttributeRule(
        type=kind.oid,
        short=short,
        required=table.flag("required", False),
        count=table.count("count", 1, 16),
        tag=kind.tag,
        tags=kind.tags,
        minimum_length=table.count("minimum_length", 2 if short == "C" else 1, maximum),
        maximum_length=maximum,
        fixed=table.optional_text("fixed"),
        pattern=table.pattern("pattern")
        or (re.compile(r"[A-Z]{2}") if short == "C" else None),  # ISO 3166-1 alpha-2
        semantics=table.choice("semantics", Semantics) if "semantics" in table else None,
        national_schemes=national_schemes,
        in_alternative_names=table.flag("in_alternative_names", False),
    )
    table.done()
    if rule.count == 0:
        table.refuse("count", "is at least 1; leave the attribute out to forbid it")
    if rule.fixed is not None:
        if rule.count != 1:
            table.refuse("count", "is 1 when the value is fixed")
        try:
            check_characters(short, rule.fixed, rule.tag)
            check_value(rule, rule.fixed)
        except Rejected as rejected:
            table.refuse("fixed", rejected.detail)
    return rule


def check_value(rule: AttributeRule, value: str) -> None:
    """Refuse a value that its rule does not allow. Errors: ``name-too-long``,
    ``subject-attribute-not-allowed``, ``bad-semantics-identifier``, ``bad-character``."""
    length = len(value)
    if length > rule.maximum_length:
        raise Rejected(
            "name-too-long", f"{rule.short} takes at most {rule.maximum_length} characters"
        )
    if length < rule.minimum_length:
        raise _not_allowed(f"{rule.short} takes at least {rule.minimum_length} characters")
    if rule.fixed is not None and value != rule.fixed:
        raise _not_allowed(f"{rule.short} is always {rule.fixed!r} in this profile")
    if rule.pattern is not None and rule.pattern.fullmatch(value) is None:
        raise _not_allowed(f"{rule.short} does not match {rule.pattern.pattern}")
    check_text(rule.short, value)
    if rule.semantics is not None:
        check_semantics(rule, rule.semantics, value)


def check_semantics(rule: AttributeRule, semantics: Semantics, value: str) -> None:
    """Refuse an identifier that is not of its form. Errors: ``bad-semantics-identifier``."""
    good = _SEMANTICS[semantics].fullmatch(value) is not None
    if good and value[2] == ":" and not rule.national_schemes:
        raise Rejected(
            "bad-semantics-identifier",
            f"{rule.short} has a national scheme, and the profile does not say who registers it "
            "(qc_statements.registration_authorities)",
        )
    if good and value.startswith("LEIXG-"):
        # ISO 17442 §6: letters count from 10 on, and the whole is 1 modulo 97.
        good = int("".join(str(int(c, 36)) for c in value[6:])) % 97 == 1
    if not good:
        raise Rejected(
            "bad-semantics-identifier",
            f"{rule.short} is written {_FORMS[semantics]}, as EN 319 412-1 §5.1 has it",
        )


def apply_subject(rule: SubjectRule, name: Name) -> Name:
    """The subject that the certificate gets for a requested one.

    Errors: ``subject-attribute-not-allowed``, ``subject-attribute-missing``, ``name-too-long``,
    ``bad-character``, ``bad-semantics-identifier``.
    """
    kept: list[Attribute] = []
    rules = rule.attributes
    as_is = True
    place = -1
    seen: set[str] = set()
    for rdn in name.rdns:
        if len(rdn) != 1:
            raise _not_allowed("an RDN of several attributes is not certified; write one in each")
        attribute = rdn[0]
        oid = attribute.type
        allowed = rules.get(oid)
        if allowed is None:
            if oid in rule.ignore:
                as_is = False
                continue
            raise _not_allowed(
                f"{attribute.short} is not in this profile, which has "
                f"{', '.join(r.short for r in rules.values())}; leave it out of the request"
            )
        check_value(allowed, attribute.value)
        if oid in seen:
            if sum(a.type == oid for a in kept) == allowed.count:
                raise _not_allowed(f"{allowed.short} may occur {allowed.count} times")
        else:
            seen.add(oid)
        kept.append(attribute)
        if attribute.tag not in allowed.tags or (rule.rewrite and attribute.tag != allowed.tag):
            as_is = False
        if rule.rewrite:
            if rule.order[oid] < place:
                as_is = False
            place = rule.order[oid]
    for oid in rule.fixed:
        if oid not in seen:
            seen.add(oid)
            fixed = rules[oid]
            kept.append(Attribute(oid, fixed.fixed or "", fixed.tag))
            as_is = False
    _complete(rule, seen)
    return name if as_is else _rewritten(rule, rules, kept)


def _complete(rule: SubjectRule, seen: set[str]) -> None:
    for oid in rule.required:
        if oid not in seen:
            raise Rejected(
                "subject-attribute-missing",
                f"{rule.attributes[oid].short} is required by this profile",
            )
    if rule.one_of and not any(group <= seen for group in rule.one_of):
        ways = " or ".join(_shorts(rule, group) for group in rule.one_of)
        raise Rejected("subject-attribute-missing", f"this profile requires {ways}")
    for group in rule.never_together:
        if len(group & seen) > 1:
            raise _not_allowed(f"{_shorts(rule, group)} exclude each other")


def _shorts(rule: SubjectRule, group: frozenset[str]) -> str:
    return " and ".join(rule.attributes[oid].short for oid in sorted(group, key=rule.order.get))  # type: ignore[arg-type]


def _rewritten(
    rule: SubjectRule, rules: Mapping[str, AttributeRule], kept: list[Attribute]
) -> Name:
    written = []
    for attribute in sorted(kept, key=lambda attribute: rule.order[attribute.type]):
        allowed = rules[attribute.type]
        if attribute.tag != allowed.tag:
            check_characters(allowed.short, attribute.value, allowed.tag)
        written.append(Attribute(attribute.type, attribute.value, allowed.tag))
    return encode_name(written)


def _not_allowed(detail: str) -> Rejected:
    return Rejected("subject-attribute-not-allowed", detail)
