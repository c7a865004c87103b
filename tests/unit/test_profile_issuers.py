"""Which CAs issue under which profile: under those that are shipped, and under others."""

from __future__ import annotations

from typing import Any

import pytest

from pki.findings import Severity
from pki.profile import Profile, parse_profile
from pki.profile.issuers import refusal, unknown_issuers
from tests.journeys.product import RESERVED
from tests.unit.certificate_fixtures import PROFILES
from tests.unit.test_profile import changed


def profile(**changes: Any) -> Profile:
    return parse_profile("device", changed(**changes))


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_root_issues_only_what_speaks_for_a_ca(name: str) -> None:
    refused = refusal(PROFILES[name], "root", root=True)
    assert (refused is None) == (name in RESERVED)
    if refused is not None:
        assert refused.code == "profile-not-for-ca"
        assert "CA root is a root" in refused.detail
        assert 'cas = ["root"]' in refused.detail
    assert refusal(PROFILES[name], "issuing", root=False) is None


def test_a_profile_that_names_its_cas_is_for_those_alone() -> None:
    named = profile(cas=["devices", "lab"])
    for root in (True, False):
        assert refusal(named, "devices", root=root) is None
        assert refusal(named, "lab", root=root) is None
        for other in ("issuing", "Lab", "lab.", ""):
            refused = refusal(named, other, root=root)
            assert refused is not None
            assert refused.code == "profile-not-for-ca"
            assert "devices or lab" in refused.detail


def test_one_for_cas_can_be_bound_to_a_root() -> None:
    data = dict(PROFILES["subordinate-ca"].content) | {"cas": ["root-2"]}
    bound = parse_profile("subordinate-ca", data)
    assert refusal(bound, "root-2", root=True) is None
    assert refusal(bound, "root", root=True) is not None


def test_names_that_are_no_ca_here_are_pointed_out() -> None:
    [finding] = unknown_issuers(profile(cas=["issuing", "isuing"]), ["root", "issuing"])
    assert (finding.code, finding.severity) == ("unknown-ca", Severity.WARNING)
    assert "isuing" in finding.detail
    assert "root, issuing" in finding.detail
    assert unknown_issuers(profile(), []) == ()
