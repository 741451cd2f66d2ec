"""The benchmark reads its load generators right and says what it found: nothing here starts a server."""

import json
import math
from pathlib import Path

import pytest

from bench.cases import CASES, choose
from bench.commands import Import
from bench.errors import BenchError
from bench.loads import (
    Load,
    LoadResult,
    builtin_arguments,
    builtin_result,
    h2load_command,
    h2load_result,
    percentile,
    read_h2load_log,
    spread,
    wrk_result,
)
from bench.machine import cpu_model
from bench.measuring import Measured, Plan, Sample
from bench.processes import cpu_spent, describe_command
from bench.report import number, render_markdown, render_text
from bench.results import Results, as_json, budgets, ratios, sustained_rate
from bench.targets import GrpcCall, HttpGet

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
    rest = h2load_command(GET, Load(32, 2.5), log=Path("log"), body=Path("body"))
    assert {"--h1", "--clients=32", "--duration=2500ms", "--log-file=log"} < set(rest)
    assert rest[-1] == "http://127.0.0.1:8080/api/tasks/x"
    grpc = h2load_command(CALL, Load(32, 3), log=Path("log"), body=Path("body"))
    assert {"--clients=4", "--max-concurrent-streams=8", "--data=body"} < set(grpc)
    assert {"--header=content-type: application/grpc", "--header=te: trailers"} < set(grpc)
    assert "--h1" not in grpc
    assert CALL.framed == b"\x00\x00\x00\x00\x03\x0a\x01x"


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
    result = wrk_result(WRK + "Requests/sec:  16265.34\nTransfer/sec:     30.96MB\n")
    assert (result.requests, result.seconds, result.errors) == (48839, 3.0, 0)
    assert result.p50_ms == pytest.approx(0.78)
    assert result.p99_ms == pytest.approx(1020)


def test_wrk_counts_refusals_and_broken_connections_as_errors() -> None:
    trouble = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 39\n"
    result = wrk_result(WRK + trouble)
    assert result.errors == 49
    assert result.requests == 48800


def test_the_built_in_generator_is_told_the_message_only_for_grpc() -> None:
    assert builtin_arguments(GET, Load(8, 1.5)) == ["127.0.0.1:8080", "/api/tasks/x", "8", "1.5", "20"]
    assert builtin_arguments(CALL, Load(8, 1.5)) == ["127.0.0.1:8080", "/a.B/C", "8", "1.5", "12", "0a0178"]


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
    before = {1: ("Python", 1.0), 2: ("Python", 5.0), 3: ("Envoy", 2.0)}
    after = {1: ("Python", 1.5), 2: ("Python", 7.0), 3: ("Envoy", 2.25)}
    assert cpu_spent(before, after) == {"Python": 2.5, "Envoy": 0.25}


def test_a_process_that_was_replaced_spoils_the_measurement() -> None:
    with pytest.raises(BenchError, match="ended while"):
        cpu_spent({1: ("Python", 1.0)}, {2: ("Python", 0.1)})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/usr/bin/python3", "-m", "taskgate", "up", "--workers", "1"], "taskgate up"),
        (["/usr/bin/python3", "-m", "taskgate.worker"], "taskgate.worker"),
        (["/opt/envoy", "-c", "x.yaml"], "envoy"),
        ([], "?"),
    ],
)
def test_processes_are_named_by_what_they_run(command: list[str], expected: str) -> None:
    assert describe_command(command) == expected


def test_the_cpu_model_comes_from_linux_where_there_is_one() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\n") == "Some CPU @ 3.00GHz"
    assert cpu_model("")


# --- Results --------------------------------------------------------------------------------------------------------

CASE = {case.key: case for case in CASES}


def measured(key: str, *rates: float, errors: int = 0, generator: str = "h2load", cores: float = 0.1) -> Measured:
    """A row with one round for each rate, at 100 µs of Python and 50 µs of Envoy a request."""
    samples = [
        Sample(LoadResult(round(rate * 2), 2.0, 1.25, 9.5, errors, cores * 2), {"Python": 100.0, "Envoy": 50.0})
        for rate in rates
    ]
    return Measured(CASE[key], generator, generator != "built-in", samples)


def results(*rows: Measured) -> Results:
    return Results("Some CPU, 2 cores", Plan(Load(32, 3.0), 3, 0.5), 1000, "info", rows)


def test_a_ratio_is_of_medians_with_the_extremes_of_single_rounds() -> None:
    row, baseline = measured("rest", 300, 100, 200), measured("fastapi", 100, 100, 400)
    (ratio,) = ratios([row, baseline])
    assert (ratio.of_medians, ratio.lowest, ratio.highest, ratio.cpu) == (2.0, 0.5, 3.0, 1.0)


def test_a_ratio_needs_both_its_rows() -> None:
    assert ratios([measured("rest", 100)]) == []


def test_every_row_that_is_compared_exists() -> None:
    compared = [(ratio.row.case.key, ratio.baseline.case.key) for ratio in ratios([measured(key, 1) for key in CASE])]
    assert ("rest", "envoy-direct") in compared
    assert len(compared) == len(set(compared)) == 8


