"""The watch on the store: what it reports, and that nothing ends it."""

import asyncio
from collections.abc import Callable

import pytest

from taskgate.base.errors import StoreUnavailable
from taskgate.service import readiness
from taskgate.transports.health import Health


class ScriptedStore:
    """A store whose checks end as told: None for an answer, an exception to raise, or "hang"."""

    def __init__(self, *outcomes: Exception | str | None) -> None:
        self._outcomes = list(outcomes)

    async def check(self) -> None:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        if outcome == "hang":
            await asyncio.sleep(3600)

    async def get_document(self, task_id: str) -> bytes | None:
        raise AssertionError("the watch reads no documents")

    async def close(self) -> None:
        raise AssertionError("the watch does not own the store")


async def test_state_that_could_not_be_reported_is_reported_again() -> None:
    """Whatever the report raises: nothing else would notice that the watch has ended."""
    reports: list[bool] = []

    async def report(*, store_answers: bool, keys_known: bool) -> None:
        assert keys_known, "callers need none"
        reports.append(store_answers)
        if len(reports) < 3:
            raise RuntimeError("a fault in the report")

    watch = asyncio.create_task(readiness.watch_readiness(ScriptedStore(None), report))
    async with asyncio.timeout(5):
        while len(reports) < 3:  # noqa: ASYNC110 - the watch looks by the clock
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    watch.cancel()
    assert reports == [True] * 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_INTERVAL", 0.001)
    monkeypatch.setattr(readiness, "CHECK_TIMEOUT", 0.02)


async def reports_of(store: ScriptedStore, enough: Callable[[list[bool]], bool]) -> list[bool]:
    """What the watch reports about ``store`` until ``enough`` says so."""
    reports: list[bool] = []
    seen = asyncio.Event()

    async def report(*, store_answers: bool, keys_known: bool) -> None:
        assert keys_known, "callers need none"
        reports.append(store_answers)
        if enough(reports):
            seen.set()

    watch = asyncio.create_task(readiness.watch_readiness(store, report))
    async with asyncio.timeout(5):
        await seen.wait()
    watch.cancel()
    return reports


AWAY = StoreUnavailable("away")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([None], [True]),
        ([AWAY, None], [False, True]),
        ([None, None, AWAY, AWAY, None], [True, False, True]),
        (["hang", None], [False, True]),
        ([RuntimeError("a fault in the check itself"), None], [False, True]),
    ],
    ids=["answers", "comes up late", "goes away and comes back", "hangs", "breaks"],
)
async def test_reports_each_change_once(outcomes: list[Exception | str | None], expected: list[bool]) -> None:
    """Only changes are reported, a check that hangs or breaks counts as away, and the watch goes on."""
    assert expected == await reports_of(ScriptedStore(*outcomes), lambda reports: len(reports) == len(expected))


class Keys:
    """Callers' keys, known or not."""

    known = False
    readable = False


async def test_a_server_is_ready_once_callers_keys_are_known() -> None:
    """Until then the store alone does not make it ready; that keys cannot be read later changes nothing."""
    keys, health = Keys(), Health([])
    watch = asyncio.create_task(readiness.watch_readiness(ScriptedStore(None), health.report, keys))
    async with asyncio.timeout(5):
        while not health.store_answers:  # noqa: ASYNC110 - the watch looks by the clock
            await asyncio.sleep(0.001)
        assert not health.serving
        keys.known = True
        while not health.serving:  # noqa: ASYNC110 - same
            await asyncio.sleep(0.001)
    watch.cancel()
