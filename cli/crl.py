"""``digitalid crl``: certificate revocation lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cli.command import Group, Session
from cli.output import BAD, GOOD, NEGATIVE, Answer, Fields, Json, Line, Table, counted
from infra.errors import Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from cli.client import ApiClient
    from cli.crl_file import CrlFile, Entry

_PAGE: Final = 500


@click.group(cls=Group)
def crl() -> None:
    """Revocation lists: issue, import, show, diff, verify, history.

    CA is the name of a CA, or of one of its partitions, as in issuing.17.
    """


@crl.command("issue")
@click.argument("name", metavar="[CA]", required=False)
@click.option("--delta", is_flag=True, help="Only what changed since the last full one.")
@click.option("--final", is_flag=True, help="The last one of a CA that ends: it never runs out.")
@click.pass_obj
async def issue(session: Session, name: str | None, delta: bool, final: bool) -> Answer:
    """Make a CRL now, for one CA or for all of them.

    One is made after each revocation and on schedule without being asked for.
    After a final one there is no other, for the CA and all its partitions.

    \b
    Example:
      digitalid crl issue issuing
    """
    from cli.client import segment

    if final and (delta or name is None):
        raise click.UsageError("--final goes with the name of a CA, and not with --delta")
    body = {"kind": "delta" if delta else "full", "final": final}
    made: list[dict[str, Any]] = []
    async with session.connect() as client:
        for each in [name] if name else await _names(client):
            made += (await client.post(f"/authorities/{segment(each)}/crl", body))["crls"]
    lines = tuple(
        Line(
            f"{view['ca']}: {_called(view)} with {counted(view['entries'], 'entry', 'entries')}, "
            f"until {_until(view)}."
        )
        for view in made
    )
    return Answer({"crls": made}, lines)


@crl.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("name", metavar="[CA]", required=False)
@click.pass_obj
async def import_(session: Session, file: Path, name: str | None) -> Answer:
    """Publish a CRL that a CA has signed elsewhere, PEM or DER.

    That is how a root whose key is offline tells what is revoked (crl.offline).
    Issuer, signature, number, times and scope are checked, and that it lists
    what is revoked here, and nothing that is good here.

    \b
    Example:
      digitalid crl import root.crl
    """
    import base64

    from cli.client import segment
    from cli.crl_file import load

    loaded = load(file)
    async with session.connect() as client:
        if name is None:
            name, _ = await _series(client, loaded)
        body = {"crl": base64.b64encode(loaded.der).decode()}
        view = (await client.post(f"/authorities/{segment(name)}/crls", body))["crl"]
    said = Line(f"{view['ca']}: {_called(view)} is published, until {_until(view)}.")
    return Answer({"crl": view}, (said,))


@crl.command("show")
@click.argument("which", metavar="[CA|FILE]", required=False)
@click.option("--delta", is_flag=True, help="The delta CRL instead of the full one.")
@click.option("--number", metavar="N", type=click.IntRange(0), help="An earlier one.")
@click.option("--entries", is_flag=True, help="List what is revoked, too.")
@click.option("--serial", metavar="HEX", help="Only what it says of this certificate.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Begin with this entry.")
@click.option(
    "--limit", type=click.IntRange(1), default=_PAGE, show_default=True, help="Entries at most."
)
@click.pass_obj
async def show(
    session: Session,
    which: str | None,
    delta: bool,
    number: int | None,
    entries: bool,
    serial: str | None,
    offset: int,
    limit: int,
) -> Answer:
    """The current CRL of a CA or of all of them, or one in a file.

    With --serial the exit code says whether the certificate is listed: 0 if it
    is, 1 if not.

    \b
    Example:
      digitalid crl show issuing --entries --offset 1000
      digitalid crl show issuing --serial 3f0c9a5d27e14b86
    """
    if serial is not None and (which is None or entries):
        raise click.UsageError("--serial goes with one CA or FILE, and not with --entries")
    if number is not None and which is None:
        raise click.UsageError("--number goes with one CA")
    query = {"kind": "delta" if delta else None, "number": None if number is None else str(number)}
    if which and Path(which).is_file():
        from cli.crl_file import load

        views = [load(Path(which)).described() | {"file": which}]
    else:
        async with session.connect() as client:
            names = [which] if which else await _names(client)
            views = [await _view(client, name, query) for name in names]
    if serial is not None:
        return _one(views[0], serial)
    blocks: list[Fields | Table | Line] = []
    for view in views:
        blocks.append(Fields(_rows(view)))
        if entries:
            page = _opened(view).page(offset, limit)
            view["revoked"] = [entry.view() for entry in page]
            view["more"] = offset + len(page) < view["entries"]
            blocks += _listed(page)
            if view["more"]:
                blocks.append(Line(f"There are more: --offset {offset + len(page)}."))
    return Answer({"crls": views}, tuple(blocks) or (Line("There is no CA yet."),))


@crl.command("diff")
@click.argument("before", metavar="CA|FILE")
@click.argument("after", metavar="CA|FILE")
@click.option(
    "--limit", type=click.IntRange(1), default=_PAGE, show_default=True, help="Of each kind."
)
@click.pass_obj
async def diff(session: Session, before: str, after: str, limit: int) -> Answer:
    """What the second CRL says otherwise than the first.

    An earlier CRL of a CA is named by its number, as in issuing/1795376454999.
    A delta CRL says nothing of what it does not list.

    \b
    Example:
      digitalid crl diff issuing/1795376454999 issuing
    """
    from cli import crl_file

    first, second = await _named(session, before), await _named(session, after)
    if first.crl.issuer != second.crl.issuer:
        raise Rejected("other-issuer", f"{before} and {after} are of different CAs")
    found = crl_file.diff(first, second)
    kinds = (("added", found.added), ("removed", found.removed), ("changed", found.changed))
    document: dict[str, Json] = {"before": first.described(), "after": second.described()}
    blocks: list[Fields | Table | Line] = []
    for name, listed in kinds:
        document[name] = [entry.view() for entry in listed[:limit]]
        document[f"{name}_count"] = len(listed)
        blocks += [Line(f"{len(listed)} {name}."), *_listed(listed[:limit])]
    return Answer(document, tuple(blocks))


@crl.command("verify")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--issuer",
    "issuer_file",
    type=click.Path(path_type=Path),
    help="The CA's certificate; by default that of a CA here.",
)
@click.pass_obj
async def verify(session: Session, file: Path, issuer_file: Path | None) -> Answer:
    """Check a CRL: signature, issuer, number, dates, entries.

    One of a CA here is also compared with what that CA has published.

    \b
    Example:
      digitalid crl verify issuing.crl
    """
    from datetime import UTC, datetime

    from cli import certificate, crl_file

    loaded = crl_file.load(file)
    view = loaded.described()
    wrong: list[str] = []
    if issuer_file is not None:
        issuer = certificate.read(issuer_file)
    else:
        async with session.connect() as client:
            issuer, wrong = await _ours(client, loaded, view)
    wrong = crl_file.verify(loaded, issuer, datetime.now(UTC)) + wrong
    said = Line(f"{file}: in order.", GOOD) if not wrong else Line(f"{file}: not valid.", BAD)
    lines = [Line(f"  {sentence}") for sentence in wrong]
    return Answer(
        {"ok": not wrong, "findings": list(wrong), "crl": view},
        (said, *lines, Fields(_rows(view))),
        NEGATIVE if wrong else 0,
    )


@crl.command("history")
@click.argument("name", metavar="CA")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--before", metavar="N", type=click.IntRange(0), help="Only smaller numbers.")
@click.pass_obj
async def history(session: Session, name: str, limit: int, before: int | None) -> Answer:
    """The CRLs that a CA has made, newest first, and what became of each.

    \b
    Example:
      digitalid crl history issuing
    """
    from cli.client import segment

    query = {"limit": str(limit), "before": None if before is None else str(before)}
    async with session.connect() as client:
        reply = await client.get(f"/authorities/{segment(name)}/crls", query)
    rows = tuple(
        (
            str(view["number"]),
            view["kind"] if view["base"] is None else f"delta of {view['base']}",
            view["state"] + ("" if view["kept"] or view["state"] != "published" else ", not kept"),
            view["this_update"],
            str(view["entries"]),
            str(view["size"] or ""),
        )
        for view in reply["crls"]
    )
    if not rows:
        return Answer(reply, (Line(f"{name} has made no CRL."),))
    headings = ("NUMBER", "KIND", "STATE", "THIS UPDATE", "ENTRIES", "OCTETS")
    more = (Line(f"There may be more: --before {reply['next']}."),) if reply["next"] else ()
    return Answer(reply, (Table(headings, rows), *more))


async def _names(client: ApiClient) -> list[str]:
    return [str(view["name"]) for view in (await client.get("/authorities"))["authorities"]]


async def _view(
    client: ApiClient, name: str, query: dict[str, str | None] | None = None
) -> dict[str, Any]:
    from cli.client import segment

    return await client.get(f"/authorities/{segment(name)}/crl", query)


async def _named(session: Session, which: str) -> CrlFile:
    from cli.crl_file import load

    if Path(which).is_file():
        return load(Path(which))
    name, _, number = which.partition("/")
    if number and not (number.isascii() and number.isdigit()):
        raise Rejected("cannot-read", f"{which}: neither a file nor CA/NUMBER")
    async with session.connect() as client:
        view = await _view(client, name, {"number": number or None})
        # While the instance of this command is there, nobody takes the file away.
        return load(Path(view["file"]), which)


async def _ours(
    client: ApiClient, loaded: CrlFile, view: dict[str, Any]
) -> tuple[Certificate, list[str]]:
    """The certificate of the CA here that has issued it, and how it differs from what that CA
    has published. Errors: ``no-such-authority``."""
    name, issuer = await _series(client, loaded)
    try:
        known = await _view(client, name, {"number": str(view["number"])})
    except Rejected as error:
        return issuer, [f"{name} says of its number: {error.detail}"]
    same = known["sha256"] == view["sha256"]
    return issuer, [] if same else [f"CRL {view['number']} of {name} is another one"]


async def _series(client: ApiClient, loaded: CrlFile) -> tuple[str, Certificate]:
    """The series here that a CRL belongs to, and the certificate of who signs it. Errors:
    ``no-such-authority``."""
    from cli import certificate

    view = loaded.described()
    known = (await client.get("/authorities"))["authorities"]
    known += (await client.get("/crl-issuers"))["crl_issuers"]
    parsed = [(one["name"], certificate.load(one["pem"].encode(), one["name"])) for one in known]
    named = [(name, issuer) for name, issuer in parsed if issuer.subject == loaded.crl.issuer]
    # A rollover leaves two of one name, told apart by their keys (RFC 4210 §4.4).
    if named:
        name, issuer = max(named, key=lambda one: loaded.names_key_of(one[1]))
        point = view["distribution_point"]
        return (name if point is None else point.rpartition("/")[2][: -len(".crl")]), issuer
    raise Rejected(
        "no-such-authority", f"no CA here is called {view['issuer']}; fetch its certificate"
    )


def _opened(view: dict[str, Any]) -> CrlFile:
    from cli.crl_file import load

    return load(Path(view["file"]), str(view["ca"]))


def _one(view: dict[str, Any], serial: str) -> Answer:
    from pki.serial import parse_serial

    found = _opened(view).find(parse_serial(serial))
    if found is None:
        said = Line(f"{view['ca']}: {_called(view)} does not list {serial}.")
        return Answer({"crl": view, "entry": None}, (said,), NEGATIVE)
    said = Line(f"{view['ca']}: {_called(view)} lists {found.hex}:")
    return Answer({"crl": view, "entry": found.view()}, (said, *_listed([found])))


def _until(view: dict[str, Any]) -> str:
    return str(view["next_update"] or "the end of time")


def _called(view: dict[str, Any]) -> str:
    return f"{'delta ' if view['kind'] == 'delta' else ''}CRL {view['number']}"


def _rows(view: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    shown = (
        "ca", "issuer", "kind", "number", "base", "distribution_point", "this_update",
        "next_update", "entries", "size",
    )  # fmt: skip
    rows = tuple(
        (name.replace("_", " "), str(view[name])) for name in shown if view.get(name) is not None
    )
    return (*rows, ("sha-256", str(view["sha256"])))


def _listed(entries: Sequence[Entry]) -> list[Table]:
    if not entries:
        return []
    rows = tuple((e.hex, str(e.view()["revoked_at"]), e.reason) for e in entries)
    return [Table(("SERIAL", "REVOKED AT", "REASON"), rows)]
