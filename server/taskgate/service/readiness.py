"""Probe the store as long as the server runs, and report when it starts or stops answering."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.base import TaskStore

CHECK_INTERVAL = 1.0
"""Seconds between two probes of the store."""

CHECK_TIMEOUT = 3.0
"""Seconds after which a probe without an answer has failed."""

_REMIND_AFTER = 30
"""Failed probes from one log line about an outage to the next."""


async def watch_store(store: TaskStore, report: Callable[[bool], Awaitable[None]]) -> None:
    """Call ``report`` with True when the store starts answering and with False when it stops; run until cancelled.

    The first probe is always reported.
    """
    log = structlog.get_logger("taskgate.readiness")
    reported: bool | None = None
    failures = 0
    while True:
        problem = await _probe(store)
        if (problem is None) != reported:
            try:
                await report(problem is None)
            except Exception:  # the next probe reports it
                log.exception("the state of the store could not be reported")
            else:
                reported = problem is None
                failures = 0
                if reported:
                    log.info("store answers")
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
