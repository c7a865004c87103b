"""``digitalid ca``: the certificate authorities of the instance."""

from __future__ import annotations

from pathlib import Path

import click

from cli import files
from cli.command import Group, Session
from cli.output import Answer, Fields, Line, Table


@click.group(cls=Group)
def ca() -> None:
    """Certificate authorities: list, show, export."""


@ca.command("list")
@click.pass_obj
async def list_all(session: Session) -> Answer:
    """Every CA of the instance.

    \b
    Example:
      digitalid ca list
    """
    async with session.connect() as client:
        reply = await client.get("/authorities")
    rows = tuple(
        (
            view["name"],
            view["key_type"],
            view["not_after"][:10],
            "revoked" if view["barred"] else "issues",
            view["subject"],
        )
        for view in reply["authorities"]
    )
    if not rows:
        awaited = [f"'digitalid ceremony import {name}'" for name in reply.get("awaited", ())]
        how = f"it waits for {', '.join(awaited)}" if awaited else "'digitalid init' makes one"
        return Answer(reply, (Line(f"There is no CA yet; {how}."),))
    return Answer(reply, (Table(("NAME", "KEY", "VALID TO", "STATE", "SUBJECT"), rows),))


@ca.command("show")
@click.argument("name")
@click.pass_obj
async def show(session: Session, name: str) -> Answer:
    """One CA: its certificate, key, URLs and CRL.

    \b
    Example:
      digitalid ca show issuing
    """
    from cli.client import segment

    async with session.connect() as client:
        view = await client.get(f"/authorities/{segment(name)}")
    shown = (
        ("name", "name"),
        ("subject", "subject"),
        ("issuer", "issuer"),
        ("serial", "serial"),
        ("valid from", "not_before"),
        ("valid to", "not_after"),
        ("key", "key_uri"),
        ("key type", "key_type"),
        ("signs with", "algorithm"),
        ("crl", "crl_url"),
        ("ocsp", "ocsp_url"),
        ("certificate", "certificate_url"),
        ("issued", "issued"),
        ("revoked", "revoked"),
        ("crl number", "crl_number"),
        ("next crl", "crl_next_update"),
        ("active", "active"),
        ("issues nothing", "barred"),
    )
    values = ((label, view.get(member)) for label, member in shown)
    rows = tuple((label, "" if value is None else _text(value)) for label, value in values)
    return Answer(view, (Fields(rows),))


@ca.command("export")
@click.argument("name")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Goes here; - is standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "der", "p7c"]),
    default="pem",
    show_default=True,
    help="p7c: PKCS#7 with every certificate up to the root.",
)
@click.option("--chain", is_flag=True, help="With the CAs above it, for pem.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.pass_obj
async def export(
    session: Session, name: str, out: Path, form: str, chain: bool, force: bool
) -> Answer | None:
    """Write a CA's certificate, as relying parties need it.

    \b
    Example:
      digitalid ca export root --out root.pem
    """
    from cli import exporting
    from cli.client import segment

    files.check_free(out, force=force)
    async with session.connect() as client:
        view = await client.get(f"/authorities/{segment(name)}")
    packing = "p7" if form == "p7c" else form
    content = exporting.pack(packing, view["pem"], view["chain"], with_chain=chain)
    files.write(out, content, force=force)
    if out == files.STANDARD:
        return None
    return Answer(
        {"name": view["name"], "format": form, "file": str(out), "size": len(content)},
        (Line(f"Wrote the certificate of {view['name']} to {out}."),),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
