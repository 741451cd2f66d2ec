"""The benchmark: what it measures is true, what fails is said, and what it started ends with it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from bench import __main__ as command
from bench import loads, masking, stores
from bench.cases import CASES, choose, rest
from bench.loads import Load, LoadResult, h2load_arguments, h2load_result, wrk_result
from bench.measuring import Cell, Row, Sample, Settings
from bench.projection import measure_projection
from bench.report import Report, ratio
from bench.servers import Server, Site
from bench.targets import Target
from bench.tasks import DOCUMENTED_ID, DOCUMENTS, LARGE, SMALL, conductor_rows, task_ids
from bench.workflow_rows import workflow_rows
from bench.workflows import COPIES, copied_rows
from support.running import eventually
from taskgate.base.errors import SettingsError
from taskgate.documents.conductor import project_task_model
from taskgate.stores import open_store
from tools import cassandra_jars, mysql_server, servers
from tools.processes import Failed, ServerProcess

GET = Target("127.0.0.1:8080", "/api/tasks/x", b"{}" * 10)
CALL = Target("127.0.0.1:8080", "/a.B/C", b"1234567", message=b"\x0a\x01x")

SHORT = ("--document", "2KB", "--connections", "32", "--rounds", "2", "--seconds", "0.3")


def started(*arguments: str) -> "subprocess.Popen[str]":
    """``python -m bench``, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=Path(command.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# --- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("h2load")
def test_a_run_measures_cases_beside_their_peers_and_leaves_ratios_and_a_picture(tmp_path: Path) -> None:
    cases = ("rest", "json", "typed", "fastapi-inline", "direct", "echo")
    run = started(*SHORT, *(word for case in cases for word in ("--only", case)), "--output", str(tmp_path))
    printed, told = run.communicate(timeout=100)
    assert run.returncode == 0, told
    report = (tmp_path / "results.md").read_text()
    for pair in (
        "taskgate embedded: REST ÷ FastAPI on uvicorn, read on the loop",
        "taskgate embedded: REST ÷ Envoy direct_response",
        "taskgate embedded: gRPC GetTaskJson ÷ empty grpc.aio method",
        "taskgate embedded: gRPC GetTask ÷ empty grpc.aio method",
    ):
        found = re.search(rf"\| {pair} +\| +([\d.]+) \| +[\d.]+-[\d.]+ \| +([\d.]+) \|", report)
        assert found, report
        assert float(found[1]) > 0
        assert float(found[2]) > 0
    assert " cores · " in report  # the machine is named
    assert "FAILED" not in report
    assert report.replace("![Requests a second](results.svg)\n\n", "") == printed
    assert "Envoy direct_response" in (tmp_path / "results.svg").read_text()
    assert "round 2 of 2: empty grpc.aio method" in told  # progress


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """What a run in this process sets is taken back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.needs("h2load")
def test_a_peer_that_fails_is_said_and_fails_the_run(monkeypatch: pytest.MonkeyPatch, kept_signals: None) -> None:
    def start(site: Site) -> Server:
        process = ServerProcess([sys.executable, "-c", "raise SystemExit('no room')"], site.folder / "peer.log")
        return Server(process, http="127.0.0.1:1")

    monkeypatch.setattr(command, "SERVERS", {**command.SERVERS, "fastapi": start})
    result = CliRunner().invoke(command.main, [*SHORT, "--only", "fastapi-inline", "--only", "direct"])
    assert result.exit_code == 1
    assert (
        "!! Failed: FastAPI on uvicorn, read on the loop (2 KB, 32 in flight): before the first round" in result.stdout
    )
    assert re.search(r"\| FastAPI on uvicorn, read on the loop \[FAILED\] \| +- \|", result.stdout)
    assert re.search(r"\| Envoy direct_response +\| +[\d,]+ \|", result.stdout)


def test_what_is_not_to_be_had_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SERVERS", tmp_path)
    monkeypatch.setattr(servers, "SYSTEM", "")
    monkeypatch.setattr(cassandra_jars, "JARS", tmp_path / "jars")
    monkeypatch.setattr(mysql_server, "_SCRIPT", tmp_path / "mysqld")
    monkeypatch.setattr(mysql_server, "_WHY_NOT", tmp_path / "mysql-is-missing")
    monkeypatch.setattr(mysql_server, "_machines_own", lambda: None)
    monkeypatch.setenv("PATH", "")
    needy = {name: start for name, start in stores.DATABASES.items() if name not in {"SQLite", "PostgreSQL"}}
    monkeypatch.setattr(stores, "DATABASES", needy)
    report = Report("a machine", lambda _: None)
    with stores._servers(Site(tmp_path / "tasks.db", tmp_path), report) as running:
        assert running == {}
    assert set(report.left_out) == set(needy)
    assert all("'make test-all' gets" in reason for reason in report.left_out.values())
    assert "LEFT OUT: MariaDB: there is no mariadbd on this machine" in report.render()
    assert report.failures == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--only", "soap"), 1, "bench: --only soap: there is only rest, json, typed,"),
        (("--connections", "0"), 2, "Invalid value for '--connections': 0 is not in the range"),
        (("--document", "3KB"), 2, "Invalid value for '--document': '3KB' is not one of '2KB', '100KB', '10MB'."),
    ],
)
def test_a_bad_argument_is_one_sentence(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    run = started(*arguments)
    printed, told = run.communicate(timeout=60)
    assert (run.returncode, printed) == (code, "")
    assert sentence in told.splitlines()[-1]


@pytest.mark.needs("h2load")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_all_that_it_started(number: signal.Signals) -> None:
    run = started(*SHORT, "--seconds", "60", "--only", "rest", "--only", "direct")
    family: set[psutil.Process] = set()

    def generates_load() -> bool:
        family.update(psutil.Process(run.pid).children(recursive=True))
        names = [process.name() for process in family if process.is_running()]
        return "h2load" in names and names.count("envoy") > 1

    eventually(generates_load, "load")
    os.kill(run.pid, number)
    run.communicate(timeout=60)
    assert run.returncode != 0
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []


# --- Load generators ------------------------------------------------------------------------------------------------


def h2load_output(done: int, data: int, *, failed: int = 0, errored: int = 0) -> str:
    """What h2load 1.52 prints, without what it says while it runs."""
    total = done + failed + errored
    return (
        f"requests: {total} total, {total + 32} started, {total} done, {done} succeeded, {failed} failed, "
        f"{errored} errored, 0 timeout\n"
        f"traffic: 98.91MB (103710164) total, 4.16MB (4364556) headers (space savings 0.00%), 93.01MB ({data}) data\n"
    )


def test_h2load_gives_rate_and_true_percentiles_from_its_log() -> None:
    log = "".join(f"{1_795_453_150_000_000 + us}\t200\t{us}\n" for us in range(1, 201))
    result = h2load_result(h2load_output(200, 200 * 20), log, GET.data_bytes)
    assert result == LoadResult(requests=200, seconds=pytest.approx(399e-6), p50_ms=0.1, p99_ms=0.198, errors=0)


def test_calls_that_fail_in_any_way_are_errors() -> None:
    """An error of gRPC is HTTP 200 without content, which h2load counts as success; and connections break."""
    log = "1\t200\t10\n" * 10
    result = h2load_result(h2load_output(10, 7 * CALL.data_bytes), log, CALL.data_bytes)
    assert (result.requests, result.errors) == (7, 3)
    refused = h2load_result(h2load_output(1, 20, failed=1, errored=1), "1\t200\t10\n2\t404\t1\n3\t-1\t9\n", 20)
    assert (refused.requests, refused.errors, refused.p99_ms) == (1, 2, 0.01)
    assert h2load_result(h2load_output(1, 20, errored=5), "1\t200\t5\n", 20).errors == 5
    assert wrk_result("result\t100\t2000000\t3\t10\t780 1020\n") == LoadResult(90, 2.0, 0.78, 1.02, 13)


@pytest.mark.parametrize("read", [lambda text: h2load_result(text, "", 20), wrk_result])
def test_output_that_is_not_understood_is_refused_with_its_words(read: object) -> None:
    with pytest.raises(Failed, match="could not connect"):
        read("could not connect")  # type: ignore[operator]


def test_grpc_has_as_many_calls_in_flight_on_fewer_connections() -> None:
    files = {"log": Path("log"), "body": Path("body")}
    assert {"--h1", "--clients=32", "--duration=2500ms"} < set(h2load_arguments(GET, Load(32, 2.5), **files))
    grpc = h2load_arguments(CALL, Load(32, 3), **files)
    assert {"--clients=4", "--max-concurrent-streams=8", "--data=body", "--header=te: trailers"} < set(grpc)


@pytest.mark.needs("wrk")
def test_wrk_asks_for_rows_in_turn_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    files = [f"/{number}" for number in range(1000)]
    for name in files:
        (tmp_path / name[1:]).write_text("{}")
    asked = tmp_path / "log"
    code = (
        "import http.server as h; h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, bind='127.0.0.1', port=0)"
    )
    with ServerProcess([sys.executable, "-u", "-c", code], asked, folder=tmp_path) as process:
        port = eventually(lambda: re.search(r" port (\d+) ", asked.read_text()), "a port")[1]
        target = Target(f"127.0.0.1:{port}", files[0], b"{}", others=tuple(files[1:]))
        first, second = (loads.run(target, Load(1, 1.0)) for _ in range(2))
        assert process.wait(0) is None
    assert first.errors == second.errors == 0
    numbers = [int(number) for number in re.findall(r'"GET /(\d+) ', asked.read_text())]
    assert len(numbers) >= first.requests + second.requests
    steps = {(later - earlier) % 1000 for earlier, later in pairwise(numbers)}
    assert steps <= {0, 1, 2}  # one may have been on the way when time was up


# --- What is asked for, and what is made of it ------------------------------------------------------------------------


def test_cases_are_told_apart_and_divided_by_what_exists() -> None:
    keys = [case.key for case in CASES]
    assert len(set(keys)) == len({case.title for case in CASES}) == len(CASES)
    assert {case.server for case in CASES} == set(command.SERVERS)
    for cases in (CASES, stores.CASES, command.CASES):
        assert {key for case in cases for key in case.over} <= {case.key for case in cases}
    assert choose(keys, ["hop-*", "rest"]) == ["rest", "hop-rest", "hop-grpc"]


def test_every_kind_of_store_that_taskgate_knows_is_measured() -> None:
    """By the words of its own message about URLs, and the names of the rows."""
    with pytest.raises(SettingsError) as refused:
        open_store("nothing://")
    schemes = re.findall(r"([a-z+]+)://", str(refused.value).partition("as in")[2])
    names = {
        "sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "redis": "Redis", "cassandra": "Cassandra",
        "redis+sentinel": "Redis behind Sentinel", "redis+cluster": "Redis Cluster of 3",
    }  # fmt: skip
    assert {names[scheme] for scheme in schemes} <= set(stores.DATABASES)
    assert len(schemes) == len(names)


def test_documents_have_their_sizes_and_all_ids_are_asked_for() -> None:
    assert [len(document.body) // 1000 for document in DOCUMENTS] == [1, 102, 10_002]
    server = Server(process=None, http="127.0.0.1:1")  # type: ignore[arg-type]
    target = stores._all(server, SMALL, "/asyncpg")
    assert target.path == f"/asyncpg/api/tasks/{DOCUMENTED_ID}"
    assert len({target.path, *target.others}) == stores.TASKS
    assert rest(server, LARGE).answer == LARGE.body


def test_conductors_rows_are_answered_with_the_same_tasks() -> None:
    rows = conductor_rows(3)
    assert list(rows) == task_ids(3)
    for task_id, row in rows.items():
        answer = json.loads(project_task_model(row.encode(), 0).document)
        assert answer.pop("executionMetadata")["empty"]
        assert answer["workflowTask"].pop("metadata") == {}
        assert answer == json.loads(SMALL.body) | {"taskId": task_id}


def test_real_workflows_are_the_recorded_rows_by_their_mix_under_ids_of_their_own() -> None:
    rows = list(copied_rows())
    assert len({row.task_id for row in rows}) == len(rows) == COPIES * len(workflow_rows()) == COPIES * 96
    mix, recorded = (Counter(row.status for row in of) for of in (rows, workflow_rows()))
    assert mix == Counter({status: COPIES * count for status, count in recorded.items()})
    for row in rows[:96]:
        assert json.loads(row.stored)["taskId"] == json.loads(row.answer)["taskId"] == row.task_id


def test_the_projection_is_measured_beside_json_loads(tmp_path: Path) -> None:
    report = Report("a machine", lambda _: None)
    measure_projection(Site(tmp_path / "tasks.db", tmp_path), Settings(DOCUMENTS, (32,)), report)
    assert re.search(r"\| json.loads \| +[\d.]+ \| +[\d.]+ \| +[\d,]+ \| +1.00 \|", report.render())
    assert re.search(r"\| making documents of rows .+ \| +≤ 0.9 times \| +[\d.]+ times \|", report.render())


def measured(key: str, *rates: float, errors: int = 0) -> Row:
    """A row with one round for each rate, at 150 µs for each request."""
    (case,) = (case for case in CASES if case.key == key)
    samples = [
        Sample(number, LoadResult(round(rate * 2), 2.0, 1.25, 9.5, errors), 150.0, 0.0)
        for number, rate in enumerate(rates)
    ]
    return Row(case, Cell(SMALL, Load(32, 2.0), len(rates)), samples)


def test_a_ratio_is_of_medians_with_the_extremes_of_single_rounds() -> None:
    assert ratio(measured("rest", 300, 100, 200), measured("proxied-rest", 100, 100, 400)) == (2.0, 0.5, 3.0, 1.0)


def test_aims_are_met_or_missed_and_never_met_by_calls_that_failed() -> None:
    report = Report("a machine", lambda _: None)
    rows = [measured("rest", 300), measured("proxied-rest", 100), measured("fastapi", 160), measured("json", 900)]
    report.add("Requests", [*rows, measured("echo", 100, errors=2)])
    lines = [line for line in report.render().splitlines() if "times |" in line]
    assert [line.split("|")[-2].strip() for line in lines] == ["met", "MISSED", "MISSED"]
    assert report.failures == ["empty grpc.aio method (2 KB, 32 in flight): 2 calls failed"]
    assert report.render().count("[FAILED]") == 2  # its row, and its ratio


def test_masking_is_measured_beside_json_loads() -> None:
    """Each subject does what its name says: a masked read is from the cache, and no read waits."""
    measured = masking.measure(rounds=2)
    assert len(measured) == 7
    assert all(size > 1900 and microseconds > 0 for size, microseconds in measured.values())
