"""slapd as a process of ours: made ready, started, waited for, started again when it dies.

Its folder holds ``slapd.d`` (made from ``configuration``), ``data`` and the unix socket; slapd runs
in it, so no path is too long for a socket and none has to be open to the user that it runs as. That
is the one of this process, or for root an unprivileged one, who then owns the folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from infra.errors import Failure, Rejected, Unavailable
from infra.slapd.configuration import DATA, LDAPI, Installed
from infra.state import unusable
from infra.unix_socket import reachable

PATIENCE: Final = 15.0
"""Seconds for slapd to answer after its start, and to end after it was told to."""

_SETTLED: Final = 60.0
"""Seconds after which a server that dies had been well: it is started again at once."""

_LONGEST_PAUSE: Final = 60.0
_MOST_DESCRIPTORS: Final = 4096
_CONFIGURATION: Final = "slapd.d"
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/libexec:/usr/lib/openldap"
_SCHEMAS: Final = ("/etc/ldap/schema", "/etc/openldap/schema", "/usr/local/etc/openldap/schema")
_MODULES: Final = (
    "/usr/lib/ldap",
    "/usr/lib64/openldap",
    "/usr/lib/openldap",
    "/usr/local/libexec/openldap",
)

# An anonymous bind and its answer (RFC 4511 §4.2): what the server does for anybody, once it does
# anything.
_BIND: Final = bytes.fromhex("300c020101600702010304008000")
_BOUND: Final = bytes.fromhex("300c02010161070a010004000400")

_log = logging.getLogger(__name__)


def find_slapd() -> Installed | None:
    """Where slapd is installed with all that it takes here, if it is."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), _PLACES))
    slapd, slapadd, slapindex = (
        shutil.which(name, path=places) for name in ("slapd", "slapadd", "slapindex")
    )
    schemas = next((Path(at) for at in _SCHEMAS if Path(at, "inetorgperson.ldif").is_file()), None)
    if slapd is None or slapadd is None or slapindex is None or schemas is None:
        return None
    if shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        return None
    modules = next((Path(at) for at in _MODULES if any(Path(at).glob("back_mdb*.so*"))), None)
    return Installed(Path(slapd), Path(slapadd), Path(slapindex), modules, schemas)


def prepare(
    installed: Installed, folder: Path, configuration: str, files: dict[str, bytes] | None = None
) -> None:
    """Make the folder what slapd runs in, unless it is; its data stay. Blocks for some 50 ms when
    the configuration is another than at the last start, and for minutes when millions of entries
    are to be indexed anew. No slapd may run in it.

    ``files``: what the configuration names, such as a TLS key, by names relative to the folder;
    nobody else can read them. Errors: ``directory-unusable`` with what slapadd says;
    ``storage-unavailable`` and the like.
    """
    user = _user()
    whole, indexes = _digests(configuration)
    # Beside the folder, not in it: what root reads and writes does not lie where another user does.
    made_of = folder.with_name(f"{folder.name}.sha256")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("", DATA):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            if user is not None:
                os.chown(folder / name, user.pw_uid, user.pw_gid, follow_symlinks=False)
        for name, content in (files or {}).items():
            _write(folder / name, content, user)
        current = folder / _CONFIGURATION
        before = made_of.read_text().split() if made_of.is_file() else []
        if current.is_dir() and before == [whole, indexes]:
            return
        # Until it is complete: what has been indexed stays indexed, but nothing more is known.
        made_of.write_text(f"- {before[1]}" if len(before) == 2 else "")
        shutil.rmtree(current, ignore_errors=True)
        current.mkdir(mode=0o700)
        if user is not None:
            os.chown(current, user.pw_uid, user.pw_gid, follow_symlinks=False)
        _tool(folder, [installed.slapadd, "-n", "0"], configuration.encode())
        if before[1:] != [indexes] and (folder / DATA / "data.mdb").exists():
            _tool(folder, [installed.slapindex, "-q", "-n", "1"])
        made_of.write_text(f"{whole} {indexes}")
    except OSError as error:
        raise unusable(folder, error) from error


def command(installed: Installed, urls: Sequence[str]) -> list[str]:
    """What starts slapd in its folder on the unix socket and these URLs; it ends with the process
    that starts it."""
    listeners = " ".join((f"{LDAPI}://{LDAPI}", *urls))
    return [
        *as_user(),
        *(str(installed.slapd), "-h", listeners, "-F", _CONFIGURATION),
        # Of its own messages only those that say why it ends; none is about an entry.
        *("-d", "none"),
    ]


