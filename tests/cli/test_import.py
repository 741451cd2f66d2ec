"""``taskgate import`` as a person or a script uses it: its output, its effect on the store, its end."""

import contextlib
import gzip
import json
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clients import RestClient
from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, DOCUMENTED_ID, task
from support.in_process import asked
from support.running import System, eventually, running_system, taskgate
from support.terminal import shown_on_a_terminal, unprintable


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("import") / "tasks.db", workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[RestClient]:
    opened = RestClient("rest", system.http)
    yield opened
    opened.close()


def store_of(system: System) -> tuple[str, str]:
    return ("--store", f"sqlite:///{system.database}")


def test_imported_file_is_served_at_once(system: System, client: RestClient) -> None:
    """While the system runs, an import makes the task appear; exit code 0."""
    done = taskgate("import", "-", *store_of(system), stdin=DOCUMENTED)
    assert done.returncode == 0
    assert "1 added" in done.stderr
    assert done.stdout == ""
    assert client.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
    again = taskgate("import", "-", *store_of(system), stdin=DOCUMENTED)
    assert (again.returncode, "1 unchanged" in again.stderr) == (0, True)


def test_every_shape_of_file_is_taken(tmp_path: Path, system: System, client: RestClient) -> None:
    """A Task, a list, NDJSON, a Workflow, compressed or not, pretty-printed or not."""
    ids = [new_id() for _ in range(9)]
    documents = [task(task_id) for task_id in ids]
    parsed = [json.loads(document) for document in documents]
    shapes: dict[str, Any] = {
        "task.json": json.dumps(parsed[0], indent=2, ensure_ascii=False).encode(),
        "list.json": json.dumps(parsed[1:3], indent=1, ensure_ascii=False).encode(),
        "tasks.ndjson": b"\n".join(documents[3:5]),
        "workflow.json": json.dumps({"workflowId": "w", "tasks": parsed[5:7]}, indent=4, ensure_ascii=False).encode(),
        "tasks.ndjson.gz": gzip.compress(b"\n".join(documents[7:9])),
    }
    for name, content in shapes.items():
        (tmp_path / name).write_bytes(content)
    done = taskgate("import", *(str(tmp_path / name) for name in shapes), *store_of(system))
    assert done.returncode == 0, done.stderr
    assert "9 added" in done.stderr
    for task_id, document in zip(ids, documents, strict=True):
        assert client.get_task_json(task_id).document == document


def test_rejects_are_listed_and_the_rest_is_kept(tmp_path: Path, system: System, client: RestClient) -> None:
    """File, line and reason of each; counted; exit code 1; the good lines are in the store."""
    ids = [new_id(), new_id()]
    lines = [task(ids[0]), b'{"taskId": nonsense}', task("not-a-uuid"), b"[1, 2]", b"", task(ids[1]), b'{"cut": ']
    file = tmp_path / "mixed.ndjson"
    file.write_bytes(b"\n".join(lines))
    missing = tmp_path / "missing.json"
    done = taskgate("import", str(file), str(missing), *store_of(system))
    assert done.returncode == 1
    rejected = [line for line in done.stderr.splitlines() if line.startswith(str(tmp_path))]
    assert [line.removeprefix(f"{file}:").partition(":")[0] for line in rejected[:-1]] == ["2", "3", "4", "4", "7"]
    assert "--task-id-format any" in rejected[1]
    assert rejected[-1].startswith(f"{missing}: cannot be opened: No such file")
    assert "2 added" in done.stderr
    assert "6 rejected" in done.stderr
    assert "Traceback" not in done.stderr
    assert {client.get_task_json(task_id).status for task_id in ids} == {200}


def test_older_update_never_replaces_a_newer_one(tmp_path: Path, system: System, client: RestClient) -> None:
    task_id = new_id()
    newer, older = task(task_id, updateTime=2000, seq=2), task(task_id, updateTime=1000, seq=1)
    for document, count in ((newer, "1 added"), (older, "1 older than what is stored (kept)")):
        (tmp_path / "task.json").write_bytes(document)
        done = asked("import", str(tmp_path / "task.json"), *store_of(system))
        assert done.exit_code == 0
        assert count in done.stderr
    assert client.get_task_json(task_id).document == newer


