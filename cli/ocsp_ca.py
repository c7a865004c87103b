"""``digitalid ocsp ca``: other CAs, which a validation authority serves by their CRLs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.output import Answer, Fields, Json, Line, Table
from infra.errors import Failure, Rejected

if TYPE_CHECKING:
    from cli.service.foreign import Foreign
    from pki.signer import Keys

_TAKEN_IN = "A validation authority that runs takes it in at SIGHUP."


@click.group("ca", cls=Group)
def ca() -> None:
    """Other CAs, served by their CRLs: add, certify, list, remove.

    These commands work on the home folder of a validation authority, whether it runs or not.
    """


@ca.command("add")
@click.argument("name")
@click.option(
    "--certificate",
    "ca_file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The CA's own certificate, PEM or DER.",
)
@click.option("--crl", required=True, metavar="URL|FILE", help="Where its full CRL is.")
@click.pass_obj
async def add(session: Session, name: str, ca_file: Path, crl: str) -> Answer:
    """Take in a CA, and make a key and a request (PKCS#10) for a responder of it.

    The CA has to certify that request, for id-kp-OCSPSigning: then `ocsp ca certify`. Whatever the
    CRL does not list will be good, issued or not.

    \b
    Example:
      digitalid ocsp ca add acme --certificate acme-ca.pem \\
        --crl http://crl.acme.example/acme.crl
    """
    from cli.service import foreign

    if "://" not in crl and not Path(crl).is_file():
        raise Rejected("bad-crl-source", f"there is no file {Path(crl).absolute()} with a CRL")
    async with _keys(session) as keys:
        made = await foreign.add(session.settings, keys, name, files.read(ca_file), crl)
    steps = (
        Line(f"{name} is to certify {made.request}."),
        Line(f"Then: digitalid ocsp ca certify {name} --certificate FILE"),
    )
    document: Json = {"name": name, "request": str(made.request), "crl": made.crl}
    return Answer(document, steps)


@ca.command("certify")
@click.argument("name")
@click.option(
    "--certificate",
    "responder_file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What the CA made of the request, PEM or DER.",
)
@click.pass_obj
async def certify(session: Session, name: str, responder_file: Path) -> Answer:
    """Keep the certificate that the CA gave its responder, once it was checked.

    Run it again with the next certificate before this one ends.

    \b
    Example:
      digitalid ocsp ca certify acme --certificate acme-ocsp.pem
    """
    from cli.service import foreign
    from cli.service.validation import responder_id
    from infra.clock import SystemClock

    settings = session.settings
    one = foreign.load(settings.home, name)
    content = files.read(responder_file)
    async with _keys(session) as keys:
        kept = await foreign.certify(one, keys, content, responder_id(settings), SystemClock())
    ends = certificate.text_of(kept.not_after)
    return Answer(
        {"name": name, "certificate_ends": ends},
        (Line(f"Answers for {name} can be signed until {ends}. {_TAKEN_IN}"),),
    )


@ca.command("list")
@click.pass_obj
def list_cas(session: Session) -> Answer:
    """The CAs that were added.

    \b
    Example:
      digitalid ocsp ca list
    """
    from cli.service import foreign

    home = session.settings.home
    views = [_view(foreign.load(home, name)) for name in foreign.names(home)]
    document: Json = {"authorities": views}
    if not views:
        return Answer(document, (Line("No CA was added."),))
    rows = tuple(
        (str(v["name"]), str(v["subject"]), str(v["crl"]), str(v["certificate_ends"] or v["lacks"]))
        for v in views
    )
    return Answer(document, (Table(("NAME", "SUBJECT", "CRL", "CERTIFICATE ENDS"), rows),))


@ca.command("remove")
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> Answer:
    """Serve a CA no more; the key of its responder stays where keys are.

    \b
    Example:
      digitalid ocsp ca remove acme
    """
    from cli.service import foreign

    foreign.remove(foreign.load(session.settings.home, name))
    return Answer({"name": name}, (Fields((("removed", name),)), Line(_TAKEN_IN)))


@asynccontextmanager
async def _keys(session: Session) -> AsyncIterator[Keys]:
    """The keys of this host, one command at a time, beside a validation authority that runs."""
    from cli.service.foreign import AUTHORITIES
    from cli.service.keys import open_keys
    from cli.service.responders import RESPONDERS
    from infra.state import owned

    settings = session.settings
    folder = settings.home / AUTHORITIES
    first = not folder.exists() and not (settings.home / RESPONDERS).exists()
    with owned(folder, within=settings.home):
        keys, _ = await open_keys(settings, new=first)
        try:
            yield keys
        finally:
            await keys.close()


def _view(one: Foreign) -> dict[str, Json]:
    from cli.service import foreign

    view: dict[str, Json] = {
        "name": one.name,
        "subject": foreign.subject(one),
        "crl": one.crl,
        "certificate_ends": None,
        "lacks": None,
    }
    try:
        kept = one.certificate
    except Failure as failure:
        return view | {"lacks": failure.code}
    if kept is None:
        return view | {"lacks": "not-certified"}
    return view | {"certificate_ends": certificate.text_of(kept.not_after)}
