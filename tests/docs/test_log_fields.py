"""docs/operating.md names every field of every log, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from support.documented import ROOT
from support.documents import DOCUMENTED_ID
from support.in_process import asked
from support.running import running_system

EVERY_LINE = {"timestamp", "level", "event"}
LEVELS = {"debug", "info", "warning", "error", "exception"}


def documented(heading: str) -> set[str]:
    """The fields in the table below a heading."""
    section = (ROOT / "docs/operating.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_call_log(tmp_path: Path) -> None:
    """By the lines of a run: of a call that is answered, and of one with more to say than callers are told."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=1) as system:
        for task_id in (DOCUMENTED_ID, "no-uuid"):
            httpx.get(f"http://{system.http}/api/tasks/{task_id}", trust_env=False)
        assert system.stop() == 0
    answered, refused = (set(line) for line in system.events("call"))
    assert refused == answered | {"error"}
    assert refused - EVERY_LINE == documented("Call log")


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_logs_of_envoy(mode: str) -> None:
    """By the configuration that Envoy gets, with all that settings add. Reading it gives no warning."""
    additions = ("--auth", "keys", "--rate-limit", "5", "--cors-origins", "https://a.example")
    printed = asked("gateway", "--mode", mode, "--access-log", "stdout", *additions).stdout
    (listener,) = YAML(typ="safe").load(printed)["static_resources"]["listeners"]
    logs = listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"]
    fields = [set(log["typed_config"]["log_format"]["json_format"]) for log in logs]
    assert fields == [documented("Access log"), documented("Refusals by Envoy")]


def test_server_log() -> None:
    """By the source: a run logs few of these lines."""
    files = (ROOT / "server/taskgate").rglob("*.py")
    fields = {field for file in files for field in logged(ast.parse(file.read_text()))}
    lost = {"lines"}  # is written without structlog
    assert fields | lost == documented("Server log")


def logged(tree: ast.AST) -> Iterator[str]:
    """The fields that are passed to methods of loggers. A traceback is the field "exception"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            if node.func.attr == "exception" and node.args:
                yield "exception"
            for name in (keyword.arg for keyword in node.keywords if keyword.arg):  # none for **: a line of Envoy's
                yield {"exc_info": "exception"}.get(name, name)
