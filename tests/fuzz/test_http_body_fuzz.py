"""Any octets as JSON, and any text as a time in it: one of ours, or a refusal with a code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from infra.http.body import decode
from pki.api import IssueBody, RevokeBody, parse_moment
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated

BODIES = [
    b'{"profile":"x","csr":"y","lifetime":"1d","consent":true}',
    '{"reason":"superseded","invalidity_date":"2026-11-22T10:00:00Z","é":"\U0001f600"}'.encode(),
    b'{"reason":"\\ud800","profile":"\\u00e9"}',
    b'{"profile":"\xff\xfe","csr":"y"}',
    b'{"\xff":"x"}',
]
bodies = st.binary(max_size=60) | st.sampled_from(BODIES).flatmap(mutated)
offsets = st.timedeltas(timedelta(hours=-24), timedelta(hours=24)).map(
    lambda offset: ("-" if offset < timedelta() else "+") + str(abs(offset))[:8].zfill(8)
)
times = st.text(max_size=40) | st.builds(
    lambda at, offset: at.isoformat() + offset,
    st.datetimes() | st.sampled_from([datetime.min, datetime.max]),
    offsets | st.just("Z"),
)
many = settings(max_examples=1000, deadline=None, derandomize=not SECONDS)


def or_code(act: Callable[[], object]) -> object:
    try:
        return act()
    except Rejected as rejected:
        return rejected.code


def test_a_body_is_what_was_expected_or_refused() -> None:
    @many
    @given(bodies, st.sampled_from([IssueBody, RevokeBody]))
    def check(octets: bytes, kind: type[IssueBody | RevokeBody]) -> None:
        found = or_code(lambda: decode(octets, kind))
        assert found == "bad-body" or isinstance(found, kind)

    for_as_long_as_asked(check)


@pytest.mark.parametrize("octets", [b"[" * 100_000, b'{"profile":' * 100_000, b'{"x":"\xff"}'])
def test_what_is_no_json_at_all(octets: bytes) -> None:
    with pytest.raises(Rejected, match="bad-body"):
        decode(octets, IssueBody)


def test_a_time_is_in_utc_or_refused() -> None:
    @many
    @given(times)
    @example("0001-01-01T00:00:00+23:59")
    @example("9999-12-31T23:59:59-23:59")
    def check(text: str) -> None:
        found = or_code(lambda: parse_moment(text))
        assert found == "bad-time" or (isinstance(found, datetime) and found.tzinfo is UTC)

    for_as_long_as_asked(check)
