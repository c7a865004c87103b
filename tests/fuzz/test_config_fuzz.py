"""Whatever a settings file, a variable or a flag says: settings, or BadSetting that says where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.load import BadSetting, defaults, kinds, load, parse_file, variable

BUDGET = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
T = TypeVar("T")
HOME = Path("/nonexistent/home")

scalars = st.one_of(
    st.text(max_size=60),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=3),
    st.dates(),
    st.sampled_from(["7d", "0s", "1KiB", "file:", "env:A", "prompt:", "http://x", "{home}{home}"]),
)


def outcome(act: Callable[[], T]) -> T | BadSetting:
    """What ``act`` gives or refuses; anything else that it raises fails the test."""
    try:
        return act()
    except BadSetting as error:
        return error


def keep_going(once: Callable[[], None]) -> None:
    """Run a hypothesis test once, or again until ``DIGITALID_FUZZ_SECONDS`` have passed."""
    end = time.monotonic() + BUDGET
    once()
    while time.monotonic() < end:
        once()


def test_any_octets_are_settings_or_refused() -> None:
    text = Path("conf/default.toml").read_bytes()

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def once(data: st.DataObject) -> None:
        content = data.draw(
            st.one_of(
                st.binary(max_size=300),
                st.text(max_size=300).map(str.encode),
                st.tuples(
                    st.integers(0, len(text)), st.integers(0, len(text)), st.binary(max_size=20)
                ).map(lambda cut: text[: cut[0]] + cut[2] + text[cut[1] :]),
            )
        )
        found = outcome(lambda: parse_file("FILE", content))
        if isinstance(found, BadSetting):
            assert str(found).startswith("FILE: ")
        else:
            assert found.keys() <= kinds().keys()

    keep_going(once)


def test_any_value_of_any_key_is_typed_or_refused_by_its_name() -> None:
    @settings(max_examples=500, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(kinds())), scalars)
    def once(key: str, raw: object) -> None:
        found = outcome(lambda: load(HOME, {}, {key: raw}))
        if isinstance(found, BadSetting):
            assert str(found).startswith(f"--set {key}: {key}: ")
        else:
            assert found.origin(key) == "flag"
            found.explain(key)

    keep_going(once)


def test_any_variable_is_a_setting_or_refused_by_its_name() -> None:
    names = st.one_of(
        st.sampled_from([variable(key) for key in defaults()]),
        st.text("ABCPORTHTTP_", max_size=20).map("DIGITALID_".__add__),
    )

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @given(names, st.text(max_size=40))
    def once(name: str, text: str) -> None:
        found = outcome(lambda: load(HOME, {name: text}, {}))
        assert not isinstance(found, BadSetting) or name in str(found)

    keep_going(once)
