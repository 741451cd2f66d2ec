"""Answers that conversions have made, by what they were made of.

The same stored value becomes the same answer, whichever task it is. The store is still read for every call, so an
answer is never older than what is stored.
"""

from collections import OrderedDict

from taskgate.documents.conversion import Conversion
from taskgate.documents.document import sha256

CAPACITY_BYTES = 64 * 1024 * 1024
"""What one process keeps: 13,000 tasks of 2.5 KB."""

_LARGEST_SHARE = 8
"""No entry takes more than this part of the capacity: one large answer is not worth hundreds of small ones."""

_WHOLE_KEY_BYTES = 16 * 1024
"""Smaller values are their own keys, for which Python's hash takes half as long as a digest; larger ones would take as
much memory again."""

_ENTRY_BYTES = 400
"""What an entry takes beside its key and its answer: two objects, a tuple, a place in the table and in the order."""

_GENERATION = 16 * 1024
"""Values of which it is known that they were asked for once: 3 MB for two generations."""

Key = tuple[Conversion, bytes]


class ConversionCache:
    """The answers that were asked for last, up to ``capacity`` bytes with their keys. For one event loop.

    Once it is full, others make room only for a value that is asked for again. Tasks that are each asked for once would
    drive out those that are not, and turning over all that memory would cost half as much as converting them.

    A key is the stored value itself or its SHA-256, so no two values can be made that are taken for one.
    """

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._largest = capacity // _LARGEST_SHARE
        self._kept: OrderedDict[Key, bytes] = OrderedDict()  # the one asked for longest ago first
        # Hashes of what was not kept of late: of one generation of calls, and of the one before.
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self.held_bytes = 0
        self.hits = 0
        """Calls that needed no conversion."""

    def __len__(self) -> int:
        return len(self._kept)

    def takes(self, stored: bytes) -> bool:
        """Whether answers for a value of this size are kept at all."""
        return len(stored) <= self._largest

    def get(self, key: Key) -> bytes | None:
        """The answer for ``key``, if it is here."""
        answer = self._kept.get(key)
        if answer is not None:
            self._kept.move_to_end(key)
            self.hits += 1
        return answer

    def keep(self, key: Key, answer: bytes) -> None:
        """Keep ``answer`` if it may stay, and drop as many others as it takes."""
        size = _size(key, answer)
        if size > self._largest or key in self._kept:
            return
        if self.held_bytes + size > self._capacity and not self._seen_again(hash(key)):
            return
        self._kept[key] = answer
        self.held_bytes += size
        while self.held_bytes > self._capacity:
            self.held_bytes -= _size(*self._kept.popitem(last=False))

    def _seen_again(self, value: int) -> bool:
        if value in self._seen or value in self._seen_before:
            return True
        self._seen.add(value)
        if len(self._seen) >= _GENERATION:
            self._seen, self._seen_before = set(), self._seen
        return False


def key_of(conversion: Conversion, stored: bytes) -> Key:
    """The key of ``stored``. Where that is a digest it is made without the interpreter lock, 1.3 ms for 1 MB."""
    return conversion, stored if len(stored) <= _WHOLE_KEY_BYTES else sha256(stored)


def _size(key: Key, answer: bytes) -> int:
    return len(key[1]) + len(answer) + _ENTRY_BYTES
