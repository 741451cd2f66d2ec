"""Map keys to the slots of a Redis Cluster, and slots to nodes (Redis Cluster specification)."""

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from typing import Final

from taskgate.stores.network.url_parts import Endpoint

SLOTS: Final = 16384

_KEYS_TRIED: Final = 2000
"""Keys to try in search of one for each node."""


def slot_of(key: bytes) -> int:
    """Return CRC-16/XMODEM of the key, or of its hash tag: a non-empty text from its first ``{`` to the next ``}``."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return crc_hqx(key, 0) % SLOTS


class SlotMap:
    """The owner of each slot, as one node of the cluster sees it."""

    def __init__(self, ranges: Iterable[tuple[int, int, Sequence[Endpoint]]] = ()) -> None:
        """Each of ``ranges`` has the first slot, the last slot, and their nodes: the primary and then its replicas."""
        self.owners: list[Endpoint | None] = [None] * SLOTS
        self.nodes: set[Endpoint] = set()
        """All nodes with slots, including replicas."""
        self._keys: dict[Endpoint, bytes] | None = None
        for first, last, nodes in ranges:
            self.owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
            self.nodes.update(nodes)

    @property
    def primaries(self) -> list[Endpoint]:
        """The nodes that own slots."""
        return list(dict.fromkeys(owner for owner in self.owners if owner is not None))

    def key_of_each(self, prefix: bytes) -> dict[Endpoint, bytes]:
        """Return a key that begins with ``prefix`` for each primary for which a limited search finds one."""
        if self._keys is None:
            self._keys = {}
            for number in range(_KEYS_TRIED):
                key = b"%b%d" % (prefix, number)
                owner = self.owners[slot_of(key)]
                if owner is not None:
                    self._keys.setdefault(owner, key)
        return self._keys
