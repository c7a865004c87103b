"""The frame of the command: help, usage, exit codes, and errors in both forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli.command import Command, Group, Root
from cli.main import COMMANDS, digitalid
from cli.output import Answer, Line
from infra.errors import Broken, Rejected, Unavailable


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DIGITALID_"):
            monkeypatch.delenv(name)


def invoke(*arguments: str, command: click.Command = digitalid, stdin: str = "") -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


def every_command(
    command: click.Command = digitalid, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, name
            yield from every_command(inner, (*path, name))


ALL = dict(every_command())


def test_every_command_of_the_issue_is_there() -> None:
    wanted = {
        "init", "serve", "ca list", "ca show", "ca export", "profile list", "profile show",
        "profile check", "cert issue", "cert show", "cert find", "cert hold", "cert release",
        "cert revoke", "cert revoke-many", "cert export", "crl issue", "crl import", "crl show",
        "crl diff",
        "crl verify", "crl history", "ocsp query", "verify",
        "log verify", "log prove", "log checkpoint", "config show", "config check",
        "config explain", "completion",
    }  # fmt: skip
    assert wanted <= {" ".join(path) for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_teaches_within_80_columns(path: tuple[str, ...]) -> None:
    result = invoke(*path, "--help")
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    if not isinstance(ALL[path], click.Group):
        assert "Example:" in result.output
        assert f"digitalid {' '.join(path)}" in result.output.replace("--home /srv/ca ", "")


@pytest.mark.parametrize("path", [p for p in ALL if not isinstance(ALL[p], click.Group)])
def test_every_command_takes_json_after_its_name(path: tuple[str, ...]) -> None:
    assert "--json" in [option for p in ALL[path].params for option in p.opts]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_no_option_takes_a_secret(path: tuple[str, ...]) -> None:
    # A PIN, password or passphrase is named by a reference: …-from.
    names = [option for parameter in ALL[path].params for option in parameter.opts]
    secret = [name for name in names if any(w in name for w in ("pin", "pass", "secret", "token"))]
    assert all(name.endswith("-from") for name in secret)


def test_lines_of_the_root_help_match_the_modules() -> None:
    output = invoke("--help").output
    assert all(name in output for name in COMMANDS)
    assert "Exit codes: 0 done;" in output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cli.main import digitalid\n"
        "try: digitalid.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'aiohttp', 'cryptography', 'asyncio', 'rich', 'conf', 'asn1crypto'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["cert", "nonsense"],
        ["cert", "issue"],
        ["cert", "revoke", "0a", "--reason", "boredom"],
        ["cert", "revoke", "0a"],
        ["cert", "revoke", "0a", "--reason", "keyCompromise", "--invalidity-date", "yesterday"],
        ["cert", "find", "--limit", "0"],
        ["cert", "export", "0a", "--format", "p12", "--out", "x"],
        ["verify", "x.pem", "--no-revocation", "--crl", "fetch"],
        ["profile", "check", "a", "--file", "pyproject.toml"],
        ["completion", "tcsh"],
        ["--set", "http.app_port", "config", "show"],
        ["--unknown"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "error: usage: " in result.stderr
    as_json = invoke("--json", *arguments)
    assert as_json.exit_code == 2
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout)["error"]["code"] == "usage"


def test_a_group_without_command_shows_its_help_and_ends_with_2() -> None:
    result = invoke("cert")
    assert result.exit_code == 2
    assert "revoke" in result.stderr


def test_a_bad_setting_ends_with_3_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "digitalid.toml").write_text("[http]\napp_prot = 1\n")
    for arguments in (["config", "check"], ["ca", "list"], ["serve"], ["cert", "show", "0a"]):
        result = invoke("--home", str(tmp_path), *arguments)
        assert result.exit_code == 3
        assert result.stderr == (
            f"error: bad-setting: {tmp_path}/digitalid.toml: http.app_prot: unknown key; "
            "did you mean http.app_port\n"
        )


def test_json_before_or_after_the_name(tmp_path: Path) -> None:
    home = str(tmp_path)
    before = invoke("--json", "--home", home, "config", "show")
    after = invoke("--home", home, "config", "show", "--json")
    assert before.exit_code == after.exit_code == 0
    assert before.output == after.output
    assert json.loads(before.output)["settings"]["http.app_port"] == {
        "value": 8080,
        "layer": "default",
    }


def test_config_explain_says_which_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALID_HTTP_APP_PORT", "9001")
    result = invoke("--home", str(tmp_path), "config", "explain", "http.app_port")
    assert result.exit_code == 0
    assert "environment (DIGITALID_HTTP_APP_PORT)" in result.output
    assert "9001" in result.output
    unknown = invoke("--home", str(tmp_path), "config", "explain", "http.port")
    assert unknown.exit_code == 3
    assert unknown.stderr.startswith("error: unknown-setting: http.port: unknown key")


def test_config_show_changed(tmp_path: Path) -> None:
    base = ("--home", str(tmp_path))
    assert "at its default" in invoke(*base, "config", "show", "--changed").output
    result = invoke(*base, "--set", "crl.lifetime=9d", "config", "show", "--changed")
    assert result.output.splitlines()[1].split() == ["crl.lifetime", "9d", "flag"]


def test_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALID_HOME", str(tmp_path))
    assert json.loads(invoke("config", "check", "--json").output)["home"] == str(tmp_path)


@pytest.mark.parametrize(
    ("shell", "word"),
    [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete --no-files")],
)
def test_completion_scripts(shell: str, word: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert word in result.output
    assert "_DIGITALID_COMPLETE" in result.output


def test_the_shell_is_told_the_commands() -> None:
    environ = {**os.environ, "_DIGITALID_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main"],
        env=environ | {"COMP_WORDS": "digitalid cert re"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(done.stdout.split()) == [
        "plain,release",
        "plain,revoke",
        "plain,revoke-many",
    ]


def failing(error: BaseException) -> Root:
    """A root with one command that raises."""

    @click.command("fail", cls=Command)
    async def fail() -> None:
        raise error

    class Fixed(Root):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return fail if cmd_name == "fail" else None

    @click.group(cls=Fixed, modules={"fail": ("", "")})
    @click.pass_obj
    def root(session: object) -> None:
        pass

    assert isinstance(root, Root)
    return root


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (Rejected("bad-csr", "do this"), 3, "bad-csr"),
        (Unavailable("busy", "later", retry_after=2), 4, "busy"),
        (Broken("storage-corrupt", "the secret inside"), 5, "storage-corrupt"),
        (RuntimeError("the secret inside"), 5, "internal-error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_end_with_their_code_and_no_stack_trace(
    error: BaseException,
    exit_code: int,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var").mkdir()
    root = failing(error)
    plain = invoke("fail", command=root)
    assert plain.exit_code == exit_code
    assert plain.stdout == ""
    assert f"error: {code}: " in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "the secret inside" not in plain.stderr
    as_json = invoke("fail", "--json", command=root)
    assert as_json.exit_code == exit_code
    assert json.loads(as_json.stdout)["error"]["code"] == code
    log = tmp_path / "var" / "log" / "incidents.log"
    assert log.exists() == (exit_code == 5)
    if exit_code == 5:
        assert "the secret inside" in log.read_text()


def test_an_answer_that_is_no_ends_with_its_code() -> None:
    @click.group(cls=Group)
    def group() -> None:
        pass

    @group.command("no")
    def no() -> Answer:
        return Answer({"valid": False}, (Line("no"),), 1)

    class Fixed(Root):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return group

    root = Fixed(name="root", modules={"group": ("", "")})
    result = invoke("group", "no", "--json", command=root)
    assert result.exit_code == 1
    assert json.loads(result.output) == {"valid": False}
