"""The released Conductor SDKs, unmodified, against ``taskgate up --auth keys``: the base URL and the keys are ours."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from sdk.clients import NAMES, SDKS, Client, ClientFailed, Keys, Sdks
from support.documents import DOCUMENTED_ID
from support.in_process import asked
from support.running import System, ask_admin, eventually, running_system

LIFETIME = 3
"""Seconds that a token is valid; its ``exp``, a whole second, may be up to one later."""

REFUSED_WITHIN = 5
"""Seconds until a disabled key is refused everywhere, as documented."""

CREATE_TOKEN = "/taskgate.v1.TokenService/CreateToken"  # noqa: S105 - a path

pytestmark = pytest.mark.parametrize("sdk", SDKS)


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def auth_store(tmp_path_factory: pytest.TempPathFactory, mode: str) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp(mode) / 'keys.db'}"


@pytest.fixture(scope="module")
def keys(auth_store: str) -> dict[str, Keys]:
    """A key for each SDK by its name, and one that is to be disabled."""
    made = {}
    for name in NAMES:
        for key_name in (name, f"{name} to disable"):
            key = json.loads(asked("keys", "create", key_name, "--json", "--auth-store", auth_store).stdout)
            made[key_name] = (key["keyId"], key["keySecret"])
    return made


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, mode: str, auth_store: str, keys: dict[str, Keys]
) -> Iterator[System]:
    flags = ("--demo", "--auth", "keys", "--auth-store", auth_store, "--token-lifetime", str(LIFETIME))
    with running_system(tmp_path_factory.mktemp("sdk") / "tasks.db", *flags, mode=mode, workers=1) as system:
        yield system


@pytest.fixture
def new_client(sdks: Sdks, system: System, sdk: str) -> Callable[[Keys | None], Client]:
    return lambda keys: sdks.client(sdk, f"http://{system.http}/api", keys)


@pytest.fixture
def sdk_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns what the SDK has logged: Python's in this process, the others' on standard error."""
    return lambda: caplog.text + capfd.readouterr().err


class Requests:
    """What reaches ``system`` from now on."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._refused, self._line = _refused(system), len(system.log)

    @property
    def refused(self) -> int:
        """How many have been refused, by the server or by Envoy."""
        return _refused(self._system) - self._refused

    def assert_refused(self, expected: int) -> None:
        eventually(lambda: self.refused == expected, f"{expected} refused requests, of {self.refused}", seconds=2)

    def assert_tokens(self, expected: int, reason: str = "") -> None:
        """Fail unless so many tokens were asked for, and the log says ``reason`` of each."""
        eventually(lambda: len(self._created()) >= expected, f"{expected} tokens asked for")
        assert self._created() == [reason] * expected

    def _created(self) -> list[str]:
        calls = self._system.events("call", self._line)
        return [call.get("error", "").partition(": ")[2] for call in calls if call["method"] == CREATE_TOKEN]


def _refused(system: System) -> int:
    """Requests that got a 4xx, without the probes of ``up``, which Envoy's configuration answers directly."""
    _, statistics = ask_admin(system.envoy(), "GET", "/stats/prometheus?filter=http.taskgate.*_rq_|rq_direct_response")
    of_envoy = 'envoy_http_conn_manager_prefix="taskgate"'
    every = re.search(
        rf'^envoy_http_downstream_rq_xx{{envoy_response_code_class="4",{of_envoy}}} (\d+)$', statistics, re.MULTILINE
    )
    probes = re.search(rf"^envoy_http_rq_direct_response{{{of_envoy}}} (\d+)$", statistics, re.MULTILINE)
    assert every, statistics
    assert probes, statistics
    return int(every[1]) - int(probes[1])


JAVA_SAYS = {
    "The call needs a token": "INVALID_TOKEN",
    "The token is not valid": "INVALID_TOKEN",
    "The token has expired": "EXPIRED_TOKEN",
}
"""What the error of Java's SDK has in place of ``message``: the member ``error``, if there is one."""


def says(sdk: str, error: str, message: str) -> bool:
    """Whether the SDK's error shows which refusal of ours it is."""
    return (JAVA_SAYS[message] if sdk == "java" else message) in error


