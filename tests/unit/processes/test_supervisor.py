"""Processes are kept running, whatever goes wrong with watching them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from taskgate.processes import supervisor
from taskgate.processes.supervisor import Problem, Supervisor

Faults = dict[str, list[Exception]]
"""By the name of a method: what its next calls raise."""


class Sleeper:
    """A real process, whose watch, start and end fail as told."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._process: asyncio.subprocess.Process | None = None
        self.replacement: bool | None = None

    def _fail(self, name: str) -> None:
        if faults := self._faults.get(name):
            raise faults.pop(0)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, *, replacement: bool = False) -> None:
        self._fail("start")
        self.replacement = replacement
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")

    async def wait(self) -> int:
        self._fail("wait")
        assert self._process is not None
        return await self._process.wait()

    async def hung(self) -> Problem:
        self._fail("hung")
        await asyncio.Event().wait()
        raise AssertionError("it does not hang")

    async def drain(self, seconds: float) -> None:
        del seconds
        self._fail("drain")

    async def stop(self, grace: float) -> None:
        del grace
        self._fail("stop")
        self.kill()
        if self._process is not None:
            await self._process.wait()

    def kill(self) -> None:
        if self._process is not None and self.pid is not None:
            self._process.kill()

    def abandon(self) -> None:
        self._fail("abandon")
        self.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_WATCH_RETRY_DELAY", 0.01)
    monkeypatch.setattr(supervisor, "_OVERLAP", 0.01)


class Kept:
    """Two processes that are kept running."""

    def __init__(self) -> None:
        self.faults: Faults = {}
        self.made: list[Sleeper] = []
        self.supervisor = Supervisor([self._make, self._make], name="sleeper", grace=1)

    def _make(self) -> Sleeper:
        self.made.append(Sleeper(self.faults))
        return self.made[-1]

    async def is_replaced(self, sleeper: Sleeper) -> None:
        """Kill it, and wait for its successor."""
        before = sleeper.pid
        sleeper.kill()
        await until(lambda: sleeper.pid not in {None, before})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a process sends no events
            await asyncio.sleep(0.01)


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    kept = Kept()
    yield kept
    kept.faults.clear()
    await kept.supervisor.stop(0)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("method", ["hung", "wait", "start"])
async def test_process_is_replaced_after_any_failure_of_its_watch_or_start(
    kept: Kept, method: str, error: Exception
) -> None:
    """However often it fails, the log tells of a watch that does so once."""
    with capture_logs() as log:
        if method != "start":
            kept.faults[method] = [error] * 5
        await kept.supervisor.start()
        if method == "start":
            kept.faults[method] = [error] * 2
        else:
            await until(lambda: not kept.faults[method])
        for sleeper in kept.made:
            await kept.is_replaced(sleeper)
        assert not kept.faults[method]
    told = [line for line in log if "cannot be watched" in line["event"]]
    assert len(told) == (0 if method == "start" else 2)
    assert len([line for line in log if "gone; replacing it" in line["event"]]) == 2


@pytest.mark.parametrize("method", ["drain", "stop"])
async def test_restart_goes_on_when_a_predecessor_cannot_go_in_order(kept: Kept, method: str) -> None:
    await kept.supervisor.start()
    kept.faults[method] = [RuntimeError("can't start new thread")]
    with capture_logs() as log:
        kept.supervisor.restart()
        await until(lambda: len([line for line in log if line["event"] == "sleeper restarted"]) == 2)
    await until(lambda: [sleeper.pid is not None for sleeper in kept.made] == [False, False, True, True])
    for sleeper in kept.made[2:]:
        await kept.is_replaced(sleeper)


async def test_a_process_learns_whether_it_comes_after_another(kept: Kept) -> None:
    """At the start, after it was killed, and after a restart on request."""
    await kept.supervisor.start()
    assert [sleeper.replacement for sleeper in kept.made] == [False, False]
    await kept.is_replaced(kept.made[0])
    assert [sleeper.replacement for sleeper in kept.made] == [True, False]
    kept.supervisor.restart()
    await until(lambda: [sleeper.replacement for sleeper in kept.made[2:]] == [True, True])


async def test_restart_that_fails_leaves_what_runs_and_is_told(kept: Kept) -> None:
    await kept.supervisor.start()
    before = [sleeper.pid for sleeper in kept.made]
    kept.faults["start"] = [RuntimeError("can't start new thread")]
    with capture_logs() as log:
        kept.supervisor.restart()
        await until(lambda: [line for line in log if line["event"] == "restart given up"])
    assert [sleeper.pid for sleeper in kept.made[:2]] == before


@pytest.mark.parametrize("method", ["drain", "stop"])
async def test_all_end_though_one_cannot_be_wound_up(kept: Kept, method: str) -> None:
    await kept.supervisor.start()
    kept.faults[method] = [OSError(24, "Too many open files")]
    await kept.supervisor.drain(0)
    await kept.supervisor.stop(1)
    await until(lambda: not any(sleeper.pid for sleeper in kept.made))


async def test_all_are_abandoned_though_one_cannot_be(kept: Kept) -> None:
    await kept.supervisor.start()
    kept.faults["abandon"] = [OSError(24, "Too many open files")]
    kept.supervisor.abandon()
    assert (await kept.made[1].wait()) == -9
