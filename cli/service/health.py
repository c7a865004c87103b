"""How an instance is: whether it lives, whether it can do its work, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from cli.service import ending
from infra.errors import Unavailable
from pki.api import BASE
from pki.certificate import parse_certificate
from pki.hierarchy import LOG_KEY
from pki.views import moment

if TYPE_CHECKING:
    from cli.service.parts import Instance
    from pki.issuer import Issuer
    from pki.signer.watch import KeyWatch

HEALTH: Final = f"{BASE}/health"
LIVE: Final = f"{BASE}/health/live"
STATUS: Final = f"{BASE}/status"

OK: Final = "ok"
FAILING: Final = "failing"

AVAILABLE: Final = "available"
ELSEWHERE: Final = "elsewhere"
UNKNOWN: Final = "unknown"
"""How a key is, where it is no code of why it cannot sign."""

ONLY_REPORTED: Final = frozenset({LOG_KEY})
"""Keys without which issuing and answering go on: a checkpoint that is late is signed later."""


async def live(request: web.Request) -> web.Response:
    """That this process takes requests; nothing else is looked at."""
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")


async def health(instance: Instance) -> dict[str, Any]:
    """Whether it can do its work. It waits for no key, no directory and nobody else.

    ``failing`` is what stops issuing or answering: a key that cannot sign, a CRL that is due and
    cannot be made.
    """
    keys, crls = instance.key_watch, instance.crls.failing
    stopped = crls or any(name not in ONLY_REPORTED for name in keys.failing)
    return {
        "status": FAILING if stopped else OK,
        "version": instance.version,
        "sequence": await instance.ledger.sequence(),
        "log_size": instance.log.size,
        "crl_failing": crls,
        "crl_awaited": instance.crls.awaited,
        "crl_went_back": instance.crls.went_back,
        "directory_failing": instance.directories.failing,
        "keys_failing": keys.failing,
        "keys_age": age(keys),
    }


async def status(instance: Instance) -> dict[str, Any]:
    """The same for its operators: each CA with its key, its CRL and its responder, what keeps each
    part from its work, and which certificates end soon."""
    document = await health(instance)
    standings = await instance.directories.standings()
    return document | {
        "since": moment(instance.since),
        "home": str(instance.settings.home),
        "keys": instance.keys_note,
        "authorities": [
            *(_authority(instance, one) for one in instance.issuers.values()),
            *(_crl_issuer(instance, one) for one in instance.crl_issuers.values()),
        ],
        "directories": {name: {"behind": one.behind} for name, one in standings.items()},
        "ending": list(
            ending.soon(
                ending.of_instance(instance), instance.clock.now(), instance.settings.expiry
            )
        ),
        "failing": [
            *keys_failing(instance.key_watch),
            *_crls_failing(instance),
            *(
                failing(f"CA {name}", "ca-revoked", f"it issues nothing more: {why}", stops=False)
                for name, authority in instance.hierarchy.authorities.items()
                if (why := authority.barred) is not None
            ),
            *(
                failing(f"directory {name}", one.failing, one.why, stops=False)
                for name, one in standings.items()
                if one.failing
            ),
        ],
    }


def age(keys: KeyWatch) -> float | None:
    """Seconds since the keys were looked at; None when nobody has."""
    return None if keys.age is None else round(keys.age, 3)


def failing(what: str, code: str, detail: str, *, stops: bool) -> dict[str, Any]:
    """What does not work, and what to do; ``stops``: whether health is 503 for it."""
    return {"what": what, "code": code, "detail": detail, "stops": stops}


def keys_failing(keys: KeyWatch) -> list[dict[str, Any]]:
    """Each key that cannot sign."""
    return [
        failing(f"key {name}", why.code, why.detail, stops=name not in ONLY_REPORTED)
        for name, why in keys.found.items()
        if why is not None
    ]


def _crls_failing(instance: Instance) -> list[dict[str, Any]]:
    without_key = set(instance.key_watch.failing.values())
    found = []
    for name, code in instance.crls.failing.items():
        detail = f"no new CRL could be made; `digitalid crl history {name}` and the service's log"
        detail += " say more, and it is tried again"
        if code in without_key:
            detail = "no new CRL can be made without its key; it is made as soon as that is back"
        found.append(failing(f"CRL of {name}", code, detail, stops=True))
    for name, number in instance.crls.went_back.items():
        detail = f"CRL {number} was made here, and an older one is served: the ledger is a copy "
        detail += f"from before; revoke what it has lost, then: digitalid crl issue {name}"
        found.append(failing(f"CRL of {name}", "crl-went-back", detail, stops=False))
    for name, code in instance.crls.awaited.items():
        detail = f"have it signed where the key is, then: digitalid crl import FILE {name}"
        found.append(failing(f"CRL of {name}", code, detail, stops=False))
    return found


def _authority(instance: Instance, issuer: Issuer) -> dict[str, Any]:
    ends = [
        parse_certificate(one.certificate).not_after
        for one in instance.delegates
        if one.issuer.name == issuer.name
    ]
    return _view(instance, issuer, _key(instance, issuer.name)) | {
        "responder_key": _key(instance, f"{issuer.name}-ocsp") if ends else None,
        "responder_not_after": moment(ends[0]) if ends else None,
    }


def _crl_issuer(instance: Instance, issuer: Issuer) -> dict[str, Any]:
    here = issuer.name in instance.crl_signers
    key = _key(instance, f"{issuer.name}-crl") if here else ELSEWHERE
    return _view(instance, issuer, key) | {"responder_key": None, "responder_not_after": None}


def _view(instance: Instance, issuer: Issuer, key: str) -> dict[str, Any]:
    return {
        "name": issuer.name,
        "key": key,
        "not_after": moment(issuer.not_after),
        "next_update": _next_update(instance, issuer.name),
    }


def _key(instance: Instance, label: str) -> str:
    found = instance.key_watch.found
    if label not in found:
        return UNKNOWN
    why = found[label]
    return AVAILABLE if why is None else why.code


def _next_update(instance: Instance, ca: str) -> str | None:
    """Of the full CRL that ends first, of all that the CA has; None before the first one, and
    after the final one."""
    ends = []
    for kept in instance.crls:
        if kept.ca == ca:
            try:
                current = kept.series.current()
            except Unavailable:
                continue
            if not current.final:
                ends.append(current.next_update)
    return moment(min(ends)) if ends else None
