"""Settings: four layers, typed once, mistakes named."""

from __future__ import annotations

import json
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import conf.load
from conf.kinds import Secret, parse_duration, show_duration
from conf.load import BadSetting, defaults, documentation, kinds, load, parse_file, variable


def refused(home: Path, environ: dict[str, str] | None = None, **flags: object) -> str:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    with pytest.raises(BadSetting) as caught:
        load(home, environ or {}, dotted)
    return str(caught.value)


def test_defaults_file_and_schema_have_the_same_keys_in_the_same_order() -> None:
    assert list(defaults()) == list(kinds())


def test_every_key_and_section_of_the_defaults_is_documented() -> None:
    assert [key for key in kinds() if len(documentation().get(key, "")) < 20] == []
    text = Path(conf.load.__file__).with_name("default.toml").read_text()
    lines = text.splitlines()
    headings = [number for number, line in enumerate(lines) if line.startswith("[")]
    assert all(lines[number - 1].startswith("# ") for number in headings)


def test_defaults_are_loopback_and_hold_no_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, {}, {}).settings
    assert (settings.http.app_host, settings.http.app_port) == ("127.0.0.1", 8080)
    assert (settings.http.validation_host, settings.http.validation_port) == ("127.0.0.1", 8081)
    assert settings.http.public_url == ""
    assert settings.keys.pin == Secret("file", f"{tmp_path}/secrets/token.pin")
    assert settings.store.path == tmp_path / "ledger.sqlite"
    assert settings.crl.lifetime == timedelta(days=7)


def test_a_home_that_does_not_exist_has_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path / "nowhere", {}, {})
    assert {loaded.origin(key) for key in kinds()} == {"default"}


def test_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("var"), {}, {}).settings.home == tmp_path / "var"


def test_later_layers_win_and_every_layer_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "digitalid.toml").write_text("[http]\napp_port = 1001\nvalidation_port = 1002\n")
    environ = {"DIGITALID_HTTP_APP_PORT": "2001", "DIGITALID_CRL_LIFETIME": "9d", "PATH": "/bin"}
    loaded = load(tmp_path, environ, {"http.app_port": "3001"})
    assert loaded.settings.http.app_port == 3001
    assert loaded.settings.http.validation_port == 1002
    assert loaded.settings.crl.lifetime == timedelta(days=9)
    found = loaded.explain("http.app_port")
    assert [(saying.layer, saying.raw) for saying in found.sayings] == [
        ("default", 8080),
        ("file", 1001),
        ("environment", "2001"),
        ("flag", "3001"),
    ]
    assert found.sayings[1].where == str(tmp_path / "digitalid.toml")
    assert found.sayings[2].where == "DIGITALID_HTTP_APP_PORT"
    assert (found.value, found.layer) == (3001, "flag")
    assert "Port of the application" in found.documentation
    assert loaded.origin("http.validation_port") == "file"
    assert loaded.origin("crl.lifetime") == "environment"
    assert loaded.origin("log.origin") == "default"