def answers(folder: Path) -> bool:
    """Whether a slapd answers on the unix socket of this folder now."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            with reachable(folder / LDAPI) as address:
                probe.connect(address)
            probe.sendall(_BIND)
            return probe.recv(len(_BOUND)) == _BOUND
        except OSError:
            return False


class Slapd:
    """A slapd in ``folder``, as ``configuration`` has it, on the unix socket and ``urls``.

    ``files``: see ``prepare``; ``changed``: called when it has died, and when it answers again.
    """

    def __init__(
        self,
        installed: Installed,
        folder: Path,
        configuration: str,
        urls: Sequence[str],
        *,
        files: dict[str, bytes] | None = None,
        changed: Callable[[bool], None] = lambda answers: None,
    ) -> None:
        self._installed = installed
        self._folder = folder
        self._configuration = configuration
        self._urls = tuple(urls)
        self._files = files
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=10)
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers; from then on it is started again when it dies.

        Errors: those of ``prepare``; ``directory-unusable`` when it ends again, with its reason,
        or does not answer within ``PATIENCE``, or when another one runs there.
        """
        await self._wait_for_the_last()
        await asyncio.to_thread(
            prepare, self._installed, self._folder, self._configuration, self._files
        )
        await self._launch()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End it, when it has finished what it was asked."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        await self._end()

    async def _wait_for_the_last(self) -> None:
        """When we were killed, the slapd of then may still be ending: it would take the socket of
        the next one with it."""
        try:
            async with asyncio.timeout(PATIENCE):
                while await asyncio.to_thread(answers, self._folder):  # noqa: ASYNC110 - no child
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise Unavailable(
                "directory-unusable", f"another slapd runs in {self._folder}; end that one first"
            ) from error

    async def _launch(self) -> None:
        self._said.clear()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command(self._installed, self._urls),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us, who end it in order
            )
        except OSError as error:
            raise Unavailable(
                "directory-unusable", f"slapd cannot be started: {error.strerror}"
            ) from error
        self._reading = asyncio.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(PATIENCE):
                while not await asyncio.to_thread(answers, self._folder):
                    if self._process.returncode is not None:
                        await self._reading
                        raise Unavailable("directory-unusable", f"slapd ends: {self._why()}")
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            await self._end()
            raise Unavailable(
                "directory-unusable", f"slapd does not answer within {PATIENCE:g} seconds"
            ) from error
        except BaseException:
            await self._end()
            raise

    async def _watch(self) -> None:
        """Start it again whenever it has died, later each time when it does not stay."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            assert self._process is not None  # noqa: S101 - it was launched
            since = loop.time()
            code = await self._process.wait()
            self._changed(False)
            pause = 0.0 if loop.time() - since > _SETTLED else min(2 * pause + 0.5, _LONGEST_PAUSE)
            _log.warning("slapd ended with %d, and is started again in %g s", code, pause)
            while True:
                await asyncio.sleep(pause)
                try:
                    await self._launch()
                except (Failure, OSError) as failure:
                    pause = min(2 * pause + 0.5, _LONGEST_PAUSE)
                    _log.warning("%s; slapd is started again in %g s", failure, pause)
                else:
                    break
            self._changed(True)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than the reader takes: it went on to the next
                continue
            if not line:
                return
            self._said.append(line.decode(errors="replace").strip())

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading
        self._process = None

    def _why(self) -> str:
        return _why("\n".join(self._said))


def _digests(configuration: str) -> tuple[str, str]:
    """Of the whole, and of what data are indexed by."""
    indexes = sorted(line for line in configuration.splitlines() if "olcDbIndex:" in line)
    return (
        hashlib.sha256(configuration.encode()).hexdigest(),
        hashlib.sha256("\n".join(indexes).encode()).hexdigest(),
    )


_STAMP: Final = re.compile(r"[0-9a-f]{8}\.[0-9a-f]+ (?:0x[0-9a-f]+ )?")  # time and thread


def _why(said: str) -> str:
    """Of what a program of OpenLDAP wrote, the last line that gives a reason."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line for line in lines if any(word in line for word in ("failed", "error", "rror:"))]
    last = (reasons or lines or ["it does not say why"])[-1]
    why = _STAMP.sub("", last)
    return f"{why}; another program has its port" if "Address already in use" in why else why


def _tool(folder: Path, words: Sequence[str | Path], given: bytes | None = None) -> None:
    done = subprocess.run(
        [*as_user(), *map(str, words), "-F", _CONFIGURATION],
        cwd=folder,
        input=given if given is not None else b"",
        capture_output=True,
        env=_environment(),
        check=False,
    )
    if done.returncode != 0:
        why = _why(done.stderr.decode(errors="replace"))
        raise Rejected("directory-unusable", f"{Path(words[0]).name} refuses the directory: {why}")


def as_user() -> list[str]:
    """What makes a program an unprivileged one that ends with us."""
    # slapd makes room for as many connections as it may have descriptors, which may be a million.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_MOST_DESCRIPTORS, hard)
    words = ["prlimit", f"--nofile={most}:{most}", "setpriv", "--pdeathsig", "TERM"]
    user = _user()
    if user is not None:
        words += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [*words, "--no-new-privs"]


def _user() -> pwd.struct_passwd | None:
    """For root, the user that slapd runs as."""
    if os.geteuid() != 0:
        return None
    for name in ("openldap", "ldap", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Rejected(
        "directory-unusable",
        "slapd does not run as root: add a user named openldap, or run this as another user",
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}


def _write(path: Path, content: bytes, user: pwd.struct_passwd | None) -> None:
    """A file that only slapd's user reads, complete or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if user is not None:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
        file.write(content)
    temporary.replace(path)
