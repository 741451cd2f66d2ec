"""The benchmark reads its load generators right and says what it found: nothing here starts a server."""

import json
import math
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from bench import projection, store_servers
from bench.__main__ import write
from bench.beside import ALONE, READERS, TYPED, Beside
from bench.budgets import budgets, sustained_rate
from bench.cases import CASES, choose, echo, get_task, get_task_json, rest
from bench.commands import Import
from bench.errors import BenchError
from bench.loads import (
    Generators,
    H2load,
    Load,
    LoadResult,
    Wrk,
    builtin_arguments,
    builtin_result,
    h2load_command,
    h2load_result,
    percentile,
    read_h2load_log,
    spread,
    wrk_result,
    wrk_script,
)
from bench.machine import cpu_model
from bench.measuring import Measured, Sample
from bench.memory import Growth, later_by_earlier
from bench.peers.envoy_direct import envoy_direct_configuration
from bench.peers.go_build import protoc_command
from bench.plan import CONNECTIONS, Cell, full_plan, quick_plan
from bench.plot import panels
from bench.processes import CpuTime, ServerProcess, cpu_spent, describe_command
from bench.projection import RowTimes
from bench.ratios import COMPARISONS, ratios
from bench.rendering import number
from bench.report import render_markdown, render_text
from bench.results import Results, as_json
from bench.rows import AmongRows, target_among
from bench.servers import STARTERS, Server, Site
from bench.store_servers import _STARTERS, running_stores
from bench.stores import (
    CASSANDRA_CONDUCTOR,
    CONDUCTORS,
    GRPC_ONE,
    MANY,
    MARIADB,
    MYSQL,
    ONE,
    PEER,
    PGBOUNCER,
    POSTGRESQL,
    REDIS,
    REDIS_CLUSTER,
    REDIS_SENTINEL,
    SQLITE,
    STORE_CASES,
    STORES,
    TASKS,
)
from bench.targets import GrpcCall, HttpGet
from bench.tasks import (
    DOCUMENTS,
    LARGE,
    MIDDLE,
    ROW_BYTES,
    SMALL,
    conductor_rows,
    row,
    row_id,
    task_ids,
    write_rows,
    write_tasks,
)
from bench.workflow_rows import workflow_rows
from bench.workflows import (
    AGAIN,
    BEHIND,
    CONDUCTOR,
    COPIES,
    IMPORTED,
    INSIDE,
    WORKFLOW_CASES,
    copied_rows,
    workflow_cell,
)
from taskgate.base.errors import SettingsError
from taskgate.documents.conductor import project_task_model
from taskgate.stores import open_store
from taskgate.v1.task_service_pb2 import GetTaskResponse
from tools import cassandra_jars, mysql_server, servers
from tools.conductor_jar import java_version

# --- Load generators ------------------------------------------------------------------------------------------------

GET = HttpGet("127.0.0.1:8080", "/api/tasks/x", b"{}" * 10)
CALL = GrpcCall("127.0.0.1:8080", "/a.B/C", b"\x0a\x01x", b"1234567")


def h2load_output(done: int, data: int, *, failed: int = 0, errored: int = 0, finished: str = "3.00s") -> str:
    """What h2load 1.52 prints, without what it says while it runs."""
    total = done + failed + errored
    return (
        "Stopped all clients for thread #0\n\n"
        f"finished in {finished}, 17319.67 req/s, 32.97MB/s\n"
        f"requests: {total} total, {total + 32} started, {total} done, {done} succeeded, {failed} failed, "
        f"{errored} errored, 0 timeout\n"
        f"status codes: {done} 2xx, 0 3xx, {failed} 4xx, 0 5xx\n"
        f"traffic: 98.91MB (103710164) total, 4.16MB (4364556) headers (space savings 0.00%), 93.01MB ({data}) data\n"
        "                     min         max         mean         sd        +/- sd\n"
        "time for request:      385us     13.91ms      1.85ms       961us    89.91%\n"
    )


def test_h2load_gives_rate_and_true_percentiles_from_its_log() -> None:
    log = "".join(f"1795453150894066\t200\t{microseconds}\n" for microseconds in range(1, 201))
    result = h2load_result(h2load_output(200, 200 * 20), read_h2load_log(log), GET.data_bytes, 0.6)
    assert (result.requests, result.seconds, result.errors) == (200, 3.0, 0)
    assert (result.p50_ms, result.p99_ms) == (0.1, 0.198)
    assert result.rate == pytest.approx(200 / 3)
    assert result.generator_cores == pytest.approx(0.2)


def test_h2load_durations_below_a_second_are_read() -> None:
    result = h2load_result(h2load_output(1, 20, finished="500.12ms"), read_h2load_log("1\t200\t5\n"), 20)
    assert result.seconds == pytest.approx(0.50012)


def test_a_call_without_status_200_is_an_error_and_no_latency() -> None:
    calls = read_h2load_log("1\t200\t10\n2\t404\t1\n3\t-1\t99999\n")
    assert calls.latencies_us == (10,)
    assert calls.failed == 2
    assert h2load_result(h2load_output(1, 20, failed=1, errored=1), calls, 20).errors == 2


