"""Tokens that go away, hang, crash or lock; and many threads on one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import Rejected, Unavailable
from pki.algorithms import KeyType, verify
from pki.signer import FileKeys, Keys, Signer, TokenKeys, pkcs11
from pki.signer.file import FileKeyStore
from pki.signer.pkcs11 import Pkcs11KeyStore, Pkcs11Signer
from pki.signer.uri import Pkcs11Uri
from pki.signer.watch import KeyWatch
from tests.contract.signer_fixtures import LABEL, PIN, SoftToken

CKF_USER_PIN_FINAL_TRY = 0x00020000
CKF_USER_PIN_LOCKED = 0x00040000
CKF_TOKEN_INITIALIZED = 0x00000400


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    return SoftToken(tmp_path / "softhsm")


@pytest.fixture
async def store(token: SoftToken) -> AsyncIterator[Pkcs11KeyStore]:
    store = token.store()
    yield store
    await store.close()


@pytest.fixture
async def signer(store: Pkcs11KeyStore) -> Pkcs11Signer:
    return await store.open(await store.generate("issuing", KeyType.P_256))


def process_of(store: Pkcs11KeyStore) -> int:
    assert store._connection is not None
    return store._connection._process.pid


async def signs(signer: Pkcs11Signer, message: bytes = b"x") -> None:
    verify(signer.algorithm, signer.public_key_info, await signer.sign(message), message)


async def signs_again(signer: Pkcs11Signer) -> None:
    """It signs as soon as its back-off lets it try; anything but ``Unavailable`` is a failure."""
    for _ in range(6):
        try:
            return await signs(signer)
        except Unavailable as error:
            await asyncio.sleep(error.retry_after)
    return await signs(signer)


async def test_token_taken_away_and_given_back(token: SoftToken, signer: Pkcs11Signer) -> None:
    await signs(signer)
    away = token.tokens.rename(token.folder / "away")
    for _ in range(3):
        with pytest.raises(Unavailable, match="token-unavailable") as caught:
            await signer.sign(b"x")
        assert 0 < caught.value.retry_after <= 1.0
    away.rename(token.tokens)
    await signs_again(signer)
    await signs(signer)


async def test_token_taken_away_under_load(token: SoftToken, signer: Pkcs11Signer) -> None:
    under_way = [asyncio.ensure_future(signer.sign(b"%d" % number)) for number in range(500)]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    away = token.tokens.rename(token.folder / "away")
    answers = await asyncio.gather(*under_way, return_exceptions=True)
    for number, answer in enumerate(answers):
        if isinstance(answer, bytes):
            verify(signer.algorithm, signer.public_key_info, answer, b"%d" % number)
        else:
            assert isinstance(answer, Unavailable), answer
    assert any(isinstance(answer, bytes) for answer in answers)
    away.rename(token.tokens)
    await signs_again(signer)


async def test_while_away_the_token_is_not_hammered(
    token: SoftToken, store: Pkcs11KeyStore, signer: Pkcs11Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = 0
    spawn = pkcs11._spawn

    def counting(descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        nonlocal started
        started += 1
        return spawn(descriptor, environment)

    monkeypatch.setattr(pkcs11, "_spawn", counting)
    away = token.tokens.rename(token.folder / "away")
    for _ in range(200):
        with pytest.raises(Unavailable):
            await signer.sign(b"x")
    assert started <= 3
    away.rename(token.tokens)
    await signs_again(signer)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
async def test_module_crashes(
    store: Pkcs11KeyStore, signer: Pkcs11Signer, how: signal.Signals
) -> None:
    os.kill(process_of(store), signal.SIGSTOP)
    under_way = [asyncio.ensure_future(signer.sign(b"x")) for _ in range(10)]
    await asyncio.sleep(0)
    os.kill(process_of(store), how)
    os.kill(process_of(store), signal.SIGCONT)
    answers = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers), answers
    await signs_again(signer)


async def test_module_hangs(token: SoftToken) -> None:
    store = token.store()
    signer = await store.open(await store.generate("issuing", KeyType.P_256))
    connection = store._connection
    assert connection is not None and connection._watch is not None
    connection._watch.cancel()
    connection._watch, connection._patience = None, 0.5  # of this process: others have to start
    os.kill(process_of(store), signal.SIGSTOP)
    with pytest.raises(Unavailable, match="not answered"):
        await signer.sign(b"x")
    await signs_again(signer)
    await store.close()


async def test_another_key_in_the_place_of_the_first(
    token: SoftToken, store: Pkcs11KeyStore, signer: Pkcs11Signer
) -> None:
    """The wrong token was put back: nothing is signed that no certificate vouches for."""
    by_label = await store.open("pkcs11:object=issuing")
    token.tool("--delete-object", "--type", "privkey", "--label", "issuing")
    token.tool("--delete-object", "--type", "pubkey", "--label", "issuing")
    other = token.store()
    await other.generate("issuing", KeyType.P_256)
    await other.close()
    os.kill(process_of(store), signal.SIGKILL)
    with pytest.raises(Rejected, match="key-mismatch"):
        await signs_again(by_label)


async def checks_again(signer: Pkcs11Signer) -> None:
    """Its key is found as soon as the back-off lets it look."""
    for _ in range(6):
        try:
            return await signer.check()
        except Unavailable as error:
            await asyncio.sleep(error.retry_after)
    return await signer.check()


async def test_check_while_the_token_is_away(token: SoftToken, signer: Pkcs11Signer) -> None:
    away = token.tokens.rename(token.folder / "away")
    for _ in range(3):
        with pytest.raises(Unavailable, match="token-unavailable") as caught:
            await signer.check()
        assert 0 < caught.value.retry_after <= 1.0
    away.rename(token.tokens)
    await checks_again(signer)
    await signs(signer)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
async def test_check_after_the_module_has_crashed(
    store: Pkcs11KeyStore, signer: Pkcs11Signer, how: signal.Signals
) -> None:
    os.kill(process_of(store), signal.SIGSTOP)
    under_way = asyncio.ensure_future(signer.check())
    await asyncio.sleep(0)
    os.kill(process_of(store), how)
    os.kill(process_of(store), signal.SIGCONT)
    with pytest.raises(Unavailable, match="token-unavailable"):
        await under_way
    await checks_again(signer)
    await signs(signer)


async def test_check_of_another_key_in_the_place_of_the_first(
    token: SoftToken, store: Pkcs11KeyStore, signer: Pkcs11Signer
) -> None:
    by_label = await store.open("pkcs11:object=issuing")
    for kind in ("privkey", "pubkey"):
        token.tool("--delete-object", "--type", kind, "--label", "issuing")
    other = token.store()
    await other.generate("issuing", KeyType.P_256)
    await other.close()
    with pytest.raises(Rejected, match="key-mismatch"):
        await checks_again(by_label)


async def test_check_with_a_pin_that_became_wrong(
    token: SoftToken, store: Pkcs11KeyStore, signer: Pkcs11Signer
) -> None:
    """Looking often must not lock the token: a PIN is tried once."""
    token.tool("--change-pin", "--new-pin", "another-1")
    os.kill(process_of(store), signal.SIGKILL)
    with pytest.raises((Rejected, Unavailable)):
        await signer.check()
    for _ in range(20):
        with pytest.raises(Rejected, match="wrong-pin"):
            await signer.check()
    token.tool("--list-objects", pin="another-1")


# What health is told


async def shows(watch: KeyWatch, failing: dict[str, str]) -> None:
    for _ in range(1200):
        if watch.failing == failing:
            break
        await asyncio.sleep(0.05)
    assert watch.failing == failing


async def test_the_watch_sees_keys_fail_and_come_back(token: SoftToken, tmp_path: Path) -> None:
    files = FileKeyStore(tmp_path / "keys", lambda: b"passphrase")
    store = token.store()
    signers: dict[str, Signer] = {
        "log": await files.open(await files.generate("log", KeyType.ED25519)),
        "issuing": await store.open(await store.generate("issuing", KeyType.P_256)),
    }
    watch = KeyWatch(lambda: signers, timedelta(hours=1))
    assert watch.age is None
    await watch.look()
    assert (watch.failing, dict(watch.found)) == ({}, {"log": None, "issuing": None})
    away = token.tokens.rename(token.folder / "away")
    await watch.look()
    assert watch.failing == {"issuing": "token-unavailable"}
    away.rename(token.tokens)
    await watch.start()
    await shows(watch, {})  # it looks again by itself, long before the hour is over
    del signers["log"]
    await watch.look()
    assert set(watch.found) == {"issuing"}
    await watch.stop()
    await store.close()
    await files.close()


async def test_who_looks_while_somebody_looks_sees_the_same(tmp_path: Path) -> None:
    files = FileKeyStore(tmp_path / "keys", lambda: b"passphrase")
    signer = await files.open(await files.generate("log", KeyType.ED25519))
    watch = KeyWatch(lambda: {"log": signer}, timedelta(hours=1))
    await asyncio.gather(watch.look(), watch.look())
    assert dict(watch.found) == {"log": None}
    await files.close()


async def test_the_watch_waits_for_no_token_that_hangs(token: SoftToken) -> None:
    store = token.store(patience=60.0)
    signer = await store.open(await store.generate("issuing", KeyType.P_256))
    watch = KeyWatch(
        lambda: {"issuing": signer}, timedelta(hours=1), patience=timedelta(milliseconds=50)
    )
    os.kill(process_of(store), signal.SIGSTOP)
    for _ in range(5):
        await watch.look()
        assert watch.failing == {"issuing": "token-silent"}
    # It was asked once, not five times.
    connection = store._connection
    assert connection is not None
    assert len(connection._waiting) == 1
    os.kill(process_of(store), signal.SIGCONT)
    while watch.failing:
        await watch.look()
    os.kill(process_of(store), signal.SIGSTOP)
    await watch.look()
    await watch.stop()
    await store.close()


async def test_the_watch_looks_as_soon_as_a_token_is_lost(token: SoftToken, tmp_path: Path) -> None:
    keys = Keys(
        FileKeys(tmp_path, lambda: b"passphrase"),
        TokenKeys(token.module, Pkcs11Uri(token=LABEL), PIN.encode, environment=token.environment),
    )
    signer = await keys.open(await keys.generate("issuing", KeyType.P_256))
    watch = KeyWatch(lambda: {"issuing": signer}, timedelta(hours=1))
    keys.when_lost(watch.soon)
    await watch.start()
    away = token.tokens.rename(token.folder / "away")
    with pytest.raises(Unavailable):
        await signer.sign(b"x")
    await shows(watch, {"issuing": "token-unavailable"})
    away.rename(token.tokens)
    await shows(watch, {})
    await watch.stop()
    await keys.close()


def set_token_flag(token: SoftToken, flag: int) -> None:
    """Write a flag into SoftHSM's token object: it never sets these itself."""
    (path,) = token.tokens.glob("*/token.object")
    content = bytearray(path.read_bytes())
    # CKA_OS_TOKENFLAGS, its kind (2: a number), its value; each takes 8 octets.
    start = content.index((0x8000534B).to_bytes(8, "big") + (2).to_bytes(8, "big")) + 16
    flags = int.from_bytes(content[start : start + 8], "big")
    assert flags & CKF_TOKEN_INITIALIZED
    content[start : start + 8] = (flags | flag).to_bytes(8, "big")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("flag", "code"),
    [(CKF_USER_PIN_LOCKED, "pin-locked"), (CKF_USER_PIN_FINAL_TRY, "pin-final-try")],
)
async def test_locked_token(token: SoftToken, flag: int, code: str) -> None:
    set_token_flag(token, flag)
    store = token.store()
    for _ in range(2):
        with pytest.raises(Rejected, match=code):
            await store.generate("issuing", KeyType.P_256)
    await store.close()


