"""What every key store promises, on encrypted files and on a real SoftHSM token.

The other side is openssl, which verifies what they sign, and pkcs11-tool on the same token.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import pytest

from infra.errors import Broken, Rejected, Unavailable
from pki.algorithms import (
    SIGNATURE_ALGORITHMS,
    Family,
    KeyType,
    SignatureAlgorithm,
    usual_algorithm,
    verify,
)
from pki.signer import FileKeys, Keys, TokenKeys, softhsm
from pki.signer.digest import verify_digest
from pki.signer.file import FileKeyStore
from pki.signer.pkcs11 import Pkcs11KeyStore
from pki.signer.port import Signer
from pki.signer.uri import FileUri, Pkcs11Uri, parse
from tests.contract.signer_fixtures import LABEL, PIN, SO_PIN, SoftToken, openssl

Store: TypeAlias = FileKeyStore | Pkcs11KeyStore

PASSPHRASE = b"correct horse battery staple"
MESSAGE = b"to be signed" * 100
SPIES = [
    Path("/usr/lib", *folder, "pkcs11-spy.so")
    for folder in (("x86_64-linux-gnu",), ("aarch64-linux-gnu",), ())
]
TOKEN_TYPES = [kind for kind in KeyType if kind.family is not Family.ML_DSA]
EVERY = [
    (where, algorithm, kind)
    for where, kinds in (("file", list(KeyType)), ("token", TOKEN_TYPES))
    for kind in kinds
    for algorithm in SIGNATURE_ALGORITHMS.values()
    if kind in algorithm.key_types
    # Larger RSA keys take long to make and differ in nothing but size.
    and (kind not in (KeyType.RSA_3072, KeyType.RSA_4096) or algorithm == usual_algorithm(kind))
]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    return SoftToken(tmp_path_factory.mktemp("softhsm"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    where: Store
    if request.param == "file":
        where = FileKeyStore(request.getfixturevalue("folder"), lambda: PASSPHRASE)
    else:
        where = request.getfixturevalue("token").store()
    yield where
    await where.close()


both = pytest.mark.parametrize("store", ["file", "token"], indirect=True)

_MADE: dict[tuple[str, KeyType], str] = {}


async def key(store: Store, kind: KeyType) -> str:
    """A key of this type, made once for the module."""
    name = (type(store).__name__, kind)
    if name not in _MADE:
        _MADE[name] = await store.generate(f"every-{kind}", kind)
    return _MADE[name]


def pem(public_key_info: bytes) -> bytes:
    return (
        b"-----BEGIN PUBLIC KEY-----\n"
        + base64.encodebytes(public_key_info)
        + b"-----END PUBLIC KEY-----\n"
    )


def openssl_verifies(signer: Signer, signature: bytes, message: bytes, folder: Path) -> bool:
    for name, content in (
        ("key.pem", pem(signer.public_key_info)),
        ("signature", signature),
        ("message", message),
    ):
        (folder / name).write_bytes(content)
    options: list[str] = []
    if signer.algorithm.hash_name is None:
        options = ["-rawin"]
    else:
        options = ["-rawin", "-digest", signer.algorithm.hash_name]
    if signer.algorithm.name.startswith("rsa-pss"):
        options += ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]
    finished = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", str(folder / "key.pem"),
        "-sigfile", str(folder / "signature"), "-in", str(folder / "message"), *options,
    )  # fmt: skip
    return finished.returncode == 0


@pytest.mark.parametrize(
    ("store", "algorithm", "kind"),
    EVERY,
    ids=[f"{where}-{kind}-{algorithm}" for where, algorithm, kind in EVERY],
    indirect=["store"],
)
async def test_signs_with_every_algorithm(
    store: Store, algorithm: SignatureAlgorithm, kind: KeyType, tmp_path: Path
) -> None:
    signer = await store.open(await key(store, kind), algorithm)
    assert signer.key_type is kind
    assert signer.algorithm is algorithm
    signature = await signer.sign(MESSAGE)
    verify(algorithm, signer.public_key_info, signature, MESSAGE)
    with pytest.raises(Rejected, match="bad-signature"):
        verify(algorithm, signer.public_key_info, signature, MESSAGE + b".")
    if kind.family is not Family.ML_DSA:  # Debian 12's openssl has none
        assert openssl_verifies(signer, signature, MESSAGE, tmp_path)
        assert not openssl_verifies(signer, signature, MESSAGE + b".", tmp_path)


@pytest.mark.parametrize(
    ("store", "algorithm", "kind"),
    EVERY,
    ids=[f"{where}-{kind}-{algorithm}" for where, algorithm, kind in EVERY],
    indirect=["store"],
)
async def test_signs_what_was_hashed_elsewhere(
    store: Store, algorithm: SignatureAlgorithm, kind: KeyType
) -> None:
    signer = await store.open(await key(store, kind), algorithm)
    if algorithm.hash_name is None:
        with pytest.raises(Broken, match="no-digest"):
            await signer.sign_digest(bytes(32))
        return
    digest = hashlib.new(algorithm.hash_name, MESSAGE).digest()
    signature = await signer.sign_digest(digest)
    verify(algorithm, signer.public_key_info, signature, MESSAGE)
    verify_digest(algorithm, signer.public_key_info, signature, digest)
    with pytest.raises(Rejected, match="bad-signature"):
        verify_digest(algorithm, signer.public_key_info, signature, bytes(len(digest)))
    with pytest.raises(Broken, match="no-digest"):
        await signer.sign_digest(digest[:-1])


@both
async def test_a_key_is_the_same_after_a_restart(
    store: Store, request: pytest.FixtureRequest, token: SoftToken, folder: Path
) -> None:
    uri = await key(store, KeyType.P_256)
    before = (await store.open(uri)).public_key_info
    again: Store = (
        FileKeyStore(folder, lambda: PASSPHRASE)
        if isinstance(store, FileKeyStore)
        else token.store()
    )
    try:
        assert (await again.open(uri)).public_key_info == before
    finally:
        await again.close()


@both
async def test_uses_the_usual_algorithm(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_384))
    assert signer.algorithm.name == "ecdsa-with-sha384"
    assert str(parse(signer.uri)) == signer.uri


@both
async def test_refuses_an_algorithm_of_another_key_type(store: Store) -> None:
    uri = await key(store, KeyType.P_256)
    with pytest.raises(Rejected, match="key-type"):
        await store.open(uri, SIGNATURE_ALGORITHMS["ed25519"])


@both
async def test_never_overwrites_a_key(store: Store) -> None:
    await key(store, KeyType.P_256)
    with pytest.raises(Rejected, match="key-exists"):
        await store.generate(f"every-{KeyType.P_256}", KeyType.P_256)


@both
@pytest.mark.parametrize("label", ["", ".hidden", "../up", "a/b", "x" * 65, "ä", "a;b"])
async def test_refuses_a_label_that_is_none(store: Store, label: str) -> None:
    with pytest.raises(Rejected, match="bad-key-label"):
        await store.generate(label, KeyType.P_256)


@both
async def test_refuses_a_key_that_is_not_there(store: Store) -> None:
    uri = "file:absent" if isinstance(store, FileKeyStore) else "pkcs11:object=absent"
    with pytest.raises(Rejected, match="no-such-key"):
        await store.open(uri)


@both
async def test_refuses_the_other_scheme(store: Store) -> None:
    uri = "pkcs11:object=x" if isinstance(store, FileKeyStore) else "file:x"
    with pytest.raises(Rejected, match="bad-key-uri"):
        await store.open(uri)


@both
async def test_sixty_four_callers_at_once(store: Store) -> None:
    one = await store.open(await key(store, KeyType.P_256))
    two = await store.open(await key(store, KeyType.RSA_2048))

    async def caller(number: int) -> None:
        for turn in range(5):
            signer: Signer = two if number % 8 == 0 else one
            message = f"{number}/{turn}".encode()
            signature = await signer.sign(message)
            verify(signer.algorithm, signer.public_key_info, signature, message)

    await asyncio.gather(*(caller(number) for number in range(64)))


@both
async def test_signs_a_long_message(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_256))
    message = bytes(1 << 20)
    verify(signer.algorithm, signer.public_key_info, await signer.sign(message), message)


@both
async def test_a_caller_that_gives_up_disturbs_nobody(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_256))
    impatient = [asyncio.ensure_future(signer.sign(b"%d" % n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in impatient[::2]:
        task.cancel()
    answers = await asyncio.gather(*impatient, return_exceptions=True)
    for number, answer in enumerate(answers):
        if isinstance(answer, bytes):
            verify(signer.algorithm, signer.public_key_info, answer, b"%d" % number)
        else:
            assert isinstance(answer, asyncio.CancelledError)
    assert all(isinstance(answer, bytes) for answer in answers[1::2])


@both
async def test_a_closed_key_does_not_sign(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_256))
    await signer.close()
    with pytest.raises(Rejected, match="key-closed"):
        await signer.sign(b"x")


@both
async def test_a_closed_store_does_not_sign(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_256))
    await store.close()
    with pytest.raises(Rejected, match="key-closed"):
        await signer.sign(b"x")


@both
async def test_check_finds_a_key_that_can_sign(store: Store) -> None:
    signer: Signer = await store.open(await key(store, KeyType.P_256))
    await signer.check()
    await signer.sign(b"x")
    await asyncio.gather(*(signer.check() for _ in range(20)))


@both
async def test_check_of_a_closed_key(store: Store) -> None:
    signer = await store.open(await key(store, KeyType.P_256))
    other = await store.open(await key(store, KeyType.P_384))
    await signer.close()
    with pytest.raises(Rejected, match="key-closed"):
        await signer.check()
    await other.check()
    await store.close()
    with pytest.raises(Rejected, match="key-closed"):
        await other.check()


# Encrypted files


async def test_file_wrong_passphrase(folder: Path) -> None:
    good = FileKeyStore(folder, lambda: PASSPHRASE)
    uri = await key(good, KeyType.P_256)
    await good.close()
    bad = FileKeyStore(folder, lambda: b"wrong")
    with pytest.raises(Rejected, match="wrong-passphrase"):
        await bad.open(uri)
    with pytest.raises(Rejected, match="wrong-passphrase"):
        await bad.generate("under-another", KeyType.P_256)
    assert not (folder / "under-another.pem").exists()
    await bad.close()


@pytest.mark.parametrize("kind", [KeyType.RSA_2048, KeyType.P_256, KeyType.ED25519])
async def test_openssl_opens_a_key_file(kind: KeyType, tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "new", lambda: PASSPHRASE)
    uri = await store.generate("exported", kind)
    signer = await store.open(uri)
    path = tmp_path / "new" / "exported.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["exported.pem"]
    opened = openssl("pkey", "-in", str(path), "-passin", f"pass:{PASSPHRASE.decode()}", "-pubout")
    assert opened.returncode == 0, opened.stderr
    assert b"".join(opened.stdout.split()) == b"".join(pem(signer.public_key_info).split())
    assert openssl("pkey", "-in", str(path), "-passin", "pass:wrong").returncode != 0
    await store.close()


async def test_opens_a_key_file_that_openssl_wrote(tmp_path: Path) -> None:
    plain = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384").stdout
    path = tmp_path / "theirs.pem"
    arguments = ["pkcs8", "-topk8", "-passout", "pass:x", "-v2", "aes-256-cbc"]
    path.write_bytes(openssl(*arguments, "-scrypt", data=plain).stdout)
    path.chmod(0o600)
    store = FileKeyStore(tmp_path / "none", lambda: b"x")
    assert (await store.open(str(FileUri(str(path))))).key_type is KeyType.P_384
    # Without -scrypt openssl derives the key with PBKDF2, which takes no memory.
    path.write_bytes(openssl(*arguments, data=plain).stdout)
    with pytest.raises(Rejected, match="weak-key-encryption"):
        await store.open(str(FileUri(str(path))))
    path.write_bytes(plain)
    with pytest.raises(Rejected, match="bad-key-file"):
        await store.open(str(FileUri(str(path))))
    await store.close()


async def test_file_that_others_can_read(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path, lambda: PASSPHRASE)
    uri = await store.generate("shared", KeyType.P_256)
    (tmp_path / "shared.pem").chmod(0o640)
    with pytest.raises(Rejected, match="key-file-permissions"):
        await store.open(uri)
    await store.close()


async def test_damaged_file(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path, lambda: PASSPHRASE)
    uri = await store.generate("damaged", KeyType.P_256)
    path = tmp_path / "damaged.pem"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole + whole, whole + bytes(20000)):
        path.write_bytes(damaged)
        with pytest.raises(Rejected, match="bad-key-file"):
            await store.open(uri)
    lines = whole.splitlines()
    lines[-2] = base64.b64encode(os.urandom(len(base64.b64decode(lines[-2]))))
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(Rejected, match="wrong-passphrase"):
        await store.open(uri)
    await store.close()


async def test_two_keys_under_one_label_race(tmp_path: Path) -> None:
    one = FileKeyStore(tmp_path, lambda: PASSPHRASE)
    two = FileKeyStore(tmp_path, lambda: PASSPHRASE)
    outcomes = await asyncio.gather(
        one.generate("same", KeyType.P_256),
        two.generate("same", KeyType.P_256),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Rejected", "str"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["same.pem"]
    await one.close()
    await two.close()


async def test_a_key_file_that_is_gone_is_loaded_still(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path, lambda: PASSPHRASE)
    signer = await store.open(await store.generate("removed", KeyType.ED25519))
    (tmp_path / "removed.pem").unlink()
    await signer.check()
    verify(signer.algorithm, signer.public_key_info, await signer.sign(b"x"), b"x")
    await store.close()


# Tokens


async def test_check_makes_no_signature(token: SoftToken, tmp_path: Path) -> None:
    """OpenSC's pkcs11-spy stands between us and the token, and writes down every call."""
    spies = [path for path in SPIES if path.is_file()]
    if not spies:
        pytest.skip("pkcs11-spy is missing: apt-get install opensc-pkcs11")
    written = tmp_path / "calls"
    store = Pkcs11KeyStore(
        spies[0],
        Pkcs11Uri(token=LABEL),
        PIN.encode,
        environment={
            **token.environment,
            "PKCS11SPY": str(token.module),
            "PKCS11SPY_OUTPUT": str(written),
        },
    )
    signer = await store.open(await store.generate("watched", KeyType.P_256))

    def calls() -> list[str]:
        return re.findall(r"^\d+: (C_\w+)", written.read_text(), re.MULTILINE)

    before = len(calls())
    for _ in range(3):
        await signer.check()
    made = calls()[before:]
    assert made.count("C_GetTokenInfo") == 3
    assert "C_FindObjects" in made
    assert not {name for name in made if "Sign" in name or "Login" in name}
    await signer.sign(b"x")
    assert "C_Sign" in calls()[before + len(made) :]
    await store.close()
    # A new process logs in, finds the key, and proves nothing either.
    before = len(calls())
    again = Pkcs11KeyStore(spies[0], store.token, PIN.encode, environment=store._environment)
    await again.check(signer.uri, signer.public_key_info)
    made = calls()[before:]
    assert "C_Login" in made
    assert not {name for name in made if "Sign" in name}
    await again.close()


