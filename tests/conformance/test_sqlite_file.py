"""Test faults of a SQLite file and the processes around it that other stores do not have."""

import asyncio
import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from support import public_words
from support.lateness import in_time, within
from support.running import eventually
from taskgate.base.errors import StoreUnavailable
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import StoredTask, TaskStore
from taskgate.stores.sqlite import writer as sqlite_writer

ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def make(file: Path, documents: dict[str, str]) -> Path:
    """A database with these documents, made without taskgate's reader."""
    with open_writer(url_of(file)) as writer:
        writer.write([StoredTask(task_id, 1, document.encode()) for task_id, document in documents.items()])
    return file


@contextmanager
def unprivileged() -> Iterator[None]:
    """Act as the user nobody for a while: root has every permission."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="taskgate-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def permit(path: Path, mode: int) -> None:
    path.chmod(mode)


async def refusal(store: TaskStore) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        await store.get_document(ID)
    public_words.assert_public(refused.value.message)
    return refused.value.message


async def test_file_without_read_permission_is_told(public_folder: Path) -> None:
    file = make(public_folder / "tasks.db", {ID: "{}"})
    permit(file, 0)
    with unprivileged():
        store = open_store(url_of(file))
        assert "look at the permissions" in await refusal(store)
        await store.close()


async def test_folder_without_search_permission_is_told(public_folder: Path) -> None:
    file = make(public_folder / "tasks.db", {ID: "{}"})
    permit(public_folder, 0)
    with unprivileged():
        store = open_store(url_of(file))
        assert "it cannot be reached" in await refusal(store)
        await store.close()


async def test_read_only_folder_is_told_unless_the_database_needs_no_log(public_folder: Path) -> None:
    """SQLite writes next to a file in write-ahead mode; a file in another mode is served from read-only media."""
    file = make(public_folder / "tasks.db", {ID: "{}"})
    permit(file, 0o444)
    permit(public_folder, 0o555)
    with unprivileged():
        store = open_store(url_of(file))
        assert "permissions of the file and of its folder" in await refusal(store)
        with pytest.raises(StoreUnavailable, match="permissions of the file and of its folder"):
            open_writer(url_of(file))
        with pytest.raises(StoreUnavailable, match="permissions of the file and of its folder"):
            open_writer(url_of(public_folder / "new.db"))
        await store.close()
    permit(public_folder, 0o755)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    permit(public_folder, 0o555)
    with unprivileged():
        store = open_store(url_of(file))
        assert await store.get_document(ID) == b"{}"
        await store.close()


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "NORMAL"])
async def test_exclusive_lock_is_unavailable_in_time_and_over_when_it_ends(tmp_path: Path, mode: str) -> None:
    """Whether a program locks the file permanently, or only during one transaction without a log."""
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    store = open_store(url_of(file))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        if mode == "NORMAL":
            other.execute("PRAGMA journal_mode = DELETE").fetchone()
        other.execute(f"PRAGMA locking_mode = {mode}").fetchone()
        other.execute("BEGIN EXCLUSIVE")
        async with within(3):
            assert "it is locked by another program" in await refusal(store)
        other.execute("COMMIT")
    assert await store.get_document(ID) == b"{}"
    await store.close()


async def test_removed_file_is_unavailable_at_once_and_a_copy_restores_it(tmp_path: Path) -> None:
    file = make(tmp_path / "tasks.db", {ID: '{"n":1}'})
    backup = tmp_path / "backup.db"
    shutil.copy(file, backup)
    store = open_store(url_of(file))
    for _ in range(3):
        assert await store.get_document(ID) == b'{"n":1}'
        file.unlink()
        async with within(0.5):
            assert "there is no such file" in await refusal(store)
        shutil.copy(backup, file)
    assert await store.get_document(ID) == b'{"n":1}'
    await store.close()


READER = f"""
import asyncio, sys
from taskgate.base.errors import StoreUnavailable
from taskgate.stores import open_store
async def main():
    store = open_store(sys.argv[1])
    while True:
        try:
            document = await store.get_document({ID!r})
            print((document or b"none").decode(), flush=True)
        except StoreUnavailable as error:
            print(error.message, flush=True)
        await asyncio.sleep(0.2)
