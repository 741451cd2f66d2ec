"""What there is at the start is left out of garbage collection."""

import gc

from taskgate.base.gc_freeze import freeze_startup_objects


def test_what_there_is_is_not_walked_again_and_what_comes_later_is() -> None:
    try:
        freeze_startup_objects()
        assert gc.get_freeze_count() > 10_000
        later: list[object] = []
        later.append(later)
        assert any(held is later for held in gc.get_objects())
    finally:
        gc.unfreeze()