async def test_check_of_a_key_that_was_deleted(token: SoftToken) -> None:
    store = token.store()
    kept = await store.open(await store.generate("kept", KeyType.P_256))
    gone = await store.open(await store.generate("gone", KeyType.P_256))
    for kind in ("privkey", "pubkey"):
        token.tool("--delete-object", "--type", kind, "--label", "gone")
    # That may be the session's fault; in a new one it is the token's.
    with pytest.raises(Unavailable, match="token-unavailable"):
        await gone.check()
    process = await checked(kept, store)
    for _ in range(3):
        with pytest.raises(Rejected, match="no-such-key"):
            await gone.check()
    # Who waits for one key disturbs nobody who signs with another.
    assert await checked(kept, store) == process
    verify(kept.algorithm, kept.public_key_info, await kept.sign(b"x"), b"x")
    await store.close()


async def checked(signer: Signer, store: Pkcs11KeyStore) -> int:
    """The process that the key is found in, as soon as its back-off lets it try."""
    for _ in range(6):
        try:
            await signer.check()
            break
        except Unavailable as error:
            await asyncio.sleep(error.retry_after)
    assert store._connection is not None
    return store._connection._process.pid


async def test_ml_dsa_where_the_token_has_none(token: SoftToken) -> None:
    store = token.store()
    with pytest.raises(Rejected, match="mechanism-missing"):
        await store.generate("post-quantum", KeyType.ML_DSA_65)
    await store.close()