def test_a_grpc_error_is_found_though_h2load_counts_it_as_success() -> None:
    """A gRPC error is HTTP 200 without content; only the sum of the content shows it."""
    calls = read_h2load_log("1\t200\t10\n" * 10)
    assert h2load_result(h2load_output(10, 10 * CALL.data_bytes), calls, CALL.data_bytes).errors == 0
    result = h2load_result(h2load_output(10, 7 * CALL.data_bytes), calls, CALL.data_bytes)
    assert (result.requests, result.errors) == (7, 3)


def test_connections_that_break_without_a_request_are_errors() -> None:
    assert h2load_result(h2load_output(1, 20, errored=5), read_h2load_log("1\t200\t5\n"), 20).errors == 5


def test_output_that_is_not_understood_is_refused_with_its_words() -> None:
    with pytest.raises(BenchError, match="could not connect"):
        h2load_result("could not connect", read_h2load_log(""), 20)
    with pytest.raises(BenchError, match="unable to connect"):
        wrk_result("unable to connect")


def test_h2load_gets_one_connection_a_call_over_http1_and_a_framed_message_over_grpc() -> None:
    get = h2load_command(GET, Load(32, 2.5), log=Path("log"), what=Path("what"))
    assert {"--h1", "--clients=32", "--duration=2500ms", "--log-file=log", "--input-file=what"} < set(get)
    grpc = h2load_command(CALL, Load(32, 3), log=Path("log"), what=Path("what"))
    assert {"--clients=4", "--max-concurrent-streams=8", "--data=what"} < set(grpc)
    assert grpc[-1] == "http://127.0.0.1:8080/a.B/C"
    assert {"--header=content-type: application/grpc", "--header=te: trailers"} < set(grpc)
    assert "--h1" not in grpc
    assert CALL.framed == b"\x00\x00\x00\x00\x03\x0a\x01x"


def test_large_answers_are_counted_instead_of_timed() -> None:
    command = h2load_command(GET, Load(32, 2.0, requests=96), log=Path("log"), what=Path("what"))
    assert "--requests=96" in command
    assert not any(argument.startswith("--duration") for argument in command)


def test_the_generator_suits_protocol_status_line_and_load() -> None:
    generators = Generators(http=H2load(), grpc=H2load(), http_other=Wrk())
    bare, many = replace(GET, bare_status=True), replace(GET, others=("/api/tasks/y",))
    assert [generators.choose(target).name for target in (GET, CALL)] == ["h2load", "h2load"]
    assert [generators.choose(target).name for target in (bare, many)] == ["wrk", "wrk"]


def test_wrk_is_told_several_paths_in_lua() -> None:
    assert '{"/a", "/b"}' in wrk_script(("/a", "/b"))


@pytest.mark.parametrize(
    ("in_flight", "expected"), [(1, (1, 1)), (7, (1, 7)), (8, (1, 8)), (32, (4, 8)), (20, (2, 10))]
)
def test_calls_are_spread_over_few_connections(in_flight: int, expected: tuple[int, int]) -> None:
    assert spread(in_flight) == expected


WRK = """\
Running 3s test @ http://127.0.0.1:18099/x
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.97ms    1.18ms  20.72ms   92.26%
    Req/Sec    16.36k     3.33k   22.44k    70.00%
  Latency Distribution
     50%  780.00us
     75%    2.26ms
     90%    2.84ms
     99%    1.02s
  48839 requests in 3.00s, 92.97MB read
"""


def test_wrk_gives_rate_and_percentiles_whatever_their_units() -> None:
    padded = WRK.replace("1.02s\n", "1.02s \n")  # as it prints units of one letter
    result = wrk_result(padded + "Requests/sec:  16265.34\nTransfer/sec:     30.96MB\n")
    assert (result.requests, result.seconds, result.errors) == (48839, 3.0, 0)
    assert result.p50_ms == pytest.approx(0.78)
    assert result.p99_ms == pytest.approx(1020)


def test_wrk_counts_refusals_and_broken_connections_as_errors() -> None:
    trouble = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 39\n"
    result = wrk_result(WRK + trouble)
    assert result.errors == 49
    assert result.requests == 48800


def test_the_built_in_generator_is_told_the_message_only_for_grpc() -> None:
    paths = Path("paths")
    assert builtin_arguments(GET, Load(8, 1.5), paths) == ["127.0.0.1:8080", "paths", "8", "1.5", "20"]
    assert builtin_arguments(CALL, Load(8, 1.5), paths) == ["127.0.0.1:8080", "paths", "8", "1.5", "12", "0a0178"]


def test_the_built_in_generator_is_read() -> None:
    result = builtin_result(json.dumps({"latencies_us": [3000, 1000, 2000], "errors": 1, "seconds": 1.5}))
    assert (result.requests, result.errors, result.p50_ms, result.rate) == (3, 1, 2.0, 2.0)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([40, 10, 30, 20], 50) == 20
    assert percentile([40, 10, 30, 20], 99) == 40
    assert percentile([7], 50) == 7
    assert math.isnan(percentile([], 50))


# --- Processes and machine ------------------------------------------------------------------------------------------


