"""Cache the results of conversions, keyed by the stored value.

Equal stored values give equal answers, whichever task they belong to. Every call still reads the store, so a cached
answer is never stale.
"""

from collections import OrderedDict

from taskgate.documents.conversion import Conversion
from taskgate.documents.document import sha256

CAPACITY_BYTES = 64 * 1024 * 1024
"""The most that one process caches: 13,000 tasks of 2.5 KB."""

_LARGEST_SHARE = 8
"""An entry takes at most one eighth of the capacity: one large answer is not worth hundreds of small ones."""

_WHOLE_KEY_BYTES = 16 * 1024
"""Values up to this size are their own keys: hashing them takes half as long as a digest. Larger values would double
the memory of their entries."""

_ENTRY_BYTES = 400
"""Overhead of an entry beside its key and answer: two objects, a tuple, a table slot and a list node."""

_GENERATION = 16 * 1024
"""Uncached values that one generation remembers by hash; two generations take 3 MB."""

Key = tuple[Conversion, bytes]


class ConversionCache:
    """A least-recently-used cache of up to ``capacity`` bytes, keys included. For one event loop.

    A full cache admits a value only at its second request. Otherwise tasks that are requested once would evict tasks
    that are requested often, and replacing their memory would cost half as much as converting them.

    A key is the stored value itself or its SHA-256, so two different values cannot be made to share a key.
    """

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._largest = capacity // _LARGEST_SHARE
        self._answers: OrderedDict[Key, bytes] = OrderedDict()  # least recently used first
        # Hashes of values that a full cache did not admit, in this generation and in the one before.
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self.held_bytes = 0
        self.hits = 0
        """Calls that needed no conversion."""

    def __len__(self) -> int:
        return len(self._answers)

    def accepts(self, stored: bytes) -> bool:
        """Whether answers for a value of this size are cached at all."""
        return len(stored) <= self._largest

    def get(self, key: Key) -> bytes | None:
        """Return the answer for ``key``; None if it is not cached."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
            self.hits += 1
        return answer

    def put(self, key: Key, answer: bytes) -> None:
        """Cache ``answer`` if it is admitted, and evict the least recently used entries to make room."""
        size = _size(key, answer)
        if size > self._largest or key in self._answers:
            return
        if self.held_bytes + size > self._capacity and not self._seen_again(hash(key)):
            return
        self._answers[key] = answer
        self.held_bytes += size
        while self.held_bytes > self._capacity:
            self.held_bytes -= _size(*self._answers.popitem(last=False))

    def _seen_again(self, value: int) -> bool:
        if value in self._seen or value in self._seen_before:
            return True
        self._seen.add(value)
        if len(self._seen) >= _GENERATION:
            self._seen, self._seen_before = set(), self._seen
        return False


def key_of(conversion: Conversion, stored: bytes) -> Key:
    """Return the key of ``stored``. A digest is computed without the interpreter lock, in 1.3 ms for 1 MB."""
    return conversion, stored if len(stored) <= _WHOLE_KEY_BYTES else sha256(stored)


def _size(key: Key, answer: bytes) -> int:
    return len(key[1]) + len(answer) + _ENTRY_BYTES