def test_budgets_are_met_or_missed_in_their_own_direction() -> None:
    found = results()
    found.imports = [imported(6_000, seconds=0.5, mebibytes=50), imported(60_000, seconds=3.0, mebibytes=60)]
    found.start_seconds = 2.0
    assert [budget.met for budget in budgets(found)] == [False, True, True]
    found.imports = [imported(6_000, seconds=0.5, mebibytes=50), imported(60_000, seconds=2.0, mebibytes=90)]
    found.start_seconds = 3.5
    assert [budget.met for budget in budgets(found)] == [True, False, False]


def imported(tasks: int, *, seconds: float, mebibytes: int) -> Import:
    return Import(tasks, file_bytes=1, seconds=seconds, cpu_seconds=seconds, peak_bytes=mebibytes << 20)


def test_the_rate_of_an_import_leaves_out_the_start_of_the_command() -> None:
    assert (
        sustained_rate(imported(1_000, seconds=0.5, mebibytes=1), imported(11_000, seconds=1.0, mebibytes=1)) == 20_000
    )
    assert (
        sustained_rate(imported(1_000, seconds=1.0, mebibytes=1), imported(9_000, seconds=0.9, mebibytes=1)) == 10_000
    )


def test_only_chooses_by_pattern_in_the_order_of_the_table() -> None:
    assert choose(["rest", "grpc-a", "grpc-b", "echo"], ["echo", "grpc-*"]) == ["grpc-a", "grpc-b", "echo"]
    assert choose(["rest", "echo"], []) == ["rest", "echo"]
    with pytest.raises(BenchError, match="there is only rest, echo"):
        choose(["rest", "echo"], ["soap"])


# --- Tables ---------------------------------------------------------------------------------------------------------


def test_the_text_table_is_aligned() -> None:
    lines = render_text(results(measured("rest", 1234.4, 900, 2000), measured("envoy-direct", 17_000, 16_000, 18_000)))
    head, rule, first, second = lines.split("REQUESTS\n")[1].splitlines()[:4]
    assert len(head) == len(rule) == len(first) == len(second)
    assert first.split("  ")[0] == "taskgate: REST through Envoy"
    assert first.split()[4:] == ["1,234", "900-2,000", "1.25", "9.50", "100", "50", "0", "h2load"]
    assert second.split()[2:5] == ["17,000", "16,000-18,000", "1.25"]


def test_every_markdown_row_has_the_columns_of_its_heading() -> None:
    text = render_markdown(results(measured("rest", 100), measured("fastapi", 50)))
    for section in text.split("## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1
        assert set(rows[1]) <= set("| -:")
    ratio = "| taskgate: REST through Envoy ÷ FastAPI on uvicorn, read in a thread | 2.00 | 2.00-2.00 | 1.00 |"
    assert ratio in text.splitlines()


def test_only_what_was_measured_has_a_table() -> None:
    text = render_text(results())
    assert text == "Some CPU, 2 cores\n"
    assert "RATIOS" not in render_text(results(measured("rest", 100)))


def test_a_row_with_errors_is_marked_wherever_it_appears() -> None:
    found = results(measured("rest", 100, errors=2), measured("fastapi", 50))
    assert found.failed
    marked = [line for line in render_text(found).splitlines() if "[ERRORS]" in line]
    assert len(marked) == 3  # its row, the note, the ratio
    assert "not a measurement" in marked[1]


def test_rows_that_show_the_generator_rather_than_the_server_are_marked() -> None:
    text = render_text(results(measured("rest", 100, generator="built-in"), measured("envoy-direct", 90, cores=0.97)))
    assert "taskgate: REST through Envoy [1]" in text
    assert "Envoy direct_response [2]" in text
    assert text.count("[1]") == text.count("[2]") == 3
    assert "[" not in render_text(results(measured("rest", 100)))


def test_a_machine_that_others_use_is_called_disturbed() -> None:
    row = measured("rest", 100)
    assert "Disturbed" not in render_text(results(row))
    row.samples = [Sample(sample.load, sample.cpu_us, other_cores=0.8) for sample in row.samples]
    assert "used 0.8 cores" in render_text(results(row))


def test_missed_budgets_stand_out() -> None:
    found = results()
    found.start_seconds = 3.456
    line = render_text(found).splitlines()[-1]
    assert line.split("  ")[0] == "taskgate up to first answered request"
    assert line.split()[-6:] == ["≤", "3", "s", "3.46", "s", "MISSED"]


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
    found = results(measured("rest", 100, 200), measured("fastapi", 50, 50))
    found.start_seconds = 2.0
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert [case["key"] for case in document["cases"]] == ["rest", "fastapi"]
    assert [entry["requests_a_second"] for entry in document["cases"][0]["rounds"]] == [100, 200]
    assert document["ratios"][0]["throughput"] == 3.0
    assert document["budgets"] == [
        {
            "what": "taskgate up to first answered request",
            "unit": "s",
            "limit": 3.0,
            "at_least": False,
            "found": 2.0,
            "met": True,
        }
    ]
