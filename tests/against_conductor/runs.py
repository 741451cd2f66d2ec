"""Runs every scenario on a Conductor, and looks at each task that came of it."""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from against_conductor.conductor import Conductor, wait_for
from against_conductor.databases import Database
from against_conductor.seeded import seeded_rows
from against_conductor.worker import running_worker
from against_conductor.workflows import BEHAVIOURS, OWNER, SCENARIOS, TASK_DEFINITIONS, Scenario
from support.recorded import RUN, SEEDED, Recorded

HOST_NAME = "conductor-host"
"""Conductor writes its own into tasks; a recording says this instead."""

_LOOKS = 20


def run_scenarios(conductor: Conductor, target: str) -> None:
    """Register and run them all; every workflow has ended as its scenario says when this returns."""
    definitions = [{"ownerEmail": OWNER} | dict(definition) for definition in TASK_DEFINITIONS]
    conductor.must("POST", "/api/metadata/taskdefs", json.dumps(definitions).encode())
    for scenario in SCENARIOS:
        conductor.must("POST", "/api/metadata/workflow", json.dumps(scenario.define()).encode())
    with running_worker(conductor, BEHAVIOURS) as failures:
        started = {scenario.name: _start(conductor, scenario, target) for scenario in SCENARIOS}
        for scenario in SCENARIOS:
            _follow(conductor, scenario, started[scenario.name], failures)


def _start(conductor: Conductor, scenario: Scenario, target: str) -> str:
    known = {"name": scenario.name, "version": 1} | dict(scenario.start)
    data = b'{"target":' + json.dumps(target).encode() + (b"," if scenario.input != b"{}" else b"") + scenario.input[1:]
    body = json.dumps(known).encode()[:-1] + b',"input":' + data + b"}"
    return conductor.must("POST", "/api/workflow", body).decode()


def _follow(conductor: Conductor, scenario: Scenario, workflow_id: str, failures: list[Exception]) -> None:
    """Wait until it has got where its scenario says."""

    def look() -> Mapping[str, Any]:
        if failures:
            raise failures[0]
        workflow: Mapping[str, Any] = conductor.ask(f"/api/workflow/{workflow_id}?includeTasks=true")
        return workflow

    def waiting() -> bool:
        found = {task["referenceTaskName"]: task["status"] for task in look()["tasks"]}
        return all(found.get(name) == status for name, status in scenario.waiting.items())

    def ended() -> bool:
        if scenario.decide:
            conductor.must("PUT", f"/api/workflow/decide/{workflow_id}")
        return bool(look()["status"] == scenario.ends)

    try:
        wait_for(f"{scenario.name}: {scenario.waiting}", waiting)
        for method, path in scenario.then:
            conductor.must(method, f"/api/workflow/{workflow_id}{path}")
        wait_for(f"{scenario.name} is {scenario.ends}", ended)
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {json.dumps(look(), indent=1)[:6000]}") from error


def record_run(conductor: Conductor, database: Database) -> list[Recorded]:
    """Row and answer of every task that workflows have left."""
    tasks = [_record(conductor, database, task_id) for task_id in database.rows()]
    return sorted(tasks, key=lambda task: (task.workflow, json.loads(task.stored)["seq"], task.task_id))


def record_seeded(conductor: Conductor, database: Database) -> list[Recorded]:
    """Write all rows; what Conductor makes of each."""
    seeded = seeded_rows()
    database.seed(dict(seeded.values()))
    return [
        replace(_record(conductor, database, task_id), origin=SEEDED, workflow=SEEDED, task=about)
        for about, (task_id, _) in seeded.items()
    ]


def _record(conductor: Conductor, database: Database, task_id: str) -> Recorded:
    """The row is read before and after the answer, until both are the same: what it was made from."""
    for _ in range(_LOOKS):
        stored = database.row(task_id)
        before = time.time_ns() // 1_000_000
        status, answer = conductor.call("GET", f"/api/tasks/{task_id}")
        after = time.time_ns() // 1_000_000
        if stored is not None and stored == database.row(task_id):
            task = json.loads(answer) if status == 200 else {}
            return Recorded(
                origin=RUN,
                workflow=task.get("workflowType", ""),
                task=task.get("referenceTaskName", ""),
                task_id=task_id,
                stored=_neutral(stored),
                status=status,
                answer=_neutral(answer) if status == 200 else "",
                before=before,
                after=after,
            )
        time.sleep(0.2)
    raise AssertionError(f"the row of task {task_id} does not keep still")


def _neutral(text: bytes) -> str:
    return text.decode().replace(f'"{socket.gethostname()}"', f'"{HOST_NAME}"')
