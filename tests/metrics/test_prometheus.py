"""A real Prometheus scrapes both modes, and evaluates the alert rules and the dashboard that are shipped."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from support.database_server import free_port
from support.documents import DOCUMENTED, DOCUMENTED_ID
from support.running import System, eventually, running_system, taskgate
from support.scrapes import metrics_address, scrape
from tools.servers import PROMETHEUS, PROMTOOL, find

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yaml"

pytestmark = pytest.mark.needs("prometheus")


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, System]]:
    """A system of each mode, by its metrics address."""
    with ExitStack() as running:
        systems = {}
        for mode in ("embedded", "proxied"):
            database = tmp_path_factory.mktemp(mode) / "tasks.db"
            done = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=DOCUMENTED)
            assert done.returncode == 0, done.stderr
            system = running_system(database, "--metrics", "127.0.0.1:0", mode=mode)
            started = running.enter_context(system)
            systems[metrics_address(started)] = started
        yield systems


@pytest.fixture(scope="module")
def prometheus(systems: dict[str, System], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus with the shipped configuration, but for its targets and intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    yaml = YAML()
    config = yaml.load(DEPLOY / "prometheus/prometheus.yaml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ALERTS)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(systems)}]
    yaml.dump(config, folder / "prometheus.yaml")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(find(PROMETHEUS)),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            eventually(lambda: process.poll() is not None or _ready(client), "it is ready")
            assert process.poll() is None, (folder / "log").read_text()
            yield client
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def answer(prometheus: httpx.Client, path: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus' API."""
    body = prometheus.get(f"/api/v1/{path}", params=parameters).json()
    assert body["status"] == "success", body
    return body["data"]


def promtool(*arguments: str, stdin: str = "") -> None:
    """Run a check; fail with what it says."""
    done = subprocess.run([str(find(PROMTOOL)), *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr  # "check metrics" warns there of names against the conventions


def test_promtool_accepts_rules_and_configuration_and_each_alert_fires_for_its_fault_alone() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yaml"))
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yaml")))


def test_promtool_finds_names_and_types_of_a_scrape_in_order(systems: dict[str, System]) -> None:
    for address in systems:
        promtool("check", "metrics", stdin=scrape(address).text)


def test_every_query_of_the_dashboard_has_an_answer(systems: dict[str, System], prometheus: httpx.Client) -> None:
    """Of each panel at least one, with a call under way in either mode."""
    panels = [
        panel
        for panel in json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
        if panel["type"] != "row"
    ]
    assert len(panels) > 20

    def all_answer() -> bool:
        for system in systems.values():
            assert httpx.get(f"http://{system.http}/api/tasks/{DOCUMENTED_ID}").status_code == 200
        return all(map(answers, panels))

    def answers(panel: Any) -> bool:
        queries = [
            target["expr"].replace("$instance", ".+").replace("$__rate_interval", "30s") for target in panel["targets"]
        ]
        results = [answer(prometheus, "query", query=query)["result"] for query in queries]  # a bad query fails here
        return any(results)

    eventually(all_answer, "each panel has data")


def test_the_alert_of_an_unavailable_store_fires_in_either_mode_and_ends_with_the_fault(
    systems: dict[str, System], prometheus: httpx.Client
) -> None:
    def in_state(state: str) -> set[str]:
        alerts = answer(prometheus, "alerts")["alerts"]
        return {
            alert["labels"]["instance"]
            for alert in alerts
            if alert["labels"]["alertname"] == "TaskgateStoreUnavailable" and alert["state"] == state
        }

    def ups() -> int:
        return sum(float(series["value"][1]) for series in answer(prometheus, "query", query="up")["result"])

    eventually(lambda: ups() == len(systems), "both are scraped")
    assert not in_state("firing")
    for system in systems.values():
        system.database.rename(system.database.with_suffix(".away"))
    eventually(lambda: in_state("firing") == set(systems), "the alert fires", 90)
    for system in systems.values():
        system.database.with_suffix(".away").rename(system.database)
    eventually(lambda: not in_state("firing"), "the alert ends")
    groups = answer(prometheus, "rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
