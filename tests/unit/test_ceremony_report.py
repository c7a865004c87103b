"""The report: whole by itself, safe whatever people typed, and in both languages."""

from __future__ import annotations

import re
import shutil
import subprocess
from copy import copy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.ceremony.report import report_html, report_pdf
from infra.errors import Rejected
from pki.ceremony import seal as seals
from pki.ceremony.verify import Verdict, verify_transcript
from tests.unit.ceremony_fixtures import NAMES, hold, on_files, shipped, transcript


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seals, "_MEMORY", 64)
        patch.setattr(seals, "_PASSES", 1)
        hostile = '<script>alert(1)</script> "&\u202e'
        words = [("type yes", "comment"), ("Your words", hostile)]
        hold(home, "root", on_files(shipped("root-creation")), override=words)
    return verify_transcript(transcript(home, "root").read_bytes())


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_needs_nothing_else_and_runs_nothing(verdict: Verdict, language: str) -> None:
    reader = read(report_html(verdict, language))
    assert "script" not in reader.tags and not reader.links
    assert "svg" in reader.tags and '<script>alert(1)</script> "&' in reader.text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_tells_who_what_and_which_fingerprints(verdict: Verdict, language: str) -> None:
    text = read(report_html(verdict, language)).text
    for name in NAMES.values():
        assert text.count(name) >= 2  # among those present, and to sign
    told = verdict.told
    assert " ".join(re.findall("....", told.head.upper())) in text
    assert "CN=National Root CA,O=Registry,C=AQ" in text
    assert ("Signatures" in text) is (language == "en")
    assert ("签名页" in text) is (language == "zh")


def test_steps_are_told_in_the_language_of_the_report(verdict: Verdict) -> None:
    text = read(report_html(verdict, "zh")).text
    assert "此证书由其自身的密钥签名" in text
    assert "This certificate is signed by its own key" not in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_page_on_paper_has_its_number_and_the_head(verdict: Verdict, language: str) -> None:
    missing = [name for name in ("chromium", "pdftotext") if shutil.which(name) is None]
    if missing:
        pytest.skip("apt-get install chromium poppler-utils")
    pdf = report_pdf(report_html(verdict, language))
    said = subprocess.run(["pdftotext", "-layout", "-", "-"], input=pdf, capture_output=True,
                          check=True).stdout.decode()  # fmt: skip
    pages = said.split("\f")[:-1]
    assert len(pages) >= 4
    head = " ".join(re.findall("....", verdict.told.head.upper())[:4])
    for number, page in enumerate(pages, 1):
        assert re.search(rf"\b{number} ?/ ?{len(pages)}\b", page) and head in page
    for name in NAMES.values():
        assert name in pages[-1]
    assert language == "zh" or "Signatures" in pages[-1]  # Chinese is read back with its font only


def test_without_a_browser_there_is_no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Rejected) as rejected:
        report_pdf("<p>")
    assert rejected.value.code == "no-pdf-printer" and "Chromium" in rejected.value.detail


def test_of_a_rehearsal_each_page_says_so(verdict: Verdict) -> None:
    told = replace(verdict, told=copy(verdict.told))
    told.told.rehearsal = True
    page = report_html(told, "en")
    assert '@top-center { content: "THIS IS A REHEARSAL: its keys' in page
    assert "REHEARSAL" not in report_html(verdict, "en")


def test_an_altered_transcript_is_said_to_be_one(verdict: Verdict, tmp_path: Path) -> None:
    data = b"".join(entry.line + b"\n" for entry in verdict.entries)
    altered = verify_transcript(data.replace(b"Ada Lovelace", b"Eve Lovelace"))
    text = read(report_html(altered, "en")).text
    assert "does NOT verify" in text and "bad-signature" in text
    assert "verified: it is whole" not in text


@pytest.mark.parametrize("data", [b"", b"{}\n", b"garbage"])
def test_of_anything_else_it_says_that_nothing_was_verified(data: bytes) -> None:
    text = read(report_html(verify_transcript(data), "en")).text
    assert "does NOT verify" in text
