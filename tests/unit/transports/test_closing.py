"""Parts of a server are closed in order, whatever happens."""

import pytest

from taskgate.transports.closing import close_all


class Part:
    """Notes that it was closed, and fails if told to."""

    def __init__(self, name: str, closed: list[str], *, fails: bool = False) -> None:
        self._name, self._closed, self._fails = name, closed, fails

    async def close(self) -> None:
        self._closed.append(self._name)
        if self._fails:
            raise OSError(self._name)


async def test_each_part_is_closed_though_one_fails() -> None:
    """Otherwise an auth store that cannot be closed would leave the store's connections open."""
    closed: list[str] = []
    with pytest.raises(OSError, match="gate"):
        await close_all(Part("gate", closed, fails=True), None, Part("service", closed), Part("store", closed))
    assert closed == ["gate", "service", "store"]
