"""The directory: filled by the publisher, searched, how soon it shows a certificate, and compared.

Ours is the product's own publisher on the product's own slapd. The reference has the same slapd
with the same configuration and the same disk in the same run: ``ldapadd`` of the very entries that
the publisher has made, and ``ldapsearch -f`` for the entries' names.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final

from bench.issue import IN_FLIGHT, PROFILE, requests, scratch
from bench.peers.process import output
from cli.compose import running
from cli.service.directories import Repository, rules
from cli.service.parts import Instance
from cli.service.private_slapd import Running, private_slapd
from conf.load import load
from conf.schema import Settings
from infra.slapd import find_slapd
from pki.authority import Application
from pki.directory.compare import Comparison, Difference
from pki.directory.entries import SERIAL_NUMBER
from pki.directory.ldap import LdapDirectory, Login
from pki.directory.process import Connections
from pki.directory.publisher import Publisher
from pki.directory.source import Source
from pki.record import CERTIFICATES

ROUND: Final = 2_000  # entries of one fill
RATE: Final = 100  # certificates a second while the lag is measured
LAG_LIMIT: Final = 1.0
LOOK_UPS: Final = 5_000
BASE: Final = "o=DigitalID"
HOLDERS: Final = "(objectClass=digitalidHolder)"
_PATIENCE: Final = 1800.0


async def run(quick: bool) -> list[dict[str, Any]]:
    """Fill in turns, the best round of each; then look up, follow and compare on a large one."""
    if find_slapd() is None or not all(map(shutil.which, ("ldapadd", "ldapsearch"))):
        print("directory is left out: there is no slapd here", file=sys.stderr)
        return []
    rounds, seconds, size = (5, 5, 4_000) if quick else (15, 30, 100_000)
    with scratch() as name:
        folder = Path(name)
        fill = await _fill(folder / "fill", rounds)
        lag = await _lag(folder / "lag", seconds)
        large = await _large(folder / "large", size)
    return [
        _figure("directory-fill", "entries/s", fill, "ldapadd of the same LDIF", 1.0),
        _figure("directory-look-up", "searches/s", large.look_up, "ldapsearch -f by name", 0.9),
        {
            "name": "directory-lag-p99",
            "unit": "s",
            "ours": round(lag, 4),
            "reference": f"the issue's limit at {RATE} certificates/s",
            "reference_value": LAG_LIMIT,
            "ratio": round(lag / LAG_LIMIT, 3),
            "limit": 1.0,
        },
        _figure(f"directory-fill-{size}", "entries/s", (large.fill, 0.0), "none", 0.0),
        _figure(f"directory-compare-{size}", "entries/s", (large.compare, 0.0), "none", 0.0),
        _figure(f"directory-repair-{size}", "entries/s", (large.repair, 0.0), "none", 0.0),
    ]


@dataclass(frozen=True, slots=True)
class Large:
    """Rates of a large directory: entries a second; ``look_up``: searches a second by serial
    number, and by name."""

    fill: float
    look_up: tuple[float, float]
    compare: float
    repair: float


async def _fill(folder: Path, rounds: int) -> tuple[float, float]:
    """Entries a second of the publisher and of ldapadd, each in its best round."""
    ours = theirs = 0.0
    async with _ledger(folder / "ca", ROUND) as instance:
        for number in range(rounds):
            async with _server(folder / f"ours-{number}") as url:
                publisher = _publisher(instance, f"round-{number}", url)
                ours = max(ours, await _filled(publisher, ROUND))
                ldif = await _ldif(url, folder / "entries.ldif")
            async with _server(folder / f"theirs-{number}") as url:
                branches = _publisher(instance, "branches", url)
                await branches.prepare()
                await branches.stop()
                theirs = max(theirs, await _added(url, ldif, ROUND))
    return ours, theirs


async def _lag(folder: Path, seconds: int) -> float:
    """From a certificate in the ledger to its entry in the directory, 99 % of the time."""
    made = iter(requests(range(RATE * seconds)))
    settings = _settings(folder / "ca")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_server(folder / "slapd"))
        instance = await stack.enter_async_context(running(settings, create=True, serving=True))
        publisher = _publisher(instance, "lag", url)
        await publisher.prepare()
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        authority = instance.hierarchy.authority("issuing")
        waiting: dict[str, float] = {}
        lags: list[float] = []
        issued = threading.Event()

        def watch() -> None:
            reader = LdapDirectory(Login(url=url))
            while not issued.is_set() or waiting:
                names = list(waiting)
                found = reader.read([(name, ("1.1",)) for name in names])
                now = perf_counter()
                lags.extend(
                    now - waiting.pop(name)
                    for name, entry in zip(names, found, strict=True)
                    if entry is not None
                )
                sleep(0.005)
            reader.close()

        async def issue(request: bytes) -> None:
            record = await authority.issue(_application(request))
            dn = f"uid={publisher.rules.id(record.subject)},{tree.people},{tree.base}"
            waiting[dn] = perf_counter()

        tree = publisher.rules.tree
        watching = asyncio.create_task(asyncio.to_thread(watch))
        started = perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(made):
                await asyncio.sleep(started + number / RATE - perf_counter())
                group.create_task(issue(request))
        issued.set()
        await asyncio.wait_for(watching, _PATIENCE)
    if len(lags) != RATE * seconds:
        raise RuntimeError(f"of {RATE * seconds} certificates {len(lags)} were seen")
    lags.sort()
    return lags[len(lags) * 99 // 100]


async def _large(folder: Path, size: int) -> Large:
    async with _ledger(folder / "ca", size) as instance, _server(folder / "ours") as url:
        publisher = _publisher(instance, "large", url)
        fill = await _filled(publisher, size)
        publisher = _publisher(instance, "large", url)
        compare = await _compared(instance, publisher, repair=False, differences=0)
        serials, names = await _keys(url, folder)
        by_serial = by_name = 0.0
        for _ in range(5):
            by_serial = max(by_serial, await _searched(url, f"({SERIAL_NUMBER}=%s)", serials))
            by_name = max(by_name, await _searched(url, "(uid=%s)", names))
        gone = await _damaged(url, folder)
        repair = await _compared(instance, publisher, repair=True, differences=gone)
        await _compared(instance, publisher, repair=False, differences=0)
        await publisher.stop()
    return Large(fill, (by_serial, by_name), compare, repair)


def _settings(home: Path) -> Settings:
    flags = {"keys.store": "file", "issuance.lint_share": "0.0", "slapd.run": "off"}
    return load(home, {}, flags).settings


def _application(request: bytes) -> Application:
    return Application(PROFILE, request, "bench", consent=True)


@asynccontextmanager
async def _ledger(home: Path, count: int) -> AsyncIterator[Instance]:
    """An instance that has issued so many certificates which the directory may show."""
    async with running(_settings(home), create=True, serving=True) as instance:
        authority = instance.hierarchy.authority("issuing")
        left = iter(requests(range(count)))

        async def applicant() -> None:
            for request in left:
                await authority.issue(_application(request))

        await asyncio.gather(*(applicant() for _ in range(IN_FLIGHT)))
        yield instance


@asynccontextmanager
async def _server(home: Path) -> AsyncIterator[str]:
    """The product's own slapd, empty; the URL on which it knows us. Its data are removed."""
    settings = load(home, {}, {"slapd.run": "on", "slapd.port": "0"}).settings
    async with private_slapd(settings, public=False) as found:
        assert isinstance(found, Running)
        yield found.ldapi
    shutil.rmtree(home)