def test_client_with_a_key_gets_the_task(
    new_client: Callable[[Keys | None], Client], keys: dict[str, Keys], sdk: str
) -> None:
    client = new_client(keys[sdk])
    for _ in range(2):
        assert client.ask(DOCUMENTED_ID)["task"]["taskId"] == DOCUMENTED_ID


def test_expired_token_is_renewed_by_itself(
    new_client: Callable[[Keys | None], Client], keys: dict[str, Keys], system: System, sdk: str
) -> None:
    """One refusal, one new token, and the task. Go's SDK renews by its own clock only, and returns the error."""
    client = new_client(keys[sdk])
    client.ask(DOCUMENTED_ID)
    time.sleep(LIFETIME + 1.1)
    requests = Requests(system)
    answer = client.ask(DOCUMENTED_ID)
    requests.assert_refused(1)
    if sdk == "go":
        assert '"error":"EXPIRED_TOKEN"' in answer["error"]
        requests.assert_tokens(0)
    else:
        assert answer["task"]["taskId"] == DOCUMENTED_ID
        requests.assert_tokens(1)


def test_client_without_a_key_is_refused(new_client: Callable[[Keys | None], Client], system: System, sdk: str) -> None:
    """The error is ours, and Rust's SDK alone repeats the call."""
    client, requests = new_client(None), Requests(system)
    error = client.ask(DOCUMENTED_ID)["error"]
    assert says(sdk, error, "The call needs a token")
    requests.assert_refused(2 if sdk == "rust" else 1)
    requests.assert_tokens(0)


ASKS_AT_ONCE = {"python", "java"}
"""SDKs that ask for a token as soon as there is a client; others do when they first need one."""

NEVER_CALL_WITHOUT = {"java", "rust"}
"""SDKs whose calls fail without a request if they have a key and get no token."""


def test_wrong_secret_is_an_error_that_says_so_and_no_loop(
    new_client: Callable[[Keys | None], Client],
    keys: dict[str, Keys],
    system: System,
    sdk: str,
    sdk_log: Callable[[], str],
) -> None:
    requests = Requests(system)
    key_id, _ = keys[sdk]
    wrong = (key_id, "another secret")
    if sdk == "javascript":
        with pytest.raises(ClientFailed, match="Key ID and secret are not valid") as failed:
            new_client(wrong)  # needs a token
        assert failed.value.pauses == [1000 * seconds for seconds in (1, 2, 4, 8, 16, 32, 60)]
        requests.assert_tokens(8, "another secret")
        requests.assert_refused(8)
        return
    client = new_client(wrong)
    requests.assert_refused(1 if sdk in ASKS_AT_ONCE else 0)
    if sdk in NEVER_CALL_WITHOUT:  # Java's SDK pauses before it asks again
        eventually(
            lambda: "INVALID_CREDENTIALS" in client.ask(DOCUMENTED_ID)["error"], "the error says what was wrong", 10
        )
    else:
        error = client.ask(DOCUMENTED_ID)["error"]
        assert "401" in error
        assert says(sdk, error, "The call needs a token")
        assert "INVALID_CREDENTIALS" in sdk_log()
    tokens = 2 if sdk in ASKS_AT_ONCE else 1
    requests.assert_tokens(tokens, "another secret")
    requests.assert_refused(tokens + (sdk not in NEVER_CALL_WITHOUT))


def test_disabled_key_is_refused_within_5_seconds_and_causes_no_loop(
    new_client: Callable[[Keys | None], Client], keys: dict[str, Keys], auth_store: str, system: System, sdk: str
) -> None:
    """Each call of a running client fails after at most three requests: the call, a new token, the call again."""
    name = f"{sdk} to disable"
    client = new_client(keys[name])
    assert "task" in client.ask(DOCUMENTED_ID)
    assert asked("keys", "disable", name, "--auth-store", auth_store).exit_code == 0
    error = eventually(lambda: client.ask(DOCUMENTED_ID).get("error"), "the key is refused", REFUSED_WITHIN)
    for _ in range(1 if sdk == "rust" else 3):  # Rust's SDK pauses, longer each time
        requests = Requests(system)
        error = client.ask(DOCUMENTED_ID)["error"]
        assert 1 <= requests.refused <= 3
    if sdk == "rust":  # does not call without a token
        assert "Key ID and secret are not valid" in error
    else:  # as old as the client's last token is
        assert says(sdk, error, "The token is not valid") or says(sdk, error, "The token has expired")
