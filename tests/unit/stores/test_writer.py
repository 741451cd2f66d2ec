"""What the writers of all databases share: closing, and portions of what is stored."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.writing.writer import PORTION_BYTES, Writer, portions


class Nowhere(Writer):
    """Counts how often it is asked to write, and to release what it has."""

    def __init__(self) -> None:
        super().__init__("nowhere://")
        self.writes = self.releases = 0

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        self.writes += 1
        return WriteCounts(added=len(tasks))

    def _release(self) -> None:
        self.releases += 1


def test_writer_releases_once_and_writes_nothing_afterwards() -> None:
    with Nowhere() as writer:
        assert writer.write([]) == WriteCounts()
        assert (writer.writes, writer.releases) == (1, 0)
    assert writer.releases == 1
    writer.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        writer.write([])
    assert (writer.writes, writer.releases) == (1, 1)


@given(sizes=st.lists(st.integers(0, PORTION_BYTES + 1) | st.integers(0, PORTION_BYTES // 3), max_size=20))
def test_portions_are_all_in_order_as_large_as_they_may_be_and_no_larger(sizes: list[int]) -> None:
    """What is larger than a portion is one by itself."""
    found = list(portions(sizes, int))
    assert [size for portion in found for size in portion] == sizes
    assert all(portion and (len(portion) == 1 or sum(portion) <= PORTION_BYTES) for portion in found)
    for portion, following in itertools.pairwise(found):
        assert sum(portion) + following[0] > PORTION_BYTES
