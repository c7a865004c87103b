"""Both languages say the same things, and the guide's words are those of the program."""

from __future__ import annotations

import ast
import re
import string
from importlib.resources import files
from pathlib import Path

import pytest

from cli.ceremony.qr import qr_code
from cli.ceremony.room import wrap
from cli.output import columns
from pki.ceremony.script import parse_script, step_name
from pki.ceremony.text import CHINESE, ENGLISH, say
from pki.ceremony.words import in_groups, in_words

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "pki" / "ceremony").glob("*.py"), *(ROOT / "cli").glob("ceremony*.py")]
SCRIPTS = sorted(path.name for path in (files("conf") / "ceremonies").iterdir())


def spoken() -> set[str]:
    """Every text that a call of ``say`` could be given: literals of the modules that call it."""
    found: set[str] = set()
    for path in SOURCES:
        if path.name == "text.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else (
                node.func.id if isinstance(node.func, ast.Name) else ""
            )  # fmt: skip
            if called in ("say", "words"):
                found |= {
                    each.value
                    for each in node.args
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                }
    return found - {"en", "zh"}


def test_every_text_has_its_chinese() -> None:
    assert spoken() - set(CHINESE) == set()
    assert set(ENGLISH) <= set(CHINESE)


@pytest.mark.parametrize("text", CHINESE)
def test_both_languages_have_the_same_places(text: str) -> None:
    def places(template: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name}

    assert places(ENGLISH.get(text, text)) == places(CHINESE[text])


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_shipped_script_is_read_and_speaks_both_languages(name: str) -> None:
    script = parse_script((files("conf") / "ceremonies" / name).read_text())
    assert script.kind == name.removesuffix(".toml")
    for step in script.step:
        assert say("en", f"act:{step_name(step)}") != say("zh", f"act:{step_name(step)}")
        if step.say is not None:
            assert re.search(r"[\u4e00-\u9fff]", step.say.zh)
            assert not re.search(r"[\u4e00-\u9fff]", step.say.en)


def test_words_are_those_of_the_published_example() -> None:
    # The fingerprint of a key, with its words, in the article on the list.
    digest = bytes.fromhex("E58294F2E9A227486E8B061B31CC528FD7FA3F19")
    assert " ".join(in_words(digest)) == (
        "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator goldfish Medusa "
        "afflict bravado chatter revolver Dupont midsummer stopwatch whimsical cowbell bottomless"
    )
    assert len({word for octet in range(256) for word in in_words(bytes((octet, octet)))}) == 512
    assert in_groups(b"\x0a\xbc\xde") == "0ABC DE"


# SHA-256 of the modules, row by row, as the library qrcode 8.2 makes them with mask 0.
SYMBOLS = {
    1: "8a8b4bae702a91685ac59580f0a2ac9b32b313674193824721390814aaab6823",
    20: "5530ae96801100b9385ecc36c7c8670d9b803dab964e8b8e5f8d0b0a71d77af4",
    40: "66d029a055f2067f0b21e941d634370374a2da0fcd07997db817319c22d5f107",
    60: "922ef9fcfd2ab03d48ad229bb14bcf840bdb747e984d69344d49968fbc367c7d",
    71: "388c53d13296b17b1481be72cb1d53b610eb5387fda5e663d70fffad7d21754b",
    106: "8b8126eafd1681dc78b9209971ac4c24c1b4066587e7f3a10e955788b6a7ac70",
}


@pytest.mark.parametrize("size, expected", SYMBOLS.items())
def test_qr_codes_are_those_of_another_program(size: int, expected: str) -> None:
    import hashlib

    content = ("sha256:" + "0123456789abcdef" * 8)[:size].encode()
    modules = "".join("1" if module else "0" for row in qr_code(content) for module in row)
    assert hashlib.sha256(modules.encode()).hexdigest() == expected


@pytest.mark.parametrize("width", [40, 79, 80])
@pytest.mark.parametrize(
    "text",
    ["", "word", "x" * 200, "many words " * 30, "汉字" * 60, "混排 mixed 文字 and words " * 10,
     "a" * 79 + " b", " leading"],
)  # fmt: skip
def test_lines_fit_and_nothing_is_lost(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert all(columns(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