def test_cpu_time_is_told_apart_by_kind_of_process() -> None:
    before = CpuTime({"other": 6.0, "Envoy": 2.0}, frozenset({3}))
    after = CpuTime({"other": 8.5, "Envoy": 2.25}, frozenset({3}))
    assert cpu_spent(before, after) == {"other": 2.5, "Envoy": 0.25}


def test_an_envoy_that_was_replaced_spoils_the_measurement() -> None:
    with pytest.raises(BenchError, match="ended while"):
        cpu_spent(CpuTime({"Envoy": 1.0}, frozenset({1})), CpuTime({"Envoy": 0.1}, frozenset({2})))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/usr/bin/python3", "-m", "taskgate", "up", "--workers", "1"], "taskgate up"),
        (["/usr/bin/python3", "-m", "taskgate.processes.worker_main"], "taskgate.processes.worker_main"),
        (["/opt/envoy", "-c", "x.yaml"], "envoy"),
        ([], "?"),
    ],
)
def test_processes_are_named_by_what_they_run(command: list[str], expected: str) -> None:
    assert describe_command(command) == expected


def test_the_cpu_model_comes_from_linux_where_there_is_one() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\n") == "Some CPU @ 3.00GHz"
    assert cpu_model("")


def test_cpu_time_of_a_process_is_all_that_it_used(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"
    log = tmp_path / "log"
    with ServerProcess([sys.executable, "-c", busy], log) as process:
        while not log.read_bytes():
            time.sleep(0.01)
        ((kind, seconds),) = process.cpu_seconds().seconds.items()
        assert kind == "other"
        assert 0.3 <= seconds < 0.6
        process.sleep()
        with process.awake():
            assert sum(process.resident_bytes().values()) > 1 << 20


# --- What is asked for ----------------------------------------------------------------------------------------------


def test_documents_have_their_sizes_and_ids() -> None:
    assert [len(document.body) // 1000 for document in DOCUMENTS] == [1, 102, 10_002]
    for document in DOCUMENTS:
        assert json.loads(document.body)["taskId"] == document.task_id
    assert len({document.task_id for document in DOCUMENTS}) == 3


def test_rows_have_one_size_and_are_tasks(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", 3)
    lines = (tmp_path / "rows").read_bytes().splitlines()
    assert lines == [row(0), row(1), row(2)]
    assert {len(line) for line in lines} == {ROW_BYTES}
    assert [json.loads(line)["taskId"] for line in lines] == [row_id(number) for number in range(3)]


def test_the_store_has_the_documented_task_and_the_larger_ones(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", 3, [MIDDLE])
    lines = (tmp_path / "tasks").read_bytes().splitlines()
    assert lines[2:] == [SMALL.body, MIDDLE.body]
    assert [len(line) for line in lines[:3]] == [len(SMALL.body)] * 3


def test_among_rows_the_same_ids_are_asked_for_in_every_run() -> None:
    server = Server(process=None, http="127.0.0.1:1")  # type: ignore[arg-type]
    target = target_among(server, 50)
    assert target == target_among(server, 50)
    assert sorted(target.paths) == sorted(f"/api/tasks/{row_id(number)}" for number in range(50))
    assert json.loads(target.answer)["taskId"] in target.path


def test_calls_ask_for_their_document_and_know_its_answer() -> None:
    assert rest("a:1", MIDDLE).answer == MIDDLE.body
    assert get_task_json("a:1", MIDDLE).answer.endswith(MIDDLE.body)
    typed = GetTaskResponse.FromString(get_task("a:1", MIDDLE).answer)
    assert len(MessageToDict(typed.task.output_data["response"])["body"]["items"]) > 300
    assert echo("a:1").answer == echo("a:1").message


def test_cases_name_servers_that_exist_and_are_told_apart() -> None:
    assert {case.server for case in CASES} == set(STARTERS)
    assert len({case.key for case in CASES}) == len({case.title for case in CASES}) == len(CASES)


def test_cases_leave_out_what_would_measure_nothing() -> None:
    assert CASE["envoy-typed"].suits(LARGE, 1)
    assert not CASE["envoy-typed"].suits(LARGE, 32)
    assert CASE["envoy-json"].suits(LARGE, 256)
    assert not CASE["echo"].suits(MIDDLE, 1)


def test_slow_calls_are_counted_instead_of_timed() -> None:
    assert CASE["envoy-typed"].load(MIDDLE, Load(256, 1.0)) == Load(256, 1.0, requests=256)
    assert CASE["envoy-typed"].load(MIDDLE, Load(32, 1.0)) == Load(32, 1.0, requests=96)
    assert CASE["envoy-typed"].load(LARGE, Load(1, 1.0)) == Load(1, 1.0, requests=4)
    assert CASE["envoy-typed"].load(SMALL, Load(32, 1.0)) == Load(32, 1.0)
    assert CASE["envoy-typed"].load(MIDDLE, Load(1, 1.0)) == Load(1, 1.0)
    assert CASE["conductor"].load(MIDDLE, Load(32, 1.0)) == Load(32, 1.0)


def test_only_chooses_by_pattern_in_the_order_of_the_table() -> None:
    assert choose(["rest", "grpc-a", "grpc-b", "echo"], ["echo", "grpc-*"]) == ["grpc-a", "grpc-b", "echo"]
    assert choose(["rest", "echo"], []) == ["rest", "echo"]
    with pytest.raises(BenchError, match="there is only rest, echo"):
        choose(["rest", "echo"], ["soap"])


# --- Plans and peers ------------------------------------------------------------------------------------------------


def test_the_full_plan_crosses_documents_and_connections_main_cell_first() -> None:
    cells = full_plan().cells
    assert [cell.main for cell in cells] == [True] + [False] * 8
    assert {(cell.document, cell.load.in_flight) for cell in cells} == {(d, n) for d in DOCUMENTS for n in CONNECTIONS}
    assert cells[0].title == "2 KB, 32 connections"


def test_large_documents_are_counted_with_at_least_one_call_for_each_connection() -> None:
    large = {cell.load.in_flight: cell for cell in full_plan().cells if cell.document is LARGE}
    assert [large[count].load.requests for count in CONNECTIONS] == [None, 96, 256]
    assert large[256].rounds == 1


def test_a_quick_plan_is_a_fraction_of_the_full_one() -> None:
    def seconds(cells: object) -> float:
        return sum(cell.rounds * cell.load.seconds for cell in cells)  # type: ignore[attr-defined]

    assert seconds(quick_plan().cells) < seconds(full_plan().cells) / 4
    assert quick_plan().quick


def test_direct_responses_are_by_path(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"{}")
    (tmp_path / "large").write_bytes(b"{}" * 10)
    paths = {"/a": tmp_path / "small", "/b": tmp_path / "large"}
    configuration = json.loads(envoy_direct_configuration(18080, paths))
    (listener,) = configuration["static_resources"]["listeners"]
    routes = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]
    assert routes["max_direct_response_body_size_bytes"] == 20
    assert [r["match"]["path"] for r in routes["virtual_hosts"][0]["routes"]] == ["/a", "/b"]


def test_every_proto_of_ours_gets_a_go_package() -> None:
    command = protoc_command()
    protos = [argument for argument in command if argument.endswith(".proto")]
    assert "taskgate/v1/task_service.proto" in protos
    (options,) = [argument for argument in command if argument.startswith("--go_opt=")]
    assert options.count("Mtaskgate/v1/") == len(protos)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ('openjdk version "25.0.3" 2026-04-21\nOpenJDK Runtime', 25),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_202"', 8),
        ("no such thing", 0),
    ],
)
def test_the_version_of_java_is_read(printed: str, expected: int) -> None:
    assert java_version(printed) == expected


# --- Results --------------------------------------------------------------------------------------------------------

CASE = {case.key: case for case in CASES}
MAIN = Cell(SMALL, Load(32, 3.0), rounds=3, warm_up=0.5, main=True)
ELSEWHERE = Cell(MIDDLE, Load(256, 1.0), rounds=3, warm_up=0.5)


def measured(
    key: str, *rates: float, errors: int = 0, generator: str = "h2load", cores: float = 0.1, cell: Cell = MAIN
) -> Measured:
    """A row with one round for each rate, at 100 µs outside of Envoy and 50 µs in it for each request."""
    samples = [
        Sample(number, LoadResult(round(rate * 2), 2.0, 1.25, 9.5, errors, cores * 2), {"other": 100.0, "Envoy": 50.0})
        for number, rate in enumerate(rates)
    ]
    return Measured(CASE[key], cell, generator, generator != "built-in", samples)


def results(*rows: Measured) -> Results:
    plan = replace(full_plan(), cells=[MAIN, ELSEWHERE])
    return Results("Some CPU, 2 cores", plan, 1000, "info", measured=list(rows))


def test_a_ratio_is_of_medians_with_the_extremes_of_single_rounds() -> None:
    row_, baseline = measured("envoy-rest", 300, 100, 200), measured("grpcio-rest", 100, 100, 400)
    (ratio,) = ratios([row_, baseline])
    assert (ratio.of_medians, ratio.lowest, ratio.highest, ratio.cpu) == (2.0, 0.5, 3.0, 1.0)


def test_rounds_of_which_one_failed_are_not_compared() -> None:
    row_, baseline = measured("envoy-rest", 300, 100, 200), measured("grpcio-rest", 100, 100, 100)
    del row_.samples[0], baseline.samples[2]
    (ratio,) = ratios([row_, baseline])
    assert (ratio.lowest, ratio.highest) == (1.0, 1.0)


def test_a_ratio_needs_both_its_rows_in_one_cell() -> None:
    row_ = measured("envoy-rest", 100)
    assert ratios([row_]) == []
    assert ratios([row_, measured("grpcio-rest", 100, cell=ELSEWHERE)]) == []
    both = [measured(key, 100, cell=ELSEWHERE) for key in ("envoy-rest", "grpcio-rest")]
    assert ratios(both) == []  # not the main cell
    assert len(ratios(both, ELSEWHERE)) == 1


def test_every_row_that_is_compared_exists() -> None:
    assert len(ratios([measured(key, 1) for key in CASE])) == len(COMPARISONS) == len(set(COMPARISONS))


def verdicts(found: Results) -> dict[str, str]:
    return {budget.what: budget.verdict for budget in budgets(found)}


def test_what_was_not_measured_is_said_not_to_be() -> None:
    assert set(verdicts(results()).values()) == {"not measured"}
    assert len(budgets(results())) == 12


def test_budgets_of_throughput_are_of_the_main_cell_and_the_fastest_baseline() -> None:
    found = results(
        measured("envoy-rest", 300),
        measured("grpcio-rest", 100),
        measured("fastapi", 100),
        measured("fastapi-inline", 160),
        measured("envoy-direct", 600),
        measured("envoy-json", 399),
        measured("echo", 100),
        measured("envoy-rest", 1, cell=ELSEWHERE),
    )
    assert [budget.found for budget in budgets(found)[:4]] == [3.0, 300 / 160, 0.5, 3.99]
    assert list(verdicts(found).values())[:4] == ["met", "MISSED", "met", "MISSED"]


def test_a_budget_is_missed_if_calls_failed() -> None:
    found = results(measured("envoy-json", 900, errors=1), measured("echo", 100))
    assert "MISSED: calls failed" in verdicts(found).values()


def test_budgets_of_single_figures_are_met_or_missed() -> None:
    found = results()
    found.imports = [imported(6_000, seconds=0.5, mebibytes=50), imported(60_000, seconds=3.0, mebibytes=60)]
    found.start_seconds = {"envoy": 2.0, "grpcio": 3.1}
    found.idle = {"taskgate-envoy": {"taskgate up": 50 << 20, "envoy": 150 << 20}}
    found.growth = [Growth("taskgate-envoy", [100, 100, 110, 115]), Growth("go", [1, 2])]
    found.rows = [AmongRows(1_000_000, [0.2], [0.3]), AmongRows(1000, [0.2], [0.3])]
    assert list(verdicts(found).values())[4:10] == ["met", "MISSED", "met", "MISSED", "MISSED", "met"]
    assert "--most-rows" in budgets(found)[4].what


def imported(tasks: int, *, seconds: float, mebibytes: int) -> Import:
    return Import(tasks, file_bytes=1, seconds=seconds, cpu_seconds=seconds, peak_bytes=mebibytes << 20)


def test_the_rate_of_an_import_leaves_out_the_start_of_the_command() -> None:
    small = imported(1_000, seconds=0.5, mebibytes=1)
    assert sustained_rate(small, imported(11_000, seconds=1.0, mebibytes=1)) == 20_000
    assert sustained_rate(replace(small, seconds=1.0), imported(9_000, seconds=0.9, mebibytes=1)) == 10_000


def test_growth_is_of_the_later_half_over_the_earlier() -> None:
    assert later_by_earlier([10, 12, 11, 11]) == 1.0
    assert later_by_earlier([10, 20, 30, 40, 50]) == 3.0
    assert later_by_earlier([10]) is None


# --- Tables ---------------------------------------------------------------------------------------------------------


def table(text: str, title: str) -> list[str]:
    return text.split(f"{title.upper()}\n")[1].split("\n\n", maxsplit=1)[0].splitlines()


def test_the_text_table_is_aligned() -> None:
    text = render_text(results(measured("envoy-rest", 1234.4, 900, 2000), measured("envoy-direct", 17_000, 16_000)))
    head, rule, first, second = table(text, "requests: 2 KB, 32 connections")[:4]
    assert len(head) == len(rule) == len(first) == len(second)
    assert first.split("  ")[0] == "taskgate inside Envoy: REST"
    assert first.split()[4:] == ["1,234", "900-2,000", "1.25", "9.50", "150", "50", "0", "h2load"]


def test_every_markdown_row_has_the_columns_of_its_heading() -> None:
    found = results(measured("envoy-rest", 100), measured("grpcio-rest", 50), measured("envoy-rest", 9, cell=ELSEWHERE))
    text = render_markdown(found, "results.svg")
    for section in text.split("## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1
        assert set(rows[1]) <= set("| -:")
    ratio = "| taskgate inside Envoy: REST ÷ taskgate on grpcio: REST through Envoy | 2.00 | 2.00-2.00 | 1.00 |"
    assert ratio in text.splitlines()
    assert "(results.svg)" in text


def test_only_what_was_measured_has_a_table() -> None:
    text = render_text(results())
    assert text.startswith("Some CPU, 2 cores\n\nBUDGETS\n")
    assert "RATIOS" not in text
    assert "REQUESTS" not in text


def test_cells_besides_the_main_one_have_columns_of_ratios() -> None:
    rows = [measured(key, rate, cell=ELSEWHERE) for key, rate in (("envoy-rest", 30), ("grpcio-rest", 20))]
    head, _, first, *_ = table(render_text(results(*rows)), "ratios of throughput elsewhere")
    assert head.endswith("100 KB at 256")
    assert first.split()[-1] == "1.50"


def test_a_row_with_errors_is_marked_wherever_it_appears() -> None:
    found = results(measured("envoy-rest", 100, errors=2), measured("fastapi", 50))
    assert found.failures == ["taskgate inside Envoy: REST (2 KB, 32 connections): 2 calls failed"]
    marked = [line for line in render_text(found).splitlines() if "[FAILED]" in line]
    assert len(marked) == 4  # the ratio, its note, the row, its note
    assert "!! Failed: taskgate inside Envoy" in render_text(found)


def test_a_row_without_any_right_answer_is_shown_and_compared_with_nothing() -> None:
    row_ = measured("envoy-rest")
    row_.problems.append("round 1: it broke\nand left a log")
    found = results(row_, measured("grpcio-rest", 50))
    assert ratios(found.measured) == []
    text = render_text(found)
    assert "0 and 1 rounds" in text
    assert "it broke" in text
    assert "left a log" not in text
    json.dumps(as_json(found), allow_nan=False)


def test_rows_that_show_the_generator_rather_than_the_server_are_marked() -> None:
    text = render_text(
        results(measured("envoy-rest", 100, generator="built-in"), measured("envoy-direct", 90, cores=0.97))
    )
    assert "taskgate inside Envoy: REST [1]" in text
    assert "Envoy direct_response [2]" in text
    assert "[" not in render_text(results(measured("envoy-rest", 100)))


def test_what_a_reader_must_know_stands_at_the_top() -> None:
    row_ = measured("envoy-rest", 100)
    assert "!!" not in render_text(results(row_))
    row_.samples = [Sample(s.round, s.load, s.cpu_us, other_cores=0.8) for s in row_.samples]
    found = results(row_)
    found.plan = replace(found.plan, quick=True)
    found.missing["go"] = "Go is not on PATH"
    head = render_text(found).split("BUDGETS")[0]
    for words in ("used 0.8 cores", "quick run", "Missing: go: Go is not on PATH"):
        assert words in head


def test_small_reads_beside_large_ones_have_a_row_for_each_server() -> None:
    found = results()
    found.beside = [
        Beside("taskgate inside Envoy", ALONE, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]),
        Beside("taskgate inside Envoy", READERS, [7.0], [8.0], [40.0], ["3 large reads failed, 9 did not"]),
        Beside("taskgate inside Envoy", TYPED),
    ]
    row_ = table(render_text(found), "small reads beside large ones")[2]
    assert row_.split()[3:] == ["2.00", "5.00", "7.00", "8.00!", "-", "-", "40"]
    assert found.failures == [f"taskgate inside Envoy, small reads {READERS}: 3 large reads failed, 9 did not"]


def test_memory_run_by_run_has_a_column_for_each_run() -> None:
    found = results()
    found.growth = [Growth("go", [1 << 20, 2 << 20], [3 << 20, 4 << 20]), Growth("taskgate-envoy", [5 << 20])]
    lines = table(render_text(found), "Most memory while 32 clients read 10 MB, run after run")
    assert lines[2].split()[-4:] == ["1", "2", "3", "4"]
    assert lines[3].split()[-3:] == ["5", "-", "-"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30_000, "30,000"),
        (100, "100"),
        (99.96, "100"),
        (12.34, "12.3"),
        (10, "10"),
        (3.0, "3"),
        (0.84, "0.84"),
        (0, "0"),
    ],
)
def test_numbers_keep_what_matters_of_them(value: float, expected: str) -> None:
    assert number(value) == expected


