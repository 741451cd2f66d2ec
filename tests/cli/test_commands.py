"""The command line: help, refusals, and each command's answer and exit code."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID, put_row
from support.doors import RestDoor
from support.running import running_system, taskgate
from support.terminal import shown_on_a_terminal, unprintable


@pytest.mark.parametrize("command", [(), ("up",), ("serve",), ("import",), ("get",), ("gateway",)], ids=str)
def test_help_has_examples(command: tuple[str, ...]) -> None:
    """``--help`` shows how to call it."""
    done = taskgate(*command, "--help")
    assert done.returncode == 0
    assert "taskgate " in done.stdout.partition("\n")[2]
    assert ("Try it:" if command == () else "Example") in done.stdout


@pytest.mark.parametrize("command", ["up", "serve"])
def test_help_says_what_the_layouts_are(command: str) -> None:
    """Both values, what each reads, the variable and the default."""
    text = " ".join(taskgate(command, "--help").stdout.split())
    assert (
        "What the store holds: 'taskgate' for what 'taskgate import' wrote, 'conductor' for Conductor's own database,"
        " which is only read. [TASKGATE_LAYOUT; default: taskgate]"
    ) in text


def test_help_names_every_kind_of_store() -> None:
    """As many as the refusal of an unknown one does."""
    refusal = taskgate("serve", "--store", "mongodb://x").stderr
    schemes = set(re.findall(r"([a-z+]+)://", refusal)) - {"mongodb"}
    assert len(schemes) == 7
    text = "".join(taskgate("serve", "--help").stdout.split())
    assert {scheme for scheme in schemes if f"{scheme}://" in text} == schemes


def test_variables_that_are_no_settings_are_named_in_one_line() -> None:
    """With no word of what they hold; they may be another program's, and refuse nothing."""
    done = taskgate("gateway", env={"TASKGATE_STOER": "secret", "TASKGATE_WORKERZ": "secret", "TASKGATE_WORKERS": "1"})
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["ignored"] == "TASKGATE_STOER, TASKGATE_WORKERZ"
    assert json.loads(line)["level"] == "warning"
    assert "secret" not in line


def test_up_makes_no_file_where_conductors_is_expected(tmp_path: Path) -> None:
    """A wrong path is answered with 503; it does not become an empty database beside the right one."""
    database = tmp_path / "c123.db"
    with (
        running_system(database, "--layout", "conductor", workers=1) as system,
        closing(RestDoor("rest", system.http)) as door,
    ):
        outcome = door.get_task_json(UNKNOWN_ID)
    assert outcome.status == 503
    assert not database.exists()


