"""Who can write to the store, and has no key, gets nothing signed."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from conf.schema import Settings
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.names import parse_rfc4514
from pki.record import Record, State
from pki.request import assemble_request, build_request_info
from pki.serial import SerialNumber
from pki.throwaway import Throwaway

PROFILE = "citizen-authentication"
ID = "application/1"


class Cut(BaseException):
    """The process ends here."""


def request() -> bytes:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514("CN=A,C=AQ").der, key.public_key_info, ())
    return assemble_request(info, key.algorithm, key.sign(info))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings


async def interrupted(settings: Settings, asked: bytes) -> SerialNumber:
    """A service that ends between an intent and its signature; the serial number of that."""
    armed = False

    def step(name: str) -> None:
        if armed and name == "intended":
            raise Cut

    async with running(settings, create=True, serving=False, step=step) as instance:
        armed = True
        authority = instance.hierarchy.authority("issuing")
        with pytest.raises(Cut):
            await authority.issue(Application(PROFILE, asked, "test", ID))
        [record] = await instance.ledger.unfinished()
        return record.serial


async def found(instance: Instance, serial: SerialNumber) -> Record:
    return await instance.ledger.record("issuing", serial)


async def test_an_intent_as_it_was_written_is_signed_after_a_crash(settings: Settings) -> None:
    serial = await interrupted(settings, request())
    async with running(settings, create=False, serving=False) as instance:
        assert (await found(instance, serial)).state is State.issued


@pytest.mark.parametrize("field", ["tbs", "mac", "no mac", "id"])
async def test_an_intent_that_somebody_else_wrote_is_void(settings: Settings, field: str) -> None:
    asked = request()
    serial = await interrupted(settings, asked)
    await asyncio.to_thread(alter, settings.store.path, field)
    async with running(settings, create=False, serving=False) as instance:
        records = await instance.ledger.changed(0)
        [void] = [record for record in records if record.state is State.void]
        assert void.stored.body["void"] == "altered"
        assert await instance.ledger.unfinished() == []
        assert await instance.log.find(void.act_id) is not None
        if field != "id":
            assert void.serial == serial
        # Whoever asked gets a certificate of what was asked for, under another serial number.
        authority = instance.hierarchy.authority("issuing")
        again = await authority.issue(Application(PROFILE, asked, "test", ID))
        assert again.state is State.issued
        assert again.serial != serial


def alter(path: Path, field: str) -> None:
    """Write to the database as somebody does who has none of the CA's secrets."""
    with sqlite3.connect(path) as database:
        position, id, octets = database.execute(
            "SELECT position, id, body FROM c_certificates WHERE f_unfinished_since IS NOT NULL"
        ).fetchone()
        body = msgspec.msgpack.decode(octets)
        match field:
            case "tbs":
                body["tbs"] = body["tbs"].replace(b"A", b"B")
            case "mac":
                body["mac"] = bytes(32)
            case "no mac":
                del body["mac"]
            case "id":
                serial = f"{int(body['serial'], 16) + 1:0{len(body['serial'])}X}"
                id = id.replace(body["serial"], serial)
                body["serial"] = serial
        database.execute(
            "UPDATE c_certificates SET id = ?, body = ? WHERE position = ?",
            (id, msgspec.msgpack.encode(body), position),
        )
    database.close()