def test_the_json_has_every_round_and_is_valid() -> None:
    found = results(measured("envoy-rest", 100, 200), measured("grpcio-rest", 50, 50))
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert [case["key"] for case in document["cases"]] == ["envoy-rest", "grpcio-rest"]
    assert [entry["requests_a_second"] for entry in document["cases"][0]["rounds"]] == [100, 200]
    assert document["ratios"][0]["throughput"] == 3.0


# --- taskgate on its stores -------------------------------------------------------------------------------------------

STORES_MAIN = full_plan().store_cells[0]


def on_store(subject: str, asked: str, rate: int, *, errors: int = 0, database_us: float = 0.0) -> Measured:
    """A row with one round."""
    load = LoadResult(rate * 2, 2.0, 1.25, 9.5, errors)
    sample = Sample(0, load, {"other": 10.0, "Envoy": 50.0}, database_us=database_us)
    return Measured(STORE_CASES[subject, asked], STORES_MAIN, "wrk", saturates=True, samples=[sample])


def test_stores_are_measured_with_many_calls_in_flight_and_with_one() -> None:
    assert [(cell.load.in_flight, cell.main) for cell in full_plan().store_cells] == [(32, True), (1, False)]
    (quick,) = quick_plan().store_cells
    assert (quick.load, quick.rounds) == (Load(32, 1.0), 1)
    assert [cell.load.in_flight for cell in full_plan(connections=(256,)).store_cells] == [256]