async def test_a_pin_that_became_wrong(
    token: SoftToken, store: Pkcs11KeyStore, signer: Pkcs11Signer
) -> None:
    token.tool("--change-pin", "--new-pin", "another-1")
    os.kill(process_of(store), signal.SIGKILL)
    with pytest.raises((Rejected, Unavailable)):
        await signer.sign(b"x")
    for _ in range(3):
        with pytest.raises(Rejected, match="wrong-pin"):
            await signer.sign(b"x")


async def test_beside_a_forked_process(token: SoftToken, signer: Pkcs11Signer) -> None:
    """A forked process opens the same key for itself, and disturbs nobody."""
    code = f"""
        import asyncio, os, sys
        from pathlib import Path
        from pki.signer.pkcs11 import Pkcs11KeyStore
        from pki.signer.uri import Pkcs11Uri

        async def sign():
            store = Pkcs11KeyStore(Path({str(token.module)!r}), Pkcs11Uri(token={LABEL!r}),
                                   lambda: {PIN.encode()!r},
                                   environment={dict(token.environment)!r})
            key = await store.open({signer.uri!r})
            for _ in range(50):
                await key.sign(b"x")
            return store, key

        loop = asyncio.new_event_loop()
        store, key = loop.run_until_complete(sign())
        child = os.fork()
        if child == 0:
            asyncio.run(sign())
            os._exit(0)
        for _ in range(50):
            loop.run_until_complete(key.sign(b"x"))
        status = os.waitpid(child, 0)[1]
        loop.run_until_complete(key.sign(b"x"))
        loop.run_until_complete(store.close())
        sys.exit(status)
    """
    finished = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(code)], timeout=60, check=False
    )
    assert finished.returncode == 0
    await signs(signer)