def test_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Exit code 1 and the reason; no input is read before."""
    done = asked("import", "-", "--store", f"sqlite:///{tmp_path}/no/tasks.db")
    assert done.exit_code == 1
    assert done.stderr.startswith("taskgate: The store ")
    assert done.stderr.count("\n") == 1


def test_progress_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    """On a terminal, a bar with a percentage; in a pipe (all other tests) none."""
    file = tmp_path / "many.ndjson"
    file.write_bytes(b"\n".join(task(str(uuid.UUID(int=number))) for number in range(20_000)))
    shown = shown_on_a_terminal("import", str(file), "--store", f"sqlite:///{tmp_path}/tasks.db")
    assert "%  " in shown
    assert "[#" in shown
    assert "20,000 added" in shown


def test_text_of_others_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    """Names of files and stores, IDs and reasons: progress, rejects, summary and log lines show them escaped."""
    odd = "\x1b]0;title\x07\x9b2J\u202e"
    file = tmp_path / f"{odd}.ndjson"
    many = b"\n".join(task(str(uuid.UUID(int=number))) for number in range(10_000))
    file.write_bytes(many + b"\n" + task(odd) + b'\n{"taskId":5}\n')
    store = ("--store", f"sqlite:///{tmp_path}/{odd}.db")
    shown = shown_on_a_terminal("import", str(file), str(tmp_path / f"no{odd}"), *store, env={f"TASKGATE_{odd}": "x"})
    shown += shown_on_a_terminal("import", str(file), "--store", f"sqlite:///{tmp_path}/no{odd}/tasks.db")
    assert "10,000 added" in shown
    assert shown.count(r"\x1b]0;title\x07\x9b2J\u202e") > 8
    colours = re.compile(r"\x1b\[[0-9;]*m")  # of our own log lines
    assert unprintable(colours.sub("", shown)) == []


def stored(database: Path) -> int:
    """The number of tasks in the file, read without taskgate."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM task").fetchone()[0])


def test_ctrl_c_keeps_whole_batches_and_says_what_is_stored(tmp_path: Path) -> None:
    """Interrupted in the middle of endless input: exit code 130, a true count, and an intact store."""
    store = f"sqlite:///{tmp_path}/tasks.db"
    with subprocess.Popen(
        [sys.executable, "-m", "taskgate", "import", "-", "--store", store],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for number in range(5_000):
            process.stdin.write(task(str(uuid.UUID(int=number))) + b"\n")
        process.stdin.flush()
        eventually(lambda: stored(tmp_path / "tasks.db"), "the first batch")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(20) == 130, said
    assert "interrupted" in said
    added = int(said.partition(": ")[2].partition(" added")[0].replace(",", ""))
    assert added == stored(tmp_path / "tasks.db")
    again = taskgate("import", "-", "--store", store, stdin=task(str(uuid.UUID(int=0))))
    assert "1 unchanged" in again.stderr


@pytest.mark.long
def test_killed_imports_leave_whole_tasks_and_the_next_one_stores_the_rest(tmp_path: Path) -> None:
    """``kill -9`` at random points of its work: each stored task is as it was sent, and none is counted twice."""
    database = tmp_path / "tasks.db"
    command = [sys.executable, "-m", "taskgate", "import", "-", "--store", f"sqlite:///{database}"]
    sent = {str(uuid.UUID(int=number)): task(str(uuid.UUID(int=number))) for number in range(30_000)}
    lines = b"".join(line + b"\n" for line in sent.values())
    counts = [0]
    for _ in range(4):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            share = len(lines) * (len(counts) + 1) // 6  # the store grows from one kill to the next
            process.stdin.write(lines[:share])
            time.sleep(random.uniform(0, 0.2))
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            assert process.wait() == -signal.SIGKILL
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            for task_id, document in connection.execute("SELECT task_id, json_data FROM task"):
                assert json.loads(document) == json.loads(sent[task_id])
        counts.append(stored(database))
    assert counts == sorted(counts)
    assert 0 < counts[-1] < len(sent)
    again = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=lines)
    assert again.returncode == 0
    assert f"{len(sent) - counts[-1]:,} added, 0 replaced, {counts[-1]:,} unchanged" in again.stderr


@pytest.mark.long
def test_full_disk_is_one_sentence_and_what_was_stored_stays(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk's."""
    database = tmp_path / "tasks.db"
    command = [sys.executable, "-m", "taskgate", "import", "-", "--store", f"sqlite:///{database}"]
    lines = b"".join(task(str(uuid.UUID(int=number))) + b"\n" for number in range(30_000))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(command, input=lines, capture_output=True, preexec_fn=limit, check=False, timeout=60)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert "the disk" in said
    assert "Traceback" not in said
    kept = stored(database)
    again = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=lines)
    assert f"{30_000 - kept:,} added, 0 replaced, {kept:,} unchanged" in again.stderr


json_text = st.text(st.characters(codec="utf-8"), max_size=20)
number = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(min_value=10**25, max_value=10**40),
)
json_value = st.recursive(
    st.one_of(st.none(), st.booleans(), number, json_text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(json_text, inner, max_size=4)),
    max_leaves=20,
)
reserved = {"taskId", "updateTime"}


@settings(derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(
        st.dictionaries(json_text.filter(lambda key: key not in reserved), json_value, max_size=6), max_size=8
    ),
    layout=st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 3]), "ensure_ascii": st.booleans()}),
)
def test_arbitrary_documents_come_back_through_rest(
    tmp_path: Path, system: System, client: RestClient, contents: list[dict[str, Any]], layout: dict[str, Any]
) -> None:
    """Import, then GET: the same document without whitespace, with any content and any layout."""
    documents = [content | {"taskId": new_id()} for content in contents]
    file = tmp_path / "tasks.json"
    file.write_bytes(json.dumps(documents, **layout).encode())
    done = asked("import", str(file), *store_of(system))
    assert done.exit_code == 0, done.output
    for document in documents:
        expected = json.dumps(document, separators=(",", ":"), ensure_ascii=layout["ensure_ascii"]).encode()
        assert client.get_task_json(document["taskId"]).document == expected