def test_every_store_is_asked_for_all_ids_and_over_grpc() -> None:
    for subject in (*STORES, *CONDUCTORS):
        assert STORE_CASES[subject, MANY].protocol == "REST"
        assert STORE_CASES[subject, MANY].everywhere
        assert STORE_CASES[subject, GRPC_ONE].protocol == "gRPC"
    titles = [case.title for case in STORE_CASES.values()]
    assert len(titles) == len(set(titles))


def test_every_kind_of_store_that_taskgate_knows_is_measured() -> None:
    """By the words of its own message about URLs, and the names of the rows."""
    with pytest.raises(SettingsError) as refused:
        open_store("nothing://")
    schemes = re.findall(r"([a-z+]+)://", str(refused.value).partition("as in")[2])
    names = {
        "sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "redis": REDIS, "redis+sentinel": REDIS_SENTINEL,
        "redis+cluster": REDIS_CLUSTER, "cassandra": CASSANDRA_CONDUCTOR,
    }  # fmt: skip
    assert {names[scheme] for scheme in schemes} <= {subject for subject, asked in STORE_CASES if asked == MANY}
    assert len(schemes) == len(names)


def test_every_subject_is_started_by_one_starter() -> None:
    started = [subject for subjects in _STARTERS for subject in subjects]
    assert sorted(started) == sorted({subject for subject, _ in STORE_CASES})


