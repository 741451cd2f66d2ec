"""The golden files, which the clients in examples/ decode, are what the server answers in both modes."""

from typing import Any

import pytest

from support import golden
from support.clients import GrpcClient
from support.documents import compact, put_row
from support.running import System

TOO_DEEP_ID = "00000000-0000-4000-8000-0000000000dd"


@pytest.mark.parametrize("address", ["grpc", "http"])
def test_golden_files_are_current(system: System, address: str) -> None:
    """``PYTHONPATH=tests:server python -m support.golden`` writes them anew."""
    answers = golden.answers(system, getattr(system, address))
    assert {name: (answer, golden.read(answer)) for name, answer in answers.items()} == golden.saved()


@pytest.mark.parametrize(
    "deeper",
    [golden.nest_lists(golden.DEEPEST_LIST + 1), golden.nest(golden.DEEPEST_OBJECT + 1)],
    ids=["list", "object"],
)
def test_golden_files_have_the_deepest_payloads(system: System, grpc_client: GrpcClient, deeper: Any) -> None:
    document = {"taskId": TOO_DEEP_ID, "status": "COMPLETED", "outputData": {"deep": deeper}}
    put_row(system.database, TOO_DEEP_ID, compact(document).decode())
    outcome, _ = grpc_client.get_task(TOO_DEEP_ID)
    assert outcome.reason == "ERROR_REASON_TASK_NOT_REPRESENTABLE"