def test_threads_on_one_module(token: SoftToken) -> None:
    """python-pkcs11 alone crashes here: a process of its own takes the segmentation fault."""
    code = f"""
        from concurrent.futures import ThreadPoolExecutor
        from pki.algorithms import KeyType, verify
        from pki.signer.token import Token
        from pki.signer.uri import Pkcs11Uri

        token = Token({str(token.module)!r}, Pkcs11Uri(token={LABEL!r}), {PIN.encode()!r})
        assert token.threads
        kinds = (KeyType.P_256, KeyType.RSA_2048)
        names = [token.generate(f"key-{{kind}}", kind) for kind in kinds]
        keys = [token.open_key(name, None) for name in names]

        def work(number):
            session = token.new_session()
            signing = [token.signing(session, key) for key in keys]
            for turn in range(1500):
                which = 1 if turn % 10 == 0 else 0
                key, message = keys[which], f"{{number}}/{{turn}}".encode()
                signature = signing[which](key.algorithm.prepare(message))
                if turn % 50 == 0:
                    verify(key.algorithm, key.public_key_info, signature, message)
            return turn + 1

        with ThreadPoolExecutor(4) as threads:
            print(sum(threads.map(work, range(4))))
        token.close()
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **token.environment},
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, signal.Signals(-finished.returncode)
    assert finished.stdout.decode().split() == ["6000"]


SLOW_TOKEN = """
import sys, threading, time
from cryptography.hazmat.primitives import serialization
from pki.algorithms import KeyType, key_type_of, usual_algorithm
from pki.signer import token_process
from pki.signer.file import _GENERATE
from pki.signer.token import TokenKey
from pki.signer.uri import Pkcs11Uri

