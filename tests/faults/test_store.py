"""The store is removed, locked or damaged, and comes back, while the system runs."""

import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.clients import GrpcClient, RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, task
from support.public_words import assert_public
from support.running import System, eventually, running_system, taskgate

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    database = tmp_path_factory.mktemp("store") / "tasks.db"
    with running_system(database, "--demo", mode=request.param, workers=1) as running:
        yield running


@pytest.fixture
def clients(system: System) -> Iterator[tuple[RestClient, GrpcClient]]:
    rest, direct = RestClient("rest", system.http), GrpcClient("grpc", system.grpc)
    yield rest, direct
    rest.close()
    direct.close()


def health(client: GrpcClient) -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    return status


def assert_unavailable(clients: tuple[RestClient, GrpcClient]) -> None:
    """503 and UNAVAILABLE, retryable, with a message that gives the reason and leaks nothing."""
    rest, direct = clients
    outcome = rest.get_task_json(DOCUMENTED_ID)
    assert outcome.status == 503
    assert_public(outcome.message)
    typed, _ = direct.get_task(DOCUMENTED_ID)
    assert (typed.code, typed.reason) == ("UNAVAILABLE", "ERROR_REASON_STORE_UNAVAILABLE")
    # A malformed ID needs no store.
    assert rest.get_task_json("x").status == 400


def assert_serves(clients: tuple[RestClient, GrpcClient]) -> None:
    rest, direct = clients
    eventually(lambda: rest.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT, "served again")
    eventually(lambda: health(direct) == SERVING, "SERVING again")


def test_removed_store_is_503_and_restored_one_serves(system: System, clients: tuple[RestClient, GrpcClient]) -> None:
    """The file is removed under the running system, and put back: no restart."""
    assert_serves(clients)
    backup = system.database.with_suffix(".backup")
    with closing(sqlite3.connect(system.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        Path(f"{system.database}{suffix}").unlink(missing_ok=True)
    system.database.rename(backup)
    assert_unavailable(clients)
    eventually(lambda: health(clients[1]) == NOT_SERVING, "NOT_SERVING")
    backup.rename(system.database)
    assert_serves(clients)


def test_replaced_store_is_picked_up(system: System, clients: tuple[RestClient, GrpcClient]) -> None:
    """A file moved over it is read from then on."""
    assert_serves(clients)
    copy = system.database.with_suffix(".copy")
    shutil.copy(system.database, copy)
    connection = sqlite3.connect(copy)
    with connection:
        connection.execute("UPDATE task SET json_data = replace(json_data, 'COMPLETED', 'FAILED')")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    original = system.database.with_suffix(".original")
    system.database.rename(original)
    copy.rename(system.database)
    expected = DOCUMENTED_COMPACT.replace(b"COMPLETED", b"FAILED")
    eventually(lambda: clients[0].get_task_json(DOCUMENTED_ID).document == expected, "the other file's document")
    original.replace(system.database)
    assert_serves(clients)


def test_damaged_store_is_503(system: System, clients: tuple[RestClient, GrpcClient]) -> None:
    """A file that is no database is answered like a missing one."""
    assert_serves(clients)
    original = system.database.with_suffix(".original")
    system.database.rename(original)
    system.database.write_bytes(b"not a database at all" * 1000)
    assert_unavailable(clients)
    original.replace(system.database)
    assert_serves(clients)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Replace ``database`` by another, exclusively locked file while the block runs."""
    other, original = database.with_suffix(".locked"), database.with_suffix(".original")
    connection = sqlite3.connect(other, isolation_level=None)
    connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)")
    connection.execute("BEGIN EXCLUSIVE")
    if database.exists():
        database.rename(original)
    other.rename(database)
    yield
    connection.rollback()
    connection.close()
    if original.exists():
        original.replace(database)


def test_locked_store_is_503_and_other_calls_are_answered(
    system: System, clients: tuple[RestClient, GrpcClient]
) -> None:
    """An exclusive lock makes reads fail within seconds; calls that need no store are answered meanwhile."""
    assert_serves(clients)
    with locked(system.database):
        assert_unavailable(clients)
    assert_serves(clients)


def test_open_write_transaction_holds_up_no_read(system: System, clients: tuple[RestClient, GrpcClient]) -> None:
    """While another process is in the middle of a write, every read is answered, from before that write."""
    assert_serves(clients)
    with closing(sqlite3.connect(system.database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE task SET json_data = '{}'")
        for _ in range(50):
            assert clients[0].get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
        assert health(clients[1]) == SERVING
        writer.execute("ROLLBACK")


@pytest.mark.long_in("proxied")
def test_reads_go_on_during_an_import(tmp_path: Path, system: System, clients: tuple[RestClient, GrpcClient]) -> None:
    """Every read during an import of thousands of tasks succeeds; the tasks can be read when it has ended."""
    assert_serves(clients)
    ids = [str(uuid.UUID(int=number)) for number in range(20_000)]
    file = tmp_path / "tasks.ndjson"
    file.write_bytes(b"\n".join(map(task, ids)))
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(taskgate, "import", str(file), "--store", f"sqlite:///{system.database}")
        reads = 0
        while not importing.done():
            outcome = clients[0].get_task_json(DOCUMENTED_ID)
            assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT)
            reads += 1
    assert importing.result().returncode == 0, importing.result().stderr
    assert reads > 50
    assert clients[0].get_task_json(ids[-1]).document == task(ids[-1])


def test_deadline_that_passes_is_504(tmp_path: Path) -> None:
    """A call that the store delays past the limit: 504 and DEADLINE_EXCEEDED, retryable, whichever side notices it."""
    with (
        running_system(tmp_path / "tasks.db", "--demo", "--request-timeout", "0.2", workers=1) as system,
        locked(system.database),
    ):
        rest, direct = RestClient("rest", system.http), GrpcClient("grpc", system.grpc)
        assert rest.get_task_json(DOCUMENTED_ID).status == 504
        outcome, _ = direct.get_task(DOCUMENTED_ID)
        assert (outcome.code, outcome.reason) == ("DEADLINE_EXCEEDED", "ERROR_REASON_DEADLINE_EXCEEDED")
        rest.close()
        direct.close()