async def test_pkcs11_tool_sees_a_key_that_never_leaves(token: SoftToken) -> None:
    store = token.store()
    uri = await key(store, KeyType.P_256)
    await store.close()
    name = parse(uri)
    assert isinstance(name, Pkcs11Uri)
    assert name.id is not None
    listed = token.tool("--list-objects", "--type", "privkey", "--id", name.id.hex())
    assert f"every-{KeyType.P_256}" in listed
    usage = next(line for line in listed.splitlines() if "Usage" in line)
    assert usage.split(":")[1].split() == ["sign"]
    access = next(line for line in listed.splitlines() if "Access" in line)
    assert {"sensitive,", "always", "never", "extractable,"} <= set(access.split(":")[1].split())
    public = token.tool("--list-objects", "--type", "pubkey", "--id", name.id.hex())
    assert f"every-{KeyType.P_256}" in public


async def test_pkcs11_tool_signs_with_the_same_key(token: SoftToken, tmp_path: Path) -> None:
    store = token.store()
    signer = await store.open(await key(store, KeyType.P_256))
    name = parse(signer.uri)
    assert isinstance(name, Pkcs11Uri)
    assert name.id is not None
    digest = tmp_path / "digest"
    digest.write_bytes(signer.algorithm.prepare(MESSAGE))
    signature = tmp_path / "signature"
    token.tool(
        "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", "--id", name.id.hex(),
        "--input-file", str(digest), "--output-file", str(signature),
    )  # fmt: skip
    verify(signer.algorithm, signer.public_key_info, signature.read_bytes(), MESSAGE)
    await store.close()


