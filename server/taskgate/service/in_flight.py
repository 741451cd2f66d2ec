"""Bytes of large answers in flight: a budget for the process, with shares for one connection and one address.

A slow reader keeps its answer in memory until it has read it, so the answers in flight bound what a process holds. Only
documents over ``COUNTED_BYTES`` are counted; smaller ones never wait. Equal documents of one task share a copy, and are
counted once in each scope.

A call that finds no room drops its document, waits in order of arrival for as many bytes, and reads the document again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, Protocol
from urllib.parse import unquote
from weakref import WeakValueDictionary

from taskgate.base.errors import Overloaded

COUNTED_BYTES: Final = 64 * 1024
"""Larger documents are counted."""

MIN_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""The smallest budget: half of it has room for the largest document."""

WAIT_SECONDS: Final = 5.0
"""How long a call waits for room before it is refused."""

IDLE_SECONDS: Final = 1.0
"""How long nothing is in flight before that counts as idle."""

MAX_WAITING: Final = 1024
"""Calls that may wait for room."""

MAX_WAITING_OF_ADDRESS: Final = 256
MAX_WAITING_OF_CONNECTION: Final = 128
"""The shares of one address and of one connection: others can wait, too."""

_LARGEST_SHARE: Final = MIN_LIMIT_BYTES // 2

Peer = tuple[str, int]
"""Address and port of a caller: together they name its connection."""


class Caller(Protocol):
    """A call, as far as the budget needs to know it."""

    peer: Peer | None
    copies: int
    room: "Room | None"


@dataclass(slots=True, eq=False)
class _Copy:
    """A document that one or more calls are answered with."""

    key: object
    document: bytes
    checked: bool = False
    users: int = 0


class _Scope:
    """The bytes of the process, of an address or of a connection; each copy is counted once."""

    __slots__ = ("__weakref__", "_copies", "limit", "max_waiting", "name", "used", "waiting")

    def __init__(self, name: str, limit: int, max_waiting: int) -> None:
        self.name = name
        self.limit = limit
        self.max_waiting = max_waiting
        self.used = 0
        self.waiting = 0  # calls
        self._copies: Counter[_Copy] = Counter()

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes more fit. An empty scope takes any."""
        return self.used == 0 or self.used + size <= self.limit

    def has(self, copy: _Copy) -> bool:
        """Whether ``copy`` is counted here."""
        return copy in self._copies

    def add(self, copy: _Copy, own: int) -> None:
        """Count ``copy`` for one call more, and the call's ``own`` bytes."""
        if copy not in self._copies:
            self.used += len(copy.document)
        self._copies[copy] += 1
        self.used += own

    def remove(self, copy: _Copy, own: int) -> None:
        """Count ``copy`` for one call less."""
        self._copies[copy] -= 1
        self.used -= own
        if not self._copies[copy]:
            del self._copies[copy]
            self.used -= len(copy.document)


Scopes = tuple[_Scope, ...]
"""What an answer counts in: its connection, its address, the process."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for ``size`` bytes in each of ``scopes``; granted, they are reserved for it."""

    size: int
    scopes: Scopes
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def done(self) -> bool:
        """Whether it has its reservation."""
        return self.granted.done() and not self.granted.cancelled()


