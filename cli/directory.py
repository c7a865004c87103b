"""``digitalid directory``: the LDAP directories that are kept equal to the ledger."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from cli import certificate, files
from cli.client import segment
from cli.command import Group, Session
from cli.output import BAD, GOOD, NEGATIVE, WARNING, Answer, Block, Fields, Line, clean
from cli.progress import working
from infra.errors import Broken, Rejected, Unavailable

MAX_IDENTIFIER: Final = 1024
name_argument = click.argument("name", required=False, metavar="[NAME]")
limit_option = click.option(
    "--limit",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Differences listed on a terminal and with --json; all are counted.",
)


@click.group(cls=Group)
def directory() -> None:
    """The LDAP directory: status, check, repair, erase, filter.

    NAME is that of a further directory (directory.more); without it, all are meant.
    """


@directory.command("status")
@click.pass_obj
async def status(session: Session) -> Answer:
    """How far each directory is, and what keeps it.

    \b
    Example:
      digitalid directory status
    """
    async with session.connect() as client:
        document = await client.get("/directories")
    blocks: list[Block] = []
    failing = False
    for name, view in document["directories"].items():
        bad = bool(view["failing"] or view["refused"] or view["left_out"])
        failing = failing or bad
        said = "waits" if view["failing"] else "up to date" if not view["behind"] else "behind"
        blocks.append(Line(f"{name}: {said}", WARNING if bad else GOOD))
        blocks.append(
            Fields(
                (
                    ("shows change", str(view["applied"])),
                    ("behind", f"{view['behind']} changes, {view['lag']:.0f} s"),
                    ("why", f"{view['failing']}: {view['why']}" if view["failing"] else ""),
                    ("refused", f"{view['refused']} entries" if view["refused"] else ""),
                    ("CRLs left out", ", ".join(view["left_out"])),
                )
            )
        )
    return Answer(document, tuple(blocks), NEGATIVE if failing else 0)


@directory.command("check")
@name_argument
@limit_option
@click.pass_obj
async def check(session: Session, name: str | None, limit: int) -> Answer:
    """Compare a directory with the ledger and list every difference.

    The exit code is 1 when there is one. An entry that is missing, that is there and should not
    be, or that differs in some attribute is listed with its name; nothing is changed.

    \b
    Example:
      digitalid directory check
    """
    return await _compare(session, name, limit, repair=False)


@directory.command("repair")
@name_argument
@limit_option
@click.pass_obj
async def repair(session: Session, name: str | None, limit: int) -> Answer:
    """Make a directory equal to the ledger, an empty one too.

    It goes on where an earlier repair was interrupted. What is listed was mended.

    \b
    Example:
      digitalid directory repair
    """
    return await _compare(session, name, limit, repair=True)


@directory.command("erase")
@click.argument("which", metavar="[SERIAL|FILE]", required=False)
@click.option("--ca", metavar="NAME", help="The CA that issued it.")
@click.option("--subject", metavar="DN", help="The subject, RFC 4514, instead of a certificate.")
@click.pass_obj
async def erase(session: Session, which: str | None, ca: str | None, subject: str | None) -> Answer:
    """Remove a person from every directory.

    No certificate that was issued to that subject until now is shown again, also by no repair;
    the log records that somebody was erased. The certificates stay valid: revoke them if they
    must not be. One that is issued later, with consent, is shown.

    \b
    Example:
      digitalid directory erase alice.pem
    """
    if (which is None) == (subject is None):
        raise click.UsageError("name a certificate, or a subject with --subject")
    async with session.connect() as client:
        body: dict[str, object] = {"subject": subject, "ca": ca}
        if which is not None:
            located = await certificate.locate(client, which, ca)
            view = await client.get(located.path, located.query)
            body = {"serial": view["serial"], "ca": view["ca"]}
        document = await client.post("/directories/erasures", body)
    names = ", ".join(document["directories"])
    return Answer(document, (Line(f"Erased; it disappears from: {names}.", GOOD),))


@directory.command("filter")
@click.option(
    "--identifier-from",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="A file with the national identifier; - is standard input.",
)
@click.option("--mail", metavar="ADDRESS", help="An address for mail.")
@click.option("--serial", metavar="HEX", help="A serial number.")
@click.option("--web3id", metavar="DID", help="A decentralized identifier.")
@click.pass_obj
async def filter(
    session: Session,
    identifier_from: Path | None,
    mail: str | None,
    serial: str | None,
    web3id: str | None,
) -> Answer:
    """The filter that finds an entry, for any LDAP client (RFC 4515).

    The directory holds a national identifier as an HMAC only, so nobody finds it without this
    instance.

    \b
    Example:
      echo PNOAQ-12345678 | digitalid directory filter --identifier-from -
    """
    identifier = None
    if identifier_from is not None:
        octets = files.read(identifier_from, limit=MAX_IDENTIFIER)
        identifier = octets.decode("utf-8", "replace").strip()
        if not identifier:
            raise Rejected("bad-identifier", f"{identifier_from} holds no identifier")
    asked = {"identifier": identifier, "mail": mail, "serial": serial, "web3id": web3id}
    if not any(asked.values()):
        raise click.UsageError("say what is to be found")
    async with session.connect() as client:
        document = await client.post("/directories/filter", asked)
    return Answer(document, (Line(str(document["filter"])),))


async def _compare(session: Session, name: str | None, limit: int, *, repair: bool) -> Answer:
    found: dict[str, Any] = {}
    async with session.connect(watch=False) as client:
        known = list((await client.get("/directories"))["directories"])
        for one in known if name is None else [name]:
            found[one] = await _stream(session, client, one, limit, repair=repair)
    total = sum(view["count"] for view in found.values())
    document = {"directories": found, "differences": total, "repaired": repair}
    lines: list[Line] = []
    for one, view in found.items():
        lines += [Line(_line(difference)) for difference in view["listed"]]
        if not view["count"]:
            lines.append(Line(f"{one}: equal to the ledger.", GOOD))
            continue
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(view["kinds"].items()))
        done = "mended" if repair else "different"
        lines.append(Line(f"{one}: {done}: {counts}.", WARNING if repair else BAD))
    return Answer(document, tuple(lines), NEGATIVE if total and not repair else 0)


async def _stream(
    session: Session, client: Any, name: str, limit: int, *, repair: bool
) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    listed: list[Any] = []
    path = f"/directories/{segment(name)}/compare"
    # Lines that come as they are found and a bar do not share a terminal.
    at_once = not session.as_json and not sys.stdout.isatty()
    with working(name) as progress:
        async for line in client.lines(path, {"repair": repair}):
            if (difference := line.get("difference")) is not None:
                kinds[difference["kind"]] += 1
                if at_once:
                    sys.stdout.write(f"{_line(difference)}\n")
                elif len(listed) < limit:
                    listed.append(difference)
            elif (at := line.get("progress")) is not None:
                progress(at["done"], max(at["end"], at["done"]))
            elif (error := line.get("error")) is not None:
                if error["later"]:
                    raise Unavailable(error["code"], error["detail"])
                raise Rejected(error["code"], error["detail"])
            elif line.get("over"):
                return {"count": kinds.total(), "kinds": dict(kinds), "listed": listed}
    raise Broken("bad-reply", "the instance stopped before it was done")


def _line(difference: dict[str, Any]) -> str:
    attributes = ", ".join(difference["attributes"])
    where = f"  ({attributes})" if attributes else ""
    return f"{difference['kind']:9}  {clean(difference['dn'])}{where}"