async def test_opens_a_key_that_pkcs11_tool_made(token: SoftToken) -> None:
    token.tool(
        "--keypairgen", "--key-type", "EC:secp384r1", "--label", "theirs", "--id", "7401",
        "--usage-sign", "--sensitive",
    )  # fmt: skip
    store = token.store()
    signer = await store.open("pkcs11:object=theirs;id=%74%01")
    assert signer.key_type is KeyType.P_384
    verify(signer.algorithm, signer.public_key_info, await signer.sign(b"x"), b"x")
    await store.close()


async def test_refuses_a_key_that_can_be_read_out(token: SoftToken) -> None:
    token.tool(
        "--keypairgen", "--key-type", "EC:prime256v1", "--label", "loose", "--id", "7402",
        "--usage-sign", "--extractable",
    )  # fmt: skip
    store = token.store()
    with pytest.raises(Rejected, match="key-extractable"):
        await store.open("pkcs11:object=loose")
    await store.close()


async def test_refuses_a_name_that_two_keys_have(token: SoftToken) -> None:
    for identifier in ("7403", "7404"):
        token.tool(
            "--keypairgen", "--key-type", "EC:prime256v1", "--label", "twins", "--id", identifier,
            "--usage-sign", "--sensitive",
        )  # fmt: skip
    store = token.store()
    with pytest.raises(Rejected, match="key-ambiguous"):
        await store.open("pkcs11:object=twins")
    assert (await store.open("pkcs11:object=twins;id=%74%04")).key_type is KeyType.P_256
    await store.close()