class InFlight:
    """The budget of one process; for one event loop."""

    def __init__(
        self,
        limit: int,
        *,
        own_bytes: int,
        wait_seconds: float = WAIT_SECONDS,
        when_idle: Callable[[], None] | None = None,
    ) -> None:
        """At most ``limit`` bytes. Beside its share of a document each call costs ``own_bytes``.

        ``when_idle`` is called when nothing has been in flight for ``IDLE_SECONDS``.
        """
        self._when_idle = when_idle
        self._idle: asyncio.TimerHandle | None = None
        self._own_bytes = own_bytes
        self._wait_seconds = wait_seconds
        self._address_limit = max(limit // 2, _LARGEST_SHARE)
        self._connection_limit = max(limit // 4, _LARGEST_SHARE)
        self._process = _Scope("server", limit, MAX_WAITING)
        self._scopes: WeakValueDictionary[object, _Scope] = WeakValueDictionary()  # rooms keep them
        self._copies: dict[tuple[object, int], list[_Copy]] = {}
        self._found: tuple[bytes, _Copy] | None = None  # of this turn of the loop: many calls may wake for one read
        self._keys: Counter[object] = Counter()
        self._waiters: dict[_Waiter, None] = {}  # in order of arrival
        self._full = False  # whether a waiter waits for the process, and later calls behind it

    @property
    def used(self) -> int:
        """Bytes that are counted now."""
        return self._process.used

    def room(self, caller: Caller) -> "Room":
        """Room for the answer to one call; nothing is counted yet.

        ``caller.copies`` is how many copies of the document the transport makes for this call alone.
        """
        scopes: Scopes = (self._process,)
        if (peer := caller.peer) is not None:
            connection = self._scope("connection", peer, self._connection_limit, MAX_WAITING_OF_CONNECTION)
            address = self._scope("address", _network(peer[0]), self._address_limit, MAX_WAITING_OF_ADDRESS)
            scopes = (connection, address, self._process)
        return Room(self, scopes, self._own_bytes, caller.copies)

    def knows(self, key: object) -> bool:
        """Whether a document known as ``key`` is in flight."""
        return key in self._keys

    def find(self, key: object, document: bytes) -> _Copy:
        """The copy in flight that equals ``document``, or a new one."""
        if self._found is None:
            asyncio.get_running_loop().call_soon(self._forget_found)
        elif self._found[0] is document and self._found[1].key == key:
            return self._found[1]
        copies = self._copies.get((key, len(document)), ())
        copy = next((copy for copy in copies if copy.document == document), None) or _Copy(key, document)
        self._found = document, copy
        return copy

    def has_room(self, copy: _Copy, own: int, scopes: Scopes, *, in_turn: bool) -> bool:
        """Whether a call that costs ``own`` bytes may be answered with ``copy`` now; ``in_turn`` if it has waited."""
        if self._full and not in_turn and not copy.users:
            return False
        size = len(copy.document)
        return all(scope.fits(own if scope.has(copy) else own + size) for scope in scopes)

    def add(self, copy: _Copy, own: int, scopes: Scopes) -> None:
        """Count ``copy`` for one call more, which costs ``own`` bytes besides."""
        if not copy.users:
            self._copies.setdefault((copy.key, len(copy.document)), []).append(copy)
            self._keys[copy.key] += 1
        copy.users += 1
        for scope in scopes:
            scope.add(copy, own)

    def remove(self, copy: _Copy, own: int, scopes: Scopes) -> None:
        """Count ``copy`` for one call less."""
        for scope in scopes:
            scope.remove(copy, own)
        copy.users -= 1
        if not copy.users:
            place = copy.key, len(copy.document)
            self._copies[place].remove(copy)
            if not self._copies[place]:
                del self._copies[place]
            self._keys[copy.key] -= 1
            if not self._keys[copy.key]:
                del self._keys[copy.key]

    def let_in(self) -> None:
        """Reserve room for those who wait, in their order.

        One that has room in its own shares and waits for the process stops those behind it, or it would wait for ever;
        one that waits for a share of its own does not.
        """
        self._full = False
        if not self._process.used and not self._waiters and self._when_idle is not None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._look_whether_idle)
        for waiter in list(self._waiters):
            if waiter.granted.done():  # cancelled, and about to leave
                continue
            if not all(scope.fits(waiter.size) for scope in waiter.scopes[:-1]):
                continue
            if not self._process.fits(waiter.size):
                self._full = True
                return
            self._grant(waiter.size, waiter.scopes)
            self._leave(waiter)
            waiter.granted.set_result(None)

    async def reserve(self, size: int, scopes: Scopes) -> None:
        """Wait until ``size`` bytes are reserved. Raises Overloaded."""
        if not self._full and all(scope.fits(size) for scope in scopes):
            self._grant(size, scopes)
            return
        waiter = self._enqueue(size, scopes)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiter.granted
        except TimeoutError:
            if not waiter.done:
                raise self._refusal(size, scopes) from None
        except asyncio.CancelledError:
            if waiter.done:
                self.give_back(size, scopes)
            raise
        finally:
            if waiter in self._waiters:
                self._leave(waiter)
                if self._full:
                    self.let_in()  # those behind it may fit

    def give_back(self, reserved: int, scopes: Scopes, *, let_in: bool = True) -> None:
        """Undo a reservation of so many bytes."""
        for scope in scopes:
            scope.used -= reserved
        if let_in:
            self.let_in()

    def _grant(self, size: int, scopes: Scopes) -> None:
        for scope in scopes:
            scope.used += size

    def _enqueue(self, size: int, scopes: Scopes) -> _Waiter:
        for scope in scopes:
            if scope.waiting >= scope.max_waiting:
                raise Overloaded(
                    f"Overloaded: {scope.waiting} calls wait for room in this {scope.name}, until large answers to"
                    " others have been read; try again",
                    limit="in_flight_waiting",
                )
        waiter = _Waiter(size, scopes)
        self._waiters[waiter] = None
        for scope in scopes:
            scope.waiting += 1
        if all(scope.fits(size) for scope in scopes[:-1]):  # it waits for the process
            self._full = True
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        del self._waiters[waiter]
        for scope in waiter.scopes:
            scope.waiting -= 1

    def _forget_found(self) -> None:
        self._found = None

    def _look_whether_idle(self) -> None:
        if not self._process.used and self._when_idle is not None:
            self._when_idle()

    def _scope(self, name: str, key: object, limit: int, max_waiting: int) -> _Scope:
        scope = self._scopes.get(key)
        if scope is None:
            scope = self._scopes[key] = _Scope(name, limit, max_waiting)
        return scope

    def _refusal(self, size: int, scopes: Scopes) -> Overloaded:
        full = next((scope for scope in scopes if not scope.fits(size)), self._process)
        return Overloaded(
            f"Overloaded: no room within {self._wait_seconds:g} s for {size} bytes more: this {full.name} has"
            f" {full.used} of at most {full.limit} bytes of large answers in flight",
            limit=f"in_flight_bytes_of_{full.name}",
        )


def _network(address: str) -> object:
    """What counts as one address: that of IPv4; of IPv6 the network of 64 bits, which a caller has for itself."""
    if ":" not in address:
        return address
    try:  # grpcio's have brackets, escaped
        number = IPv6Address(unquote(address).strip("[]").partition("%")[0])
    except ValueError:
        return address
    mapped = number.ipv4_mapped
    return number.packed[:8] if mapped is None else str(mapped)


class Room:
    """The room that one call has for its answer: ``take``; while that says no, ``wait`` and ``take`` again."""

    def __init__(self, budget: InFlight, scopes: Scopes, own_bytes: int, copies: int) -> None:
        self._budget = budget
        self._scopes = scopes
        self._own_bytes = own_bytes
        self._copies = copies
        self._copy: _Copy | None = None
        self._reserved = 0

    @property
    def document(self) -> bytes:
        """The document that room was taken for: one object for all calls that are answered with an equal one."""
        assert self._copy is not None  # noqa: S101 - it has been taken
        return self._copy.document

    @property
    def checked(self) -> bool:
        """Whether some call has found the document good."""
        return self._copy is not None and self._copy.checked

    @checked.setter
    def checked(self, value: bool) -> None:
        assert self._copy is not None  # noqa: S101 - it has been taken
        self._copy.checked = value

    def take(self, key: object, document: bytes) -> bool:
        """Count ``document``, known as ``key``, for this call; False if there is no room."""
        reserved, self._reserved = self._reserved, 0
        self._budget.give_back(reserved, self._scopes, let_in=False)
        before = self._budget.used
        own = self._own(len(document))
        if all(scope.fits(own) for scope in self._scopes):
            copy = self._budget.find(key, document)
            if self._budget.has_room(copy, own, self._scopes, in_turn=reserved > 0):
                self._budget.add(copy, own, self._scopes)
                self._copy = copy
        if self._budget.used - before < reserved:
            self._budget.let_in()
        return self._copy is not None

    def may_share(self, key: object) -> bool:
        """Whether some document known as ``key`` is in flight, so that an equal one would cost little.

        An answer that ``replace`` has put in a document's place has a key of its own: the next call for that document
        needs room for it anew, and shares the answer from when it has converted.
        """
        return self._budget.knows(key)

    async def wait(self, size: int, *, shared: bool = False) -> None:
        """Wait for room for a document of ``size`` bytes; if it is ``shared``, for what the call costs besides it.

        Raises:
            Overloaded: there was none in time, or too many others wait.
        """
        needed = self._own(size) + (0 if shared else size)
        await self._budget.reserve(needed, self._scopes)
        self._reserved = needed

    def replace(self, key: object, document: bytes) -> bytes:
        """Count ``document`` in place of the one that it was made from; returns the shared copy of it."""
        assert self._copy is not None  # noqa: S101 - it has been taken
        copy = self._budget.find(key, document)
        self._budget.add(copy, self._own(len(document)), self._scopes)
        self._drop()
        self._copy = copy
        self._budget.let_in()
        return copy.document

    def release(self) -> None:
        """Give everything back. Safe to call twice."""
        if self._copy is not None:
            self._drop()
            self._budget.let_in()
        if self._reserved:
            self._budget.give_back(self._reserved, self._scopes)
            self._reserved = 0

    def _drop(self) -> None:
        assert self._copy is not None  # noqa: S101 - it has been taken
        self._budget.remove(self._copy, self._own(len(self._copy.document)), self._scopes)
        self._copy = None

    def _own(self, size: int) -> int:
        return self._own_bytes + self._copies * size
