"""An identity provider that takes connections and does not answer, at every front door."""

import time
from pathlib import Path

import pytest

from support.clients import CLIENTS, Outcome, RestClient, open_client
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.key_server import body, key_set, running_key_server, trickle
from support.public_words import assert_public
from support.running import System, eventually, running_system
from support.tokens import Minter

ISSUER, AUDIENCE = "https://idp.example/realm", "taskgate-tests"
HANGS = trickle(b"", 1)
PATIENCE = 10.0
"""Seconds in which each call must be answered, of which a look for a key may take five."""


def ask(system: System, token: str) -> list[Outcome]:
    """Ask for a task at each front door, on new connections; none waits for the provider."""
    outcomes = []
    for name in CLIENTS:
        client = open_client(name, system.http, system.grpc)
        began = time.monotonic()
        outcomes.append(client.get_task_json(DOCUMENTED_ID, x_authorization=token))
        assert time.monotonic() - began < PATIENCE, name
        client.close()
    return outcomes


@pytest.mark.long
@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_a_provider_that_hangs_holds_up_no_call(tmp_path: Path, mode: str) -> None:
    """Before the keys are known, calls are 503, retryable. Later known keys go on, and unknown ones are refused."""
    minter = Minter.new("first", iss=ISSUER, aud=AUDIENCE, sub="alice")
    stranger = Minter.new("second", **minter.claims)
    options = ("--demo", "--auth", "jwt", "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE)
    with (
        running_key_server(HANGS) as provider,
        running_system(tmp_path / "tasks.db", *options, "--jwks", provider.url, mode=mode, workers=1) as system,
    ):
        rest = RestClient("rest", system.http)
        assert rest.get("/healthz").status == 503
        for outcome in ask(system, minter.token()):
            assert (outcome.status, outcome.retryable) in {(503, True), (503, None)}, outcome
            assert outcome.message == "The store is unavailable: the keys cannot be read now"
            assert_public(outcome.message)
        provider.answer = body(key_set(minter.jwk()))
        known = lambda: {outcome.status for outcome in ask(system, minter.token())} == {200}  # noqa: E731
        eventually(lambda: (time.sleep(0.3), known())[1], "the keys are known")
        eventually(lambda: rest.get("/healthz").status == 200, "ready")
        provider.answer = HANGS
        asked = provider.asked

        def looked() -> bool:  # at most every ten seconds, and for a call
            assert {outcome.status for outcome in ask(system, stranger.token())} == {401}
            time.sleep(0.3)
            return provider.asked > asked

        eventually(looked, "a look for the unknown key")
        for outcome in ask(system, minter.token()):
            assert outcome.document == DOCUMENTED_COMPACT
        assert {outcome.status for outcome in ask(system, stranger.token())} == {401}
        assert rest.get("/healthz").status == 200
        rest.close()
        assert not [line for line in system.log if "Traceback" in line]
