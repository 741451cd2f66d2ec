"""Requirements of every SQL server on the network: connections, locks, commits, and the wording of refusals.

``test_mysql.py`` and ``test_postgresql.py`` take part by subclasses, as with ``suite.py``.
"""

import asyncio
import os
import random
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conformance.rig import Rig
from conformance.suite import ID, OTHER_ID, NetworkStoreSuite, WriterSuite, assert_public, stored
from support import public_words
from support.cut_wire import cut_at_commit, silent_at
from support.database_server import DatabaseServer, free_port
from support.dead_address import NAME, dead_address, resolve
from support.documents import task
from support.running import eventually
from support.slow_line import SlowLine
from taskgate.base.errors import StoreUnavailable
from taskgate.base.settings import Settings
from taskgate.commands.import_tasks import run_import
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import StoredTask, TaskStore, WriteCounts
from taskgate.stores.network.sql_reader import READ_TIMEOUT
from taskgate.stores.network.url_parts import DEFAULT_POOL_SIZE
from taskgate.stores.writing import sql_writer


class SqlServerRig(Rig):
    """A private database on a server that all tests of a module share."""

    server: DatabaseServer

    user: str
    """The user with all privileges, in the URL."""

    commit: bytes
    """A commit in the wire protocol."""

    batch_statements: Sequence[bytes]
    """Pieces of other statements of a batch."""

    lock_timeout: str
    """The target to patch for a writer with a short lock timeout."""

    def __init__(self, folder: Path, server: DatabaseServer) -> None:
        super().__init__(folder)
        self.server = server

    @abstractmethod
    def url_by(self, port: int) -> str:
        """The URL, with another port."""

    @abstractmethod
    def bare_store(self) -> TaskStore:
        """The store without single flight in front of it."""

    @abstractmethod
    def connections(self) -> int:
        """The number of taskgate's connections to the database."""

    @abstractmethod
    def count_reads(self) -> Callable[[], int]:
        """Start counting executions of the statement that reads a task; the returned function gives the count."""

    @property
    def url(self) -> str:
        return self.url_by(self.server.port)

    def away(self) -> AbstractContextManager[None]:
        return self.server.stopped()

    def silent(self) -> AbstractContextManager[None]:
        return self.server.frozen()

    async def all_gone(self) -> None:
        """Wait until taskgate has no connection left."""
        await asyncio.to_thread(eventually, lambda: not self.connections(), "no connection left")


async def refusal(store: TaskStore) -> str:
    """The error that refuses a read."""
    with pytest.raises(StoreUnavailable) as refused:
        await store.get_document(ID)
    public_words.assert_public(refused.value.message)
    return refused.value.private


async def check_reason(rig: SqlServerRig, url: str, reason: str) -> None:
    """A store with this URL names the reason, itself, and nothing secret."""
    store = open_store(url)
    message = await refusal(store)
    assert reason in message
    assert f"{rig.name.partition(':')[0]}://" in message
    assert not [word for word in ("correct", "wrong", "nobody", f"{rig.user}:", "asyncmy") if word in message]
    await store.close()


