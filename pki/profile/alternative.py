"""Which alternative names a profile lets into a certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

from infra.errors import Rejected
from pki import der
from pki.characters import check_text
from pki.general_name import GeneralName, GeneralNameKind, host_of
from pki.host_name import check_host_name, has_one_label
from pki.names import parse_name
from pki.profile.model import AlternativeNameRule, AlternativeNamesRule


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


def _check_characters(name: GeneralName) -> None:
    if name.kind is not GeneralNameKind.directory_name:
        check_text(f"the {name.kind} name", name.value)
        return
    _, start, stop = der.Reader(name.der).header()
    for attribute in parse_name(name.der[start:stop]).attributes:
        check_text(attribute.short, attribute.value)


def _not_allowed(detail: str) -> Rejected:
    return Rejected("san-not-allowed", detail)