def test_all_ids_means_no_two_calls_for_one_task() -> None:
    server = Server(process=None, http="127.0.0.1:1")  # type: ignore[arg-type]
    target = STORE_CASES[PEER, MANY].target(server, SMALL)
    assert isinstance(target, HttpGet)
    assert len(target.paths) == len(set(target.paths)) == TASKS
    assert target.path == f"/bare/api/tasks/{SMALL.task_id}"
    one = STORE_CASES[POSTGRESQL, ONE].target(server, SMALL)
    assert one == HttpGet("127.0.0.1:1", f"/api/tasks/{SMALL.task_id}", SMALL.body)


def test_conductors_rows_are_answered_with_the_same_tasks() -> None:
    rows = conductor_rows(3)
    assert list(rows) == task_ids(3)
    for task_id, row_ in rows.items():
        answer = json.loads(project_task_model(row_.encode(), 0).document)
        assert answer.pop("executionMetadata")["empty"]
        assert answer["workflowTask"].pop("metadata") == {}
        assert answer == json.loads(SMALL.body) | {"taskId": task_id}
    assert len({len(row_) for row_ in rows.values()}) == 1


def test_real_workflows_are_the_recorded_rows_by_their_mix_under_ids_of_their_own() -> None:
    rows = list(copied_rows())
    ids = [row_.task_id for row_ in rows]
    assert len(ids) == len(set(ids)) == COPIES * len(workflow_rows()) == COPIES * 96
    mix, recorded = (Counter(row_.status for row_ in of) for of in (rows, workflow_rows()))
    assert mix == Counter({status: COPIES * count for status, count in recorded.items()})
    for row_ in rows[:96]:
        assert json.loads(row_.stored)["taskId"] == json.loads(row_.answer)["taskId"] == row_.task_id