def _publisher(instance: Instance, name: str, url: str) -> Publisher:
    """As an instance makes it with the settings' defaults."""
    directory = instance.settings.directory
    source = Source(instance.ledger, instance.store, instance.log)
    return Publisher(
        name,
        Connections(Login(url=url, in_flight=directory.in_flight), directory.connections),
        rules(instance, directory, b"bench"),
        source,
        Repository(instance),
        instance.store,
        max_crl=directory.max_crl,
    )


async def _filled(publisher: Publisher, count: int) -> float:
    """Entries a second from its start, with the branches made, until it is up to date."""
    await publisher.prepare()
    started = perf_counter()
    await publisher.start()
    async with asyncio.timeout(_PATIENCE):
        while True:
            await asyncio.sleep(0.005)
            standing = await publisher.standing()
            if standing.failing or standing.refused:
                raise RuntimeError(f"the directory was not filled: {standing}")
            if not standing.behind:
                break
        seconds = perf_counter() - started
        # The entries of CAs and CRLs follow.
        while await publisher.placed() != {place.name for place in await publisher.places()}:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await publisher.stop()
    if standing.entries != count:
        raise RuntimeError(f"{standing.entries} entries were written, not {count}")
    return count / seconds


async def _ldif(url: str, path: Path) -> Path:
    """The holders' entries, as ldapadd takes them."""
    path.write_text(await _ldap("ldapsearch", url, "-LLL", "-b", BASE, HOLDERS))
    return path


