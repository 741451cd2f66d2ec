"""The budget for large answers in flight."""

import asyncio
from dataclasses import dataclass

import pytest

from support.turns import turns
from taskgate.base.errors import Overloaded
from taskgate.service.in_flight import MIN_LIMIT_BYTES, InFlight, Peer, Room

LIMIT = 2 * MIN_LIMIT_BYTES
"""128 MiB: 64 for an address, 32 for a connection."""

MIB = 1 << 20


@dataclass
class Call:
    peer: Peer | None
    copies: int = 0
    room: Room | None = None


def budget(wait_seconds: float = 0.05) -> InFlight:
    return InFlight(LIMIT, own_bytes=0, wait_seconds=wait_seconds)


def room_of(in_flight: InFlight, address: str = "10.0.0.1", port: int = 1, copies: int = 0) -> Room:
    return in_flight.room(Call((address, port), copies))


def document(number: int, size: int = 10 * MIB) -> bytes:
    return bytes([number]) * size


async def test_equal_documents_share_a_copy_and_are_counted_once() -> None:
    in_flight = budget()
    first, second = room_of(in_flight), room_of(in_flight, "10.0.0.2")
    assert first.take("task", document(1))
    assert second.take("task", document(1))
    assert first.document is second.document
    assert in_flight.used == 10 * MIB
    first.release()
    assert in_flight.used == 10 * MIB
    second.release()
    second.release()
    assert in_flight.used == 0


async def test_another_task_or_another_version_is_another_copy() -> None:
    in_flight = budget()
    for key, found in (("a", document(1)), ("b", document(1)), ("a", document(2))):
        assert room_of(in_flight, key).take(key, found)
    assert in_flight.used == 30 * MIB


@pytest.mark.parametrize(
    ("peers", "share"),
    [
        ([("a", 1)] * 20, (3, "connection")),
        ([("a", port) for port in range(20)], (6, "address")),
        ([(str(host), 1) for host in range(20)], (12, "server")),
    ],
)
async def test_each_share_has_its_limit_and_the_refusal_names_it(peers: list[Peer], share: tuple[int, str]) -> None:
    in_flight = budget()
    rooms = [room_of(in_flight, *peer) for peer in peers]
    taken = [room.take(number, document(number)) for number, room in enumerate(rooms)]
    count, name = share
    assert taken == [True] * count + [False] * (20 - count)
    with pytest.raises(Overloaded, match=f"this {name} has") as refused:
        await rooms[-1].wait(10 * MIB)
    assert refused.value.metadata == {"limit": f"in_flight_bytes_of_{name}"}
    assert refused.value.status.retryable
    assert refused.value.status.retry_after


async def test_what_is_larger_than_a_share_is_let_in_alone() -> None:
    in_flight = budget()
    room = room_of(in_flight, copies=2)
    assert room.take("a", document(1, 32 * MIB))
    assert not room_of(in_flight).take("b", document(2, MIB))
    assert room_of(in_flight, "10.0.0.2").take("b", document(2, MIB))


async def test_copies_of_the_transport_are_counted_for_each_call() -> None:
    in_flight = budget()
    rooms = [room_of(in_flight, str(host), copies=2) for host in range(3)]
    assert all(room.take("a", document(1)) for room in rooms)
    assert in_flight.used == (1 + 3 * 2) * 10 * MIB
    for room in rooms:
        room.release()
    assert in_flight.used == 0


