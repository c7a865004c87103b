"""The slapd that the product runs itself: started, kept running, as the settings say."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import cli.service.private_slapd
import infra.slapd.server
from cli.service.private_slapd import NotRunning, Running, private_slapd
from conf.load import load
from infra.errors import Failure, Rejected, Unavailable
from infra.slapd import (
    Access,
    Installed,
    LookUp,
    Slapd,
    answers,
    configuration,
    find_slapd,
    prepare,
)
from pki.directory.ldap import Login
from pki.directory.process import Connections
from tests.contract.slapd_fixtures import INDEXES, SCHEMA, SUFFIX, pids, running_slapd
from tests.journeys.product import free_ports, require, run
from tests.unit.front_fixtures import until


@pytest.fixture
def tmp_path(short_path: Path) -> Path:
    """OpenLDAP's own clients reach no socket whose path does not fit into an address."""
    return short_path


@pytest.fixture(autouse=True)
def _slapd() -> None:
    if find_slapd() is None:
        require("slapd", "setpriv")
    require("ldapsearch", "ldapadd")


def ldif(indexes: tuple[str, ...] = INDEXES) -> str:
    installed = find_slapd()
    assert installed is not None
    access = Access("cn=publisher", os.geteuid())
    return configuration(installed, SUFFIX, access, schema=SCHEMA.read_text(), indexes=indexes)


def slapd(folder: Path, *urls: str, changed: Callable[[bool], None] = lambda on: None) -> Slapd:
    installed = find_slapd()
    assert installed is not None
    return Slapd(installed, folder, ldif(), urls, changed=changed)


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[Running | NotRunning]:
    given = {"slapd.port": "0"} | {k.replace("__", "."): str(v) for k, v in settings.items()}
    async with private_slapd(load(folder, {}, given).settings) as found:
        yield found


async def test_one_that_dies_is_started_again_with_its_data(tmp_path: Path) -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    server = slapd(tmp_path / "s", changed=told.put_nowait)
    await server.start()
    try:
        url = f"ldapi://{str(tmp_path / 's' / 'ldapi').replace('/', '%2F')}"
        run(
            *("ldapadd", "-Q", "-Y", "EXTERNAL", "-H", url),
            stdin=f"dn: {SUFFIX}\nobjectClass: organization\no: Test Registry\n".encode(),
        )
        [pid] = pids(tmp_path / "s")
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert [await told.get(), await told.get()] == [False, True]
        assert SUFFIX in run("ldapsearch", "-x", "-H", url, "-b", SUFFIX).decode()
        assert pids(tmp_path / "s") != [pid]
    finally:
        await server.stop()
    assert not answers(tmp_path / "s") and pids(tmp_path / "s") == []


async def test_a_port_that_others_have_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        url = f"ldap://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"directory-unusable.*Address already in use"):
            await slapd(tmp_path / "s", url).start()
    assert pids(tmp_path / "s") == []