def test_version() -> None:
    done = taskgate("--version")
    assert done.stdout.startswith("taskgate, version ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve", "--store", "mongodb://x"), "taskgate: store: "),
        (("serve", "--store", "sqlite:///:memory:"), "taskgate: store: "),
        (("up", "--store", "sqlite:///"), "taskgate: store: "),
        (("serve", "--workers", "0"), "taskgate: workers (--workers): "),
        (
            ("up", "--transport", "grpcio", "--workers", "9", "--grpc", "127.0.0.1:65530"),
            "taskgate: grpc: 9 workers from port 65530",
        ),
        (("up", "--transport", "carrier-pigeon"), "taskgate: transport (--transport): "),
        (("gateway", "--http", "x"), "taskgate: http (--http): "),
        (("serve", "--layout", "rest"), "taskgate: layout (--layout): Input should be 'taskgate' or 'conductor'"),
        (
            ("import", "--layout", "conductor", "-"),
            "taskgate: layout: Conductor's own database is only read; import into a store of layout taskgate",
        ),
        (
            ("up", "--demo", "--layout", "conductor"),
            "taskgate: layout: Conductor's own database is only read; --demo needs a store of layout taskgate",
        ),
        (("serve", "--config", "/nowhere.toml"), "taskgate: config: there is no file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    """Exit code 2, the sentence names the setting, and there is no traceback."""
    done = taskgate(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(sentence)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "file", "sentence"),
    [
        ({"TASKGATE_WORKERS": "many"}, "", "taskgate: workers (TASKGATE_WORKERS): "),
        ({}, 'http = "8080"', "taskgate: http: '8080' is not HOST:PORT"),
        ({}, "wrokers = 2", "taskgate: wrokers: there is no such setting"),
        ({}, "workers = = 2", "taskgate: config: "),
    ],
    ids=["environment", "file", "unknown key", "not TOML"],
)
def test_bad_setting_is_one_sentence_wherever_it_was_made(
    tmp_path: Path, environment: dict[str, str], file: str, sentence: str
) -> None:
    """Exit code 2 and the key, whether it came from a variable or a file."""
    config = tmp_path / "taskgate.toml"
    config.write_text(file)
    done = taskgate("gateway", "--config", str(config), env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    """Each source loses to the one above it, through the real command."""
    config = tmp_path / "taskgate.toml"
    config.write_text('http = "127.0.0.1:1111"\n')

    def port(*flags: str, **environment: str) -> int:
        done = taskgate("gateway", "--config", str(config), *flags, env=environment)
        listener = YAML(typ="safe").load(done.stdout)["static_resources"]["listeners"][0]
        return int(listener["address"]["socket_address"]["port_value"])

    assert port() == 1111
    assert port(TASKGATE_HTTP="127.0.0.1:2222") == 2222
    assert port("--http", "127.0.0.1:3333", TASKGATE_HTTP="127.0.0.1:2222") == 3333


def test_up_refuses_a_store_that_it_cannot_use(tmp_path: Path) -> None:
    """A damaged file, a missing folder: one sentence and exit code 1, before anything is started."""
    (tmp_path / "damaged.db").write_bytes(b"no database" * 500)
    for path, reason in ((tmp_path / "damaged.db", "damaged"), (tmp_path / "no" / "x.db", "its folder does not exist")):
        done = taskgate("up", "--store", f"sqlite:///{path}", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_environment_is_read(tmp_path: Path) -> None:
    done = taskgate("gateway", env={"TASKGATE_HTTP": "127.0.0.1:12345"})
    assert "port_value: 12345" in done.stdout


def test_gateway_prints_the_configuration_with_these_settings() -> None:
    """Valid YAML, one endpoint for each worker, comments kept."""
    done = taskgate("gateway", "--transport", "grpcio", "--workers", "3", "--grpc", "127.0.0.1:6000")
    config = YAML(typ="safe").load(done.stdout)
    (group,) = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    ports = [e["endpoint"]["address"]["socket_address"]["port_value"] for e in group["lb_endpoints"]]
    assert ports == [6000, 6001, 6002]
    assert "# " in done.stdout


def test_gateway_prints_the_configuration_with_the_service_inside() -> None:
    """The default transport: both addresses, comments kept, and how to run it."""
    done = taskgate("gateway", "--http", "127.0.0.1:6080", "--grpc", "127.0.0.1:6051")
    (listener,) = YAML(typ="safe").load(done.stdout)["static_resources"]["listeners"]
    addresses = [listener["address"], *(more["address"] for more in listener["additional_addresses"])]
    assert [address["socket_address"]["port_value"] for address in addresses] == [6080, 6051]
    assert "taskgate.inside:app" in done.stdout
    assert re.search(r"^# .*PYTHONHOME=\S+ .*envoy --concurrency 1 -c FILE", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_gateway_validate_has_envoy_check_it(transport: str) -> None:
    done = taskgate("gateway", "--validate", "--transport", transport)
    assert (done.returncode, done.stdout) == (0, "Envoy accepts the configuration.\n")


def test_get_asks_a_running_server(tmp_path: Path) -> None:
    """The exact document, a summary for people, and exit code 1 with the server's words."""
    with running_system(tmp_path / "tasks.db", "--demo", workers=1) as system:
        for server in (system.grpc, system.http):
            exact = taskgate("get", "--json", DOCUMENTED_ID, "--server", server)
            assert (0, DOCUMENTED_COMPACT.decode() + "\n") == (exact.returncode, exact.stdout)
            summary = taskgate("get", DOCUMENTED_ID, "--server", server)
            assert "COMPLETED" in summary.stdout
            assert "2026-02-09T07:10:22.070+00:00" in summary.stdout
            unknown = taskgate("get", UNKNOWN_ID, "--server", server)
            assert unknown.returncode == 1
            assert f"NOT_FOUND: Task not found for taskId: {UNKNOWN_ID}" in unknown.stderr
        assert json.loads(exact.stdout)["taskId"] == DOCUMENTED_ID


def test_get_shows_text_of_others_escaped_on_a_terminal(tmp_path: Path) -> None:
    """A worker's name, a reason: nothing that a terminal would act on or hide, and ``--json`` the same value.

    In a pipe ``--json`` is the document, byte for byte.
    """
    odd = "\x1b]0;title\x07\x7f\x85\x9b2J\u202e\u2028"
    escaped = r"\x1b]0;title\x07\x7f\x85\x9b2J\u202e\u2028"
    fields = {"taskId": UNKNOWN_ID, "status": "FAILED", "workerId": odd, "reasonForIncompletion": odd + "\n", "n": 1e5}
    document = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    with running_system(tmp_path / "tasks.db", workers=1) as system:
        put_row(tmp_path / "tasks.db", UNKNOWN_ID, document.decode())
        server = ("--server", system.grpc)
        summary = shown_on_a_terminal("get", UNKNOWN_ID, *server)
        as_json = shown_on_a_terminal("get", UNKNOWN_ID, "--json", *server)
        refused = shown_on_a_terminal("get", f"no{odd}", *server)
        piped = taskgate("get", UNKNOWN_ID, "--json", *server).stdout
    assert summary.count(escaped) == 2
    assert json.loads(as_json) == fields
    assert "INVALID_ARGUMENT" in refused
    assert [unprintable(shown) for shown in (summary, as_json, refused)] == [[], [], []]
    assert piped.encode() == document + b"\n"


def test_get_without_a_server_says_so() -> None:
    done = taskgate("get", UNKNOWN_ID, "--server", "127.0.0.1:1", "--timeout", "2")
    assert done.returncode == 1
    assert "127.0.0.1:1: UNAVAILABLE" in done.stderr