async def test_those_who_wait_are_let_in_in_their_order() -> None:
    """One that waits for its own share does not stand before others; one that waits for the process does."""
    in_flight = budget(wait_seconds=5)
    held = [room_of(in_flight, str(number // 3)) for number in range(12)]
    assert all(room.take(number, document(number)) for number, room in enumerate(held))
    admitted: list[str] = []

    async def wait(name: str, room: Room, size: int) -> None:
        await room.wait(size)
        admitted.append(name)

    waiting = [
        asyncio.create_task(wait("share", room_of(in_flight, "0"), 10 * MIB)),
        asyncio.create_task(wait("large", room_of(in_flight, "5"), 20 * MIB)),
        asyncio.create_task(wait("small", room_of(in_flight, "6"), 10 * MIB)),
    ]
    await asyncio.sleep(0)
    assert not room_of(in_flight, "7").take("late", document(1, MIB)), "it would overtake"
    held[11].release()
    await turns()
    assert admitted == []
    held[10].release()
    await turns()
    assert admitted == ["large"]
    held[9].release()
    await turns()
    assert admitted == ["large", "small"]
    held[0].release()
    held[1].release()
    await asyncio.gather(*waiting)
    assert admitted[-1] == "share"


async def test_who_is_cancelled_leaves_the_queue_and_keeps_nothing() -> None:
    """Waiting, or let in in the same moment."""
    in_flight = budget(wait_seconds=5)
    held = room_of(in_flight)
    assert held.take("a", document(1, 30 * MIB))
    waiting = [asyncio.create_task(room_of(in_flight).wait(10 * MIB)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    held.release()
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert in_flight.used == 10 * MIB, "what the third has"
    assert room_of(in_flight).take("b", document(2))


async def test_reservation_is_for_the_document_that_is_read_then() -> None:
    """One that has grown meanwhile needs more room; one that has shrunk gives some back."""
    in_flight = budget()
    room = room_of(in_flight)
    await room.wait(30 * MIB)
    assert not room_of(in_flight).take("b", document(2))
    assert room.take("a", document(1, MIB))
    assert in_flight.used == MIB
    grown = room_of(in_flight)
    await grown.wait(MIB)
    assert not grown.take("c", document(3, 40 * MIB))
    assert in_flight.used == MIB


async def test_converted_document_takes_the_place_of_what_it_was_made_from() -> None:
    in_flight = budget()
    rooms = [room_of(in_flight), room_of(in_flight)]
    for room in rooms:
        assert room.take("a", document(1))
    messages = [room.replace(("typed", "a"), document(2, 12 * MIB)) for room in rooms]
    assert messages[0] is messages[1]
    assert in_flight.used == 12 * MIB


async def test_too_many_who_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskgate.service.in_flight.MAX_WAITING", 1)
    in_flight = budget(wait_seconds=5)
    held = room_of(in_flight)
    assert held.take("a", document(1, 32 * MIB))
    waiting = asyncio.create_task(room_of(in_flight).wait(MIB))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 calls of this server wait"):
        await room_of(in_flight).wait(MIB)
    waiting.cancel()


async def test_one_address_cannot_take_all_places_of_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address and a connection have shares of them, too; the refusal names which one is full."""
    monkeypatch.setattr("taskgate.service.in_flight.MAX_WAITING_OF_ADDRESS", 2)
    monkeypatch.setattr("taskgate.service.in_flight.MAX_WAITING_OF_CONNECTION", 1)
    in_flight = budget(wait_seconds=5)
    held = [room_of(in_flight, "a", port) for port in (1, 1, 1, 2, 2, 2)]
    assert all(room.take(number, document(number)) for number, room in enumerate(held))
    waiting = [asyncio.create_task(room_of(in_flight, "a", 1).wait(10 * MIB))]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 calls of this connection wait"):
        await room_of(in_flight, "a", 1).wait(10 * MIB)
    waiting.append(asyncio.create_task(room_of(in_flight, "a", 2).wait(10 * MIB)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 calls of this address wait"):
        await room_of(in_flight, "a", 3).wait(10 * MIB)
    held[0].release()
    await waiting[0]
    waiting.append(asyncio.create_task(room_of(in_flight, "a", 3).wait(10 * MIB)))
    await asyncio.sleep(0)
    assert not waiting[-1].done(), "it waits in the place that has become free"
    for task in waiting:
        task.cancel()


async def test_call_that_has_room_is_let_in_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskgate.service.in_flight.MAX_WAITING", 1)
    in_flight = budget(wait_seconds=5)
    held = room_of(in_flight, "a")
    assert held.take("a", document(1, 32 * MIB))
    waiting = asyncio.create_task(room_of(in_flight, "a").wait(MIB))
    await asyncio.sleep(0)
    await room_of(in_flight, "b").wait(30 * MIB)
    assert in_flight.used == 62 * MIB
    waiting.cancel()


async def test_who_waits_for_a_share_of_its_own_holds_up_no_others() -> None:
    """Not even while what it waits for would not fit in the server either."""
    in_flight = budget(wait_seconds=5)
    held = [room_of(in_flight, "a", port) for port in (1, 1, 1, 2, 2, 2)]
    held += [room_of(in_flight, str(number)) for number in range(6)]
    assert all(room.take(number, document(number)) for number, room in enumerate(held))
    waiting = asyncio.create_task(room_of(in_flight, "a").wait(20 * MIB))
    await asyncio.sleep(0)
    assert room_of(in_flight, "b").take("b", document(20, 5 * MIB))
    await room_of(in_flight, "c").wait(2 * MIB)
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True), ("2001:db8:0:1::1", "2001:db8:0:2::1", False)],
)
async def test_address_of_ipv6_is_its_network(one: str, other: str, *, same: bool) -> None:
    """A caller has a network of 64 bits for itself, the least that is given out: one share, not one an address."""
    in_flight = budget()
    held = [room_of(in_flight, one, port) for port in (1, 1, 1, 2, 2, 2)]
    assert all(room.take(number, document(number)) for number, room in enumerate(held))
    assert room_of(in_flight, other, 3).take("b", document(7)) is not same


async def test_idle_is_not_told_while_the_next_answer_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskgate.service.in_flight.IDLE_SECONDS", 0.01)
    told = asyncio.Event()
    in_flight = InFlight(LIMIT, own_bytes=0, on_idle=told.set)
    first, room = room_of(in_flight), room_of(in_flight)
    assert first.take("a", document(1))
    first.release()
    assert room.take("a", document(1))
    await asyncio.sleep(0.05)
    assert not told.is_set()
    room.release()
    await asyncio.wait_for(told.wait(), 5)


async def test_idle_is_told_once_nothing_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskgate.service.in_flight.IDLE_SECONDS", 0.01)
    told = asyncio.Event()
    in_flight = InFlight(LIMIT, own_bytes=0, on_idle=told.set)
    room = room_of(in_flight)
    assert room.take("a", document(1))
    await asyncio.sleep(0.03)
    assert not told.is_set()
    room.release()
    await asyncio.wait_for(told.wait(), 5)


async def test_shared_document_costs_what_a_call_costs_besides_it() -> None:
    """A call for a document that is in flight waits for no more; one that has not even that is not given it."""
    in_flight = InFlight(LIMIT, own_bytes=12 * MIB, wait_seconds=0.05)
    first, second, third = (room_of(in_flight, port=port) for port in range(3))
    assert first.take("task", document(1, 20 * MIB))
    assert second.may_share("task")
    await second.wait(20 * MIB, shared=True)
    assert in_flight.used == 44 * MIB
    assert second.take("task", document(1, 20 * MIB))
    assert second.document is first.document
    await third.wait(20 * MIB, shared=True)
    with pytest.raises(Overloaded):
        await room_of(in_flight, port=4).wait(20 * MIB, shared=True)
