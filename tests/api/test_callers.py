"""Whom a call is counted and logged for: the address of its caller, at every front door and in both modes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.access import create_keys, minter_of
from support.clients import open_client
from support.documents import DOCUMENTED_ID
from support.running import System, eventually, running_system
from taskgate.access.roles import Role


@pytest.fixture(scope="module")
def denied(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, str]]:
    """``taskgate up`` on IPv6 alone, and a token that may not read its task: each call has an audit line."""
    folder: Path = tmp_path_factory.mktemp("ipv6")
    url = f"sqlite:///{folder}/keys.db"
    key = create_keys(url, other=(Role.READER, ("none",)))["other"]
    options = ("--demo", "--auth", "keys", "--auth-store", url, "--http", "[::1]:0", "--grpc", "[::1]:0")
    with running_system(folder / "tasks.db", *options, mode=mode, workers=1) as system:
        yield system, minter_of(url, key.key_id).token(sub=key.key_id)


@pytest.mark.parametrize("door", ["rest", "grpc", "grpc-envoy"])
def test_an_ipv6_address_has_no_brackets(denied: tuple[System, str], door: str) -> None:
    """The audit line has it as any tool reads it, so that it is found among the other lines."""
    system, token = denied
    client = open_client(door, system.http, system.grpc)
    outcome = client.get_task_json(DOCUMENTED_ID, x_authorization=token)
    client.close()
    assert outcome.status == 403
    seen = outcome.headers["x-request-id"]
    find = lambda: [line for line in system.events("read denied") if line["request_id"] == seen]  # noqa: E731
    (line,) = eventually(find, f"the audit line of {seen}")
    assert line["address"] == "::1"