def test_real_workflows_are_compared_with_conductor_and_with_their_import() -> None:
    found = results()
    found.plan = full_plan()
    cell = workflow_cell(found.plan.workflow_cells[0])
    rates = {CONDUCTOR: 100, INSIDE: 270, BEHIND: 150, IMPORTED: 300}
    found.workflows = [
        replace(measured("echo", rates[case.server], cell=cell), case=case)
        for case in WORKFLOW_CASES
        if AGAIN in case.key
    ]
    lines = table(render_text(found), "Tasks of real workflows, 32 in flight")
    assert [line.split()[-3:] for line in lines[2:6]] == [
        ["1.00", "1.00", "0.33"],
        ["2.70", "1.00", "0.90"],
        ["1.50", "1.00", "0.50"],
        ["3.00", "1.00", "1.00"],
    ]
    assert list(verdicts(found).values())[-1] == "met"


def test_the_projection_is_measured_beside_json_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subject over each row; the report divides by ``json.loads``, and so does the budget."""
    monkeypatch.setattr(projection, "ROUNDS", 1)
    times = projection.measure_projection()
    assert [len(of.rows_us) for of in times] == [96, 96, 96]
    found = results()
    found.projection = [RowTimes(projection.PROJECTION, [1.9] * 10), RowTimes(projection.JSON, [2.0] * 10)]
    lines = table(render_text(found), "CPU for each of the 96 rows of recorded workflows")
    assert [line.split()[-4:] for line in lines[2:4]] == [["1.9", "1.9", "19", "0.95"], ["2.0", "2.0", "20", "1.00"]]
    assert list(verdicts(found).values())[-2] == "MISSED"


def test_a_store_is_divided_by_sqlite_and_by_the_peer_asked_alike() -> None:
    found = results()
    found.plan = full_plan()
    found.stores = [
        on_store(SQLITE, MANY, 1000),
        on_store(POSTGRESQL, MANY, 500, database_us=42.0),
        on_store(PEER, MANY, 250),
        on_store(POSTGRESQL, GRPC_ONE, 400),
    ]
    lines = table(render_text(found), "Stores: 2 KB, 32 calls in flight")
    assert [line.split()[-8:] for line in lines[2:6]] == [
        ["1,000-1,000", "1.25", "9.50", "60", "-", "1.00", "4.00", "1.00"],
        ["500-500", "1.25", "9.50", "60", "42", "0.50", "2.00", "1.00"],
        ["250-250", "1.25", "9.50", "60", "-", "0.25", "1.00", "1.00"],
        ["400-400", "1.25", "9.50", "60", "-", "-", "-", "-"],
    ]
    assert "1 CALL IN FLIGHT" not in render_text(found)
    assert as_json(found)["stores"][0]["title"] == f"SQLite: {MANY}"


def test_a_store_whose_calls_failed_is_no_measurement() -> None:
    found = results()
    found.plan = full_plan()
    broken = on_store(REDIS, MANY, 10)
    broken.samples.clear()
    broken.problems.append("round 1: it broke")
    found.stores = [on_store(SQLITE, MANY, 1000, errors=3), broken]
    assert found.failures == [
        f"SQLite: {MANY} (2 KB, 32 connections): 3 calls failed",
        f"Redis: {MANY} (2 KB, 32 connections): round 1: it broke",
    ]
    lines = table(render_text(found), "Stores: 2 KB, 32 calls in flight")
    assert "[FAILED]" in lines[2]
    assert lines[3].split()[-10:] == ["[FAILED]", *["-"] * 9]


def test_the_stores_in_short_are_markdown_at_the_end_of_the_text() -> None:
    found = results()
    found.plan = full_plan()
    alone = replace(on_store(REDIS, MANY, 100), cell=found.plan.store_cells[1])
    found.stores = [on_store(REDIS, MANY, 1000), alone, on_store(PEER, MANY, 250), on_store(REDIS, GRPC_ONE, 400)]
    found.missing["Cassandra, layout conductor"] = "there is no Cassandra in .venv"
    *_, head, rule, redis, cassandra, peer, blank, note = render_text(found).splitlines()
    assert head == "| store | REST calls/s at 32 | p50 / p99 ms at 32 | p50 / p99 ms at 1 | CPU µs a call |"
    assert rule.count("---") == 5
    assert redis == "| Redis | 1,000 | 1.25 / 9.50 | 1.25 / 9.50 | 60 |"
    assert cassandra == "| Cassandra, layout conductor: there is no Cassandra in .venv | - | - | - | - |"
    assert peer == "| FastAPI + asyncpg | 250 | 1.25 / 9.50 | - | 60 |"
    assert not blank
    assert note.startswith("- Tasks of 2 KB")
    assert head in render_markdown(found)


def test_a_store_that_is_not_to_be_had_is_a_row_and_no_failure() -> None:
    found = results()
    found.plan = full_plan()
    found.stores = [on_store(SQLITE, MANY, 1000)]
    found.missing[MARIADB] = "there is no mariadbd on this machine"
    lines = table(render_text(found), "Stores: 2 KB, 32 calls in flight")
    assert lines[3].startswith("MariaDB: there is no mariadbd on this machine ")
    assert lines[3].split()[-9:] == ["-"] * 9
    assert found.failures == []


def test_a_store_whose_program_is_not_there_is_missing_with_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "SERVERS", tmp_path)
    monkeypatch.setattr(servers, "SYSTEM", "")
    monkeypatch.setattr(cassandra_jars, "JARS", tmp_path / "jars")
    monkeypatch.setattr(mysql_server, "_SCRIPT", tmp_path / "mysqld")
    monkeypatch.setattr(mysql_server, "_WHY_NOT", tmp_path / "mysql-is-missing")
    monkeypatch.setattr(mysql_server, "_machines_own", lambda: None)
    monkeypatch.setenv("PATH", "")
    needy = {key: start for key, start in _STARTERS.items() if not {SQLITE, POSTGRESQL, PGBOUNCER} & set(key)}
    monkeypatch.setattr(store_servers, "_STARTERS", needy)
    missing: dict[str, str] = {}
    site = Site(tmp_path / "tasks.db", tmp_path)
    with running_stores(site, lambda _: None, missing.__setitem__, pytest.fail) as started:
        assert started == {}
    assert set(missing) == {subject for key in needy for subject in key}
    assert all("'make test-all' gets" in reason for reason in missing.values())


# --- The picture ----------------------------------------------------------------------------------------------------


def test_the_picture_has_a_panel_for_each_size_and_protocol() -> None:
    found = results(
        measured("envoy-rest", 100),
        measured("envoy-json", 90),
        measured("conductor"),
        measured("go-rest", 5, cell=ELSEWHERE),
    )
    titles = [title for title, _ in panels(found)]
    assert titles == ["REST, 2 KB, 32 connections", "gRPC, 2 KB, 32 connections", "REST, 100 KB, 256 connections"]
    assert [len(rows) for _, rows in panels(found)] == [1, 1, 1]


def test_a_run_leaves_its_tables_rounds_and_picture(tmp_path: Path) -> None:
    found = results(measured("envoy-rest", 100), measured("grpcio-rest", 50))
    write(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md", "results.svg"]
    drawn = (tmp_path / "results.svg").read_text()
    assert "taskgate inside Envoy: REST" in drawn
    write(found, tmp_path)
    assert (tmp_path / "results.svg").read_text() == drawn
