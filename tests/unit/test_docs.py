"""The documentation keeps up with the product: links, commands, profiles, codes, decisions."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bench.__main__ import benchmarks
from cli.main import digitalid
from pki import oids
from pki.algorithms import Family, KeyType
from pki.general_name import GeneralNameKind
from pki.profile import load_profiles, parse_profile
from pki.profile.model import AccessMethod, AtIssuerEnd, KeyIdentifierMethod, Semantics

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
UNIT = ROOT / "deploy" / "systemd" / "digitalid.service"

FENCE = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
SPAN = re.compile(r"`(digitalid [^`]+)`")
# Methods of pki.profile.table.Table whose first argument is a key of the file.
READERS = {
    "text", "optional_text", "flag", "count", "optional_count", "texts", "lists", "choice",
    "choices", "named", "pattern", "oid", "url", "lifetime", "span", "table", "tables", "optional",
}  # fmt: skip


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = page if path == "" else (page.parent / path).resolve()
        assert aim.exists(), f"{target} leads nowhere"
        assert aim.is_relative_to(ROOT), f"{target} leaves the repository"
        if anchor:
            assert anchor in anchors(aim), f"{target}: there is no such heading"


def shell_lines(text: str) -> Iterator[str]:
    """Lines that a reader may type: of sh blocks, and those after ``$`` in console blocks."""
    for block in FENCE.finditer(text):
        for line in block["body"].replace("\\\n", " ").splitlines():
            if block["kind"] == "sh":
                yield line
            elif block["kind"] == "console" and line.startswith("$ "):
                yield line[2:]


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of digitalid in a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    call: list[str] | None = None
    first = True
    for word in [*lexer, ";"]:
        if set(word) <= set("|;&<>"):
            if call is not None:
                yield call
            call, first = None, True
        elif call is not None:
            call.append(word)
        elif first and not re.match(r"\w+=", word):
            first = False
            if word == "digitalid" or word.endswith("/digitalid"):
                call = []


def complaint(words: list[str], *, whole: bool = True) -> str | None:
    """What click would object to in the words after ``digitalid``, without running anything.

    ``whole``: also that something is missing, as in a command line that is meant to be typed.
    """
    command: click.Command = digitalid
    parameters = command.get_params(click.Context(command))
    arguments: list[str] = []
    given: set[str | None] = set()
    rest = iter(words)
    for word in rest:
        if word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            option = next(
                (p for p in parameters if name in (*p.opts, *p.secondary_opts)),
                None,
            )
            if not isinstance(option, click.Option):
                return f"{command.name} has no option {name}"
            given.add(option.name)
            if option.is_flag or option.count:
                continue
            value = value if equals else next(rest, "")
            if not value:
                return f"{name} takes a value"
            if isinstance(option.type, click.Choice) and value not in option.type.choices:
                return f"{name} does not take {value}"
        elif isinstance(command, click.Group):
            inner = command.get_command(click.Context(command), word)
            if inner is None:
                return f"{command.name} has no command {word}"
            command = inner
            parameters = command.get_params(click.Context(command))
        else:
            arguments.append(word)
    places = [p for p in parameters if isinstance(p, click.Argument)]
    if all(p.nargs == 1 for p in places) and len(arguments) > len(places):
        return f"{command.name} takes {len(places)} arguments, not {len(arguments)}"
    if whole and "--help" not in words:
        needed = [p for p in places if p.required]
        if len(arguments) < len(needed):
            return f"{command.name} needs {needed[len(arguments)].name}"
        for option in parameters:
            if isinstance(option, click.Option) and option.required and option.name not in given:
                return f"{command.name} needs {option.opts[0]}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    for line in shell_lines(text):
        for words in calls(line):
            assert complaint(words) is None, line
    for span in SPAN.findall(FENCE.sub("", text)):
        if "…" not in span and "|" not in span:
            assert complaint(shlex.split(span)[1:], whole=False) is None, span


def test_the_systemd_unit_starts_a_command_that_exists() -> None:
    lines = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    [words] = calls(lines[0].removeprefix("ExecStart="))
    assert words == ["serve"]
    assert complaint(words) is None


@pytest.mark.parametrize(
    "line",
    [
        "digitalid cert isue --profile p --csr f --out g",
        "digitalid cert issue --csr f --out g",
        "digitalid cert issue --profile p --csr f --out g --frobnicate",
        "x=1 .venv/bin/digitalid verify | cat",
        "digitalid cert find --status maybe",
        "digitalid log verify everything",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    [words] = calls(line)
    assert complaint(words) is not None


def profile_keys() -> set[str]:
    """Every key that the reader of profiles asks for, found in its source."""
    keys: set[str] = set()
    for name in ("read", "subject", "alternative", "issuers"):
        tree = ast.parse((ROOT / "pki" / "profile" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in READERS
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, str)
            ):
                keys.add(node.args[0].value)
    return keys


def test_every_profile_key_is_described() -> None:
    page = (ROOT / "docs" / "issuing.md").read_text()
    keys = profile_keys()
    assert {"description", "lifetime", "wildcard", "one_of", "cps"} <= keys
    described = set(re.findall(r"`\[?([A-Za-z0-9_.-]+)\]?`", FENCE.sub("", page)))
    assert keys - described == set()
    values: set[str] = {*KeyType, *Family, *GeneralNameKind, *AccessMethod, *AtIssuerEnd}
    values |= {*KeyIdentifierMethod, *Semantics, *oids.KEY_USAGE_BITS, *oids.KEY_PURPOSES}
    values |= set(oids.QC_TYPES)
    assert {str(value) for value in values} - described == set()


def test_the_profile_in_the_guide_is_a_profile() -> None:
    page = (ROOT / "docs" / "issuing.md").read_text()
    blocks = [tomllib.loads(b["body"]) for b in FENCE.finditer(page) if b["kind"] == "toml"]
    [device] = [block for block in blocks if "key_types" in block]
    assert parse_profile("device", device).description == "Device of the ministry"


def test_every_built_in_profile_is_listed() -> None:
    page = (ROOT / "docs" / "issuing.md").read_text()
    for file in (ROOT / "conf" / "profiles").glob("*.toml"):
        assert re.search(rf"^{re.escape(file.stem)} ", page, re.MULTILINE), file.stem


def test_the_reserved_profiles_are_named() -> None:
    page = (ROOT / "docs" / "issuing.md").read_text()
    [sentence] = re.findall(r"^(.+) are reserved for", page, re.MULTILINE)
    profiles = load_profiles(ROOT / "conf" / "profiles").values()
    assert set(re.findall(r"`([^`]+)`", sentence)) == {p.name for p in profiles if p.reserved}


def test_every_benchmark_is_described() -> None:
    page = (ROOT / "docs" / "development.md").read_text().partition("## Benchmarks")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == benchmarks()


def test_every_decision_is_listed_in_order() -> None:
    listed = re.findall(
        r"^(\d+)\. \[.+\]\(adr/(.+)\)$", (ROOT / "docs/README.md").read_text(), re.M
    )
    files = sorted(file.name for file in (ROOT / "docs" / "adr").glob("*.md"))
    assert [name for _, name in listed] == files
    for number, name in listed:
        assert name.startswith(f"{int(number):04}-")
        assert (ROOT / "docs" / "adr" / name).read_text().startswith(f"# {number}. ")


def test_why_a_request_is_refused_is_described() -> None:
    described = set(re.findall(r"`([a-z0-9-]+)`", _codes("issuing.md")))
    described |= set(re.findall(r"`([a-z0-9-]+)`", _codes("operations.md")))
    for module in ("authority", "weak_keys", "preparation"):
        source = (ROOT / "pki" / f"{module}.py").read_text()
        codes = set(re.findall(r'(?:Rejected|Unavailable|Broken)\(\s*"([a-z0-9-]+)"', source))
        assert codes
        assert codes - described == set(), module


@pytest.mark.parametrize("name", ["issuing.md", "operations.md"])
def test_every_error_code_in_a_table_is_raised_somewhere(name: str) -> None:
    source = "".join(
        file.read_text()
        for room in ("cli", "conf", "crl", "infra", "ocsp", "pki")
        for file in (ROOT / room).rglob("*.py")
    )
    rows = re.findall(r"^\| (`[a-z0-9]+-[a-z0-9-]+`(?:, `[a-z0-9-]+`)*) \|", _codes(name), re.M)
    codes = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    assert len(codes) > 20
    assert [code for code in codes if f'"{code}"' not in source] == []


def _codes(name: str) -> str:
    """The section of a page that has the table of codes."""
    heading = {"issuing.md": "## What is refused", "operations.md": "## Error codes"}[name]
    return (ROOT / "docs" / name).read_text().partition(heading)[2].partition("\n## ")[0]
