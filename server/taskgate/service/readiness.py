"""Whether the store answers, watched for as long as the server runs."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.base import TaskStore

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the store."""

CHECK_TIMEOUT = 3.0
"""Seconds after which a store that has not answered counts as away."""

_REMIND_AFTER = 30
"""Looks at a store that stays away between two log lines about it."""


async def watch_store(store: TaskStore, report: Callable[[bool], Awaitable[None]]) -> None:
    """Tell ``report`` True or False when the store starts or stops answering; runs until cancelled.

    The first report comes as soon as the store has answered or failed once.
    """
    log = structlog.get_logger("taskgate.readiness")
    known: bool | None = None
    failures = 0
    while True:
        problem = await _problem(store)
        if (problem is None) != known:
            try:
                await report(problem is None)
            except Exception:  # it is reported at the next look
                log.exception("the state of the store could not be reported")
            else:
                known = problem is None
                failures = 0
                if known:
                    log.info("store answers")
        if problem is not None:
            if failures % _REMIND_AFTER == 0:
                log.warning("store does not answer", reason=problem)
            failures += 1
        await asyncio.sleep(CHECK_INTERVAL)


async def _problem(store: TaskStore) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await store.check()
    except (StoreUnavailable, Overloaded) as error:
        return error.private
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT:g} s"
    except Exception:  # noqa: BLE001 - the watch must outlive any fault, or the server would report its last state for ever
        structlog.get_logger("taskgate.readiness").exception("store check failed")
        return "the check itself failed; see the log"
    return None
