"""The steps of a call: which token it carries, when one is renewed, and what another call or an outage changes."""

import base64
import json
import pickle
from typing import Any

import grpc
import pytest

from taskgate.client import CallError, Key, NotFound, Unauthenticated, Unavailable
from taskgate.client import tokens as tokens_module
from taskgate.client.steps import Rpc, Tokens, Turn, answered
from taskgate.client.tokens import tokens_for
from taskgate.v1.task_service_pb2 import GetTaskRequest
from taskgate.v1.token_service_pb2 import CreateTokenResponse

RPC = Rpc("GetTask", GetTaskRequest(task_id="x"), 1e9)
LIFE = 1000


class Clock:
    """The time that the module of tokens reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(tokens_module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Server:
    """Answers steps: gives token after token, accepts those of ``valid``, and notes what was sent."""

    def __init__(self) -> None:
        self.given = 0
        self.valid: set[str] = set()
        self.refuses_all = False
        self.sent: list[str] = []
        self.down: CallError | None = None
        self.reason = "ERROR_REASON_TOKEN_EXPIRED"

    def do(self, step: Rpc | Turn) -> Any:
        if isinstance(step, Turn):
            return run(step.flow, self)
        if step.method == "CreateToken":
            if self.down is not None:
                raise self.down
            self.given += 1
            claims = base64.urlsafe_b64encode(json.dumps({"iat": 7, "exp": 7 + LIFE, "n": self.given}).encode())
            token = f"h.{claims.decode().rstrip('=')}.s"
            self.valid = {token}
            return CreateTokenResponse(token=token)
        self.sent.append(step.token)
        if self.refuses_all or step.token not in self.valid:
            raise Unauthenticated(grpc.StatusCode.UNAUTHENTICATED, "no", self.reason)
        return "answer"


def run(flow: Any, server: Server) -> Any:
    try:
        step = next(flow)
        while True:
            try:
                outcome = server.do(step)
            except CallError as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as end:
        return end.value


def ask(tokens: Tokens, server: Server) -> Any:
    return run(answered(tokens, RPC), server)


@pytest.fixture
def keyed() -> tuple[Tokens, Server]:
    return tokens_for(None, Key("id", "secret")), Server()


def test_a_token_is_renewed_after_four_fifths_of_its_life(keyed: tuple[Tokens, Server], clock: Clock) -> None:
    """By the difference of its times, whatever the server's clock shows."""
    tokens, server = keyed
    for clock.now, given in ((0.0, 1), (799.0, 1), (801.0, 2), (1600.0, 2), (1602.0, 3)):
        assert ask(tokens, server) == "answer"
        assert server.given == given


@pytest.mark.parametrize("reason", ["ERROR_REASON_TOKEN_EXPIRED", "ERROR_REASON_TOKEN_INVALID"])
def test_a_refused_token_is_renewed_and_the_call_sent_again_once(
    keyed: tuple[Tokens, Server], clock: Clock, reason: str
) -> None:
    tokens, server = keyed
    server.reason = reason
    ask(tokens, server)
    server.valid = set()
    assert ask(tokens, server) == "answer"
    assert (server.given, len(server.sent)) == (2, 3)
    server.refuses_all = True
    with pytest.raises(Unauthenticated):
        ask(tokens, server)
    assert (server.given, len(server.sent)) == (3, 5)


def test_other_refusals_are_not_answered_by_a_new_token(keyed: tuple[Tokens, Server], clock: Clock) -> None:
    tokens, server = keyed
    ask(tokens, server)
    server.valid, server.reason = set(), "ERROR_REASON_CREDENTIALS_INVALID"
    with pytest.raises(Unauthenticated):
        ask(tokens, server)
    assert server.given == 1


def test_a_token_that_another_call_has_renewed_is_used(keyed: tuple[Tokens, Server], clock: Clock) -> None:
    """Calls that wait for their turn do not ask for a token each."""
    tokens, server = keyed
    flows = [answered(tokens, RPC) for _ in range(3)]
    turns = [next(flow) for flow in flows]
    sent = [flow.send(server.do(turn)) for flow, turn in zip(flows, turns, strict=True)]
    assert len({step.token for step in sent}) == 1
    assert server.given == 1


def test_an_outage_of_the_keys_fails_no_call_while_the_token_is_valid(
    keyed: tuple[Tokens, Server], clock: Clock
) -> None:
    """And not every call asks again. Once the token has ended, the error is the caller's."""
    tokens, server = keyed
    ask(tokens, server)
    server.down = Unavailable(grpc.StatusCode.UNAVAILABLE, "down")
    for clock.now in (801.0, 805.0, 807.0, 999.0):
        assert ask(tokens, server) == "answer"
    clock.now = 1005.0
    with pytest.raises(Unavailable):
        ask(tokens, server)


def test_a_function_that_has_another_token_after_a_refusal_gets_a_second_attempt() -> None:
    server = Server()
    server.valid = {"second"}
    tokens = iter(["first", "second"])
    assert ask(tokens_for(lambda: next(tokens), None), server) == "answer"
    with pytest.raises(Unauthenticated):
        ask(tokens_for("first", None), server)
    assert server.sent == ["first", "second", "first"]


def test_errors_survive_pickling() -> None:
    """Pools of processes send them."""
    error = NotFound(grpc.StatusCode.NOT_FOUND, "gone", "R", {"task_id": "x"}, 1.5, "id")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), vars(copy), str(copy)) == (NotFound, vars(error), "NOT_FOUND: gone")


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Key("id", "secret"))