async def test_refuses_a_public_key_that_is_not_its_own(token: SoftToken, tmp_path: Path) -> None:
    """A wrong public half would go into certificates that nobody could ever verify."""
    token.tool(
        "--keypairgen", "--key-type", "EC:prime256v1", "--label", "crossed", "--id", "7405",
        "--usage-sign", "--sensitive",
    )  # fmt: skip
    token.tool("--delete-object", "--type", "pubkey", "--id", "7405")
    store = token.store()
    with pytest.raises(Rejected, match="no-public-key"):
        await store.open("pkcs11:object=crossed")
    other = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").stdout
    public = openssl("pkey", "-pubout", "-outform", "DER", data=other).stdout
    (tmp_path / "public.der").write_bytes(public)
    token.tool(
        "--write-object", str(tmp_path / "public.der"), "--type", "pubkey", "--label", "crossed",
        "--id", "7405",
    )  # fmt: skip
    await store.close()
    store = token.store()
    with pytest.raises(Rejected, match="key-mismatch"):
        await store.open("pkcs11:object=crossed")
    await store.close()


async def test_a_wrong_pin_is_tried_once(token: SoftToken) -> None:
    asked = 0

    def pin() -> bytes:
        nonlocal asked
        asked += 1
        return b"wrong-pin"

    store = Pkcs11KeyStore(token.module, Pkcs11Uri(token=LABEL), pin, environment=token.environment)
    for _ in range(3):
        with pytest.raises(Rejected, match="wrong-pin"):
            await store.open("pkcs11:object=any")
    assert asked == 1
    await store.close()


