"""Bound the bytes of large answers in flight, for the process and for each connection and address.

An answer stays in memory until its client has read it, so slow clients could fill the memory of the process. Documents
up to ``COUNTED_BYTES`` are not counted and never wait. Equal documents of one task share a copy, which is counted once
in each scope.

A call without room drops its document, waits in order of arrival until its bytes are reserved, and reads the document
again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakValueDictionary

from taskgate.base.addresses import network_of
from taskgate.base.errors import Overloaded

COUNTED_BYTES: Final = 64 * 1024
"""Larger documents are counted."""

MIN_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""The smallest budget: half of it holds the largest document."""

WAIT_SECONDS: Final = 5.0
"""How long a call waits for room before it is refused."""

IDLE_SECONDS: Final = 1.0
"""The process is idle when nothing has been in flight for this long."""

MAX_WAITING: Final = 1024
"""Calls that may wait for room in the process."""

MAX_WAITING_OF_ADDRESS: Final = 256
MAX_WAITING_OF_CONNECTION: Final = 128
"""Calls of one address and of one connection that may wait, so that neither fills the queue."""

_MIN_SHARE: Final = MIN_LIMIT_BYTES // 2
"""The smallest share of an address or connection: it holds the largest document."""

Peer = tuple[str, int]
"""Address (an IPv6 address without brackets) and port of a caller, which together identify its connection."""


class Caller(Protocol):
    """The fields of a call that the budget reads and sets."""

    peer: Peer | None
    copies: int
    room: "Room | None"


@dataclass(slots=True, eq=False)
class _Copy:
    """A document, shared by the calls that it answers."""

    key: object
    document: bytes
    checked: bool = False
    users: int = 0


class _Scope:
    """The bytes that count for the process, an address or a connection; each copy counts once."""

    __slots__ = ("__weakref__", "_copies", "limit", "max_waiting", "name", "used", "waiting")

    def __init__(self, name: str, limit: int, max_waiting: int) -> None:
        self.name = name
        self.limit = limit
        self.max_waiting = max_waiting
        self.used = 0
        self.waiting = 0  # calls
        self._copies: Counter[_Copy] = Counter()

    def fits(self, size: int) -> bool:
        """Whether ``size`` more bytes fit. An empty scope takes any size."""
        return self.used == 0 or self.used + size <= self.limit

    def has(self, copy: _Copy) -> bool:
        """Whether ``copy`` is counted here."""
        return copy in self._copies

    def add(self, copy: _Copy, own: int) -> None:
        """Count one more user of ``copy``, and the ``own`` bytes of its call."""
        if copy not in self._copies:
            self.used += len(copy.document)
        self._copies[copy] += 1
        self.used += own

    def remove(self, copy: _Copy, own: int) -> None:
        """Undo one ``add``."""
        self._copies[copy] -= 1
        self.used -= own
        if not self._copies[copy]:
            del self._copies[copy]
            self.used -= len(copy.document)


Scopes = tuple[_Scope, ...]
"""The scopes that an answer counts in: its connection, its address, the process; the process is last."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for ``size`` bytes in each of ``scopes``; they are reserved when ``granted`` is done."""

    size: int
    scopes: Scopes
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def done(self) -> bool:
        """Whether the bytes are reserved."""
        return self.granted.done() and not self.granted.cancelled()


