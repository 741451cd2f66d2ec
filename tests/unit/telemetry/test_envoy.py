"""The statistics of Envoy that are passed on."""

from collections.abc import Iterator
from typing import Any

import yaml

from support.documented import ROOT
from taskgate.telemetry.envoy import REQUESTS, EnvoyLedger

LABELS = {"/api/tasks/{taskId}", "/api/token", "/healthz", "/openapi.json", "/docs", "grpc", "preflight", "none"}
"""What ``docs/operating.md`` says that the label ``route`` can be: a path, or one of three words."""


def routes(part: Any) -> Iterator[str]:
    """The names of all routes in a part of a configuration."""
    if isinstance(part, dict):
        if "match" in part and isinstance(part.get("name"), str):
            yield part["name"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from routes(inner)


def test_every_route_has_a_documented_label() -> None:
    """Of all files, so also the routes that settings add, such as those of ``--auth keys``."""
    names = {
        name for file in (ROOT / "gateway").glob("*.yaml") for name in routes(yaml.safe_load(file.read_text("utf-8")))
    }
    assert {"get-task", "create-token", "docs", "preflight", "grpc-streams"} <= names
    ledger = EnvoyLedger(servers_behind=True)
    text = "".join(f'envoy_taskgate_requests{{route="{name}",code="200"}} 1\n' for name in names)
    totals, _ = ledger.read({ROOT: lambda: text})
    ledger.close()
    _, numbers = totals[REQUESTS.name]
    assert {route for route, _ in numbers} == LABELS