asyncio.run(main())
"""


def test_file_moved_over_the_old_one_is_picked_up_by_all_processes(tmp_path: Path) -> None:
    """While one process still has the old file, SQLite may call the new one damaged; that passes in seconds."""
    file = make(tmp_path / "tasks.db", {ID: '{"n":1}'})
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, url_of(file)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        assert [next(iter(reader.stdout or [])).strip() for reader in readers] == ['{"n":1}'] * 3
        with open_writer(url_of(file)) as writer:  # it makes the shared index outlive the file
            writer.write([StoredTask(str(number), 1, b"x" * 2000) for number in range(50)])
        many = {str(number): "y" * 2000 for number in range(2000)}
        make(tmp_path / "new.db", {**many, ID: '{"n":2}'}).rename(file)
        deadline = time.monotonic() + 5
        for reader in readers:
            for line in reader.stdout or []:
                assert time.monotonic() < deadline
                assert line.strip() in ('{"n":1}', '{"n":2}') or "unavailable" in line
                if line.strip() == '{"n":2}':
                    break
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def start_import(file: Path, lines: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "taskgate", "import", "-q", "--store", url_of(file), str(lines)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


async def test_reading_goes_on_during_an_import_of_another_process(tmp_path: Path) -> None:
    """No read waits for the import or fails, and every finished batch is seen."""
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    lines = tmp_path / "tasks.ndjson"
    document = b'{"taskId":"%s","s":"' + b"x" * 1800 + b'"}\n'
    with lines.open("wb") as stream:
        for number in range(30_000):
            stream.write(document % str(uuid.UUID(int=number)).encode())
    importing = start_import(file, lines)
    store = open_store(url_of(file))
    slowest = 0.0
    seen = reads = 0
    while importing.poll() is None:
        started = time.perf_counter()
        assert await store.get_document(ID) == b"{}"
        found = await store.get_document(str(uuid.UUID(int=seen)))
        slowest = max(slowest, time.perf_counter() - started)
        reads += 1
        seen += 1000 if found else 0
        await asyncio.sleep(0.002)
    importing.communicate()
    assert importing.returncode == 0
    assert await store.get_document(str(uuid.UUID(int=29_999))) is not None
    assert reads > 20
    assert seen > 1000
    assert slowest < 1
    await store.close()


async def test_closing_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    """Also after reads that were cancelled, refused or failed."""
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    before = set(threading.enumerate())
    store = open_store(url_of(file))
    reads = [asyncio.create_task(store.get_document(ID)) for _ in range(200)]
    await asyncio.sleep(0)
    for read in reads[::2]:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    file.rename(tmp_path / "away.db")
    await refusal(store)
    await store.close()
    gc.collect()
    left = {thread for thread in threading.enumerate() if "read-" in thread.name} - before
    assert left == set()
    open_files = [opened.path for opened in psutil.Process().open_files()]
    assert not [path for path in open_files if str(tmp_path) in path]


def test_database_is_marked_and_has_conductors_columns(tmp_path: Path) -> None:
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (sqlite_writer.APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (sqlite_writer.LAYOUT_VERSION,)
        assert connection.execute("SELECT json_data FROM task WHERE task_id = ?", (ID,)).fetchone() == ("{}",)
        columns = {row[1] for row in connection.execute("PRAGMA table_info(task)")}
        assert columns == {"task_id", "json_data", "created_on", "modified_on", "update_time"}


@pytest.mark.parametrize(
    ("before", "umask", "after"), [(None, 0o000, 0o600), (None, 0o077, 0o600), (0o640, 0o022, 0o640)]
)
def test_database_is_its_owners_alone_unless_it_was_there(
    tmp_path: Path, before: int | None, umask: int, after: int
) -> None:
    """Tasks may hold secrets: 0600, for the log and its index too; an existing file keeps its mode."""
    file = tmp_path / "tasks.db"
    if before is not None:
        file.touch()
        file.chmod(before)
    mask = os.umask(umask)
    try:
        with open_writer(url_of(file)) as writer:
            writer.write([StoredTask(ID, 1, b"{}")])
            assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
                ("tasks.db", "tasks.db-wal", "tasks.db-shm"), after
            )
    finally:
        os.umask(mask)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT NOT NULL, created_on, modified_on)",
        "CREATE TABLE task (task_id TEXT PRIMARY KEY, update_time INTEGER, json_data TEXT)",
        "CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA application_id = 1; CREATE TABLE task (task_id TEXT, update_time, json_data)",
    ],
    ids=["Conductor's", "similar to ours", "something else", "another application's"],
)
def test_database_of_another_program_is_not_written_to(tmp_path: Path, script: str) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script)
    before = file.read_bytes()
    with pytest.raises(StoreUnavailable, match="it belongs to another program"):
        open_writer(url_of(file))
    assert file.read_bytes() == before


def test_layout_of_a_later_taskgate_is_not_written_to(tmp_path: Path) -> None:
    file = make(tmp_path / "tasks.db", {})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreUnavailable, match="it has layout 2, and this taskgate writes layout 1"):
        open_writer(url_of(file))


def test_full_disk_is_told_and_nothing_of_the_batch_stays(tmp_path: Path) -> None:
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    with open_writer(url_of(file)) as writer:
        assert isinstance(writer, sqlite_writer.SqliteWriter)
        writer._connection.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            writer.write([StoredTask(str(number), 1, b"x" * 2000) for number in range(1000)])
        assert writer.total.added == 0
        assert writer.write([StoredTask("small", 1, b"{}")]).added == 1
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM task").fetchone() == (2,)


def test_writer_that_waits_too_long_for_another_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "WRITE_BUSY_TIMEOUT", 0.3)
    file = make(tmp_path / "tasks.db", {})
    with open_writer(url_of(file)) as writer, closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="it is locked by another program"):
            writer.write([StoredTask(ID, 1, b"{}")])
        with pytest.raises(StoreUnavailable, match="it is locked by another program"):
            open_writer(url_of(file))
        other.execute("COMMIT")
        assert writer.write([StoredTask(ID, 1, b"{}")]).added == 1


async def test_file_is_complete_without_its_log_after_an_import(tmp_path: Path) -> None:
    """So that it can be copied or moved alone, even while servers read it."""
    file = make(tmp_path / "tasks.db", {"first": "{}"})
    store = open_store(url_of(file))
    await store.get_document("first")
    make(file, {ID: "{}"})
    shutil.copy(file, tmp_path / "copy.db")
    copy = open_store(url_of(tmp_path / "copy.db"))
    assert await copy.get_document(ID) == b"{}"
    await copy.close()
    await store.close()


async def test_log_is_kept_short_while_there_are_always_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers keep SQLite from restarting the log; then the writer waits for them, and they never for it."""
    monkeypatch.setattr(sqlite_writer, "_LONG_LOG_BYTES", 4_000_000)
    monkeypatch.setattr(sqlite_writer, "_CHECKPOINT_PAGES", 100)
    file = make(tmp_path / "tasks.db", {ID: "{}"})
    store = open_store(url_of(file))
    done = threading.Event()

    async def read() -> None:
        while not done.is_set():
            assert await store.get_document(ID) == b"{}"

    def write() -> int:
        longest = 0
        with open_writer(url_of(file)) as writer:
            for batch in range(40):
                writer.write([StoredTask(f"{batch}-{number}", 1, b"x" * 2000) for number in range(250)])
                longest = max(longest, file.with_name("tasks.db-wal").stat().st_size)
        done.set()
        return longest

    readers = [asyncio.create_task(read()) for _ in range(8)]
    assert await asyncio.to_thread(write) < 8_000_000
    await asyncio.gather(*readers)
    await store.close()