def test_a_mistake_in_a_layer_that_is_overridden_is_still_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "digitalid.toml").write_text("[http]\napp_port = 70000\n")
    message = refused(tmp_path, http__app_port=8000)
    assert message.startswith(f"{tmp_path}/digitalid.toml: http.app_port: 70000 is not")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[http]\napp_prot = 1\n", "http.app_prot: unknown key; did you mean http.app_port"),
        ("[htpp]\napp_port = 1\n", "htpp: unknown section; did you mean http"),
        ("app_port = 1\n", "app_port: unknown section"),
        ("http = 1\n", "http: is a section; write [http] above its keys"),
        ('[http]\napp_port = "x"\n', "http.app_port: 'x' is not a whole number from 0 to 65535"),
        ("[http]\napp_port = true\n", "http.app_port: true is not a whole number"),
        ("[http]\napp_port = 80.5\n", "http.app_port: 80.5 is not a whole number"),
        ("[http]\napp_port = -1\n", "http.app_port: -1 is not a whole number"),
        ("[http]\napp_port = []\n", "http.app_port: this value is not a whole number"),
        ("[http]\napp_host = 1\n", "http.app_host: 1 must be text, in quotation marks"),
        ('[http]\napp_host = "a b"\n', "http.app_host: 'a b' is not a host name"),
        ('[http]\npublic_url = "ftp://x"\n', "http.public_url: 'ftp://x' is not a URL"),
        ('[http]\npublic_url = "http://u:p@x"\n', "http.public_url"),
        ('[http]\npublic_url = "http://x?y"\n', "http.public_url"),
        ('[http]\npublic_url = "http://[x"\n', "http.public_url"),
        ('[http]\npublic_url = "http://x:99999"\n', "http.public_url"),
        ('[http]\nmax_request = "1KB"\n', "http.max_request: '1KB' is not a size from"),
        ("[http]\nmax_request = 1\n", "http.max_request: '1B' is not a size from"),
        ('[keys]\nstore = "pkcs"\n', "not one of auto, pkcs11, file; did you mean pkcs11"),
        ("[issuance]\nlint_share = 1.1\n", "issuance.lint_share: 1.1 is not a number from 0.0"),
        ("[issuance]\nlint_share = nan\n", "issuance.lint_share: nan is not a number from 0.0"),
        ("[issuance]\nverify_signature = 1\n", "verify_signature: 1 is not true or false"),
        ("[crl]\nlifetime = 7\n", "crl.lifetime: 7 must be text, in quotation marks"),
        ('[crl]\nlifetime = "7"\n', 'a duration is written like "90s"'),
        ('[crl]\nlifetime = "401d"\n', 'not a duration from "1m" to "400d"'),
        ('[crl]\nlifetime = "999999999w"\n', "crl.lifetime"),
        (
            '[crl]\nlifetime = "2h"\noverlap = "2h"\n',
            "crl.overlap: crl.overlap must be shorter than",
        ),
        (
            '[ocsp]\nlifetime = "2h"\nresponder_lifetime = "1h"\n',
            "ocsp.lifetime: ocsp.lifetime must be shorter",
        ),
        ('[http]\ntls_key = "k"\n', "http.tls_key: TLS needs both"),
        ("[http]\nvalidation_port = 8080\n", "http.validation_port: http.app_port and"),
        ('[log]\norigin = "a b"\n', "log.origin: 'a b' is not a name"),
        ('[store]\npath = ""\n', "store.path: a path is empty"),
        ('[store]\npath = "a\\u0000b"\n', "store.path: a path is empty, too long or holds"),
        ("[http\n", "Expected ']' at the end of a table declaration"),
        ("a = " + "[" * 5000, "not TOML in UTF-8"),
        ("a = " + "9" * 5000, "not TOML in UTF-8"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "digitalid.toml"
    file.write_text(text)
    found = refused(tmp_path)
    assert message in found
    assert found.startswith(f"{file}: ")


def test_a_file_that_is_not_utf8_or_too_large_is_named(tmp_path: Path) -> None:
    file = tmp_path / "digitalid.toml"
    file.write_bytes(b"\xff\xfe")
    assert refused(tmp_path) == f"{file}: not TOML in UTF-8"
    file.write_bytes(b"#" * ((1 << 20) + 1))
    assert "at most 1048576 octets" in refused(tmp_path)


def test_a_settings_file_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "digitalid.toml").mkdir()
    assert "digitalid.toml: cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("literal", ["1234", "file", "correct horse", "pkcs11:token=x", "env:", ""])
