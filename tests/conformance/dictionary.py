"""Compare random writes and reads of any store with a dictionary."""

import asyncio
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.histories import order_of
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import StoredTask, WriteCounts

task_ids = st.sampled_from(["a", "A", "b", "é", "c " * 50])
update_times = st.integers(0, 3)
documents = st.sampled_from([b"{}", b'{"a":1}', b'{"a": 1}', b'{"s":"\xc3\xa9"}', b'{"status":"FAILED"}'])


class StoreModel(RuleBasedStateMachine):
    """Random writes and reads against a dictionary, which shares no code with the store."""

    new_url: Callable[[], str]

    @initialize()
    def open(self) -> None:
        self.url = type(self).new_url()
        self.writer = open_writer(self.url)
        self.store = open_store(self.url)
        self.loop = asyncio.new_event_loop()
        self.model: dict[str, tuple[int, bytes]] = {}

    @rule(batch=st.lists(st.tuples(task_ids, update_times, documents), max_size=5))
    def write(self, batch: list[tuple[str, int, bytes]]) -> None:
        expected = WriteCounts()
        for task_id, update_time, document in batch:
            if task_id not in self.model:
                expected.added += 1
            elif self.model[task_id] == (update_time, document):
                expected.unchanged += 1
            elif order_of(*self.model[task_id]) > order_of(update_time, document):
                expected.older += 1
                continue
            else:
                expected.replaced += 1
            self.model[task_id] = (update_time, document)
        assert self.writer.write([StoredTask(*task) for task in batch]) == expected

    @rule()
    def write_with_a_new_writer(self) -> None:
        self.writer.close()
        self.writer = open_writer(self.url)
        assert not self.writer.created

    @rule(task_id=task_ids)
    def read(self, task_id: str) -> None:
        expected = self.model[task_id][1] if task_id in self.model else None
        assert self.loop.run_until_complete(self.store.get_document(task_id)) == expected

    @invariant()
    def answers(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.check())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())
            self.loop.close()
            self.writer.close()


def check_like_a_dictionary(new_url: Callable[[], str]) -> None:
    """Any sequence of writes and reads gives what a dictionary would; ``new_url`` makes an empty database."""

    class Model(StoreModel):
        pass

    Model.new_url = staticmethod(new_url)
    run_state_machine_as_test(
        Model, settings=settings(max_examples=settings().max_examples // 2, stateful_step_count=15, derandomize=True)
    )
