"""Measure the CPU that masking takes: ``python -m bench.masking``. In one process, without a server.

Four subjects, interleaved: a document in which no key can match, one in which some do, the cache of answers, and
``json.loads`` for comparison.
"""

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.resources import files

from taskgate.base.task_id import TaskIdFormat
from taskgate.documents.conversion import Conversion
from taskgate.documents.masking import Masking
from taskgate.service.conversion_cache import ConversionCache, key_of
from taskgate.service.tasks import TaskService
from taskgate.stores.base import StoreState

_ROUNDS = 200
_CALLS = 20

_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
_DOCUMENT = json.dumps(json.loads(files("taskgate").joinpath("demo/task.json").read_bytes())).encode()
_LARGE = json.dumps(json.loads(_DOCUMENT) | {"outputData": {"rows": [json.loads(_DOCUMENT)] * 15}}).encode()


class _Store:
    """Has one document."""

    async def get_document(self, _task_id: str) -> bytes:
        return bytes(bytearray(_DOCUMENT))

    async def check(self) -> None: ...

    def state(self) -> StoreState:
        return StoreState(busy=0, idle=0, waiting=0)

    async def close(self) -> None: ...


def _read(service: TaskService) -> object:
    """Run a read to its end; it never waits."""
    try:
        service.get_task_json(_ID).send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the read waits")


def measure(rounds: int = _ROUNDS) -> Mapping[str, tuple[int, float]]:
    """Return size in bytes and median microseconds of CPU for each subject."""
    none, some = Masking(["password", "*token*", "_secrets"]), Masking(["headers", "*body*", "_secrets"])
    cache = ConversionCache()
    key = key_of(Conversion.DOCUMENT_TO_MASKED_DOCUMENT, _DOCUMENT)
    cache.put(key, some.apply(_DOCUMENT))
    plain, masked = (TaskService(_Store(), TaskIdFormat.UUID, mask=mask) for mask in ((), some.patterns))
    subjects: Mapping[str, tuple[bytes, Callable[[], object]]] = {
        "2 KB, no such key": (_DOCUMENT, lambda: none.apply(_DOCUMENT)),
        "2 KB, some keys hidden": (_DOCUMENT, lambda: some.apply(_DOCUMENT)),
        "30 KB, no such key": (_LARGE, lambda: none.apply(_LARGE)),
        "30 KB, some keys hidden": (_LARGE, lambda: some.apply(_LARGE)),
        "2 KB, json.loads": (_DOCUMENT, lambda: json.loads(_DOCUMENT)),
        "2 KB, a read without --mask": (_DOCUMENT, lambda: _read(plain)),
        "2 KB, a read with --mask, from the cache": (_DOCUMENT, lambda: _read(masked)),
    }
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    gc.disable()
    for _ in range(rounds):
        for name, (_, run) in subjects.items():
            began = time.thread_time_ns()
            for _ in range(_CALLS):
                run()
            taken[name].append((time.thread_time_ns() - began) / _CALLS / 1000)
    gc.enable()
    asyncio.run(_close(plain, masked))
    return {name: (len(subjects[name][0]), statistics.median(times)) for name, times in taken.items()}


async def _close(*services: TaskService) -> None:
    for service in services:
        await service.close()


def main() -> None:
    """Print a line for each subject."""
    for name, (size, microseconds) in measure().items():
        print(f"{name:45} {microseconds:8.1f} µs {microseconds / size * 1024:8.2f} µs/KB")


if __name__ == "__main__":
    main()
