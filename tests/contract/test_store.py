"""What ``infra.store.port`` promises, asked of each back end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from infra.errors import Broken, Rejected, Unavailable
from infra.store.port import (
    Announced,
    Collection,
    Conflict,
    Document,
    Duplicate,
    Event,
    Index,
    New,
    Replacement,
    Store,
    Stored,
)
from infra.store.sqlite import SqliteStore

CARDS = Collection(
    "cards",
    (
        Index("by_serial", ("issuer", "serial"), unique=True),
        Index("by_owner", ("owner",)),
        Index("by_time", ("owner", "at")),
        Index("by_fingerprint", ("fingerprint",), unique=True, lasting=True),
    ),
)
LEAVES = Collection("leaves", (Index("by_number", ("number",), unique=True),))
COLLECTIONS = (CARDS, LEAVES)

Open = Callable[[Sequence[Collection]], Awaitable[Store]]


def sqlite(folder: Path) -> Open:
    async def open(collections: Sequence[Collection]) -> Store:
        return await SqliteStore.open(folder / "state" / "store.db", collections)

    return open


# A back end is a function from a folder of its own to one that opens the same data each time.
BACK_ENDS = {"sqlite": sqlite}


@pytest.fixture(params=sorted(BACK_ENDS))
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return BACK_ENDS[request.param](tmp_path)


@pytest.fixture
async def store(reopen: Open) -> AsyncIterator[Store]:
    store = await reopen(COLLECTIONS)
    yield store
    await store.close()


def event(key: str) -> Event:
    return Event("cards", key, {"what": key})


async def ids(store: Store, *args: object, **kwargs: object) -> list[str]:
    return [found.id for found in await store.find(CARDS, *args, **kwargs)]  # type: ignore[arg-type]


async def test_an_inserted_document_is_read_back_as_it_was(store: Store) -> None:
    body: Document = {
        "text": "Zoë\0\U0001f511",
        "octets": bytes(range(256)),
        "number": -(2**63),
        "large": 2**63 - 1,
        "fraction": 0.1,
        "nothing": None,
        "yes": True,
        "list": [1, "two", b"three", [None]],
        "map": {"inner": {"deep": False}},
    }
    stored = await store.insert(CARDS, "a", body)
    assert (stored.id, stored.version, stored.body) == ("a", 1, body)
    assert await store.get(CARDS, "a") == Stored("a", 1, body)


async def test_an_absent_document_is_none(store: Store) -> None:
    await store.insert(CARDS, "a", {})
    assert await store.get(CARDS, "b") is None
    assert await store.get(LEAVES, "a") is None


@pytest.mark.parametrize("id", ["", " ", "a'b\"c", "\0", "é", "x" * 1000])
async def test_any_text_is_an_id(store: Store, id: str) -> None:
    await store.insert(CARDS, id, {"owner": id})
    assert await store.get(CARDS, id) == Stored(id, 1, {"owner": id})
    assert [one.id async for one in store.scan(CARDS)] == [id]
    assert await ids(store, "by_owner", (id,)) == [id]


async def test_a_taken_id_is_a_duplicate_and_changes_nothing(store: Store) -> None:
    await store.insert(CARDS, "a", {"n": 1})
    with pytest.raises(Duplicate) as refusal:
        await store.insert(CARDS, "a", {"n": 2}, [event("second")])
    assert (refusal.value.code, refusal.value.index) == ("duplicate", "id")
    assert await store.get(CARDS, "a") == Stored("a", 1, {"n": 1})
    assert await store.events(0) == []


async def test_a_taken_unique_value_is_a_duplicate_that_names_the_index(store: Store) -> None:
    await store.insert(CARDS, "a", {"issuer": "x", "serial": b"\1", "fingerprint": b"f"})
    for body, index in (
        ({"issuer": "x", "serial": b"\1"}, "by_serial"),
        ({"issuer": "y", "serial": b"\1", "fingerprint": b"f"}, "by_fingerprint"),
    ):
        with pytest.raises(Duplicate) as refusal:
            await store.insert(CARDS, "b", body, [event("b")])  # type: ignore[arg-type]
        assert refusal.value.index == index
    assert await store.get(CARDS, "b") is None
    assert await store.count(CARDS) == 1
    assert await store.events(0) == []


async def test_documents_without_a_field_do_not_collide(store: Store) -> None:
    await store.insert(CARDS, "a", {"issuer": "x"})
    await store.insert(CARDS, "b", {"issuer": "x", "serial": None})
    await store.insert(CARDS, "c", {"serial": b"\1"})
    await store.insert(CARDS, "d", {"serial": b"\1"})
    assert await ids(store, "by_serial") == []
    assert await store.count(CARDS) == 4


async def test_keys_of_different_types_are_different(store: Store) -> None:
    await store.insert(CARDS, "a", {"fingerprint": "1"})
    await store.insert(CARDS, "b", {"fingerprint": 1})
    await store.insert(CARDS, "c", {"fingerprint": b"1"})
    assert await ids(store, "by_fingerprint", ("1",)) == ["a"]
    assert await ids(store, "by_fingerprint", (1,)) == ["b"]
    assert await ids(store, "by_fingerprint", (b"1",)) == ["c"]


@pytest.mark.parametrize("value", [True, 0.5, [1], {"a": 1}, 2**63])
async def test_what_an_index_cannot_hold_is_refused(store: Store, value: object) -> None:
    with pytest.raises(Rejected) as refusal:
        await store.insert(CARDS, "a", {"owner": value})  # type: ignore[dict-item]
    assert refusal.value.code == "bad-key"
    assert await store.count(CARDS) == 0


@pytest.mark.parametrize(
    "body",
    [{"a": 2**64}, {"a": object()}, {"a": "\ud800"}, {"\udfff": 1}],
    ids=["large-integer", "object", "surrogate", "surrogate-as-key"],
)
async def test_what_cannot_be_stored_is_refused(store: Store, body: Document) -> None:
    with pytest.raises(Rejected) as refusal:
        await store.insert(CARDS, "a", body)
    assert refusal.value.code == "bad-document"
    with pytest.raises(Rejected) as refusal:
        await store.insert(CARDS, "a", {}, [Event("t", "k", body)])
    assert refusal.value.code == "bad-document"
    assert await store.count(CARDS) == 0


async def test_a_lone_surrogate_is_refused_everywhere(store: Store) -> None:
    for attempt in (
        store.insert(CARDS, "\ud800", {}),
        store.insert(CARDS, "a", {}, [Event("\ud800", "k", {})]),
        store.insert(CARDS, "a", {}, [Event("t", "\ud800", {})]),
        store.get(CARDS, "\ud800"),
        store.acknowledge("\ud800", 1),
    ):
        with pytest.raises(Rejected) as refusal:
            await attempt
        assert refusal.value.code == "bad-document"


async def test_a_document_has_at_most_sixteen_mebibytes(store: Store) -> None:
    largest = {"a": bytes(16 * 1024 * 1024 - 8)}  # 8: what msgpack puts around it
    await store.insert(CARDS, "a", largest)  # type: ignore[arg-type]
    stored = await store.get(CARDS, "a")
    assert stored is not None and stored.body == largest
    with pytest.raises(Rejected) as refusal:
        await store.insert(CARDS, "b", {"a": bytes(16 * 1024 * 1024 - 7)})
    assert refusal.value.code == "document-too-large"


async def test_a_change_carries_at_most_256_events(store: Store) -> None:
    await store.insert(CARDS, "a", {}, [event(str(n)) for n in range(256)])
    assert [one.event.key for one in await store.events(0)] == [str(n) for n in range(256)]
    with pytest.raises(Rejected) as refusal:
        await store.insert(CARDS, "b", {}, [event(str(n)) for n in range(257)])
    assert refusal.value.code == "too-many-events"


async def test_replacing_raises_the_version_and_the_document(store: Store) -> None:
    first = await store.insert(CARDS, "a", {"n": 1})
    second = await store.replace(CARDS, first, {"n": 2})
    third = await store.replace(CARDS, second, {"n": 3})
    assert third == Stored("a", 3, {"n": 3}) == await store.get(CARDS, "a")


async def test_replacing_an_old_version_is_a_conflict(store: Store) -> None:
    first = await store.insert(CARDS, "a", {"n": 1})
    await store.replace(CARDS, first, {"n": 2}, [event("won")])
    with pytest.raises(Conflict) as refusal:
        await store.replace(CARDS, first, {"n": 3}, [event("lost")])
    assert refusal.value.code == "conflict"
    assert await store.get(CARDS, "a") == Stored("a", 2, {"n": 2})
    assert [one.event.key for one in await store.events(0)] == ["won"]


async def test_replacing_what_is_not_there_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.replace(CARDS, Stored("a", 1, {}), {"n": 1}, [event("a")])
    assert await store.get(CARDS, "a") is None
    assert await store.events(0) == []


async def test_a_version_of_the_future_is_a_conflict(store: Store) -> None:
    await store.insert(CARDS, "a", {})
    with pytest.raises(Conflict):
        await store.replace(CARDS, Stored("a", 2, {}), {})


async def test_of_many_racing_replacements_one_wins(store: Store) -> None:
    before = await store.insert(CARDS, "a", {"n": -1})
    outcomes = await asyncio.gather(
        *(store.replace(CARDS, before, {"n": n}, [event(str(n))]) for n in range(50)),
        return_exceptions=True,
    )
    won = [one for one in outcomes if isinstance(one, Stored)]
    assert won == [await store.get(CARDS, "a")]
    assert all(isinstance(one, Stored | Conflict) for one in outcomes)
    assert [one.event.key for one in await store.events(0)] == [str(won[0].body["n"])]


async def test_of_many_racing_inserts_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(
            store.insert(CARDS, f"id{n}", {"issuer": "x", "serial": 7}, [event(f"id{n}")])
            for n in range(50)
        ),
        return_exceptions=True,
    )
    won = [one for one in outcomes if isinstance(one, Stored)]
    assert len(won) == 1
    assert {one.index for one in outcomes if isinstance(one, Duplicate)} == {"by_serial"}
    assert [one async for one in store.scan(CARDS)] == won
    assert [one.event.key for one in await store.events(0)] == [won[0].id]


async def test_indexes_follow_a_replacement(store: Store) -> None:
    first = await store.insert(CARDS, "a", {"owner": "x", "fingerprint": b"1"})
    second = await store.replace(CARDS, first, {"owner": "y", "fingerprint": b"2"})
    assert await ids(store, "by_owner", ("x",)) == []
    assert await ids(store, "by_owner", ("y",)) == ["a"]
    await store.insert(CARDS, "b", {"fingerprint": b"1"})
    await store.replace(CARDS, second, {})
    assert await ids(store, "by_owner") == []
    await store.insert(CARDS, "c", {"fingerprint": b"2"})


async def test_a_body_changed_in_place_is_indexed_as_it_is_now(store: Store) -> None:
    before = await store.insert(CARDS, "a", {"owner": "x"})
    before.body["owner"] = "y"
    await store.replace(CARDS, before, before.body)
    assert await ids(store, "by_owner", ("x",)) == []
    assert await ids(store, "by_owner", ("y",)) == ["a"]


async def test_a_replacement_cannot_take_a_unique_value(store: Store) -> None:
    await store.insert(CARDS, "a", {"fingerprint": b"1"})
    before = await store.insert(CARDS, "b", {"fingerprint": b"2"})
    with pytest.raises(Duplicate) as refusal:
        await store.replace(CARDS, before, {"fingerprint": b"1"}, [event("b")])
    assert refusal.value.index == "by_fingerprint"
    assert await store.get(CARDS, "b") == before
    assert await store.events(0) == []
    assert (await store.replace(CARDS, before, {"fingerprint": b"2", "n": 1})).version == 2


async def test_one_refusal_among_many_concerns_nobody_else(store: Store) -> None:
    taken = await store.insert(CARDS, "taken", {})
    outcomes = await asyncio.gather(
        *(store.insert(CARDS, f"{n:03}", {}, [event(f"{n:03}")]) for n in range(40)),
        store.insert(CARDS, "taken", {}, [event("refused")]),
        store.replace(CARDS, Stored("taken", 9, {}), {}, [event("refused")]),
        store.replace(CARDS, taken, {"owner": "x"}, [event("taken")]),
        *(store.insert(LEAVES, f"{n:03}", {"number": n % 30}) for n in range(40)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Stored) for one in outcomes) == 40 + 1 + 30
    assert sum(isinstance(one, Duplicate) for one in outcomes) == 1 + 10
    assert sum(isinstance(one, Conflict) for one in outcomes) == 1
    assert await store.count(CARDS) == 41
    keys = [one.event.key for one in await store.events(0)]
    assert keys == [*(f"{n:03}" for n in range(40)), "taken"]


async def test_changes_are_made_in_the_order_of_their_calls(store: Store) -> None:
    await asyncio.gather(
        *(store.insert(CARDS, f"{n}", {}, [event(f"{n}")]) for n in range(1000)),
    )
    announced = await store.events(0, limit=2000)
    assert [one.event.key for one in announced] == [f"{n}" for n in range(1000)]
    offsets = [one.offset for one in announced]
    assert offsets == sorted(set(offsets)) and offsets[0] > 0


async def test_order_holds_beyond_the_length_of_any_queue(store: Store) -> None:
    await asyncio.gather(
        *(store.insert(LEAVES, f"{n}", {}, [event(f"{n}")]) for n in range(6000)),
    )
    announced = await store.events(0, limit=9000)
    assert [one.event.key for one in announced] == [f"{n}" for n in range(6000)]


async def test_a_chain_of_changes_queued_at_once(store: Store) -> None:
    """Each is made on top of the one before, although none has returned yet."""
    outcomes = await asyncio.gather(
        store.insert(CARDS, "a", {"n": 1}),
        *(store.replace(CARDS, Stored("a", n, {}), {"n": n + 1}) for n in range(1, 300)),
    )
    assert [one.version for one in outcomes] == list(range(1, 301))
    assert await store.get(CARDS, "a") == Stored("a", 300, {"n": 300})


async def test_a_cancelled_caller_disturbs_nobody(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.insert(CARDS, f"{n}", {})) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, Stored) for one in outcomes[1::2])
    assert all(isinstance(one, asyncio.CancelledError) for one in outcomes[::2])
    # Whether a cancelled change was made is open; what is there is whole and the store goes on.
    assert {f"{n}" for n in range(1, 100, 2)} <= {one.id async for one in store.scan(CARDS)}
    await store.insert(CARDS, "after", {})


async def test_many_are_inserted_in_order(store: Store) -> None:
    await store.insert_many(
        LEAVES, [New(f"{n:04}", {"number": n}, (event(f"{n:04}"),)) for n in range(1500)]
    )
    assert await store.count(LEAVES) == 1500
    expected = [f"{n:04}" for n in range(1500)]
    assert [one.id async for one in store.scan(LEAVES, page=7)] == expected
    assert [one.event.key for one in await store.events(0, limit=2000)] == expected


async def test_many_of_none(store: Store) -> None:
    await store.insert_many(LEAVES, [])
    assert await store.count(LEAVES) == 0


@pytest.mark.parametrize("bad", [0, 3, 700, 1499])
async def test_many_stop_at_the_one_that_is_refused(store: Store, bad: int) -> None:
    await store.insert(LEAVES, "x", {"number": bad})
    with pytest.raises(Duplicate) as refusal:
        await store.insert_many(
            LEAVES, [New(f"{n:04}", {"number": n}, (event(f"{n:04}"),)) for n in range(1500)]
        )
    assert refusal.value.index == "by_number"
    there = [one.id async for one in store.scan(LEAVES)][:-1]
    assert there == [f"{n:04}" for n in range(len(there))]
    assert len(there) <= bad
    assert [one.event.key for one in await store.events(0, limit=2000)] == there


async def test_many_with_one_that_cannot_be_stored(store: Store) -> None:
    with pytest.raises(Rejected) as refusal:
        await store.insert_many(LEAVES, [New("a", {}), New("b", {"number": 0.5})])
    assert refusal.value.code == "bad-key"


async def test_a_write_goes_over_collections_in_order(store: Store) -> None:
    before = await store.insert(CARDS, "a", {"owner": "x"})
    await store.write(
        [
            (CARDS, Replacement(before, {"owner": "y"}, (event("first"),))),
            (LEAVES, New("0", {"number": 0}, (event("second"),))),
            (CARDS, Replacement(Stored("a", 2, {}), {"owner": "z"}, (event("third"),))),
        ]
    )
    assert await store.get(CARDS, "a") == Stored("a", 3, {"owner": "z"})
    assert await ids(store, "by_owner", ("z",)) == ["a"]
    assert await store.get(LEAVES, "0") == Stored("0", 1, {"number": 0})
    assert [one.event.key for one in await store.events(0)] == ["first", "second", "third"]
    await store.write([])


@pytest.mark.parametrize("refused", ["conflict", "missing", "duplicate", "taken"])
@pytest.mark.parametrize("others", [0, 3, 700])
async def test_a_write_stops_at_what_is_refused(store: Store, refused: str, others: int) -> None:
    await store.insert(LEAVES, "x", {"number": -1})
    card = await store.insert(CARDS, "card", {"owner": "x"})
    changes: dict[str, tuple[Collection, New | Replacement]] = {
        "conflict": (CARDS, Replacement(Stored("card", 7, {}), {"owner": "no"}, (event("no"),))),
        "missing": (CARDS, Replacement(Stored("none", 1, {}), {}, (event("no"),))),
        "duplicate": (LEAVES, New("y", {"number": -1}, (event("no"),))),
        "taken": (LEAVES, New("x", {}, (event("no"),))),
    }
    first: list[tuple[Collection, New | Replacement]] = [
        (LEAVES, New(f"{n:04}", {"number": n}, (event(f"{n:04}"),))) for n in range(others)
    ]
    last = (CARDS, Replacement(card, {"owner": "late"}, (event("late"),)))
    with pytest.raises((Conflict, Duplicate)) as refusal:
        await store.write([*first, changes[refused], last, (LEAVES, New("late", {}))])
    error = refusal.value
    assert isinstance(error, Conflict | Duplicate)
    assert (error.collection, error.id) == {
        "conflict": ("cards", "card"),
        "missing": ("cards", "none"),
        "duplicate": ("leaves", "y"),
        "taken": ("leaves", "x"),
    }[refused]
    if isinstance(error, Duplicate):
        assert error.index == {"duplicate": "by_number", "taken": "id"}[refused]
    # What was before it may be there, as a beginning; nothing that came after it is.
    assert await store.get(CARDS, "card") == card
    there = [one.id async for one in store.scan(LEAVES)][:-1]
    assert there == [f"{n:04}" for n in range(len(there))]
    assert [one.event.key for one in await store.events(0)] == there
    # It has kept nobody else from anything.
    assert (await store.replace(CARDS, card, {"owner": "z"})).version == 2


async def fill(store: Store) -> None:
    for owner, at in (("x", 3), ("x", 1), ("y", 2), ("x", 2), ("y", 1), ("x", -5)):
        await store.insert(CARDS, f"{owner}{at}", {"owner": owner, "at": at})
    await store.insert(CARDS, "x", {"owner": "x"})


async def test_finding_by_leading_fields_is_in_order_of_the_next(store: Store) -> None:
    await fill(store)
    assert await ids(store, "by_time", ("x",)) == ["x-5", "x1", "x2", "x3"]
    assert await ids(store, "by_time", ("x",), reverse=True) == ["x3", "x2", "x1", "x-5"]
    assert await ids(store, "by_time", ("x", 2)) == ["x2"]
    assert await ids(store, "by_time", ("z",)) == []
    assert await ids(store, "by_time") == ["x-5", "x1", "x2", "x3", "y1", "y2"]
    assert sorted(await ids(store, "by_owner", ("x",))) == ["x", "x-5", "x1", "x2", "x3"]


async def test_low_is_included_and_high_is_not(store: Store) -> None:
    await fill(store)
    assert await ids(store, "by_time", ("x",), low=1) == ["x1", "x2", "x3"]
    assert await ids(store, "by_time", ("x",), high=2) == ["x-5", "x1"]
    assert await ids(store, "by_time", ("x",), low=1, high=3) == ["x1", "x2"]
    assert await ids(store, "by_time", ("x",), low=1, high=3, reverse=True) == ["x2", "x1"]
    assert await ids(store, "by_time", ("x",), low=3, high=1) == []
    assert await ids(store, "by_time", low="y") == ["y1", "y2"]


async def test_at_most_limit_documents_are_found(store: Store) -> None:
    await fill(store)
    assert await ids(store, "by_time", ("x",), limit=2) == ["x-5", "x1"]
    assert await ids(store, "by_time", ("x",), limit=1, reverse=True) == ["x3"]
    assert await ids(store, "by_time", ("x",), limit=0) == []


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_large_answer_is_complete_and_in_order(store: Store, reverse: bool) -> None:
    """Also where many documents share a value at the edge of a page."""
    await store.insert_many(
        CARDS, [New(f"{n:04}", {"owner": "x", "at": n * 7919 % 5}) for n in range(3300)]
    )
    found = await store.find(CARDS, "by_time", ("x",), low=1, reverse=reverse, limit=10_000)
    expected = sorted((n * 7919 % 5 for n in range(3300)), reverse=reverse)
    assert [one.body["at"] for one in found] == [at for at in expected if at >= 1]
    assert len({one.id for one in found}) == len(found)
    assert len(await store.find(CARDS, "by_time", ("x",), limit=2345)) == 2345


async def test_a_bad_query_is_ours(store: Store) -> None:
    for attempt in (
        store.find(CARDS, "by_nothing"),
        store.find(CARDS, "by_owner", ("x", "y")),
        store.find(CARDS, "by_owner", ("x",), low=1),
        store.get(Collection("unknown"), "a"),
    ):
        with pytest.raises(Broken):
            await attempt


async def test_a_scan_is_in_order_of_id_and_pages(store: Store) -> None:
    names = [f"{n * 7919 % 1000:03}" for n in range(1000)]
    await store.insert_many(CARDS, [New(name, {}) for name in names])
    for page in (1, 333, 1000, 5000):
        assert [one.id async for one in store.scan(CARDS, page=page)] == sorted(names)


async def test_a_scan_lets_writes_through(store: Store) -> None:
    await store.insert_many(CARDS, [New(f"{n:03}", {}) for n in range(100)])
    seen = []
    async for one in store.scan(CARDS, page=10):
        seen.append(one.id)
        if one.id == "050":
            await store.insert(CARDS, "999", {})
    assert seen == [*(f"{n:03}" for n in range(100)), "999"]


async def test_events_are_read_after_an_offset(store: Store) -> None:
    for n in range(5):
        await store.insert(CARDS, f"{n}", {}, [event(f"{n}a"), event(f"{n}b")])
    everything = await store.events(0)
    assert [one.event for one in everything] == [
        event(f"{n}{letter}") for n in range(5) for letter in "ab"
    ]
    assert await store.events(everything[3].offset) == everything[4:]
    assert await store.events(everything[3].offset, limit=2) == everything[4:6]
    assert await store.events(everything[-1].offset) == []


async def test_a_cursor_never_moves_back(store: Store) -> None:
    assert await store.cursor("crl") == 0
    await store.acknowledge("crl", 7)
    await store.acknowledge("crl", 3)
    assert await store.cursor("crl") == 7
    assert await store.cursor("ldap") == 0


async def test_forgotten_offsets_are_not_used_again(store: Store, reopen: Open) -> None:
    await asyncio.gather(*(store.insert(CARDS, f"{n}", {}, [event(f"{n}")]) for n in range(20)))
    *_, before_last, last = await store.events(0)
    await store.forget_events(before_last.offset)
    assert await store.events(0) == [last]
    await store.forget_events(last.offset + 100)
    await store.forget_events(last.offset + 100)
    assert await store.events(0) == []
    await store.close()
    again = await reopen(COLLECTIONS)
    try:
        await again.insert(CARDS, "next", {}, [event("next")])
        (only,) = await again.events(0)
        assert only.offset > last.offset
    finally:
        await again.close()


async def test_everything_is_there_after_reopening(store: Store, reopen: Open) -> None:
    first = await store.insert(CARDS, "a", {"owner": "x"}, [event("a")])
    await store.replace(CARDS, first, {"owner": "y"}, [event("b")])
    await store.acknowledge("crl", 1)
    await store.close()
    again = await reopen(COLLECTIONS)
    try:
        assert await again.get(CARDS, "a") == Stored("a", 2, {"owner": "y"})
        assert await ids(again, "by_owner", ("y",)) == ["a"]
        assert [type(one) for one in await again.events(0)] == [Announced, Announced]
        assert await again.cursor("crl") == 1
    finally:
        await again.close()


async def test_a_collection_and_an_index_can_be_added_later(store: Store, reopen: Open) -> None:
    await store.insert_many(
        CARDS, [New(f"{n:04}", {"owner": "x", "colour": n % 3}) for n in range(2500)]
    )
    first = await store.insert(CARDS, "plain", {"owner": "x"})
    await store.close()
    by_colour = Index("by_colour", ("colour", "owner"))
    more = Collection("cards", (*CARDS.indexes, by_colour))
    again = await reopen((more, LEAVES, Collection("new", (Index("by_a", ("a",)),))))
    try:
        found = await again.find(more, "by_colour", (2,), limit=5000)
        assert [one.id for one in found] == [f"{n:04}" for n in range(2, 2500, 3)]
        await again.replace(more, first, {"owner": "x", "colour": 9})
        assert [one.id for one in await again.find(more, "by_colour", (9,))] == ["plain"]
        await again.insert(Collection("new"), "a", {"a": 1})
    finally:
        await again.close()


async def test_an_index_that_was_away_for_a_while_is_right(store: Store, reopen: Open) -> None:
    first = await store.insert(CARDS, "a", {"owner": "x"})
    await store.close()
    fewer = Collection("cards", CARDS.indexes[:1])
    between = await reopen((fewer,))
    second = await between.replace(fewer, first, {"owner": "y"})
    await between.insert(fewer, "b", {"owner": "y", "fingerprint": b"1"})
    await between.close()
    again = await reopen(COLLECTIONS)
    try:
        assert await ids(again, "by_owner", ("x",)) == []
        assert sorted(await ids(again, "by_owner", ("y",))) == ["a", "b"]
        with pytest.raises(Duplicate):
            await again.replace(CARDS, second, {"fingerprint": b"1"})
    finally:
        await again.close()


async def test_a_unique_index_that_cannot_be_is_refused(store: Store, reopen: Open) -> None:
    await store.insert(CARDS, "a", {"owner": "x"})
    await store.insert(CARDS, "b", {"owner": "x"})
    await store.close()
    with pytest.raises(Broken) as failure:
        await reopen((Collection("cards", (Index("by_owner", ("owner",), unique=True),)),))
    assert failure.value.code == "storage-duplicate"
    again = await reopen(COLLECTIONS)
    assert await again.count(CARDS) == 2
    await again.close()


async def test_closing_finishes_what_is_under_way(store: Store, reopen: Open) -> None:
    tasks = [asyncio.ensure_future(store.insert(CARDS, f"{n}", {})) for n in range(500)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert all(isinstance(one, Stored) for one in await asyncio.gather(*tasks))
    for attempt in (store.insert(CARDS, "late", {}), store.get(CARDS, "1"), store.count(CARDS)):
        with pytest.raises(Unavailable) as failure:
            await attempt
        assert failure.value.code == "storage-unavailable"
    again = await reopen(COLLECTIONS)
    assert await again.count(CARDS) == 500
    await again.close()


async def test_two_collections_do_not_mix(store: Store) -> None:
    await asyncio.gather(
        *(store.insert(CARDS, f"{n}", {"c": n}) for n in range(20)),
        *(store.insert(LEAVES, f"{n}", {"l": n, "number": n}) for n in range(20)),
    )
    assert await store.get(CARDS, "7") == Stored("7", 1, {"c": 7})
    assert await store.get(LEAVES, "7") == Stored("7", 1, {"l": 7, "number": 7})
