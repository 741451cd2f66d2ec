"""The OpenAPI document and its explorer are served in both modes, and describe what the server answers."""

import gzip
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.wire import PROTOCOLS, Answer, Http1, ask_over, assert_error
from support.access import Credentials, create_keys, minter_of
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, compact
from support.openapi import Described
from support.running import System, eventually, running_system, taskgate
from taskgate.access.roles import Role
from taskgate.base.addresses import Address

GATEWAY = Path(__file__).parents[2] / "gateway"
ABSENT = "00000000-0000-4000-8000-000000000003"
TASK, TOKEN, HEALTH = "/api/tasks/{taskId}", "/api/token", "/healthz"

FILES = {
    "/openapi.json": "application/json",
    "/docs": "text/html; charset=utf-8",
    "/docs/": "text/html; charset=utf-8",
    "/docs/explorer.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}


def _nulls(schema: str, **members: Any) -> dict[str, Any]:
    """Each member that is described, as null, but for ``members``."""
    document = json.loads((GATEWAY / "openapi.json").read_bytes())
    return dict.fromkeys(document["components"]["schemas"][schema]["properties"]) | members


NULLS = [
    compact(_nulls("Task", taskId="00000000-0000-4000-8000-000000000004")),
    compact(
        _nulls(
            "Task",
            taskId="00000000-0000-4000-8000-000000000005",
            workflowTask=_nulls("WorkflowTask"),
            taskDefinition=_nulls("TaskDef"),
        )
    ),
]

Received = tuple[int, dict[str, str], bytes]


class Caller:
    """Sends requests over one connection."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Received:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, names["content-type"] = json.dumps(body).encode(), "application/json"
        self._connection.request(method, path, body, names)
        response = self._connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Credentials]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('openapi')}/keys.db"
    return url, create_keys(url, reader=(Role.READER, None), limited=(Role.READER, ("invoice",)))


@pytest.fixture(scope="module")
def keyed(
    mode: str, keys: tuple[str, dict[str, Credentials]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    database = tmp_path_factory.mktemp("openapi") / "tasks.db"
    imported = taskgate("import", "-", "--store", f"sqlite:///{database}", stdin=b"\n".join(NULLS))
    assert imported.returncode == 0, imported.stderr
    options = ("--demo", "--auth", "keys", "--auth-store", keys[0])
    with running_system(database, *options, mode=mode, workers=1) as system:
        yield system


@pytest.fixture
def caller(keyed: System) -> Iterator[Caller]:
    opened = Caller(keyed.http)
    yield opened
    opened.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_document_and_explorer_are_served_without_a_token(keyed: System, protocol: str) -> None:
    """GET and HEAD with content types, lengths and policies; 405 for other methods; over HTTP/1.1 and HTTP/2."""
    ask = ask_over(protocol, Address.parse(keyed.http))
    for path, kind in FILES.items():
        answer = ask(path)
        assert (answer.status, answer.header("content-type")) == (200, kind)
        assert (answer.header("x-content-type-options"), len(answer.body)) == ("nosniff", _length(answer))
        of_head = ask(path, method="HEAD")
        assert (of_head.status, _length(of_head), of_head.body) == (200, len(answer.body), b"")
        refused = ask(path, method="POST")
        assert_error(refused, 405, "Method not allowed")
        assert refused.header("allow") == "GET, HEAD"

    page = ask("/docs")
    assert (page.header("cache-control"), page.header("referrer-policy")) == ("no-cache", "no-referrer")
    assert str(page.header("content-security-policy")).startswith("default-src 'none'; script-src 'self';")
    named = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.body.decode())
    assert {path.partition("?")[0] for path in named} == {path for path in FILES if path > "/docs/"} - {"/openapi.json"}
    for path in named:
        assert re.fullmatch(r"/docs/[a-z.-]+[?][0-9a-f]{12}", path), "a changed file has another URL"
        answer = ask(path)
        assert "immutable" in str(answer.header("cache-control"))
        if answer.header("content-encoding") == "gzip":
            assert gzip.decompress(answer.body)
    assert ask("/openapi.json").body == (GATEWAY / "openapi.json").read_bytes()
    assert ask("/docs/other").status == 404


def test_stopped_readers_of_the_explorer_hold_little_memory(keyed: System) -> None:
    """Of the half megabyte that everyone may ask for, a process gives few; calls for tasks are not limited by that."""
    with Http1(Address.parse(keyed.http)) as connection:
        answers = [connection.ask("/docs/swagger-ui-bundle.js") for _ in range(30)]
        refused = answers[-1]
        assert_error(refused, 429, "Too many requests for this page; try again in a few seconds", retryable=True)
        assert (refused.header("retry-after"), refused.header("cache-control")) == ("5", "no-store")
        assert connection.ask("/docs").status == connection.ask("/healthz").status == 200


def _length(answer: Answer) -> int:
    return int(str(answer.header("content-length")))


@pytest.mark.parametrize("stored", NULLS, ids=["task", "inside"])
def test_imported_nulls_are_served_and_described(
    keyed: System, keys: tuple[str, dict[str, Credentials]], caller: Caller, stored: bytes
) -> None:
    """In each member but ``taskId``, byte for byte."""
    token = json.loads(caller.ask("POST", TOKEN, keys[1]["reader"].request)[2])["token"]
    received = caller.ask("GET", f"/api/tasks/{json.loads(stored)['taskId']}", X_Authorization=token)
    assert (received[0], received[2]) == (200, stored)
    Described(json.loads(caller.ask("GET", "/openapi.json")[2])).check("get", TASK, *received)


def test_answers_are_those_that_the_document_describes(
    keyed: System, keys: tuple[str, dict[str, Credentials]], caller: Caller
) -> None:
    """200, 400, 401, 403, 404, 413, 429, 431, 503: body, content type and headers of each."""
    document = json.loads(caller.ask("GET", "/openapi.json")[2])
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    described = Described(document)
    url, credentials = keys
    reader, limited = credentials["reader"], credentials["limited"]

    def ask(expected: int, method: str, template: str, task_id: str = "", body: Any = None, **headers: str) -> bytes:
        status, received, answer = caller.ask(method, template.replace("{taskId}", task_id), body, **headers)
        assert status == expected, answer
        described.check(method.lower(), template, status, received, answer)
        return answer

    token = json.loads(ask(200, "POST", TOKEN, body=reader.request))["token"]
    of_limited = json.loads(ask(200, "POST", TOKEN, body={**limited.request, "expiration": 60_000}))["token"]
    expired = minter_of(url, reader.key_id).token(exp=1)
    assert ask(200, "GET", TASK, DOCUMENTED_ID, X_Authorization=token) == DOCUMENTED_COMPACT
    assert ask(200, "GET", TASK, DOCUMENTED_ID, Authorization=f"Bearer {token}") == DOCUMENTED_COMPACT
    ask(400, "GET", TASK, "my-task", X_Authorization=token)
    ask(400, "GET", TASK, "a%2Fb", X_Authorization=token)
    ask(401, "GET", TASK, DOCUMENTED_ID)
    ask(401, "GET", TASK, DOCUMENTED_ID, X_Authorization=expired)
    ask(403, "GET", TASK, DOCUMENTED_ID, X_Authorization=of_limited)
    ask(404, "GET", TASK, ABSENT, X_Authorization=token)
    ask(404, "GET", TASK, "search", X_Authorization=token)
    ask(400, "POST", TOKEN, body={"keyId": "", "keySecret": ""})
    unreadable = json.loads(ask(400, "POST", TOKEN, body=[]))["message"]
    assert unreadable.startswith("The body is not a JSON object with the texts keyId and keySecret")
    ask(413, "POST", TOKEN, body={"keyId": "x" * 20_000, "keySecret": "x"})
    ask(431, "GET", HEALTH, X_Long="x" * 40_000)
    ask(200, "GET", HEALTH)
    for _ in range(10):
        ask(401, "POST", TOKEN, body={**reader.request, "keySecret": "guessed"})
    ask(429, "POST", TOKEN, body={**reader.request, "keySecret": "guessed"})

    asked = (caller.ask("GET", f"/api/tasks/{DOCUMENTED_ID}", X_Authorization="a.b.c") for _ in range(1300))
    refused = next(answer for answer in asked if answer[0] != 401)  # an address may be refused 600 times in a minute
    described.check("get", TASK, *refused)
    assert (refused[0], b"Too many refused attempts" in refused[2]) == (429, True)

    keyed.database.write_bytes(b"damaged" * 1000)
    ask(503, "GET", TASK, DOCUMENTED_ID, X_Authorization=token)
    eventually(lambda: caller.ask("GET", HEALTH)[0] == 503, "health fails")
    ask(503, "GET", HEALTH)


@pytest.mark.long_in("proxied")
def test_docs_off_hides_document_and_explorer(mode: str, tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--docs", "off", mode=mode, workers=1) as system:
        caller = Caller(system.http)
        assert [caller.ask("GET", path)[0] for path in FILES] == [404] * len(FILES)
        assert "docs " not in "\n".join(system.out)
        caller.close()
