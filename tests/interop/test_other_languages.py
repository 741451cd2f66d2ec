"""gRPC's own clients for Go and JavaScript, unmodified, with 10,000 quick cancellations each.

``go/`` and ``javascript/`` make the same calls and print what they got; here is what that must be.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
DESCRIPTORS = HERE.parents[1] / "gateway" / "taskgate.binpb"
LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"

OK, CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 0, 1, 4, 5, 12, 13, 14


@pytest.fixture(scope="package")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """What starts the client for a language; Go's is built first."""
    built: list[str] = []

    def command(language: str) -> list[str]:
        if language == "javascript":
            return [str(BIN / "node"), str(HERE / "javascript" / "client.mjs")]
        if not built:
            program = tmp_path_factory.mktemp("go") / "client"
            subprocess.run(
                [str(BIN / "go"), "build", "-buildvcs=false", "-o", str(program), "."],
                cwd=HERE / "go",
                env=os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
                check=True,
                timeout=600,
            )
            built.append(str(program))
        return built

    return command


@pytest.fixture(
    scope="package",
    params=[
        pytest.param("go", marks=pytest.mark.needs("go modules")),
        pytest.param("javascript", marks=pytest.mark.needs("npm packages")),
    ],
)
def got(
    request: pytest.FixtureRequest, commands: Callable[[str], list[str]], target: str, system: System
) -> dict[str, Any]:
    """All that the client got, and by how many bytes the system's memory grew meanwhile."""
    before = memory(system)
    done = subprocess.run(
        [*commands(request.param), target, str(DESCRIPTORS), DOCUMENTED_ID, UNKNOWN_ID, LARGE_ID],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    results: dict[str, Any] = json.loads(done.stdout)
    return results | {"grown": memory(system) - before}


def memory(system: System) -> int:
    """Resident bytes of all processes of the system."""
    return sum(process.memory_info().rss for process in system.family())


@pytest.mark.parametrize("which", ["document", "compressed", "afterwards"])
def test_client_gets_the_document_plain_and_compressed(got: dict[str, Any], which: str) -> None:
    """Byte for byte: by default, with a request that is compressed with gzip, and after the cancellations."""
    assert got[which] == {"code": OK, "text": DOCUMENTED_COMPACT.decode()}


def test_client_gets_the_typed_task(got: dict[str, Any]) -> None:
    assert got["task"] == {"code": OK, "id": DOCUMENTED_ID, "status": json.loads(DOCUMENTED)["status"]}


def test_error_has_googles_details(got: dict[str, Any]) -> None:
    refused = got["notFound"]
    assert refused["code"] == NOT_FOUND
    assert refused["message"] == f"Task not found for taskId: {UNKNOWN_ID}"
    details = status_pb2.Status.FromString(base64.b64decode(refused["details"]))
    info = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert info.reason == "ERROR_REASON_TASK_NOT_FOUND"


def test_request_id_comes_back(got: dict[str, Any]) -> None:
    assert got["requestId"] == "interop-1"


def test_client_gets_an_answer_of_10_mb_whole(got: dict[str, Any]) -> None:
    assert got["large"] > 10_000_000


def test_unknown_method_is_unimplemented_to_the_client(got: dict[str, Any]) -> None:
    assert got["missing"] == UNIMPLEMENTED


def test_health_watch_until_the_deadline(got: dict[str, Any], route: str) -> None:
    """Envoy before grpcio resets such a stream, which a client may take for INTERNAL if it is the faster one."""
    assert got["watch"]["messages"] == ["0801"]  # SERVING
    assert got["watch"]["code"] in {DEADLINE_EXCEEDED, *([INTERNAL] if route == "proxied via Envoy" else [])}


def test_five_hundred_at_once(got: dict[str, Any]) -> None:
    assert got["together"] == 500


def test_10_000_quick_cancellations(got: dict[str, Any], route: str) -> None:
    """Each ends in one way or the other, and nothing of them stays. Envoy closes a connection with too many resets."""
    codes = {int(code): count for code, count in got["cancelled"].items()}
    assert sum(codes.values()) == 10_000
    assert set(codes) <= ({OK, CANCELLED} if route == "proxied direct" else {OK, CANCELLED, INTERNAL, UNAVAILABLE}), (
        codes
    )
    assert codes[CANCELLED] > 1000
    assert got["grown"] < 200e6
