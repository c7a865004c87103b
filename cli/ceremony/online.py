"""The online side of ceremonies: requests go out, certificates come in, heads go into the log."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import files
from cli.ceremony.group import ceremony
from cli.command import Session
from cli.output import GOOD, Answer, Fields, Line
from infra.errors import Rejected
from pki.algorithms import KeyType

if TYPE_CHECKING:
    from cli.client import Reply


class _KeyTypes(click.Choice[str]):
    """The types of key, which would fill the lines of ``--help``."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "TYPE"


_KEY_TYPE = _KeyTypes([kind.value for kind in KeyType])


@ceremony.command("request")
@click.argument("name")
@click.option("--subject", required=True, help="Of the CA that is to be, RFC 4514.")
@click.option("--key-type", type=_KEY_TYPE, default="p-256", show_default=True, help="Of its key.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder of an empty medium.",
)  # fmt: skip
@click.pass_obj
async def request(session: Session, name: str, subject: str, key_type: str, out: Path) -> Answer:
    """Make the key of CA NAME here, and write its request to a medium for the offline root.

    NAME may be "log": then it is for the key that signs the log. Write the fingerprint down: it is
    compared aloud in the ceremony. Run again, it writes the same request.

    \b
    Example:
      digitalid ceremony request issuing --subject "CN=CA,O=Registry,C=AQ" \\
        --out /media/request
    """
    from pki.ceremony.media import write_medium
    from pki.export import encode_pem

    async with session.connect() as client:
        body = {"name": name, "subject": subject, "key_type": key_type}
        reply = await client.post("/authority-requests", body)
    der = base64.b64decode(reply["request"])
    path = f"{name}.csr"
    write_medium(out.absolute(), {path: encode_pem("CERTIFICATE REQUEST", der)})
    return _fingerprinted({"name": name, "file": str(out / path)}, der)


@ceremony.command("import")
@click.argument("name")
@click.argument("certificate", type=click.Path(path_type=Path))
@click.option(
    "--chain", "above", required=True, multiple=True, type=click.Path(path_type=Path),
    help="The certificate of the CA above it, then that one's, the root last; may be repeated.",
)  # fmt: skip
@click.option(
    "--sha256", "expected", required=True,
    help="The certificate's fingerprint, typed from the paper of the ceremony.",
)  # fmt: skip
@click.pass_obj
async def take_in(
    session: Session, name: str, certificate: Path, above: tuple[Path, ...], expected: str
) -> Answer:
    """Take in the CERTIFICATE that a ceremony made for the request of CA NAME.

    The CA is open from the next start on.

    \b
    Example:
      digitalid ceremony import issuing ca.cer --chain root.cer --sha256 "91C1 …"
    """
    from pki.certificate import parse_certificate

    found = [parse_certificate(files.read(path)) for path in (certificate, *above)]
    typed = re.sub(r"[\s:]", "", expected).lower()
    if typed != found[0].sha256.hex():
        raise Rejected(
            "wrong-fingerprint",
            f"{certificate} has {found[0].sha256.hex()}, which is not what was typed: it is not "
            "the certificate of the ceremony, or a digit is wrong",
        )
    body = {"certificates": [base64.b64encode(each.der).decode() for each in found]}
    from cli.client import segment

    async with session.connect() as client:
        reply = await client.post(f"/authority-requests/{segment(name)}/certificate", body)
    fields = (("name", name), ("subject", reply["subject"]), ("valid to", reply["not_after"]))
    note = "Taken in; it is in force when the instance is started again."
    return Answer(reply, (Line(note, GOOD), Fields(fields)))


@ceremony.command("record")
@click.argument("transcript", type=click.Path(path_type=Path))
@click.pass_obj
async def record(session: Session, transcript: Path) -> Answer:
    """Verify TRANSCRIPT and put its head into the log, where nobody can take it back.

    \b
    Example:
      digitalid ceremony record transcript.jsonl
    """
    from pki.ceremony.archive import read_transcript

    body = {"transcript": base64.b64encode(read_transcript(transcript)).decode()}
    async with session.connect() as client:
        reply = await client.post("/ceremonies", body)
    return Answer(reply, (Line("In the log.", GOOD), Fields((("act", reply["id"]),))))


def _fingerprinted(document: Reply, der: bytes) -> Answer:
    from pki.ceremony.words import in_groups, in_words

    digest = hashlib.sha256(der).digest()
    fields = (
        *((name, str(value)) for name, value in document.items()),
        ("SHA-256", in_groups(digest)),
        ("in words", " ".join(in_words(digest))),
    )
    document = {**document, "sha256": digest.hex()}
    return Answer(document, (Line("Written to the medium.", GOOD), Fields(fields)))
