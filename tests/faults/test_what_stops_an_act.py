"""A leaf that cannot be written stops its act; a finding at error level stops issuance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import Collection, Stored
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.general_name import encode_general_names, parse_general_name
from pki.log.act import Act
from pki.log.batch import Make, Then
from pki.names import parse_rfc4514
from pki.oids import SUBJECT_ALT_NAME
from pki.preparation import Prepared, PrepareHere, Task
from pki.record import Record, State
from pki.request import RequestedExtension, assemble_request, build_request_info
from pki.status import Good, RevocationReason, Revoked
from pki.throwaway import Throwaway


def request(subject: str, *names: str) -> bytes:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    extensions = []
    if names:
        value = encode_general_names([parse_general_name(name) for name in names])
        extensions.append(RequestedExtension(SUBJECT_ALT_NAME, False, value))
    info = build_request_info(parse_rfc4514(subject).der, key.public_key_info, extensions)
    return assemble_request(info, key.algorithm, key.sign(info))


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    shipped = Path("conf/profiles/tls-server.toml").read_text()
    wild = shipped.replace("dns = { maximum = 100 }", "dns = { maximum = 100, wildcard = true }")
    assert wild != shipped
    (profiles / "wild.toml").write_text(wild)
    settings = load(
        tmp_path / "home",
        {},
        {
            "keys.store": "file",
            "issuance.lint_share": "1.0",
            "issuance.profiles": str(profiles),
        },
    ).settings
    async with running(settings, create=True, serving=False) as instance:
        yield instance


def break_the_log(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    async def append(act: Act) -> int:
        raise Unavailable("storage-full", "no room")

    async def append_change(collection: Collection, before: Stored, make: Make, then: Then) -> int:
        raise Unavailable("storage-full", "no room")

    monkeypatch.setattr(instance.log, "append", append)
    monkeypatch.setattr(instance.log, "append_change", append_change)


async def test_a_certificate_without_its_leaf_is_not_given_out(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = instance.hierarchy.authority("issuing")
    asked = Application("citizen-authentication", request("CN=A,C=AQ"), "test", "application/1")
    with monkeypatch.context() as patch:
        break_the_log(instance, patch)
        with pytest.raises(Unavailable):
            await authority.issue(asked)
        with pytest.raises(Unavailable):
            await authority.issue(asked)
    record = await authority.issue(asked)
    assert await instance.log.find(record.act_id) is not None
    assert len(await instance.ledger.by_subject("CN=A,C=AQ", limit=10)) == 1


async def test_a_revocation_without_its_leaf_has_no_effect_yet(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = instance.ledger
    record = await instance.hierarchy.authority("issuing").issue(
        Application("citizen-authentication", request("CN=B,C=AQ"), "test")
    )
    with monkeypatch.context() as patch:
        break_the_log(instance, patch)
        with pytest.raises(Unavailable):
            await ledger.revoke(
                "issuing", record.serial, reason=RevocationReason.superseded, by="test"
            )
        assert await ledger.status("issuing", record.serial) == Good()
    # The change was written down, so it is made before any other.
    with pytest.raises(Rejected) as refused:
        await ledger.hold("issuing", record.serial, by="test")
    assert refused.value.code == "already-revoked"
    assert isinstance(await ledger.status("issuing", record.serial), Revoked)


async def test_a_finding_of_pkilint_stops_issuance(instance: Instance) -> None:
    authority = instance.hierarchy.authority("issuing")
    before = await instance.ledger.sequence()
    with pytest.raises(Rejected) as refused:
        await authority.issue(
            Application("wild", request("CN=*.example.org", "dns:*.example.org"), "test")
        )
    assert refused.value.code == "lint-findings"
    assert "pkix." in refused.value.detail
    assert await instance.ledger.sequence() == before
    assert not await instance.ledger.unfinished()
    good = Application("wild", request("CN=w.example.org", "dns:w.example.org"), "test")
    assert (await authority.issue(good)).state is State.issued


async def test_what_another_process_has_built_is_not_believed(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = instance.hierarchy.authority("issuing")

    class Liar(PrepareHere):
        async def __call__(self, task: Task) -> Prepared:
            other = authority.profile("citizen-encryption")
            return await super().__call__(replace(task, profile=other))

    monkeypatch.setattr(authority, "_prepare", Liar())
    before = await instance.ledger.sequence()
    with pytest.raises(Broken) as broken:
        await authority.issue(Application("citizen-authentication", request("CN=C,C=AQ"), "test"))
    assert broken.value.code == "check-findings"
    assert await instance.ledger.sequence() == before
    assert not await instance.ledger.unfinished()


async def test_of_two_subjects_with_one_key_at_the_same_moment_one_is_refused(
    instance: Instance,
) -> None:
    authority = instance.hierarchy.authority("issuing")
    answers = await asyncio.gather(
        *(
            authority.issue(
                Application("citizen-authentication", request(f"CN={name},C=AQ"), "test")
            )
            for name in ("D", "E", "D")
        ),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Rejected)]
    assert [failure.code for failure in refused] == ["key-reused"]
    issued = {answer.subject for answer in answers if isinstance(answer, Record)}
    assert len(issued) == 1


async def test_a_key_can_be_certified_again_for_its_subject(instance: Instance) -> None:
    authority = instance.hierarchy.authority("issuing")
    asked = Application("citizen-authentication", request("CN=F,C=AQ"), "test")
    serials = {(await authority.issue(asked)).serial for _ in range(5)}
    assert len(serials) == 5
    await instance.ledger.revoke(
        "issuing", serials.pop(), reason=RevocationReason.keyCompromise, by="test"
    )
    with pytest.raises(Rejected) as refused:
        await authority.issue(asked)
    assert refused.value.code == "key-compromised"