class SqlServerStoreSuite(NetworkStoreSuite):
    """Every "must" of TaskStore, and more."""

    async def test_lost_connections_are_replaced_without_a_failed_read(self, rig: SqlServerRig) -> None:
        """A server restarted between two reads: the second is answered, though its connection was dead."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        for _ in range(2):
            assert set(await asyncio.gather(*(store.get_document(f"{n}") for n in range(20)))) == {None}
            with rig.away():  # it blocks the event loop: only the read notices the restart
                pass
            assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_connections_are_bounded(self, rig: SqlServerRig) -> None:
        """At most ``pool_size``, with any number of reads: few enough here that a busy machine answers all in time."""
        rig.create()
        await rig.all_gone()
        store = open_store(f"{rig.url}?pool_size=3")
        await asyncio.gather(*(store.get_document(f"{n}") for n in range(100)))
        assert rig.connections() == 3
        await store.close()
        await rig.all_gone()

    async def test_cancelled_reads_leave_no_connection_behind(self, rig: SqlServerRig) -> None:
        """Reads cancelled at any moment, without single flight, neither occupy connections nor delay other reads."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.bare_store()
        for number in range(40):
            reads = [asyncio.create_task(store.get_document(f"{n}")) for n in range(20)]
            await asyncio.sleep(number / 10_000)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        # A busy server takes seconds to make and end hundreds of sessions. This waits behind them, without a limit.
        await asyncio.to_thread(
            eventually, lambda: rig.connections() <= DEFAULT_POOL_SIZE, "no more connections than it may have"
        )
        assert set(await asyncio.gather(*(store.get_document(ID) for n in range(50)))) == {b"{}"}
        await store.close()
        await rig.all_gone()

    async def test_large_answer_over_a_slow_line_is_no_outage(self, rig: SqlServerRig) -> None:
        """An answer that keeps arriving may take longer than a silent server has; the read behind it waits, too."""
        document = "x" * 8_000_000
        rig.create()
        rig.put(ID, document)
        async with SlowLine(rig.server.port, bytes_per_second=3_000_000) as line:
            store = open_store(f"{rig.url_by(line.port)}?pool_size=1")
            assert await store.get_document(OTHER_ID) is None
            began = time.monotonic()
            large = asyncio.create_task(store.get_document(ID))
            await asyncio.sleep(0)
            assert await store.get_document(OTHER_ID) is None
            assert await large == document.encode()
            assert time.monotonic() - began > READ_TIMEOUT
            await store.close()

    async def test_answer_that_stalls_is_given_up(self, rig: SqlServerRig) -> None:
        """The connection stays open in the middle of a large answer, and nothing arrives any more."""
        rig.create()
        rig.put(ID, "x" * 8_000_000)
        async with SlowLine(rig.server.port, bytes_per_second=3_000_000) as line:
            store = open_store(f"{rig.url_by(line.port)}?pool_size=1")
            assert await store.get_document(OTHER_ID) is None
            large = asyncio.create_task(store.get_document(ID))
            await asyncio.sleep(1)  # on purpose: until a part of it has arrived
            line.stall()
            async with asyncio.timeout(2 * READ_TIMEOUT):
                with pytest.raises(StoreUnavailable, match="it does not answer"):
                    await large
            await store.close()

    async def test_many_identical_reads_cost_few(self, rig: SqlServerRig) -> None:
        """A crowd that asks for one task is answered by a handful of statements."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        await store.check()
        executed = rig.count_reads()
        assert set(await asyncio.gather(*(store.get_document(ID) for _ in range(1000)))) == {b"{}"}
        assert 1 <= executed() <= 2
        await store.close()

    async def test_address_that_does_not_answer_is_no_outage(
        self, rig: SqlServerRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name with two addresses, of which the first belongs to a dead host."""
        rig.create()
        rig.put(ID, "{}")
        with dead_address(rig.server.port) as dead:
            resolve(monkeypatch, dead, "127.0.0.1")
            store = open_store(rig.url.replace("127.0.0.1", NAME))
            assert await store.get_document(ID) == b"{}"
            await store.close()

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda rig: rig.url.replace("correct", "wrong"), "it does not take this user and password"),
            (lambda rig: rig.url.replace(f"{rig.user}:", "nobody:"), "it does not take this user and password"),
            (lambda rig: f"{rig.url}x", "there is no such database"),
            (lambda rig: rig.url_by(free_port()), "nothing listens there"),
            (lambda rig: rig.url.replace("127.0.0.1", "no-such-host.invalid"), "its host is not known"),
        ],
        ids=["password", "user", "database", "port", "host"],
    )
    async def test_reason_is_named(self, rig: SqlServerRig, spoil: Callable[[SqlServerRig], str], reason: str) -> None:
        """Each kind of refusal has its own words, which name the store and nothing secret."""
        rig.create()
        await check_reason(rig, spoil(rig), reason)

    async def test_missing_table_is_named(self, rig: SqlServerRig) -> None:
        """An empty database has no tasks to read."""
        store = rig.open_store()
        assert "it has no table 'task'" in await refusal(store)
        rig.create()
        assert await store.get_document(ID) is None
        await store.close()


