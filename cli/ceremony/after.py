"""After a ceremony: its transcript is verified, and told as a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import files
from cli.ceremony.group import LANGUAGE, ceremony
from cli.command import Session
from cli.output import BAD, GOOD, NEGATIVE, WARNING, Answer, Block, Fields, Json, Line, Table

if TYPE_CHECKING:
    from pki.ceremony.replay import Replay


@ceremony.command("verify")
@click.argument("transcript", type=click.Path(path_type=Path))
@click.option(
    "--certificate",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A certificate as it was published, which must have been made there; may be repeated.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path),
    help="The transcript of the ceremony before it.",
)
@click.pass_obj
def verify(
    session: Session, transcript: Path, certificates: tuple[Path, ...], before: Path | None
) -> Answer:
    """Check TRANSCRIPT offline, from its first line to its last.

    Says what is proven and what rests on people; exits with 1 if anything is wrong.

    \b
    Example:
      digitalid ceremony verify transcript.jsonl --certificate root.cer
    """
    from pki.ceremony.archive import read_transcript
    from pki.ceremony.verify import verify_transcript
    from pki.certificate import parse_certificate

    published = [parse_certificate(files.read(path)).der for path in certificates]
    verdict = verify_transcript(
        read_transcript(transcript),
        published=published,
        before=None if before is None else read_transcript(before),
    )
    told = verdict.told
    blocks: list[Block] = []
    if told.rehearsal:
        blocks.append(Line("A REHEARSAL: its keys and certificates are worthless.", WARNING))
    if verdict.good:
        blocks.append(Line("The transcript is whole and nothing in it was altered.", GOOD))
    else:
        blocks.append(Line("The transcript is NOT as it was written.", BAD))
    blocks.append(Fields(_described(told)))
    if verdict.wrong:
        where = [
            ("whole" if found.entry < 0 else str(found.entry), found.code, found.detail)
            for found in verdict.wrong
        ]
        blocks.append(Table(("ENTRY", "CODE", "WHAT IS WRONG"), tuple(where)))
    if verdict.proven:
        blocks.append(Line("Proven by the file itself:"))
        blocks += [Line(f"  - {sentence}") for sentence in verdict.proven]
    blocks.append(Line("Resting on people, and on no file:"))
    blocks += [Line(f"  - {sentence}") for sentence in verdict.rests]
    document: dict[str, Json] = {
        "good": verdict.good,
        "rehearsal": told.rehearsal,
        "head": told.head,
        "entries": len(verdict.entries),
        "wrong": [
            {"entry": found.entry, "code": found.code, "detail": found.detail}
            for found in verdict.wrong
        ],
        "proven": list(verdict.proven),
        "rests": list(verdict.rests),
    }
    return Answer(document, tuple(blocks), 0 if verdict.good else NEGATIVE)


@ceremony.command("report")
@click.argument("transcript", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file, .html or .pdf (by Chromium); - for standard output.",
)
@click.option("--language", type=LANGUAGE, help="The ceremony's own if not given.")
@click.option("--force", is_flag=True, help="Over a file that is there.")
@click.pass_obj
def report(
    session: Session, transcript: Path, out: Path, language: str | None, force: bool
) -> Answer | None:
    """A report of TRANSCRIPT to be printed and signed: one file that needs nothing else.

    \b
    Example:
      digitalid ceremony report transcript.jsonl --out report.html --language zh
    """
    from cli.ceremony.report import report_html, report_pdf
    from pki.ceremony.archive import read_transcript
    from pki.ceremony.verify import verify_transcript

    files.check_free(out, force=force)
    verdict = verify_transcript(read_transcript(transcript))
    page = report_html(verdict, language or verdict.told.language)
    content = report_pdf(page) if out.suffix == ".pdf" else page.encode()
    files.write(out, content, force=force)
    if out == files.STANDARD:
        return None
    return Answer({"out": str(out), "good": verdict.good}, (Line(f"Written to {out}."),))


def _described(told: Replay) -> tuple[tuple[str, str], ...]:
    title = "" if told.script is None else told.script.title.of(told.language)
    steps = 0 if told.script is None else len(told.script.step)
    return (
        ("ceremony", title),
        ("entries", str(told.count)),
        ("steps done", f"{told.step} of {steps}"),
        ("head", told.head),
    )
