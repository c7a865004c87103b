"""What commands print: for people, for programs, for terminals that could be steered."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from threading import Event

import pytest

from cli import files, incident, output, progress
from cli.output import Answer, Fields, Line, Table, Verbatim
from infra.errors import Broken, Failure, Rejected, Unavailable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(*blocks: output.Block, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    output.show(Answer({}, blocks), as_json=False, stream=stream)
    return stream.getvalue()


def test_fields_are_aligned_and_empty_ones_left_out() -> None:
    text = shown(Fields((("serial", "0a"), ("valid to", "2027"), ("nothing", ""))))
    assert text == "serial    0a\nvalid to  2027\n"


def test_fields_are_wrapped_at_80_columns_but_long_words_stay_whole() -> None:
    text = shown(Fields((("meaning", "word " * 40), ("sha-256", "f" * 64), ("url", "u" * 90))))
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines if "u" not in line)
    assert "f" * 64 in text
    assert "u" * 90 in text


def test_a_table_in_a_pipe_has_a_line_a_row_and_cuts_nothing() -> None:
    subject = "CN=" + "x" * 200
    text = shown(Table(("SERIAL", "SUBJECT"), (("0a", subject), ("0b0c", "CN=y"))))
    assert text == f"SERIAL  SUBJECT\n0a      {subject}\n0b0c    CN=y\n"


def test_chinese_takes_two_columns_of_a_terminal_and_stays_aligned() -> None:
    text = shown(Table(("步骤", "WHO"), (("生成密钥对", "a"), ("key", "b"))))
    assert text == "步骤        WHO\n生成密钥对  a\nkey         b\n"
    assert shown(Fields((("令牌", "root"), ("URLs", "b")))) == "令牌  root\nURLs  b\n"
    assert [output.columns(each) for each in ("key", "密钥", "ａ", "e\u0301")] == [3, 4, 2, 1]


def test_a_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(Table(("SERIAL", "SUBJECT"), (("0a", "CN=" + "x" * 200),)), stream=Terminal())
    assert all(len(line.rstrip()) <= 60 for line in text.splitlines())
    assert text.count("x") == 200


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    line = Line("revoked", output.BAD)
    assert "\x1b[" in shown(line, stream=Terminal())
    assert "\x1b" not in shown(line)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(line, stream=Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(line, stream=Terminal())


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\r", "\x9b31m", "\u202e", "\n", "\x00", "\ud800"])
def test_names_cannot_steer_the_terminal(hostile: str) -> None:
    for block in (
        Line(f"a{hostile}b"),
        Fields((("subject", f"a{hostile}b"),)),
        Table(("SUBJECT",), ((f"a{hostile}b",),)),
    ):
        for stream in (io.StringIO(), Terminal()):
            text = shown(block, stream=stream)
            assert hostile not in text.removesuffix("\n").replace("SUBJECT\n", "").replace(
                f"{'SUBJECT':80}\n", ""
            ) or (hostile == "\n" and "a\\nb" in text)
            text.encode()


def test_markup_in_names_is_no_markup() -> None:
    assert "[red]x[/]" in shown(Line("[red]x[/]", output.GOOD), stream=Terminal())


def test_json_is_one_document_in_ascii() -> None:
    stream = io.StringIO()
    answer = Answer({"subject": "CN=Ελλάδα\x9b"}, (Line("not shown"),))
    output.show(answer, as_json=True, stream=stream)
    assert json.loads(stream.getvalue()) == {"subject": "CN=Ελλάδα\x9b"}
    assert stream.getvalue().isascii()


def test_verbatim_text_stays_as_it_is() -> None:
    assert shown(Verbatim("-----BEGIN X-----\nab\n")) == "-----BEGIN X-----\nab\n"


def test_an_error_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error("bad-serial", "a\nb\x1b[2J", as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: bad-serial: a\\nb\\x1b[2J\n"


def test_an_error_as_json_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error("busy", "later", as_json=True, retry_after=2.5)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "error": {"code": "busy", "detail": "later", "retry_after": 2.5}
    }


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Rejected("a", "b"), 3), (Unavailable("a", "b"), 4), (Broken("a", "b"), 5)],
)
def test_exit_codes(failure: Failure, code: int) -> None:
    assert output.exit_code(failure) == code


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "out.pem"
    files.write(path, b"one", force=False)
    with pytest.raises(Rejected, match="file-exists"):
        files.write(path, b"two", force=False)
    assert path.read_bytes() == b"one"
    files.write(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["out.pem"]


def test_a_dangling_link_is_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Rejected, match="file-exists"):
        files.check_free(path, force=False)
    with pytest.raises(Rejected, match="file-exists"):
        files.write(path, b"x", force=False)
    assert not (tmp_path / "elsewhere").exists()


def test_a_private_file_is_the_owners_alone_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "key.p12"
    files.write(path, b"x", force=False, mode=files.PRIVATE)
    assert path.stat().st_mode & 0o777 == 0o600
    public = tmp_path / "old"
    public.write_bytes(b"")
    public.chmod(0o644)
    files.write(public, b"x", force=True, mode=files.PRIVATE)
    assert public.stat().st_mode & 0o777 == 0o600


def test_a_device_is_written_to_and_not_replaced() -> None:
    files.write(Path("/dev/null"), b"x", force=True)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["missing/out", "."])
def test_what_cannot_be_written_is_refused_before_anything_is_done(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(Rejected, match=r"cannot-write|file-exists"):
        files.check_free(tmp_path / name, force=False)
    with pytest.raises(Rejected, match="cannot-write"):
        files.check_free(tmp_path / name, force=True)


def test_input_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"x" * 11)
    assert len(files.read(path, limit=11)) == 11
    with pytest.raises(Rejected, match="too-large"):
        files.read(path, limit=10)
    with pytest.raises(Rejected, match="cannot-read"):
        files.read(tmp_path / "missing")
    with pytest.raises(Rejected, match="cannot-read"):
        files.read(tmp_path)


def test_an_incident_is_written_for_the_owner_alone(tmp_path: Path) -> None:
    try:
        raise ValueError("the reason")
    except ValueError as error:
        number, where = incident.record(error, tmp_path)
    path = Path(where)
    assert path == tmp_path / "log" / "incidents.log"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert number in path.read_text()
    assert "ValueError: the reason" in path.read_text()


def test_an_incident_without_a_home_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, where = incident.record(ValueError("x"), tmp_path / "nowhere")
    assert Path(where).parent == tmp_path
    assert Path(where).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "nowhere").exists()


def test_progress_is_silent_in_scripts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.working("entries") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("first", ["before", "after"])
def test_progress_appears_on_a_terminal_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """``first``: whether the first report comes before it appears, or after."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    terminal, due, begun = Terminal(), Event(), Event()
    monkeypatch.setattr(sys, "stderr", terminal)
    begin = progress._Shown.begin

    def noticed(shown: progress._Shown) -> None:
        assert due.wait(60)
        begin(shown)
        begun.set()

    monkeypatch.setattr(progress._Shown, "begin", noticed)
    with progress.working("entries") as report:
        if first == "before":
            report(1, 3)
        due.set()
        assert begun.wait(60)
        if first == "after":
            report(1, 3)
    assert "entries" in terminal.getvalue()
    assert "1/3" in terminal.getvalue()


def test_progress_does_not_appear_when_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.working("entries") as report:
        report(3, 3)
    assert terminal.getvalue() == ""


def test_what_an_instance_within_a_command_logs_goes_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("test.embedded")
    handler = incident.IncidentLog(tmp_path)
    log.addHandler(handler)
    try:
        log.info("not kept")
        log.error("kept", exc_info=ValueError("the reason"))
    finally:
        log.removeHandler(handler)
    file = tmp_path / "log" / "incidents.log"
    assert "ERROR test.embedded: kept\nValueError: the reason" in file.read_text()
    assert "not kept" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().err == ""
