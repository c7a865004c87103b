"""Which CRL a new certificate names."""

from __future__ import annotations

from collections import Counter

import pytest

from pki.partition import ONE_CRL, Partitioning, partition_of, series_of


def test_one_crl_for_everything() -> None:
    assert ONE_CRL.of("issuing", 7, ca=True) is None
    assert ONE_CRL.of("issuing", 7, ca=False) is None


def test_by_kind() -> None:
    kinds = Partitioning(by_kind=True)
    assert (kinds.of("root", 7, ca=True), kinds.of("root", 7, ca=False)) == ("ca", "user")


@pytest.mark.parametrize("by_kind, of_cas", [(False, None), (True, "ca")])
def test_shards_are_for_the_certificates_of_others(by_kind: bool, of_cas: str | None) -> None:
    shards = Partitioning(8, by_kind)
    found = Counter(shards.of("issuing", serial, ca=False) for serial in range(1, 4001))
    assert sorted(found, key=str) == [str(number) for number in range(1, 9)]
    assert min(found.values()) > 400
    assert shards.of("issuing", 5, ca=False) == partition_of("issuing", 5, 8)
    assert shards.of("issuing", 5, ca=True) == of_cas


@pytest.mark.parametrize(
    "partition, series",
    [(None, "a"), ("17", "a.17"), ("ca", "a.ca"), ("user", "a.user"), ("revoked", "revoked")],
)
def test_the_series_of_a_partition(partition: str | None, series: str) -> None:
    assert series_of("a", partition) == series