class SqlServerWriterSuite(WriterSuite):
    """Every "must" of TaskWriter, and more."""

    def test_locked_table_makes_a_write_wait(self, rig: SqlServerRig, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock that stays is named, nothing is written, and the same writer works again afterwards."""
        monkeypatch.setattr(rig.lock_timeout, 1)
        with rig.open_writer() as writer:
            with rig.locked(), pytest.raises(StoreUnavailable, match="locked by another program") as refused:
                writer.write([stored()])
            assert_public(refused.value, rig)
            assert writer.write([stored()]) == WriteCounts(added=1) == writer.total

    def test_lost_server_is_told(self, rig: SqlServerRig) -> None:
        """A server that stops during an import; the counts match the stored tasks."""
        with rig.open_writer() as writer:
            writer.write([stored()])
            with rig.away(), pytest.raises(StoreUnavailable) as refused:
                writer.write([stored(OTHER_ID)])
            assert_public(refused.value, rig)
            assert writer.total == WriteCounts(added=1)
        assert set(rig.stored()) == {ID}

    @pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "is lost"])
    def test_connection_lost_over_a_commit(self, rig: SqlServerRig, arrives: bool) -> None:
        """The connection breaks as a batch is committed: certain results are counted, and uncertain ones are reported.

        The batch is stored or not, as a whole; writing it again leaves each task once.
        """
        batch = [stored(f"{n}") for n in range(10)]
        with (
            cut_at_commit(rig.server.port, rig.commit, nth=2, arrives=arrives) as port,
            open_writer(rig.url_by(port)) as writer,
        ):
            assert writer.write([stored(ID), stored(OTHER_ID)]) == WriteCounts(added=2)
            with pytest.raises(StoreUnavailable, match="the connection was lost when the last batch") as refused:
                writer.write(batch)
            public_words.assert_public(refused.value.message)
            said = "2 tasks before it are dealt with, its 10 may or may not be stored; run the import again"
            assert said in refused.value.private
            assert writer.total == WriteCounts(added=2)
            eventually(lambda: len(rig.stored()) == (12 if arrives else 2), "what became of the batch")
            again = WriteCounts(unchanged=10) if arrives else WriteCounts(added=10)
            assert writer.write(batch) == again
            assert len(rig.stored()) == 12

    def test_import_whose_last_batch_is_not_known(
        self, rig: SqlServerRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One sentence, a true count, exit code 1; on a repeated import, exit code 0."""
        rig.create()
        tasks = tmp_path / "tasks.json"
        tasks.write_bytes(task(ID))
        with cut_at_commit(rig.server.port, rig.commit, arrives=True) as port:
            assert run_import(Settings(store=rig.url_by(port)), [str(tasks)], quiet=True) == 1
        said = capsys.readouterr().err
        assert "0 added" in said
        assert "0 tasks before it are dealt with, its 1 may or may not be stored; run the import again" in said
        eventually(lambda: set(rig.stored()) == {ID}, "the task")
        assert run_import(Settings(store=rig.url), [str(tasks)], quiet=True) == 0
        assert "1 unchanged" in capsys.readouterr().err

    def test_interrupt_of_a_commit_that_hangs(
        self, rig: SqlServerRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Ctrl-C ends it within seconds, and the summary says that the result of the last batch is not known."""
        monkeypatch.setattr(sql_writer, "INTERRUPT_GRACE", 0.3)
        rig.create()
        tasks = tmp_path / "tasks.json"
        tasks.write_bytes(task(ID))

        def interrupt(silent: threading.Event) -> None:
            if silent.wait(30):
                os.kill(os.getpid(), signal.SIGINT)

        with silent_at(rig.server.port, rig.commit, after=b"INSERT INTO") as (port, silent):
            began = time.monotonic()
            interrupter = threading.Thread(target=interrupt, args=(silent,))
            interrupter.start()
            code = run_import(Settings(store=rig.url_by(port)), [str(tasks)], quiet=True)
            seconds = time.monotonic() - began
            interrupter.join()
        assert code == 130
        assert seconds < 20  # the bug took a minute
        said = capsys.readouterr().err
        assert "0 added" in said
        assert "interrupted; The store" in said
        assert "its 1 may or may not be stored; run the import again" in said
        assert "the tasks counted above are stored, and the import can be run again" in said

    def test_server_that_says_nothing_any_more(self, rig: SqlServerRig, monkeypatch: pytest.MonkeyPatch) -> None:
        """The import ends, whichever statement was the last one sent."""
        monkeypatch.setattr(sql_writer, "PREPARE_TIMEOUT", 1)
        with silent_at(rig.server.port, b"LIMIT 0", after=b"") as (port, silent):
            with pytest.raises(StoreUnavailable, match="it does not answer"):
                open_writer(rig.url_by(port))
            assert silent.is_set()
        monkeypatch.undo()
        rig.create()
        for statement in rig.batch_statements:
            with (
                silent_at(rig.server.port, statement, after=b"LIMIT 0") as (port, silent),
                open_writer(rig.url_by(port)) as writer,
            ):
                monkeypatch.setattr(sql_writer, "BATCH_TIMEOUT", 1)
                with pytest.raises(StoreUnavailable, match="it does not answer"):
                    writer.write([stored(ID, 1), stored(ID, 0)])  # the second one is older
                assert silent.is_set(), statement
                monkeypatch.undo()

    def test_two_writers_of_the_same_tasks(self, rig: SqlServerRig) -> None:
        """Concurrent batches for the same rows, in different orders: every count is exact, and none is lost."""
        rig.create()

        def write(seed: int) -> WriteCounts:
            order = random.Random(seed)
            with rig.open_writer() as writer:
                for number in range(20):
                    tasks = [stored(f"{n}", number, f"{seed}".encode()) for n in range(300)]
                    order.shuffle(tasks)
                    writer.write(tasks)
                return writer.total

        with ThreadPoolExecutor(4) as pool:
            totals = list(pool.map(write, range(4)))
        assert sum(total.added for total in totals) == 300 == len(rig.stored())
        assert {total.added + total.replaced + total.unchanged + total.older for total in totals} == {6000}

    def test_odd_documents_and_ids_come_back(self, rig: SqlServerRig) -> None:
        """Quotes, backslashes, percent signs and other characters with a meaning in statements."""
        odd = ["'", '"', "\\", "%s", "%(x)s", "\\'; --", "$1", "😀", "\u2028", "\t", " "]
        tasks = [StoredTask(f"{text}id", 1, text.encode()) for text in odd]
        with rig.open_writer() as writer:
            assert writer.write(tasks) == WriteCounts(added=len(odd))
            assert writer.write(tasks) == WriteCounts(unchanged=len(odd))
        assert rig.stored() == {task.task_id: task.document for task in tasks}
