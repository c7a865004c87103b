"""Whatever a responder sends: an answer that was proved, or a refusal; never anything else."""

from __future__ import annotations

import os
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.ocsp_client import Said
from infra.errors import Rejected, Unavailable
from tests.unit.test_cli_ocsp_client import believed, respond

BUDGET = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))


def test_any_octets() -> None:
    honest = respond()
    expected = believed(honest)
    places = st.integers(0, len(honest))

    @settings(max_examples=400, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(
            st.binary(max_size=400),
            st.tuples(places, places, st.binary(max_size=8)).map(
                lambda cut: honest[: cut[0]] + cut[2] + honest[cut[1] :]
            ),
        )
    )
    def once(content: bytes) -> None:
        said: Said | None
        try:
            said = believed(content)
        except (Rejected, Unavailable):
            said = None
        assert said in (None, expected)

    end = time.monotonic() + BUDGET
    once()
    while time.monotonic() < end:
        once()
