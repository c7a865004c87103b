"""A CA that is revoked issues nothing more, wherever its revocation is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from conf.schema import Settings
from infra.errors import Rejected
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.certificate import parse_certificate
from pki.hierarchy import Plan
from pki.issuer import Issuer
from pki.names import parse_rfc4514
from pki.record import Record, State
from pki.request import assemble_request, build_request_info
from pki.serial import SerialNumber
from pki.status import RevocationReason
from pki.throwaway import Throwaway

PROFILE = "citizen-authentication"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings


@pytest.fixture
async def instance(settings: Settings) -> AsyncIterator[Instance]:
    async with running(settings, create=True, serving=False) as made:
        yield made


class Cut(BaseException):
    """The process ends here."""


def application(request_id: str | None = None) -> Application:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514("CN=A,C=AQ").der, key.public_key_info, ())
    request = assemble_request(info, key.algorithm, key.sign(info))
    return Application(PROFILE, request, "test", request_id)


async def issue(instance: Instance, ca: str = "issuing") -> Record:
    return await instance.hierarchy.authority(ca).issue(application())


async def refused(instance: Instance, ca: str = "issuing") -> str:
    with pytest.raises(Rejected) as rejected:
        await issue(instance, ca)
    assert rejected.value.code == "ca-revoked"
    return rejected.value.detail


def issuer(instance: Instance, ca: str = "issuing") -> Issuer:
    found = instance.hierarchy.authority(ca).issuer
    assert found is not None
    return found


def serial(instance: Instance, ca: str = "issuing") -> SerialNumber:
    return SerialNumber(parse_certificate(issuer(instance, ca).certificate).serial)


async def test_a_revoked_ca_issues_nothing_more_but_goes_on_answering(
    settings: Settings,
) -> None:
    async with running(settings, create=True, serving=False) as instance:
        await issue(instance)
        await instance.ledger.revoke(
            "root", serial(instance), reason=RevocationReason.cACompromise, by="test"
        )
        assert "Issuing CA" in await refused(instance)
    async with running(settings, create=False, serving=False) as again:
        assert "cACompromise" in await refused(again)
        key = await again.hierarchy.responder_key("issuing", lifetime=timedelta(days=7))
        assert parse_certificate(key.certificate).issuer.der == issuer(again).subject


@pytest.mark.parametrize("restarts", [True, False])
async def test_nor_does_it_finish_what_was_interrupted(settings: Settings, restarts: bool) -> None:
    """Its asker comes back with the same id, or the service starts again."""
    armed = False

    def step(name: str) -> None:
        if armed and name == "intended":
            raise Cut

    async with running(settings, create=True, serving=False, step=step) as instance:
        authority, asked = instance.hierarchy.authority("issuing"), application("application/1")
        armed = True
        with pytest.raises(Cut):
            await authority.issue(asked)
        armed = False
        [intent] = await instance.ledger.unfinished()
        await instance.ledger.revoke(
            "root", serial(instance), reason=RevocationReason.cACompromise, by="test"
        )
        if not restarts:
            with pytest.raises(Rejected) as rejected:
                await authority.issue(asked)
            assert rejected.value.code == "ca-revoked"
    async with running(settings, create=False, serving=False) as again:
        void = await again.ledger.record("issuing", intent.serial)
        assert (void.state, void.stored.body["void"]) == (State.void, "ca-revoked")


async def test_a_ca_on_hold_issues_again_when_it_is_released(instance: Instance) -> None:
    await instance.ledger.hold("root", serial(instance), by="test")
    assert "on hold" in await refused(instance)
    await instance.ledger.release("root", serial(instance), by="test")
    assert (await issue(instance)).state is State.issued


async def test_nor_does_a_ca_below_it(instance: Instance) -> None:
    plan = Plan("below", "CN=Below,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "root")
    await instance.hierarchy.create(plan)
    instance.revoked_authorities.hear(
        issuer(instance, "below").chain[0], (await revoked(instance)).status
    )
    await refused(instance, "below")


async def revoked(instance: Instance) -> Record:
    person = await issue(instance)
    return await instance.ledger.revoke(
        "issuing", person.serial, reason=RevocationReason.superseded, by="test"
    )


async def test_what_people_hold_bars_no_ca(instance: Instance) -> None:
    await revoked(instance)
    assert (await issue(instance)).state is State.issued


async def test_a_root_is_not_revoked(instance: Instance) -> None:
    root, ledger = serial(instance, "root"), instance.ledger
    for act in (
        ledger.hold("root", root, by="test"),
        ledger.revoke("root", root, reason=RevocationReason.cACompromise, by="test"),
    ):
        with pytest.raises(Rejected) as rejected:
            await act
        assert rejected.value.code == "root-certificate"


@pytest.mark.parametrize("reason", [None, x509.ReasonFlags.ca_compromise])
async def test_a_crl_that_was_signed_elsewhere_bars_a_ca(
    instance: Instance, reason: x509.ReasonFlags | None
) -> None:
    root, now = issuer(instance, "root"), instance.ledger.now().replace(microsecond=0)
    entry = x509.RevokedCertificateBuilder().serial_number(serial(instance)).revocation_date(now)
    if reason is not None:
        entry = entry.add_extension(x509.CRLReason(reason), critical=False)
    key = ec.generate_private_key(ec.SECP256R1())  # whether it is the root's is judged before
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_der_x509_certificate(root.certificate).subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
    )
    crl = builder.add_revoked_certificate(entry.build()).sign(key, hashes.SHA256())
    instance.revoked_authorities.read(root, crl.public_bytes(Encoding.DER))
    said = await refused(instance)
    assert ("unspecified" if reason is None else "cACompromise") in said
    instance.revoked_authorities.read(
        root, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )
    assert (await issue(instance)).state is State.issued


@pytest.mark.parametrize(("asked", "days"), [(7, 7), (30, 30), (400, 90)])
async def test_a_responder_s_certificate_lasts_as_long_as_is_set(
    instance: Instance, asked: int, days: int
) -> None:
    key = await instance.hierarchy.responder_key("issuing", lifetime=timedelta(days=asked))
    said = parse_certificate(key.certificate)
    assert said.not_after - said.not_before + timedelta(seconds=1) == timedelta(days=days)
    again = await instance.hierarchy.responder_key("issuing", lifetime=timedelta(days=asked))
    assert again.certificate == key.certificate


async def test_the_usual_ca_is_the_only_one_that_is_no_root(tmp_path: Path) -> None:
    settings = load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings
    async with running(settings, create=False, serving=False) as instance:
        root = Plan("top", "CN=Top,O=Registry,C=AQ", KeyType.P_256, "root", None)
        await instance.hierarchy.create(root)
        with pytest.raises(Rejected):
            instance.hierarchy.usual()
        gov = Plan("gov", "CN=Gov,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "top")
        await instance.hierarchy.create(gov)
        assert instance.hierarchy.usual().name == "gov"
        other = Plan("other", "CN=Other,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "top")
        await instance.hierarchy.create(other)
        with pytest.raises(Rejected) as rejected:
            instance.hierarchy.usual()
        assert rejected.value.code == "no-such-authority"
