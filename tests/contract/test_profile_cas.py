"""Every issuance asks whether the profile is for the CA: on request, again, and after a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from infra.errors import Rejected
from pki.algorithms import KeyType, usual_algorithm
from pki.api import Api
from pki.authority import Application, Authority
from pki.export import encode_pem
from pki.names import parse_rfc4514
from pki.preparation import PrepareHere
from pki.profile import parse_profile
from pki.record import Record, State
from pki.request import assemble_request, build_request_info
from pki.throwaway import Throwaway

CITIZEN = "citizen-authentication"
SHIPPED = Path("conf/profiles/citizen-authentication.toml").read_text()


class Cut(BaseException):
    """The process ends here."""


class Home:
    """A home folder with a profile ``device`` whose key ``cas`` can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.armed = False
        (folder / "profiles").mkdir()

    def cas(self, *names: str) -> None:
        text = f"cas = {msgspec.json.encode(names).decode()}\n{SHIPPED}"
        (self.folder / "profiles" / "device.toml").write_text(text)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Instance]:
        settings = load(
            self.folder / "home",
            {},
            {
                "keys.store": "file",
                "issuance.lint_share": "0",
                "issuance.profiles": str(self.folder / "profiles"),
            },
        ).settings
        async with running(settings, create=True, serving=False, step=self._step) as instance:
            yield instance

    def _step(self, name: str) -> None:
        if self.armed and name == "intended":
            raise Cut


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def request(name: str = "A") -> bytes:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514(f"CN={name},C=AQ").der, key.public_key_info, ())
    return assemble_request(info, key.algorithm, key.sign(info))


async def issue(instance: Instance, ca: str, asked: Application) -> Record:
    return await instance.hierarchy.authority(ca).issue(asked)


async def refused(instance: Instance, ca: str, asked: Application) -> str:
    before = await instance.ledger.sequence()
    with pytest.raises(Rejected) as rejected:
        await issue(instance, ca, asked)
    assert rejected.value.code == "profile-not-for-ca"
    assert await instance.ledger.sequence() == before, "something was written"
    return rejected.value.detail


async def cut_off(home: Home, instance: Instance, ca: str, asked: Application) -> Record:
    """The intent of an issuance that ends before its signature."""
    home.armed = True
    with pytest.raises(Cut):
        await issue(instance, ca, asked)
    home.armed = False
    [intent] = await instance.ledger.unfinished()
    return intent


async def interrupted(home: Home, ca: str, asked: Application) -> Record:
    async with home.running() as instance:
        return await cut_off(home, instance, ca, asked)


async def test_a_root_issues_to_nobody_but_cas_and_what_speaks_for_them(home: Home) -> None:
    async with home.running() as instance:
        said = await refused(instance, "root", Application(CITIZEN, request(), "test"))
        assert "Name a CA below it" in said
        await refused(instance, "root", Application(CITIZEN, request(), "test", "application/1"))
        good = await issue(instance, "issuing", Application(CITIZEN, request(), "test"))
        assert good.state is State.issued
        # The root went on to make the CA below it and its own responder.
        walked = await instance.ledger.changed(0)
        made = {record.profile for record in walked if record.ca == "root"}
        assert made == {"root", "subordinate-ca", "ocsp-responder"}


async def test_the_api_asks_as_well(home: Home) -> None:
    async with home.running() as instance:
        body = {
            "profile": CITIZEN,
            "csr": encode_pem("CERTIFICATE REQUEST", request()).decode(),
            "ca": "root",
        }
        with pytest.raises(Rejected) as rejected:
            await Api(instance).issued(msgspec.json.encode(body), "test")
        assert rejected.value.code == "profile-not-for-ca"


async def test_a_laboratory_with_one_self_signed_ca_says_so_in_its_profile(home: Home) -> None:
    home.cas("root")
    async with home.running() as instance:
        made = await issue(instance, "root", Application("device", request(), "test"))
        assert (made.ca, made.state) == ("root", State.issued)
        said = await refused(instance, "issuing", Application("device", request(), "test"))
        assert "for root" in said
        # Its own profile is meant, and no other.
        await refused(instance, "root", Application(CITIZEN, request(), "test"))


async def test_an_intent_is_not_finished_for_a_ca_that_is_no_longer_named(home: Home) -> None:
    home.cas("root")
    asked = Application("device", request(), "test", "application/1")
    intent = await interrupted(home, "root", asked)
    home.cas("issuing")
    async with home.running() as again:
        void = await again.ledger.record("root", intent.serial)
        assert (void.state, void.stored.body["void"]) == (State.void, "profile-not-for-ca")
        assert await again.ledger.unfinished() == []
        await refused(again, "root", asked)
        assert (await issue(again, "issuing", asked)).state is State.issued


async def test_nor_by_another_node_to_which_its_asker_comes(home: Home) -> None:
    home.cas("root")
    asked = Application("device", request(), "test", "application/1")
    async with home.running() as instance:
        intent = await cut_off(home, instance, "root", asked)
        known = instance.hierarchy.authority("root")
        bound = parse_profile("device", dict(known.profile("device").content) | {"cas": ["other"]})
        node = Authority(
            "root",
            known.issuer,
            known.signer,
            {"device": bound},
            instance.ledger,
            instance.linter,
            prepare=PrepareHere(),
        )
        with pytest.raises(Rejected) as rejected:
            await node.issue(asked)
        assert rejected.value.code == "profile-not-for-ca"
        void = await instance.ledger.record("root", intent.serial)
        assert (void.state, void.stored.body["void"]) == (State.void, "profile-not-for-ca")


async def test_an_intent_of_a_profile_that_is_gone_is_void(home: Home) -> None:
    home.cas("issuing")
    intent = await interrupted(home, "issuing", Application("device", request(), "test", "1"))
    (home.folder / "profiles" / "device.toml").unlink()
    async with home.running() as again:
        void = await again.ledger.record("issuing", intent.serial)
        assert (void.state, void.stored.body["void"]) == (State.void, "unknown-profile")


async def test_what_was_issued_before_is_still_given_to_its_asker(home: Home) -> None:
    home.cas("root")
    asked = Application("device", request(), "test", "application/1")
    async with home.running() as instance:
        made = await issue(instance, "root", asked)
    home.cas("issuing")
    async with home.running() as again:
        assert (await issue(again, "root", asked)).certificate == made.certificate
