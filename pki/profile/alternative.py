"""Which alternative names a profile lets into a certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Final

from infra.errors import Rejected
from pki import der
from pki.characters import check_text
from pki.general_name import GeneralName, GeneralNameKind, host_of
from pki.host_name import check_host_name, has_one_label
from pki.names import Name, parse_name
from pki.profile.model import AlternativeNameRule, AlternativeNamesRule, SubjectRule
from pki.profile.table import Table

NO_ALTERNATIVE_NAMES: Final = AlternativeNamesRule(MappingProxyType({}), 0, frozenset())

COMPARED: Final = frozenset(GeneralNameKind) - {GeneralNameKind.directory_name}
"""Kinds whose value an attribute of the subject can be."""

_WITH_DOMAIN: Final = frozenset(
    {
        GeneralNameKind.dns,
        GeneralNameKind.email,
        GeneralNameKind.upn,
        GeneralNameKind.smtp_utf8_mailbox,
        GeneralNameKind.xmpp_address,
    }
)


def read_alternative_names(table: Table) -> AlternativeNamesRule:
    """The rule from its table. Errors: ``bad-profile``."""
    ignore = frozenset(table.choices("ignore", GeneralNameKind))
    minimum = table.count("minimum", 0, 256)
    kinds = {}
    for key in table.keys:
        kind = next((kind for kind in GeneralNameKind if kind.value == key), None)
        if kind is None:
            table.refuse(key, f"is no kind of alternative name; use {', '.join(GeneralNameKind)}")
        inner = table.table(key)
        kinds[kind] = _read_kind(kind, inner)
        inner.done()
    return AlternativeNamesRule(MappingProxyType(kinds), minimum, ignore)


def _read_kind(kind: GeneralNameKind, table: Table) -> AlternativeNameRule:
    with_domain = kind in _WITH_DOMAIN
    networks = []
    for text in table.texts("networks") if kind is GeneralNameKind.ip else ():
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            table.refuse("networks", f"{text!r} is no network: {error}")
    rule = AlternativeNameRule(
        kind=kind,
        minimum=table.count("minimum", 0, 256),
        maximum=table.count("maximum", 1, 256),
        pattern=table.pattern("pattern"),
        suffixes=tuple(s.lower().lstrip(".") for s in table.texts("suffixes"))
        if with_domain
        else (),
        schemes=table.texts("schemes") if kind is GeneralNameKind.uri else (),
        networks=tuple(networks),
        wildcard=kind is GeneralNameKind.dns and table.flag("wildcard", False),
        single_label=kind is GeneralNameKind.dns and table.flag("single_label", False),
    )
    if rule.minimum > rule.maximum:
        table.refuse("minimum", "is larger than maximum")
    return rule


def apply_alternative_names(
    rule: AlternativeNamesRule, names: Iterable[GeneralName]
) -> tuple[GeneralName, ...]:
    """The names that the certificate gets, each once, in the order in which they are asked for.

    Errors: ``san-not-allowed``, ``san-missing``, ``bad-general-name``, ``bad-character``.
    """
    kept: dict[bytes, GeneralName] = {}
    for name in names:
        allowed = rule.kinds.get(name.kind)
        if allowed is None:
            if name.kind in rule.ignore:
                continue
            known = ", ".join(rule.kinds) or "none"
            raise _not_allowed(f"{name.kind} names are not in this profile; it has {known}")
        check_alternative_name(allowed, name)
        kept[name.der] = name
    counts = Counter(name.kind for name in kept.values())
    for kind, allowed in rule.kinds.items():
        if counts[kind] > allowed.maximum:
            raise _not_allowed(f"at most {allowed.maximum} {kind} names are allowed")
        if counts[kind] < allowed.minimum:
            raise Rejected("san-missing", f"at least {allowed.minimum} {kind} names are required")
    if len(kept) < rule.minimum:
        raise Rejected("san-missing", f"at least {rule.minimum} alternative names are required")
    return tuple(kept.values())


def check_alternative_name(rule: AlternativeNameRule, name: GeneralName) -> None:
    """Refuse a name that its rule does not allow. Errors: as ``apply_alternative_names``."""
    value = name.value
    _check_characters(name)
    if host := host_of(name):
        check_host_name(host)
    if rule.kind is GeneralNameKind.dns and has_one_label(value) and not rule.single_label:
        raise _not_allowed(
            f"{value} is of one label, which is nobody's; ask for a name in a domain "
            "(or see alternative_names.dns.single_label in the profile)"
        )
    if rule.pattern is not None and rule.pattern.fullmatch(value) is None:
        raise _not_allowed(f"the {rule.kind} name does not match {rule.pattern.pattern}")
    if rule.kind is GeneralNameKind.dns and value.startswith("*.") and not rule.wildcard:
        raise _not_allowed("a wildcard is not allowed")
    if rule.suffixes:
        domain = value.rpartition("@")[2].removeprefix("*.").lower()
        if not any(domain == suffix or domain.endswith("." + suffix) for suffix in rule.suffixes):
            raise _not_allowed(f"the {rule.kind} name lies in none of {', '.join(rule.suffixes)}")
    if rule.schemes and not any(
        value[: len(scheme) + 1].lower() == scheme.lower() + ":" for scheme in rule.schemes
    ):
        raise _not_allowed(f"the URI has none of the schemes {', '.join(rule.schemes)}")
    if rule.networks:
        address = ip_address(value)
        if not any(address in network for network in rule.networks):
            raise _not_allowed("the address lies in none of the networks that are allowed")


def check_in_alternative_names(
    rule: SubjectRule, subject: Name, names: Iterable[GeneralName]
) -> None:
    """Refuse a subject that says what no alternative name says, where the profile wants that
    (CA/Browser Forum BR §7.1.4.3). Errors: ``subject-attribute-not-in-san``."""
    held = list(names)
    for attribute in subject.attributes:
        if attribute.type in rule.in_alternative_names and not any(
            _says(name, attribute.value) for name in held
        ):
            raise Rejected(
                "subject-attribute-not-in-san",
                f"{attribute.short} is {attribute.value!r}, which is none of the alternative names "
                f"({', '.join(map(str, held)) or 'there are none'}); ask for it as an alternative "
                f"name, too, or leave {attribute.short} out",
            )


def _says(name: GeneralName, value: str) -> bool:
    match name.kind:
        case GeneralNameKind.dns:
            # Outside of ASCII there are letters whose small form is an ASCII one (U+212A).
            return value.isascii() and value.lower() == name.value.lower()
        case GeneralNameKind.ip:
            try:
                return ip_address(value) == ip_address(name.value)
            except ValueError:
                return False
        case GeneralNameKind.directory_name:
            return False
        case _:
            return value == name.value


def _check_characters(name: GeneralName) -> None:
    if name.kind is not GeneralNameKind.directory_name:
        check_text(f"the {name.kind} name", name.value)
        return
    _, start, stop = der.Reader(name.der).header()
    for attribute in parse_name(name.der[start:stop]).attributes:
        check_text(attribute.short, attribute.value)


def _not_allowed(detail: str) -> Rejected:
    return Rejected("san-not-allowed", detail)