def test_a_literal_secret_is_refused_and_not_repeated(tmp_path: Path, literal: str) -> None:
    (tmp_path / "digitalid.toml").write_text(f'[keys]\npin = "{literal}"\n')
    message = refused(tmp_path)
    assert "keys.pin" in message
    assert not literal or not message.endswith((literal, f"'{literal}'"))
    assert "1234" not in message.removeprefix(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("file:/run/pin", Secret("file", "/run/pin")),
        ("env:PIN", Secret("env", "PIN")),
        ("prompt:", Secret("prompt", "")),
        ("prompt:The PIN of slot 1", Secret("prompt", "The PIN of slot 1")),
    ],
)
def test_a_secret_is_a_reference(tmp_path: Path, text: str, secret: Secret) -> None:
    assert load(tmp_path, {"DIGITALID_KEYS_PIN": text}, {}).settings.keys.pin == secret
    assert str(secret) == text


def test_relative_secret_files_and_paths_start_at_home(tmp_path: Path) -> None:
    flags = {"keys.pin": "file:pin", "store.path": "{home}/x/../db", "issuance.profiles": "/p"}
    settings = load(tmp_path, {}, flags).settings
    assert settings.keys.pin.location == str(tmp_path / "pin")
    assert settings.store.path == tmp_path / "x/../db"
    assert settings.issuance.profiles == Path("/p")


def test_an_unknown_variable_with_our_prefix_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, {"DIGITALID_HTTP_APP_PROT": "1"})
    assert message == (
        "environment: DIGITALID_HTTP_APP_PROT: unknown setting; "
        "did you mean DIGITALID_HTTP_APP_PORT"
    )


def test_variables_that_kubernetes_makes_for_a_service_are_no_settings(tmp_path: Path) -> None:
    environ = {
        "DIGITALID_SERVICE_HOST": "10.0.0.1",
        "DIGITALID_SERVICE_PORT_HTTP": "80",
        "DIGITALID_PORT": "tcp://10.0.0.1:80",
        "DIGITALID_PORT_80_TCP_ADDR": "10.0.0.1",
        "DIGITALID_HOME": "/var/lib/digitalid",
    }
    assert load(tmp_path, environ, {}).settings == load(tmp_path, {}, {}).settings


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    assert "flag: http.port: unknown key" in refused(tmp_path, http__port=1)


def test_no_two_keys_have_the_same_variable() -> None:
    assert len({variable(key) for key in kinds()}) == len(kinds())


def test_every_default_can_be_said_in_the_environment(tmp_path: Path) -> None:
    plain = load(tmp_path, {}, {})
    environ = {
        variable(key): str(raw).lower() if isinstance(raw, bool) else str(raw)
        for key, raw in defaults().items()
    }
    assert load(tmp_path, environ, {}).settings == plain.settings


def test_every_printed_value_can_be_said_again(tmp_path: Path) -> None:
    first = load(tmp_path, {}, {})
    printed = {key: "" if first.value(key) is None else first.value(key) for key in kinds()}
    assert load(tmp_path, {}, printed).settings == first.settings


def test_explaining_an_unknown_key_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"unknown key; did you mean crl\.overlap"):
        load(tmp_path, {}, {}).explain("crl.overlaps")


def test_the_file_that_the_reference_shows_is_a_file_that_loads() -> None:
    text = Path(conf.load.__file__).with_name("default.toml").read_text()
    assert parse_file("x", text.encode()).keys() == kinds().keys()
    assert tomllib.loads(text)


@given(st.integers(0, 400 * 86_400_000))
def test_durations_round_trip(milliseconds: int) -> None:
    span = timedelta(milliseconds=milliseconds)
    assert parse_duration(show_duration(span)) == span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("1w", 604800)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


def test_the_reference_has_every_setting_as_it_is() -> None:
    page = Path(conf.load.__file__).parents[1] / "docs" / "configuration.md"
    words = " ".join(page.read_text().split())
    for key, kind in kinds().items():
        default = json.dumps(defaults()[key])
        entry = (
            f"### `{key}` {documentation()[key]} "
            f"Default `{default}`; {kind.says}. Variable `{variable(key)}`."
        )
        assert entry in words
