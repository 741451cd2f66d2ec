"""Watch whether calls can be answered: whether the store answers probes, and whether callers' keys are known."""

import asyncio
from typing import Protocol

import structlog

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.base import TaskStore

CHECK_INTERVAL = 1.0
"""Seconds between two probes of the store."""

CHECK_TIMEOUT = 3.0
"""Seconds after which a probe without an answer has failed."""

_REMIND_AFTER = 30
"""Failed probes from one log line about an outage to the next."""


class CallerKeys(Protocol):
    """The keys by which callers' tokens are verified."""

    @property
    def known(self) -> bool:
        """Whether they have ever been read. Until then no token can be judged; from then on the known ones hold."""
        ...

    @property
    def readable(self) -> bool:
        """Whether the last attempt to read them succeeded."""
        ...


class Report(Protocol):
    """What is called with each change of the state."""

    async def __call__(self, *, store_answers: bool, keys_known: bool) -> None:
        """Take the state: whether the store answers, and whether callers' keys are known."""
        ...


async def watch_readiness(store: TaskStore, report: Report, keys: CallerKeys | None = None) -> None:
    """Call ``report`` when ``store`` starts or stops answering, and when ``keys`` become known; run until cancelled.

    Without ``keys``, callers need none. The first probe is always reported.
    """
    log = structlog.get_logger("taskgate.readiness")
    reported: tuple[bool, bool] | None = None
    failures = 0
    while True:
        problem = await _probe(store)
        answers, known = state = problem is None, keys is None or keys.known
        if state != reported:
            try:
                await report(store_answers=answers, keys_known=known)
            except Exception:  # the next probe reports it
                log.exception("the state of the store could not be reported")
            else:
                if reported is None or answers != reported[0]:
                    failures = 0
                    if answers:
                        log.info("store answers")
                reported = state
        if problem is not None:
            if failures % _REMIND_AFTER == 0:
                log.warning("store does not answer", reason=problem)
            failures += 1
        await asyncio.sleep(CHECK_INTERVAL)


async def _probe(store: TaskStore) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await store.check()
    except (StoreUnavailable, Overloaded) as error:
        return error.private
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT:g} s"
    except Exception:  # noqa: BLE001 - the watch must survive any error, or the server would report a stale state
        structlog.get_logger("taskgate.readiness").exception("store check failed")
        return "the check itself failed; see the log"
    return None