async def test_the_socket_of_one_that_is_ending_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process before was killed: what it ran ends by itself, sooner or later."""
    folder, looked = tmp_path / "s", 0
    server = slapd(folder)
    await server.start()
    await server.stop()
    installed = find_slapd()
    assert installed is not None
    last = subprocess.Popen(infra.slapd.server.command(installed, ()), cwd=folder)
    await until(lambda: answers(folder))

    def look(folder: Path) -> bool:
        nonlocal looked
        looked += 1
        return answers(folder)

    monkeypatch.setattr(infra.slapd.server, "answers", look)
    starting = asyncio.create_task(server.start())
    await until(lambda: looked > 2 or starting.done())
    last.terminate()
    await asyncio.to_thread(last.wait)
    await starting
    try:
        assert answers(folder) and last.pid not in pids(folder)
        monkeypatch.setattr(infra.slapd.server, "PATIENCE", 0.3)
        with pytest.raises(Unavailable, match="another slapd runs"):
            await slapd(folder).start()
        assert answers(folder)
    finally:
        monkeypatch.undo()
        await server.stop()


async def test_one_that_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.slapd.server, "PATIENCE", 0.3)
    monkeypatch.setattr(infra.slapd.server, "answers", lambda folder: False)
    with pytest.raises(Unavailable, match="does not answer"):
        await slapd(tmp_path / "s").start()
    assert pids(tmp_path / "s") == []


async def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.contract.test_private_slapd import slapd\n"
        "async def main():\n"
        "    await slapd(Path(sys.argv[1])).start()\n"
        "    print('up', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, tmp_path / "s"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    assert answers(tmp_path / "s")
    process.kill()
    await process.communicate()
    async with asyncio.timeout(60):
        while answers(tmp_path / "s"):  # noqa: ASYNC110 - it is no child of ours
            await asyncio.sleep(0.02)


async def test_it_does_not_run_as_root(tmp_path: Path) -> None:
    server = slapd(tmp_path / "s")
    await server.start()
    try:
        [pid] = pids(tmp_path / "s")
        status = Path(f"/proc/{pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:"))
        assert "0" not in uids.split()[1:]
        assert (tmp_path / "s").stat().st_mode & 0o77 == 0
    finally:
        await server.stop()


def test_the_configuration_is_made_anew_only_when_it_changes(tmp_path: Path) -> None:
    installed = find_slapd()
    assert installed is not None
    folder = tmp_path / "s"
    made = folder / "slapd.d" / "cn=config.ldif"
    prepare(installed, folder, ldif())
    first = made.stat().st_ino, made.stat().st_mtime_ns
    prepare(installed, folder, ldif())
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == first
    prepare(installed, folder, ldif((*INDEXES, "sn eq")))
    assert (made.stat().st_ino, made.stat().st_mtime_ns) != first
    (folder.with_name("s.sha256")).write_text("")  # as after a crash in the middle
    made.unlink()
    prepare(installed, folder, ldif())
    assert made.is_file()


def test_what_was_there_is_found_by_a_new_index(tmp_path: Path) -> None:
    with running_slapd(tmp_path / "s", indexes=()) as server:
        server.add_root()
        server.add(f"dn: cn=a,{SUFFIX}\nobjectClass: organizationalRole\ncn: a\n")
        server.stop()
        server._configuration = server._configuration.replace(
            "olcDbMode:", "olcDbIndex: cn eq\nolcDbMode:"
        )
        server.start()
        assert "cn=a" in server.search("(cn=a)")


def test_a_schema_that_slapd_refuses_is_named(tmp_path: Path) -> None:
    installed = find_slapd()
    assert installed is not None
    broken = ldif().replace("caseIgnoreIA5Match", "noSuchMatch", 1)
    with pytest.raises(Rejected, match=r"directory-unusable: slapadd refuses"):
        prepare(installed, tmp_path / "s", broken)
    prepare(installed, tmp_path / "s", ldif())


@pytest.mark.parametrize("name", ['cn="a"', "cn=a\\,b", "cn=a\nolcRootPW: x", "cn=a$1", "cn=[a]"])
def test_the_name_of_a_writer_cannot_end_its_line(name: str) -> None:
    installed = find_slapd()
    assert installed is not None
    with pytest.raises(Rejected, match="bad-directory-settings"):
        configuration(installed, SUFFIX, Access(name, 0), schema="", indexes=())


@pytest.mark.parametrize("branch", ['ou="a"', "ou=a\\,b", "ou=a\nolcRootPW: x"])
def test_the_name_of_a_branch_cannot_end_its_rule(branch: str) -> None:
    installed = find_slapd()
    assert installed is not None
    access = Access("cn=publisher", 0, look_ups=(LookUp(f"{branch},{SUFFIX}"),))
    with pytest.raises(Rejected, match="bad-directory-settings"):
        configuration(installed, SUFFIX, access, schema="", indexes=())


async def test_settings_decide_whether_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as found:
        assert isinstance(found, Running)
        run("ldapsearch", "-x", "-H", found.urls[0], "-b", "", "-s", "base")
        run("ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", found.ldapi)
    async with started(tmp_path, slapd__run="off") as found:
        assert found == NotRunning('slapd.run is "off"')
    elsewhere = {"directory__url": "ldaps://127.0.0.1", "directory__bind_dn": "cn=a"}
    async with started(tmp_path, **elsewhere) as found:
        assert found == NotRunning("directory.url names another directory")
    monkeypatch.setattr(cli.service.private_slapd, "find_slapd", lambda: None)
    async with started(tmp_path) as found:
        assert isinstance(found, NotRunning) and "apt-get install slapd" in found.why
    with pytest.raises(Failure, match="no-slapd"):
        async with started(tmp_path, slapd__run="on"):
            pass


async def test_a_port_in_use_stops_the_start_only_of_one_that_has_to_run(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with started(tmp_path, slapd__port=port) as found:
            assert isinstance(found, NotRunning) and "Address already in use" in found.why
        with pytest.raises(Unavailable, match="Address already in use"):
            async with started(tmp_path, slapd__port=port, slapd__run="on"):
                pass


async def test_it_speaks_tls_with_a_given_certificate(tmp_path: Path) -> None:
    [tls_port] = free_ports(1)
    with running_slapd(tmp_path / "other" / "s") as other:
        for name, content in other._files.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "server.key").chmod(0o600)
        tls = {"slapd__tls_certificate": "server.pem", "slapd__tls_key": "server.key"}
        async with started(tmp_path, slapd__tls_port=tls_port, **tls) as found:
            assert isinstance(found, Running) and len(found.urls) == 2
            verified = ("env", f"LDAPTLS_CACERT={other.ca}", "ldapwhoami", "-x", "-H")
            run(*verified, found.urls[0], "-ZZ")
            run(*verified, found.urls[1])
        (tmp_path / "server.key").write_text("no key")
        with pytest.raises(Rejected, match="bad-tls-certificate"):
            async with started(tmp_path, **tls):
                pass


async def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    async with started(tmp_path, slapd__host="192.0.2.1") as found:
        assert isinstance(found, NotRunning) and "192.0.2.1" in found.why


async def test_the_home_folder_may_have_a_long_path(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 100) / ("b" * 100)
    async with started(home) as found:
        assert isinstance(found, Running)
        # In the publisher's process, which may not look into ours (``infra.memory``).
        connections = Connections(Login(url=found.ldapi))
        assert await connections.read([("cn=nobody", ("cn",))]) == [None]
        await connections.close()


async def test_one_that_cannot_be_started_again_is_tried_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    server = slapd(tmp_path / "s", changed=told.put_nowait)
    await server.start()
    try:
        real = infra.slapd.server.command
        tries = []

        def command(installed: Installed, urls: Sequence[str]) -> list[str]:
            tries.append(urls)
            return ["/no/such/program"] if len(tries) == 1 else real(installed, urls)

        monkeypatch.setattr(infra.slapd.server, "command", command)
        [pid] = pids(tmp_path / "s")
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert [await told.get(), await told.get()] == [False, True]
        assert len(tries) == 2 and answers(tmp_path / "s")
    finally:
        await server.stop()
