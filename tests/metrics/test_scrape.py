"""What a scrape says of calls that were just made, in each mode and through every client."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from ruamel.yaml import YAML

from support.clients import CLIENTS, GrpcClient, open_client
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID
from support.lateness import in_time
from support.running import Running, System, eventually, running_system, taskgate
from support.scrapes import Scrape, check_none_fell, metrics_address, scrape

ROOT = Path(__file__).parents[2]

FOUND, MISSING, INVALID = 3, 2, 1
"""How many calls of each kind a round makes at each client."""

PER_DOOR = {("OK",): FOUND, ("NOT_FOUND",): MISSING, ("INVALID_ARGUMENT",): INVALID}


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    database = tmp_path_factory.mktemp("metrics") / "tasks.db"
    done = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED)
    assert done.returncode == 0, done.stderr
    mode = request.param
    with running_system(database, "--metrics", "127.0.0.1:0", mode=mode) as running:
        yield running


def make_round(system: System) -> None:
    """Call each client; two calls name a method that does not exist, and one request a path that does not."""
    for name in CLIENTS:
        client = open_client(name, system.http, system.grpc)
        try:
            for task_id, count in ((DOCUMENTED_ID, FOUND), (UNKNOWN_ID, MISSING), ("no-uuid", INVALID)):
                for _ in range(count):
                    client.get_task_json(task_id)
            if isinstance(client, GrpcClient):
                outcome, _ = client.call("/some.Service/Of?the=caller", b"", {})
                assert outcome.code == "UNIMPLEMENTED"
        finally:
            client.close()
    assert httpx.get(f"http://{system.http}/nowhere").status_code == 404


def check_rounds(system: System, now: Scrape, rounds: int) -> None:
    """The scrape has the calls of so many rounds, exactly."""
    grpc_doors = [name for name in CLIENTS if name.startswith("grpc")]
    rest_doors = [name for name in CLIENTS if name.startswith("rest")]
    for method, doors in (("GetTaskJson", grpc_doors), ("StreamTaskJson", rest_doors)):  # REST is transcoded
        wanted = {code: rounds * count * len(doors) for code, count in PER_DOOR.items()}
        labels = {"grpc_method": method, "grpc_service": "taskgate.v1.TaskService"}
        assert now.by("grpc_server_handled_total", "grpc_code", **labels) == wanted
        total = sum(wanted.values())
        assert now.sum("grpc_server_started_total", **labels) == total
        assert now.sum("grpc_server_handling_seconds_count", **labels) == total
        assert now.sum("grpc_server_handling_seconds_bucket", le="+Inf", **labels) == total
        assert 0 < now.sum("grpc_server_handling_seconds_sum", **labels) < 10 * total
    unknown = {"grpc_service": "unknown", "grpc_method": "unknown", "grpc_type": "unknown"}
    assert now.by("grpc_server_handled_total", "grpc_code", **unknown) == {("UNIMPLEMENTED",): rounds * len(grpc_doors)}
    assert now.by("taskgate_store_reads_total", "outcome") == {
        ("found",): rounds * FOUND * len(CLIENTS),
        ("not_found",): rounds * MISSING * len(CLIENTS),
    }
    assert now.sum("taskgate_store_read_seconds_count") == rounds * (FOUND + MISSING) * len(CLIENTS)
    assert now.sum("taskgate_calls_in_flight") == 0
    through_envoy = len(grpc_doors) if system.mode == "embedded" else 1  # inside Envoy, --grpc is Envoy's too
    assert now.by("http_requests_total", "route", "code") == {
        ("/api/tasks/{taskId}", "200"): rounds * FOUND * len(rest_doors),
        ("/api/tasks/{taskId}", "404"): rounds * MISSING * len(rest_doors),
        ("/api/tasks/{taskId}", "400"): rounds * INVALID * len(rest_doors),
        ("grpc", "200"): rounds * (FOUND + MISSING + INVALID + 1) * through_envoy,
        ("none", "404"): rounds,
    }


def settled(address: str) -> Scrape:
    """A scrape after which Envoy has nothing more to count: it counts a request after its answer has left."""
    before = scrape(address)
    while True:
        time.sleep(0.1)
        now = scrape(address)
        if now.by("http_requests_total", "route", "code") == before.by("http_requests_total", "route", "code"):
            return now
        before = now


def servers(system: System) -> list[psutil.Process]:
    return system.envoys() if system.mode == "embedded" else system.workers()


@pytest.mark.long_in("proxied")
def test_every_call_is_counted_once_also_of_servers_that_were_killed_hung_or_restarted(system: System) -> None:
    """Sums over all processes, which never fall; a server that hangs does not hold a scrape up."""
    address = metrics_address(system)
    history = [scrape(address)]

    def check(rounds: int) -> None:
        history.append(settled(address))
        check_rounds(system, history[-1], rounds)
        check_none_fell(history)

    make_round(system)
    check(1)
    gone = "worker gone; replacing it"

    for number in (signal.SIGKILL, signal.SIGSTOP):
        before = len(system.log)
        victim = servers(system)[0]
        victim.send_signal(number)
        with in_time(5):
            history.append(scrape(address))
        assert history[-1].sum("grpc_server_handled_total") >= history[-2].sum("grpc_server_handled_total")
        eventually(lambda since=before: system.events(gone, since), "its end is noticed")
        eventually(lambda since=before: system.events("worker replaced", since), "another one serves")
        if system.mode == "proxied":
            eventually(lambda: system.healthy_servers() == 2, "both healthy to Envoy")
    check(1)
    make_round(system)
    check(2)
    assert history[-1].by("taskgate_process_replacements_total", "reason", process="worker") == {("failed",): 2}

    system.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(system.events("worker restarted")) == 2, "both are restarted")
    check(2)
    make_round(system)
    check(3)
    assert history[-1].by("taskgate_process_replacements_total", "reason", process="worker") == {
        ("failed",): 2,
        ("requested",): 2,
    }
    assert history[-1].sum("taskgate_processes_running", process="worker") == 2
    assert history[-1].sum("taskgate_store_available") == 2


def test_the_build_and_each_process_are_shown_and_no_secret_or_caller_is(system: System) -> None:
    now = scrape(metrics_address(system))
    mode = system.mode
    assert now.by("taskgate_build_info", "mode", "store", "layout") == {(mode, "sqlite", "taskgate"): 1}
    shown = set(now.by("process_resident_memory_bytes", "process", "number"))
    assert shown == {("supervisor", ""), ("worker", "0"), ("worker", "1")} | (
        set() if mode == "embedded" else {("envoy", "0")}
    )
    for secret in (DOCUMENTED_ID, UNKNOWN_ID, "no-uuid", "some.Service", "nowhere", str(system.database)):
        assert secret not in now.text


def documented() -> dict[str, tuple[set[str], str]]:
    """The labels and the meaning of each metric, from the table in operating.md."""
    section = (ROOT / "docs/operating.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): (set(re.findall(r"`(\w+)`", labels)), meaning.strip()) for name, labels, meaning in rows}


def test_operating_md_has_each_metric_of_a_scrape_with_its_labels_and_no_other(system: System) -> None:
    make_round(system)  # a counter of requests exists once there was one
    live = settled(metrics_address(system)).labels()
    table = documented()
    assert len(table) == len({*table})
    wanted = {
        name: labels
        for name, (labels, meaning) in table.items()
        if system.mode == "proxied" or not meaning.startswith("mode proxied")
    }
    assert live == wanted


def test_dashboard_and_alerts_use_metrics_that_a_scrape_has_and_runbooks_that_exist(system: System) -> None:
    make_round(system)
    series = settled(metrics_address(system)).series() | {"up"}  # Prometheus' own
    if system.mode == "embedded":
        series |= {name for name, (_, meaning) in documented().items() if meaning.startswith("mode proxied")}
    rules = YAML(typ="safe").load(ROOT / "deploy/prometheus/alerts.yaml")["groups"][0]["rules"]
    panels = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())["panels"]
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    used = {name for query in queries for name in re.findall(r"(\w+)\{", query)}
    assert len(used) > 30
    assert used <= series
    headings = set(re.findall(r"^### (\w+)$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE))
    assert {rule["alert"] for rule in rules} == headings
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert {"summary", "description"} <= set(rule["annotations"])


@pytest.mark.long_in("[1]")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_server_alone_has_metrics_too(tmp_path: Path, workers: int) -> None:
    """In its own process if it is the only one, else in that which supervises the others."""
    database = tmp_path / "tasks.db"
    assert taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED).returncode == 0
    arguments = ("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--workers", str(workers))
    with Running(
        "serve", *arguments, "--log-format", "json", env={"TASKGATE_STORE": f"sqlite:///{database}"}
    ) as server:
        target = server.wait_for(r'"grpc":"(127[^"]+)"', in_log=True)[1]
        client = GrpcClient("grpc", target)
        assert client.get_task_json(DOCUMENTED_ID).status == 200
        assert client.call("/no/method", b"", {})[0].code == "UNIMPLEMENTED"
        client.close()
        now = scrape(metrics_address(server))
        assert now.by("grpc_server_handled_total", "grpc_method", "grpc_code") == {
            ("GetTaskJson", "OK"): 1,
            ("unknown", "UNIMPLEMENTED"): 1,
        }
        assert now.by("taskgate_build_info", "mode") == {("serve",): 1}
        shown = set(now.by("process_start_time_seconds", "process"))
        assert shown == ({("server",)} if workers == 1 else {("supervisor",), ("worker",)})
        assert server.stop() == 0


def test_a_taken_port_is_one_sentence_and_nothing_else_starts(system: System, tmp_path: Path) -> None:
    address = metrics_address(system)
    flags = ("--metrics", address, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    done = taskgate("up", "--store", f"sqlite:///{tmp_path}/tasks.db", *flags)
    assert done.returncode == 2
    assert f"taskgate: metrics: cannot listen on {address}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
