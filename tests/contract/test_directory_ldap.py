"""The edge to the directory, against OpenLDAP's slapd: what it does, and what it says is wrong."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from infra.errors import Failure, Rejected, Unavailable
from pki.directory.authorities import container_entries
from pki.directory.entries import Entry, Wanted
from pki.directory.ldap import LdapDirectory, Login
from pki.directory.naming import rdn, same_name
from pki.names import ATTRIBUTE_TYPES
from tests.contract.directory_fixtures import TREE, certificate, plain_entry
from tests.contract.slapd_fixtures import Server, running_slapd
from tests.unit.test_directory_naming import HOSTILE

OPENED: list[LdapDirectory] = []
DER = certificate(1, "CN=Alice,C=AQ")


@pytest.fixture(name="server")
def open_server(tmp_path: Path) -> Iterator[Server]:
    with running_slapd(tmp_path / "slapd") as running:
        yield running


@pytest.fixture(autouse=True)
def close_all() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def connected(server: Server, **how: object) -> LdapDirectory:
    directory = LdapDirectory(reaching(server, **how))
    OPENED.append(directory)
    return directory


def opened(server: Server, **how: object) -> LdapDirectory:
    directory = connected(server, **how)
    directory.ensure(container_entries(TREE))
    return directory


def reaching(server: Server, **how: object) -> Login:
    return msgspec.convert({"url": server.ldapi, "timeout": 5.0, **how}, Login)


def test_entries_are_made_changed_and_removed(server: Server) -> None:
    directory = opened(server)
    one = plain_entry(1, **{"userCertificate;binary": DER, "mail": b"a@example.org"})
    [made] = directory.apply([Wanted(one)])
    assert made.code == ""
    [found] = directory.read([(one.dn, one.managed)])
    assert found == {type: values for type, values in one.attributes.items()}
    changed = Entry(one.dn, {**one.attributes, "mail": ()}, one.managed)
    assert directory.apply([Wanted(changed), Wanted(changed)])[1].code == ""
    [found] = directory.read([(one.dn, one.managed)])
    assert found is not None and "mail" not in found
    assert directory.apply([Wanted(None, (one.dn,))] * 2)[1].code == ""
    assert directory.read([(one.dn, one.managed)]) == [None]


def test_what_is_somebody_elses_in_an_entry_stays(server: Server) -> None:
    directory = opened(server)
    one = plain_entry(1)
    directory.apply([Wanted(one)])
    described = Entry(one.dn, {"description": (b"by hand",)}, ("description",))
    directory._exchange([_replaced(described)])
    directory.apply([Wanted(one)])
    [found] = directory.read([(one.dn, ("description",))])
    assert found == {"description": (b"by hand",)}


def _replaced(entry: Entry) -> Iterator[bytes]:
    from pki.directory import messages

    result = yield messages.replace(entry.dn, entry.attributes)  # type: ignore[misc]
    assert result.code == 0


def test_an_entry_can_become_one_of_another_class(server: Server) -> None:
    directory = opened(server)
    one = plain_entry(1)
    person = {
        **one.attributes,
        "objectClass": (b"inetOrgPerson", b"digitalidHolder", b"pkiUser"),
        "cn": (b"Alice",),
        "sn": (b"Alice",),
    }
    directory.apply([Wanted(one)])
    [outcome] = directory.apply([Wanted(Entry(one.dn, person, one.managed))])
    assert outcome.code == ""
    [found] = directory.read([(one.dn, ("cn",))])
    assert found == {"cn": (b"Alice",)}


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value[:12]))
def test_hostile_values_name_one_entry_below_its_branch(server: Server, value: str) -> None:
    directory = opened(server)
    dn = f"{rdn([('cn', value), ('uid', '1')])},{TREE.of_authorities}"
    octets = value.encode("utf-8", "surrogatepass")
    values = {"objectClass": (b"applicationProcess", b"uidObject"), "uid": (b"1",), "cn": (octets,)}
    [outcome] = directory.apply([Wanted(Entry(dn, values, ()))])
    page = directory.page(server.suffix, "(uid=1)", ("cn",), size=10, cookie=b"")
    if outcome.code:
        # Only what is no directory string at all (RFC 4517 §3.3.6), or no name for slapd.
        assert outcome.code == "directory-schema"
        assert not value.strip() or "\ud800" in value or len(octets) > 8192
        assert page.entries == []
        return
    [(name, _)] = page.entries
    assert same_name(name, dn) or "\ud800" in value  # which is no UTF-8
    below = directory.page(TREE.of_authorities, "(objectClass=*)", ("cn",), size=10, cookie=b"")
    assert len(below.entries) == 2  # the branch and the entry, nothing beside or below it


def test_a_value_of_64_kb_goes_in_and_out(server: Server) -> None:
    directory = opened(server)
    one = plain_entry(1, cn=b"x" * 65536)
    assert directory.apply([Wanted(one)])[0].code == ""
    [found] = directory.read([(one.dn, ("cn",))])
    assert found == {"cn": (b"x" * 65536,)}


def test_one_bad_entry_keeps_none_of_the_others(server: Server) -> None:
    directory = opened(server)
    bad = plain_entry(2, **{"userCertificate;binary": b"no certificate"})
    worse = plain_entry(3, telephoneNumber=b"not of this class")
    outcomes = directory.apply(
        [Wanted(one) for one in (plain_entry(1), bad, worse, plain_entry(4))]
    )
    codes = [outcome.code for outcome in outcomes]
    assert codes == ["", "directory-schema", "directory-schema", ""]
    assert "no certificate" not in "".join(outcome.detail for outcome in outcomes)


def test_many_are_under_way_at_one_time_and_each_gets_its_own_answer(server: Server) -> None:
    directory = opened(server, in_flight=64)
    entries = [plain_entry(number) for number in range(500)]
    assert not any(outcome.code for outcome in directory.apply([Wanted(one) for one in entries]))
    found = directory.read([(one.dn, ("uid",)) for one in entries])
    assert found == [{"uid": one.attributes["uid"]} for one in entries]
    seen, cookie = set[str](), b""
    while True:
        page = directory.page(
            TREE.base, "(objectClass=digitalidHolder)", ("uid",), size=99, cookie=cookie
        )
        assert len(page.entries) <= 99
        seen |= {name for name, _ in page.entries}
        cookie = page.cookie
        if not cookie:
            break
    assert len(seen) == 500


def test_an_issuer_may_have_every_attribute_that_our_names_can_have(server: Server) -> None:
    # slapd takes a certificate's issuer apart, and refuses one with a type that it does not know.
    values = {"C": "AQ", "DC": "example", "emailAddress": "ca@example.org"}
    pairs = [f"{kind.short}={values.get(kind.short, 'X')}" for kind in ATTRIBUTE_TYPES.values()]
    der = certificate(1, ",".join(pairs), self_issued=True)
    [outcome] = opened(server).apply([Wanted(plain_entry(1, **{"userCertificate;binary": der}))])
    assert outcome.code == ""


# How one logs in


def test_tls_starttls_and_both_ways_to_log_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRECTORY_PASSWORD", server.password)
    simple = {"bind_dn": server.writer, "password": "env:DIRECTORY_PASSWORD", "ca": str(server.ca)}
    own = {
        "ca": str(server.ca),
        "certificate": str(server.client_certificate),
        "key": str(server.client_key),
    }
    for number, how in enumerate(
        [
            {"url": server.ldaps, **simple},
            {"url": server.ldap, "start_tls": True, **simple},
            {"url": server.ldaps, **own},
            {"url": server.ldap, "start_tls": True, **own},
        ]
    ):
        directory = opened(server, **how)
        assert directory.apply([Wanted(plain_entry(number))])[0].code == ""
        directory.close()


def refusal(server: Server, **how: object) -> Failure:
    with pytest.raises((Rejected, Unavailable)) as refused:
        opened(server, **how)
    return refused.value


@pytest.mark.parametrize("start_tls", [False, True])
def test_a_certificate_of_another_ca_is_refused(server: Server, start_tls: bool) -> None:
    url = server.ldap if start_tls else server.ldaps
    refused = refusal(server, url=url, start_tls=start_tls, ca=str(server.other_ca))
    assert refused.code == "directory-certificate"


def test_a_certificate_that_the_system_does_not_know_is_refused(server: Server) -> None:
    assert refusal(server, url=server.ldaps).code == "directory-certificate"


@pytest.mark.parametrize(
    "how", [{"certificate_host": "192.0.2.1"}, {"certificate_expired": True}], ids=str
)
def test_a_certificate_for_another_host_or_that_is_over_is_refused(
    tmp_path: Path, how: dict[str, object]
) -> None:
    with running_slapd(tmp_path / "slapd", **how) as server:  # type: ignore[arg-type]
        refused = refusal(server, url=server.ldaps, ca=str(server.ca))
        assert refused.code == "directory-certificate"


def test_a_wrong_password_is_refused_and_repeated_nowhere(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("a wrong one\n")
    secret.chmod(0o600)
    refused = refusal(
        server,
        url=server.ldaps,
        ca=str(server.ca),
        bind_dn=server.writer,
        password=f"file:{secret}",
    )
    assert refused.code == "directory-refused-login"
    assert "a wrong one" not in refused.detail


def test_a_missing_secret_is_said(server: Server) -> None:
    refused = refusal(
        server, url=server.ldaps, ca=str(server.ca), bind_dn="cn=x", password="file:/no/such"
    )
    assert refused.code == "no-such-secret"


def test_who_may_not_write_is_told(server: Server, tmp_path: Path) -> None:
    opened(server).close()
    # Its certificate is of the right CA, and is nobody's who may write.
    own = {
        "certificate": str(server.folder / "server.pem"),
        "key": str(server.folder / "server.key"),
    }
    stranger = connected(server, url=server.ldaps, ca=str(server.ca), **own)
    with pytest.raises(Rejected) as refused:
        stranger.apply([Wanted(plain_entry(1))])
    assert refused.value.code == "directory-not-permitted"


# What may be wrong with a directory


def test_a_directory_without_our_schema_is_told_so(tmp_path: Path) -> None:
    with running_slapd(tmp_path / "slapd", schema="", indexes=()) as server:
        refused = refusal(server)
    assert refused.code == "directory-schema"
    assert "digitalid.schema.ldif" in refused.detail


def test_a_directory_that_serves_another_tree_is_told_so(server: Server) -> None:
    directory = connected(server)
    elsewhere = Entry("o=Elsewhere", {"objectClass": (b"organization",), "o": (b"Elsewhere",)}, ())
    with pytest.raises(Rejected) as refused:
        directory.ensure([elsewhere])
    assert refused.value.code == "directory-no-base"


def test_a_branch_that_is_lost_is_told(server: Server) -> None:
    directory = connected(server)
    with pytest.raises(Rejected) as refused:
        directory.apply([Wanted(plain_entry(1))])
    assert refused.value.code == "directory-no-base"
    directory.ensure(container_entries(TREE))
    assert directory.apply([Wanted(plain_entry(1))])[0].code == ""


def test_a_read_only_copy_is_told_and_its_referral_is_not_followed(tmp_path: Path) -> None:
    with (
        running_slapd(tmp_path / "provider" / "slapd", provider=True) as provider,
        running_slapd(tmp_path / "copy" / "slapd", replica_of=provider) as copy,
    ):
        opened(provider).apply([Wanted(plain_entry(1))])
        reader = connected(copy)
        end = time.monotonic() + 60
        while reader.read([(plain_entry(1).dn, ("uid",))]) == [None]:
            assert time.monotonic() < end
            time.sleep(0.05)
        with pytest.raises(Rejected) as refused:
            reader.apply([Wanted(plain_entry(2))])
        assert refused.value.code == "directory-read-only"
        assert f"127.0.0.1:{provider.port}" in refused.value.detail
        assert opened(provider).read([(plain_entry(2).dn, ("uid",))]) == [None]


def test_a_size_limit_is_told(tmp_path: Path) -> None:
    with running_slapd(tmp_path / "slapd", most_entries=10) as server:
        opened(server).apply([Wanted(plain_entry(number)) for number in range(30)])
        own = {
            "certificate": str(server.folder / "server.pem"),
            "key": str(server.folder / "server.key"),
        }
        stranger = connected(server, url=server.ldaps, ca=str(server.ca), **own)
        with pytest.raises(Rejected) as refused:
            read_through(stranger)
        assert refused.value.code == "directory-size-limit"


def read_through(directory: LdapDirectory) -> None:
    cookie = b""
    while True:
        page = directory.page(TREE.base, "(uid=*)", ("uid",), size=5, cookie=cookie)
        cookie = page.cookie
        if not cookie:
            return


def test_a_full_database_is_told_and_mends_itself(tmp_path: Path) -> None:
    with running_slapd(tmp_path / "slapd", size=400_000) as server:
        directory = opened(server)
        large = [Wanted(plain_entry(number, cn=b"x" * 20_000)) for number in range(200)]
        with pytest.raises(Unavailable) as refused:
            directory.apply(large)
    assert refused.value.code == "directory-full"


def test_a_directory_that_is_away_or_silent_is_told(server: Server) -> None:
    directory = opened(server)
    server.stop()
    with pytest.raises(Unavailable) as gone:
        directory.read([(TREE.base, ("o",))])
    assert gone.value.code == "directory-unavailable"
    with pytest.raises(Unavailable) as away:
        directory.read([(TREE.base, ("o",))])
    assert away.value.code == "directory-unavailable"
    server.start()
    assert directory.read([(TREE.base, ("o",))]) == [{"o": (b"Test Registry",)}]


def test_one_that_takes_connections_and_says_nothing_is_given_up(short_path: Path) -> None:
    import socket

    path = short_path / "silent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(Unavailable):
            LdapDirectory(Login(url=f"ldapi://{path}", timeout=1.0)).read([("o=x", ("o",))])


def test_one_that_speaks_something_else_is_told(short_path: Path) -> None:
    import socket

    path = short_path / "other"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            line, _ = listener.accept()
            with line:
                line.recv(100)
                line.sendall(b"220 mail.example.org ESMTP\r\n" * 3)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable) as refused:
            LdapDirectory(Login(url=f"ldapi://{path}", timeout=2.0)).read([("o=x", ("o",))])
        thread.join()
    assert refused.value.code == "directory-unavailable"


@pytest.mark.parametrize("length", [106, 107, 108, 200])
def test_a_home_folder_may_have_any_length_and_name(short_path: Path, length: int) -> None:
    """A socket's address takes 107 octets; a % in a path is not one of the URL's."""
    folder = short_path / "50%20 of ".ljust(length - len(f"{short_path}//slapd/ldapi"), "a")
    folder.mkdir()
    with running_slapd(folder / "slapd") as server:
        assert len(str(server.socket)) == length
        assert opened(server).apply([Wanted(plain_entry(1))])[0].code == ""


def test_no_detail_holds_what_an_entry_holds() -> None:
    source = Path("pki/directory/result.py").read_text()
    assert not re.search(r"\{result\.detail", source)