async def _added(url: str, ldif: Path, count: int) -> float:
    started = perf_counter()
    said = await _ldap("ldapadd", url, "-f", ldif)
    seconds = perf_counter() - started
    if said.count("adding new entry") != count:
        raise RuntimeError("ldapadd did not add what the publisher did")
    return count / seconds


async def _keys(url: str, folder: Path) -> tuple[Path, Path]:
    """Files of serial numbers and of names to look up, in no order that the directory knows."""
    said = await _ldap("ldapsearch", url, "-LLL", "-b", BASE, HOLDERS, SERIAL_NUMBER, "uid")
    found = []
    for type in (SERIAL_NUMBER, "uid"):
        values = sorted(re.findall(rf"(?m)^{type}: (.*)$", said), key=lambda value: value[::-1])
        path = folder / type
        path.write_text("".join(f"{value}\n" for value in values[:LOOK_UPS]))
        found.append(path)
    return found[0], found[1]


async def _searched(url: str, filter: str, values: Path) -> float:
    """Searches a second of ldapsearch, one after the other, each of which finds an entry."""
    started = perf_counter()
    said = await _ldap("ldapsearch", url, "-LLL", "-b", BASE, "-f", values, filter)
    seconds = perf_counter() - started
    count = values.read_text().count("\n")
    if said.count("userCertificate;binary::") != count:
        raise RuntimeError("not every search found its certificate")
    return count / seconds


async def _damaged(url: str, folder: Path) -> int:
    """Remove one entry in a hundred and change another; how many."""
    said = await _ldap("ldapsearch", url, "-LLL", "-b", BASE, HOLDERS, "1.1")
    names = re.findall(r"(?m)^dn: (.*)$", said)
    gone, changed = names[::100], names[50::100]
    ldif = folder / "damage.ldif"
    ldif.write_text(
        "".join(f"dn: {dn}\nchangetype: delete\n\n" for dn in gone)
        + "".join(
            f"dn: {dn}\nchangetype: modify\nreplace: {SERIAL_NUMBER}\n{SERIAL_NUMBER}: ff\n\n"
            for dn in changed
        )
    )
    await _ldap("ldapmodify", url, "-f", ldif)
    return len(gone) + len(changed)


async def _compared(
    instance: Instance, publisher: Publisher, *, repair: bool, differences: int
) -> float:
    """Entries of the ledger a second; errors when there are others than so many differences."""
    started = perf_counter()
    comparison = Comparison(publisher, instance.store, repair=repair)
    found = [step async for step in comparison.steps() if isinstance(step, Difference)]
    seconds = perf_counter() - started
    if len(found) != differences:
        raise RuntimeError(f"{len(found)} differences were found, not {differences}")
    return await instance.store.count(CERTIFICATES) / seconds


async def _ldap(tool: str, url: str, *words: str | Path) -> str:
    """What an LDAP tool says, who comes as the publisher."""
    options = () if tool != "ldapsearch" else ("-o", "ldif-wrap=no")
    return await output(tool, "-Q", "-Y", "EXTERNAL", "-H", url, *options, *words, within=_PATIENCE)


def _figure(
    name: str, unit: str, rates: tuple[float, float], reference: str, goal: float
) -> dict[str, Any]:
    """Our rate and that of the reference, 0 where there is none."""
    ours, theirs = rates
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours, 1),
        "reference": reference,
        "reference_value": round(theirs, 1),
        "ratio": round(ours / theirs, 3) if theirs else 0.0,
        "goal": goal,
    }
