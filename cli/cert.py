"""``digitalid cert``: certificates through their whole life."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from cli import certificate, files
from cli.certificate import FILE, REASON, REASONS, ca_option
from cli.command import Group, Session
from cli.output import Answer, Line, Table
from cli.revoke_many import revoke_many
from infra.errors import Rejected, Unavailable

PAGE: Final = 500

which = click.argument("which", metavar="SERIAL|FILE")
force_option = click.option("--force", is_flag=True, help="Overwrite a file that is there.")


@click.group(cls=Group)
def cert() -> None:
    """Certificates: issue, show, find, hold, release, revoke, export.

    SERIAL|FILE is a serial number in hexadecimal, or a file that holds the certificate.
    """


@cert.command("issue")
@click.option("--profile", required=True, metavar="NAME", help="See 'digitalid profile list'.")
@click.option("--csr", required=True, type=FILE, help="PKCS#10, PEM or DER; - is standard input.")
@click.option("--out", required=True, type=FILE, help="PEM goes here; - is standard output.")
@click.option("--chain", is_flag=True, help="Write the CA certificates after it too.")
@click.option(
    "--ca",
    metavar="NAME",
    help="Which CA issues; by default issuing, or the only one that is no root.",
)
@click.option("--request-id", metavar="ID", help="The same id gives the same certificate again.")
@click.option("--subject", metavar="DN", help="Subject instead of the request's, RFC 4514.")
@click.option("--lifetime", metavar="30d", help="Shorter than the profile's.")
@click.option("--consent", is_flag=True, help="The holder agreed to be in the directory.")
@force_option
@click.pass_obj
async def issue(
    session: Session,
    profile: str,
    csr: Path,
    out: Path,
    chain: bool,
    ca: str | None,
    request_id: str | None,
    subject: str | None,
    lifetime: str | None,
    consent: bool,
    force: bool,
) -> Answer | None:
    """Issue a certificate for a request.

    \b
    Example:
      openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \\
          -keyout web.key -subj /CN=web.example -out web.csr
      digitalid cert issue --profile tls-server --csr web.csr --out web.pem
    """
    files.check_free(out, force=force)
    request = _request_pem(files.read(csr), csr)
    async with session.connect() as client:
        reply = await client.post(
            "/certificates",
            {
                "profile": profile,
                "csr": request,
                "ca": ca,
                "request_id": request_id,
                "lifetime": lifetime,
                "subject": subject,
                "consent": consent or None,
            },
        )
    issued = reply["certificate"]
    to_standard = out == files.STANDARD
    if not (to_standard and session.as_json):
        pem = "".join([issued["pem"], *(reply["chain"] if chain else [])])
        try:
            files.write(out, pem.encode(), force=force)
        except Rejected as error:
            raise Rejected(error.code, f"{error.detail}. {_kept(issued)}") from error
        except Unavailable as error:
            raise Unavailable(error.code, f"{error.detail}. {_kept(issued)}") from error
    if to_standard and not session.as_json:
        return None
    where = "" if to_standard else f" in {out}"
    done = Line(f"Issued {issued['serial']}{where}, valid to {issued['not_after']}.")
    return Answer(reply | {"file": None if to_standard else str(out)}, (done,))


@cert.command("show")
@which
@ca_option
@click.pass_obj
async def show(session: Session, which: str, ca: str | None) -> Answer:
    """One certificate and its status.

    \b
    Example:
      digitalid cert show web.pem
    """
    async with session.connect() as client:
        located = await certificate.locate(client, which, ca)
        view = await client.get(located.path, located.query)
    return Answer(view, certificate.blocks(view))


@cert.command("find")
@click.option("--subject", metavar="DN", help="The whole subject, RFC 4514.")
@click.option("--serial", metavar="HEX", help="The serial number.")
@click.option("--profile", metavar="NAME", help="Of this profile.")
@click.option("--request-id", metavar="ID", help="Issued for this request id.")
@click.option(
    "--status",
    type=click.Choice(["good", "revoked", "hold", "expired"]),
    help="In this status now.",
)
@ca_option
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many."
)
@click.pass_obj
async def find(
    session: Session,
    subject: str | None,
    serial: str | None,
    profile: str | None,
    request_id: str | None,
    status: str | None,
    ca: str | None,
    limit: int,
) -> Answer:
    """Certificates that match all that is given.

    \b
    Example:
      digitalid cert find --status revoked --profile tls-server
    """
    query: dict[str, str | None] = {
        "subject": subject,
        "serial": serial,
        "profile": profile,
        "request_id": request_id,
        "status": status,
        "ca": ca,
    }
    found: list[Any] = []
    after: str | None = None
    async with session.connect() as client:
        while len(found) < limit:
            size = str(min(PAGE, limit if status or profile or ca else limit - len(found)))
            page = await client.get("/certificates", query | {"limit": size, "after": after})
            found += page["certificates"]
            if page["next"] is None:
                more = False
                break
            after = str(page["next"])
        else:
            more = True
    more = more or len(found) > limit
    found = found[:limit]
    if not found:
        return Answer({"certificates": [], "more": False}, (Line("No certificate matches."),))
    rows = tuple(
        (
            str(view["serial"]),
            str(view["status"]),
            str(view["profile"]),
            str(view["not_after"])[:10],
            str(view["subject"]),
        )
        for view in found
    )
    table = Table(("SERIAL", "STATUS", "PROFILE", "VALID TO", "SUBJECT"), rows)
    note = (Line(f"There are more than these {limit}; raise --limit to see them."),) if more else ()
    return Answer({"certificates": found, "more": more}, (table, *note))


@cert.command("hold")
@which
@ca_option
@click.pass_obj
async def hold(session: Session, which: str, ca: str | None) -> Answer:
    """Suspend a certificate; it can be released again.

    \b
    Example:
      digitalid cert hold 3f0c9a5d27e14b86
    """
    return await _change(session, which, ca, "hold", {}, "on hold")


@cert.command("release")
@which
@ca_option
@click.pass_obj
async def release(session: Session, which: str, ca: str | None) -> Answer:
    """End a hold: the certificate is good again.

    \b
    Example:
      digitalid cert release 3f0c9a5d27e14b86
    """
    return await _change(session, which, ca, "release", {}, "released")


@cert.command("revoke")
@which
@click.option(
    "--reason",
    required=True,
    type=REASON,
    help=f"Why: {', '.join(REASONS[:-1])} or {REASONS[-1]}.",
)
@click.option(
    "--invalidity-date",
    type=certificate.MOMENT,
    help="Since when the key is suspect, if that was before now.",
)
@click.option("--authority", is_flag=True, help="It is the certificate of a CA, and is meant.")
@ca_option
@click.pass_obj
async def revoke(
    session: Session,
    which: str,
    reason: str,
    invalidity_date: datetime | None,
    authority: bool,
    ca: str | None,
) -> Answer:
    """Revoke a certificate, for good.

    CRL and OCSP say so from then on. To suspend it for a while, use 'digitalid cert hold'.

    \b
    Example:
      digitalid cert revoke web.pem --reason keyCompromise \\
          --invalidity-date 2026-11-20
    """
    suspect = None if invalidity_date is None else certificate.text_of(invalidity_date)
    body = {"reason": reason, "invalidity_date": suspect, "authority": authority}
    return await _change(session, which, ca, "revoke", body, f"revoked ({reason})")


cert.add_command(revoke_many)


@cert.command("export")
@which
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "der", "p7", "p12"]),
    default="pem",
    show_default=True,
    help="p7: PKCS#7 with the chain; p12: PKCS#12 with chain and key.",
)
@click.option("--out", required=True, type=FILE, help="Goes here; - is standard output.")
@click.option("--chain", is_flag=True, help="With the CA certificates, for pem.")
@click.option("--key", type=FILE, help="The private key for p12: PEM or DER.")
@click.option(
    "--key-password-from",
    metavar="REF",
    help="Where the key's own password is: file:PATH, env:VARIABLE or prompt:.",
)
@click.option(
    "--password-from",
    metavar="REF",
    default="prompt:Password for the PKCS#12 file",
    help="Where the p12's new password is: file:PATH, env:VARIABLE or prompt: (default).",
)
@ca_option
@force_option
@click.pass_obj
async def export(
    session: Session,
    which: str,
    form: str,
    out: Path,
    chain: bool,
    key: Path | None,
    key_password_from: str | None,
    password_from: str,
    ca: str | None,
    force: bool,
) -> Answer | None:
    """Write a certificate as PEM, DER, PKCS#7 or PKCS#12 (AES-256).

    The private key and the passwords stay on this machine.

    \b
    Example:
      digitalid cert export web.pem --format p12 --key web.key \\
          --password-from file:web.password --out web.p12
    """
    if (form == "p12") != (key is not None):
        raise click.UsageError("--key FILE goes with --format p12, and only with it")
    from cli import exporting

    files.check_free(out, force=force)
    packed = None
    if key is not None:
        packed = exporting.private_key(key, key_password_from, password_from)
    async with session.connect() as client:
        located = await certificate.locate(client, which, ca)
        view = await client.get(located.path, located.query)
        authority = await client.get(f"/authorities/{view['ca']}")
    if not view.get("pem"):
        raise Rejected("not-issued", f"{view['serial']} was never issued: it is {view['state']}")
    above = [authority["pem"], *authority["chain"]]
    content = exporting.pack(form, view["pem"], above, with_chain=chain, private_key=packed)
    mode = files.PRIVATE if form == "p12" else files.PUBLIC
    files.write(out, content, force=force, mode=mode)
    if out == files.STANDARD:
        return None
    return Answer(
        {"serial": view["serial"], "format": form, "file": str(out), "size": len(content)},
        (Line(f"Wrote {view['serial']} to {out}."),),
    )


async def _change(
    session: Session, which: str, ca: str | None, act: str, body: dict[str, Any], done: str
) -> Answer:
    async with session.connect() as client:
        located = await certificate.locate(client, which, ca)
        view = await client.post(f"{located.path}/{act}", body, located.query)
    return Answer(view, certificate.changed(view, done))


def _kept(issued: dict[str, Any]) -> str:
    serial = issued["serial"]
    return f"{serial} is issued all the same; get it with: digitalid cert export {serial}"


def _request_pem(content: bytes, where: Path) -> str:
    """A request as the API takes it; DER becomes PEM, and the instance judges what is inside."""
    import base64

    if certificate.PEM_BEGIN in content:
        try:
            return content.decode("ascii")
        except UnicodeDecodeError as error:
            raise Rejected("bad-request", f"{where}: PEM is ASCII, and this is not") from error
    if not content:
        raise Rejected("bad-request", f"{where}: is empty; a certificate request was expected")
    body = base64.encodebytes(content).decode().replace("\n", "")
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n"