async def test_no_module(token: SoftToken, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.so", Path("/usr/lib/os-release")):
        store = Pkcs11KeyStore(path, Pkcs11Uri(token=LABEL), PIN.encode)
        with pytest.raises(Unavailable, match="token-unavailable") as caught:
            await store.open("pkcs11:object=any")
        assert str(path) in caught.value.detail
        await store.close()


async def test_no_token_of_that_label(token: SoftToken) -> None:
    store = token.store(label="another")
    with pytest.raises(Unavailable, match="token=another"):
        await store.open("pkcs11:object=any")
    await store.close()


async def test_a_second_token_of_the_same_folder(token: SoftToken) -> None:
    softhsm.init_token(token.module, token.folder, "second", SO_PIN.encode(), b"5678")
    with pytest.raises(Rejected, match="token-exists"):
        softhsm.init_token(token.module, token.folder, "second", SO_PIN.encode(), b"5678")
    store = token.store(label="second", pin="5678")
    uri = await store.generate("only-here", KeyType.P_256)
    assert "token=second" in uri
    await store.close()


# Both behind one door


async def test_keys_opens_either_scheme(token: SoftToken, tmp_path: Path) -> None:
    keys = Keys(
        FileKeys(tmp_path, lambda: PASSPHRASE),
        TokenKeys(token.module, Pkcs11Uri(token=LABEL), PIN.encode, environment=token.environment),
    )
    on_token = await keys.generate("door", KeyType.P_256)
    assert on_token.startswith(f"pkcs11:token={LABEL};object=door;")
    only_files = Keys(FileKeys(tmp_path, lambda: PASSPHRASE))
    in_file = await only_files.generate("door", KeyType.P_256)
    assert in_file == "file:door"
    for uri in (on_token, in_file, "pkcs11:object=door"):
        signer = await keys.open(uri)
        verify(signer.algorithm, signer.public_key_info, await signer.sign(b"x"), b"x")
    with pytest.raises(Rejected, match="no-key-store"):
        await only_files.open(on_token)
    with pytest.raises(Rejected, match="no-key-store"):
        await Keys().generate("door", KeyType.P_256)
    await keys.close()
    await only_files.close()


async def test_keys_takes_module_and_pin_from_the_uri(token: SoftToken, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    keys = Keys(
        token=TokenKeys(
            token.module, Pkcs11Uri(token="absent"), lambda: b"none", environment=token.environment
        )
    )
    store = token.store()
    name = parse(await key(store, KeyType.P_256))
    await store.close()
    signer = await keys.open(f"{name}?module-path={token.module}&pin-source=file:{pin}")
    verify(signer.algorithm, signer.public_key_info, await signer.sign(b"x"), b"x")
    await keys.close()
