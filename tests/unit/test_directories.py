"""Several directories in the settings: what is said once holds for all that say nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.directories import directories
from conf.load import BadSetting, load

ONE = {"directory.url": "ldaps://one.example.org", "directory.bind_dn": "cn=ca,o=Registry"}


def found(home: Path, flags: dict[str, object], **files: str) -> dict[str, str]:
    if files:
        (home / "more").mkdir(exist_ok=True)
        for name, text in files.items():
            (home / "more" / f"{name}.toml").write_text(text)
        flags = {**flags, "directory.more": "more"}
    known = directories(load(home, {}, flags).settings)
    return {name: f"{one.url} {one.base} {one.bind_dn}" for name, one in known.items()}


def test_there_is_none_by_default(tmp_path: Path) -> None:
    assert found(tmp_path, {}) == {}


def test_a_further_one_says_what_differs(tmp_path: Path) -> None:
    said = 'url = "ldaps://two.example.org"\nbase = "o=Copy"\n'
    assert found(tmp_path, ONE, two=said) == {
        "main": "ldaps://one.example.org o=DigitalID cn=ca,o=Registry",
        "two": "ldaps://two.example.org o=Copy cn=ca,o=Registry",
    }


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("two", 'base = "o=Copy"', "url"),
        ("two", 'url = "http://two"', "url"),
        ("two", 'url = "ldaps://two"\nurll = "x"', "did you mean url"),
        ("two", 'url = "ldaps://two"\npassword = "hunter2"', "password"),
        ("two", 'url = "ldap://two.example.org"', "allow_plain"),
        ("two", "url = ", "TOML"),
        ("main", 'url = "ldaps://two"', "main"),
        ("Two", 'url = "ldaps://two"', "lower-case"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(BadSetting, match=says) as refused:
        found(tmp_path, ONE, **{name: text})
    assert f"{name}.toml" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"directory.url": "ldap://one.example.org"}, "allow_plain"),
        ({"directory.url": "ldap://127.0.0.1.example.org"}, "allow_plain"),
        ({"directory.start_tls": "true"}, "start_tls is for ldap://"),
        ({"directory.bind_dn": ""}, "bind_dn"),
        ({"directory.password": "prompt:"}, "password"),
        ({"directory.bind": "external"}, "certificate"),
        ({"directory.key": "client.key"}, "certificate"),
        ({"directory.base": "o=a,,c=b"}, "base"),
        ({"directory.base": "o=a\\,b"}, "base"),
        ({"directory.people": "people"}, "people"),
        ({"directory.public_url": "http://x"}, "public_url"),
    ],
)
def test_what_does_not_go_together_stops_the_start(
    tmp_path: Path, flags: dict[str, object], says: str
) -> None:
    with pytest.raises(BadSetting, match=says):
        load(tmp_path, {}, {**ONE, **flags})


def test_plain_ldap_is_for_this_machine_or_by_name(tmp_path: Path) -> None:
    for url in (
        "ldap://127.0.0.1:3890",
        "ldap://[::1]:3890",
        "ldap://localhost",
        "ldapi://%2Ftmp%2Fx",
    ):
        assert load(tmp_path, {}, {**ONE, "directory.url": url}).settings.directory.url == url
    plain = {"directory.url": "ldap://one.example.org", "directory.allow_plain": "true"}
    assert load(tmp_path, {}, {**ONE, **plain}).settings.directory.allow_plain