class SlowToken:
    threads = True

    def __init__(self, module, wanted, pin):
        self.first = True
        self.together = threading.Barrier(4, timeout=30)

    def new_session(self):
        return object()

    def open_key(self, wanted, algorithm):
        public = _GENERATE[KeyType.ED25519]().public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return TokenKey({}, public, usual_algorithm(KeyType.ED25519), False)

    def signing(self, session, key):
        def sign(data):
            if data == b"alone":
                time.sleep(0.02)
            else:
                self.together.wait()
            return data
        return sign

token_process.Token = SlowToken
token_process.main()
"""


@pytest.mark.parametrize("known_as_slow", [True, False])
async def test_a_slow_token_signs_for_several_at_once(
    monkeypatch: pytest.MonkeyPatch, known_as_slow: bool
) -> None:
    """Its signatures come in fours or not at all: one session alone would wait for ever."""

    def spawn(descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SLOW_TOKEN, str(descriptor)], pass_fds=(descriptor,)
        )

    monkeypatch.setattr(pkcs11, "_spawn", spawn)
    store = Pkcs11KeyStore(Path("slow.so"), Pkcs11Uri(), lambda: b"", sessions=4)
    signer = await store.open("pkcs11:object=slow")
    for _ in range(5 if known_as_slow else 0):
        assert await signer.sign(b"alone") == b"alone"
    messages = [b"%d" % number for number in range(64)]
    assert await asyncio.gather(*map(signer.sign, messages)) == messages
    await store.close()