class InFlight:
    """The budget of one process. For one event loop."""

    def __init__(
        self,
        limit: int,
        *,
        own_bytes: int,
        wait_seconds: float = WAIT_SECONDS,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """Allow ``limit`` bytes in flight. Each call counts ``own_bytes`` beside its document.

        ``on_idle`` is called when nothing has been in flight for ``IDLE_SECONDS``.
        """
        self._on_idle = on_idle
        self._idle: asyncio.TimerHandle | None = None
        self._own_bytes = own_bytes
        self._wait_seconds = wait_seconds
        self._address_limit = max(limit // 2, _MIN_SHARE)
        self._connection_limit = max(limit // 4, _MIN_SHARE)
        self._process = _Scope("server", limit, MAX_WAITING)
        self._scopes: WeakValueDictionary[object, _Scope] = WeakValueDictionary()  # alive while a Room has them
        self._copies: dict[tuple[object, int], list[_Copy]] = {}
        # The last result of ``find``, for this turn of the loop: one read may answer many calls.
        self._last_found: tuple[bytes, _Copy] | None = None
        self._keys: Counter[object] = Counter()
        self._waiters: dict[_Waiter, None] = {}  # in order of arrival
        self._full = False  # a waiter lacks room in the process, so later calls queue behind it

    @property
    def used(self) -> int:
        """Bytes in flight or reserved now."""
        return self._process.used

    @property
    def limit(self) -> int:
        """The most bytes that may be in flight."""
        return self._process.limit

    @property
    def waiting(self) -> int:
        """Calls that wait for room."""
        return len(self._waiters)

    def room(self, caller: Caller) -> "Room":
        """Return a Room for the answer to ``caller``; it counts nothing before ``take``.

        ``caller.copies`` is how many copies of the document the transport makes for this call alone.
        """
        scopes: Scopes = (self._process,)
        if (peer := caller.peer) is not None:
            connection = self._scope("connection", peer, self._connection_limit, MAX_WAITING_OF_CONNECTION)
            address = self._scope("address", network_of(peer[0]), self._address_limit, MAX_WAITING_OF_ADDRESS)
            scopes = (connection, address, self._process)
        return Room(self, scopes, self._own_bytes, caller.copies)

    def has_key(self, key: object) -> bool:
        """Whether a document with this ``key`` is in flight."""
        return key in self._keys

    def find(self, key: object, document: bytes) -> _Copy:
        """Return the copy in flight that equals ``document``, or a new one."""
        if self._last_found is None:
            asyncio.get_running_loop().call_soon(self._forget_last_found)
        elif self._last_found[0] is document and self._last_found[1].key == key:
            return self._last_found[1]
        copies = self._copies.get((key, len(document)), ())
        copy = next((copy for copy in copies if copy.document == document), None) or _Copy(key, document)
        self._last_found = document, copy
        return copy

    def has_room(self, copy: _Copy, own: int, scopes: Scopes, *, in_turn: bool) -> bool:
        """Whether ``copy`` and the ``own`` bytes of a call fit now; ``in_turn`` if the call has waited."""
        if self._full and not in_turn and not copy.users:
            return False
        size = len(copy.document)
        return all(scope.fits(own if scope.has(copy) else own + size) for scope in scopes)

    def add(self, copy: _Copy, own: int, scopes: Scopes) -> None:
        """Count one more user of ``copy``, and the ``own`` bytes of its call."""
        if not copy.users:
            self._copies.setdefault((copy.key, len(copy.document)), []).append(copy)
            self._keys[copy.key] += 1
        copy.users += 1
        for scope in scopes:
            scope.add(copy, own)

    def remove(self, copy: _Copy, own: int, scopes: Scopes) -> None:
        """Undo one ``add``."""
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

    def admit_waiters(self) -> None:
        """Reserve room for waiters, in order of arrival.

        A waiter that only lacks room in the process blocks those behind it, or it could starve. A waiter that lacks
        room in its own connection or address is skipped.
        """
        self._full = False
        if not self._process.used and not self._waiters and self._on_idle is not None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._check_idle)
        for waiter in list(self._waiters):
            if waiter.granted.done():  # cancelled, and about to be dequeued
                continue
            if not all(scope.fits(waiter.size) for scope in waiter.scopes[:-1]):
                continue
            if not self._process.fits(waiter.size):
                self._full = True
                return
            self._grant(waiter.size, waiter.scopes)
            self._dequeue(waiter)
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
                self.unreserve(size, scopes)
            raise
        finally:
            if waiter in self._waiters:
                self._dequeue(waiter)
                if self._full:
                    self.admit_waiters()  # it may have blocked those behind it

    def unreserve(self, reserved: int, scopes: Scopes, *, admit_waiters: bool = True) -> None:
        """Undo a reservation of ``reserved`` bytes."""
        for scope in scopes:
            scope.used -= reserved
        if admit_waiters:
            self.admit_waiters()

    def _grant(self, size: int, scopes: Scopes) -> None:
        for scope in scopes:
            scope.used += size

    def _enqueue(self, size: int, scopes: Scopes) -> _Waiter:
        for scope in scopes:
            if scope.waiting >= scope.max_waiting:
                raise Overloaded(
                    f"Overloaded: {scope.waiting} calls of this {scope.name} wait for large answers to be read;"
                    " try again",
                    limit="in_flight_waiting",
                )
        waiter = _Waiter(size, scopes)
        self._waiters[waiter] = None
        for scope in scopes:
            scope.waiting += 1
        if all(scope.fits(size) for scope in scopes[:-1]):  # only the process lacks room
            self._full = True
        return waiter

    def _dequeue(self, waiter: _Waiter) -> None:
        del self._waiters[waiter]
        for scope in waiter.scopes:
            scope.waiting -= 1

    def _forget_last_found(self) -> None:
        self._last_found = None

    def _check_idle(self) -> None:
        if not self._process.used and self._on_idle is not None:
            self._on_idle()

    def _scope(self, name: str, key: object, limit: int, max_waiting: int) -> _Scope:
        scope = self._scopes.get(key)
        if scope is None:
            scope = self._scopes[key] = _Scope(name, limit, max_waiting)
        return scope

    def _refusal(self, size: int, scopes: Scopes) -> Overloaded:
        full = next((scope for scope in scopes if not scope.fits(size)), self._process)
        return Overloaded(
            f"Overloaded: {size} more bytes found no room within {self._wait_seconds:g} s: this {full.name} has"
            f" {full.used} of at most {full.limit} bytes of large answers in flight; try again",
            limit=f"in_flight_bytes_of_{full.name}",
        )


class Room:
    """The room that one call has for its answer. Call ``take``; while it returns False, ``wait`` and ``take`` again."""

    def __init__(self, budget: InFlight, scopes: Scopes, own_bytes: int, copies: int) -> None:
        self._budget = budget
        self._scopes = scopes
        self._own_bytes = own_bytes
        self._copies = copies
        self._copy: _Copy | None = None
        self._reserved = 0

    @property
    def document(self) -> bytes:
        """The document that has room; calls with equal documents share one object."""
        assert self._copy is not None  # noqa: S101 - it has been taken
        return self._copy.document

    @property
    def checked(self) -> bool:
        """Whether a call has validated the shared document."""
        return self._copy is not None and self._copy.checked

    @checked.setter
    def checked(self, value: bool) -> None:
        assert self._copy is not None  # noqa: S101 - it has been taken
        self._copy.checked = value

    def take(self, key: object, document: bytes) -> bool:
        """Count ``document``, identified by ``key``, for this call; return False if it does not fit."""
        reserved, self._reserved = self._reserved, 0
        self._budget.unreserve(reserved, self._scopes, admit_waiters=False)
        before = self._budget.used
        own = self._own(len(document))
        if all(scope.fits(own) for scope in self._scopes):
            copy = self._budget.find(key, document)
            if self._budget.has_room(copy, own, self._scopes, in_turn=reserved > 0):
                self._budget.add(copy, own, self._scopes)
                self._copy = copy
        if self._budget.used - before < reserved:
            self._budget.admit_waiters()
        return self._copy is not None

    def may_share(self, key: object) -> bool:
        """Whether a document with this ``key`` is in flight, so that an equal one would cost little.

        An answer that ``replace`` puts in place of a document has a key of its own. The next call for that document
        needs room for it again, and shares the answer once it has converted the document.
        """
        return self._budget.has_key(key)

    async def wait(self, size: int, *, shared: bool = False) -> None:
        """Wait for room for the call's own bytes and, unless ``shared``, for a document of ``size`` bytes.

        Raises:
            Overloaded: no room was free in time, or too many calls wait.
        """
        needed = self._own(size) + (0 if shared else size)
        await self._budget.reserve(needed, self._scopes)
        self._reserved = needed

    def replace(self, key: object, document: bytes) -> bytes:
        """Count ``document`` in place of the one that it was made from, and return its shared copy."""
        assert self._copy is not None  # noqa: S101 - it has been taken
        copy = self._budget.find(key, document)
        self._budget.add(copy, self._own(len(document)), self._scopes)
        self._drop()
        self._copy = copy
        self._budget.admit_waiters()
        return copy.document

    def release(self) -> None:
        """Return all room to the budget. Idempotent."""
        if self._copy is not None:
            self._drop()
            self._budget.admit_waiters()
        if self._reserved:
            self._budget.unreserve(self._reserved, self._scopes)
            self._reserved = 0

    def _drop(self) -> None:
        assert self._copy is not None  # noqa: S101 - it has been taken
        self._budget.remove(self._copy, self._own(len(self._copy.document)), self._scopes)
        self._copy = None

    def _own(self, size: int) -> int:
        return self._own_bytes + self._copies * size