IMPORT = """
import signal, sys
from taskgate.importing import Source, run_import
from taskgate.stores import open_writer
from taskgate.base.task_id import TaskIdFormat
with open_writer(sys.argv[1]) as writer:
    print("begin", flush=True)
    summary = run_import([Source.of(file) for file in sys.argv[2:]], writer, TaskIdFormat.ANY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print(summary.written.added, type(summary.stopped_by).__name__)
"""


def stored_tasks(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count: int = connection.execute("SELECT count(*) FROM task").fetchone()[0]
    return count


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("many") / "tasks.ndjson"
    file.write_bytes(b"".join(b'{"taskId":"%d","s":"%s"}\n' % (number, b"x" * 900) for number in range(60_000)))
    return file


@pytest.mark.parametrize("written", [1, 8_000, 20_000])
def test_ctrl_c_leaves_whole_batches_and_an_exact_count(tmp_path: Path, many: Path, written: int) -> None:
    """Whatever it interrupts: the file has exactly what the summary says."""
    file = tmp_path / "tasks.db"
    sources = [str(many)] * 50  # so long that it has not ended by then, however late the signal is
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORT, url_of(file), *sources], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    eventually(lambda: stored_tasks(file) >= written, "tasks are written")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 0
    added, stopped_by = output.split()
    assert stored_tasks(file) == int(added)
    assert stopped_by == "KeyboardInterrupt"


def test_killed_import_leaves_whole_batches_and_goes_on_when_run_again(tmp_path: Path, many: Path) -> None:
    file = tmp_path / "tasks.db"
    arguments = [sys.executable, "-c", IMPORT, url_of(file), str(many)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    wal = file.with_name("tasks.db-wal")
    eventually(lambda: wal.exists() and wal.stat().st_size > 12_000_000, "batches are written")
    process.kill()
    process.wait()
    kept = stored_tasks(file)
    assert kept > 0
    assert kept % 4000 == 0
    again = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-1] == f"{60_000 - kept} NoneType"
    assert stored_tasks(file) == 60_000


def test_ctrl_c_ends_an_import_that_waits_for_another_writer(tmp_path: Path, many: Path) -> None:
    file = make(tmp_path / "tasks.db", {})
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORT, url_of(file), str(many)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        other.execute("BEGIN IMMEDIATE")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        with in_time(3):
            output, _ = process.communicate()
        other.execute("ROLLBACK")
    assert output.split()[1] == "KeyboardInterrupt"
    assert stored_tasks(file) == int(output.split()[0])


def test_many_writers_may_start_on_nothing_at_once(tmp_path: Path) -> None:
    """Exactly one makes the layout; all of them write."""
    file = tmp_path / "tasks.db"
    program = (
        "import sys\n"
        "from taskgate.stores import open_writer\n"
        "from taskgate.stores.base import StoredTask\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read(1)\n"
        "with open_writer(sys.argv[1]) as writer:\n"
        "    writer.write([StoredTask(sys.argv[2], 1, b'{}')])\n"
        "    print(writer.created)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, url_of(file), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(5)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"x")
        writer.stdin.flush()
    created = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(created) == [b"False"] * 4 + [b"True"]
    assert stored_tasks(file) == 5
