"""The command line: help, refusals, and each command's answer and exit code.

Commands that only print run in this process; one of each kind runs as a process, as for a person or a script.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from support.clients import RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID, put_row, task
from support.in_process import asked
from support.running import Running, System, running_system, taskgate
from support.terminal import shown_on_a_terminal, unprintable
from taskgate.base.settings import Settings, is_url
from taskgate.commands.cli import main
from taskgate.commands.settings import masked
from taskgate.documents.document import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from taskgate.processes import supervisor
from taskgate.processes.envoy import embedded
from taskgate.processes.envoy.configuration import envoy_command
from taskgate.processes.heartbeat import BLOCKED_HUNG_AFTER, HUNG_AFTER, LOOP_HUNG_AFTER
from taskgate.processes.worker_pool import START_TIMEOUT
from taskgate.service.in_flight import COUNTED_BYTES
from taskgate.transports.pace import GRACE_SECONDS, MIN_RATE


@pytest.mark.parametrize(
    "command", [(), ("up",), ("serve",), ("import",), ("get",), ("gateway",), ("protos",), ("settings",)], ids=str
)
def test_help_has_examples(command: tuple[str, ...]) -> None:
    """``--help`` shows how to call it."""
    done = asked(*command, "--help")
    assert done.exit_code == 0
    assert "taskgate " in done.stdout.partition("\n")[2]
    assert ("Try it:" if command == () else "Example") in done.stdout


@pytest.mark.parametrize("command", ["up", "serve"])
def test_help_says_what_the_layouts_are(command: str) -> None:
    """Both values, what each reads, the variable and the default."""
    text = " ".join(asked(command, "--help").stdout.split())
    assert (
        "What the store holds: 'taskgate' for what 'taskgate import' wrote, 'conductor' for Conductor's own database,"
        " which is only read. [TASKGATE_LAYOUT; default: taskgate]"
    ) in text


def test_help_says_where_each_grace_and_limit_stands() -> None:
    """Each names its flag, or its effective figure and the file that has it."""
    lines = asked("up", "--help").stdout.partition("Times and limits")[2].splitlines()

    def line(beginning: str) -> str:
        (found,) = [text.strip() for text in lines if text.strip().startswith(beginning)]
        return found

    config = YAML(typ="safe").load(asked("gateway", "--mode", "proxied").stdout)
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    settings = Settings()
    cluster = config["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"][0]
    routes = {route["name"]: route for route in manager["route_config"]["virtual_hosts"][0]["routes"]}
    connections, heap = config["overload_manager"]["resource_monitors"]

    assert "--drain-delay" in line("shutdown: health checks")
    assert "--shutdown-grace" in line("shutdown: calls")
    assert f"{supervisor._OVERLAP:g} s" in line("SIGHUP")
    assert f"{START_TIMEOUT:g} s" in line("start of a process")
    hung = line("hang of a process")
    assert f"{HUNG_AFTER:g} s; {LOOP_HUNG_AFTER:g} s" in hung
    assert f"{BLOCKED_HUNG_AFTER:g} s in the kernel" in hung
    assert "--request-timeout" in line("call  ")
    stops = manager["request_headers_timeout"], manager["stream_idle_timeout"]
    assert " · ".join(stops).replace("s", " s") in line("headers of a request · pause")
    watch = routes["grpc-streams"]["route"]
    in_minutes = manager["common_http_protocol_options"]["idle_timeout"], watch["idle_timeout"]
    assert " · ".join(f"{int(text[:-1]) // 60} min" for text in in_minutes) in line("connection without calls")
    assert manager["request_timeout"] == f"{settings.request_timeout + 1:g}s"
    assert "--request-timeout + 1 s" in line("whole request")
    assert f"{connections['typed_config']['max_active_downstream_connections']:,}," in line("connections  ")
    assert "ulimit -Hn" in line("open files")
    assert f"{manager['http2_protocol_options']['max_concurrent_streams']} (" in line("calls on one HTTP/2 connection")
    assert f"{cluster['max_requests']:,} (" in line("calls at a time")
    assert f"{MAX_MESSAGE_BYTES >> 20} MiB" in line("document or answer")
    assert f"{MAX_REQUEST_BYTES >> 10} KiB" in line("gRPC request")
    assert "--in-flight-mib" in line("answers over 64 KiB, in flight")
    assert COUNTED_BYTES == 64 << 10
    assert f"{MIN_RATE >> 10} KiB/s for {GRACE_SECONDS:g} s" in line("slowest reader of a large answer")
    assert f"{manager['max_request_headers_kb']} KiB" in line("size of a request's headers")
    assert f"{heap['typed_config']['max_heap_size_bytes'] >> 30} GiB" in line("memory of Envoy")


def test_every_setting_is_a_flag_and_every_flag_that_help_speaks_of_is_one() -> None:
    up = main.commands["up"]
    assert {parameter.name for parameter in up.params} == {*Settings.model_fields, "config", "demo"}
    flags = {flag for parameter in up.params for flag in parameter.opts}
    spoken_of = set(re.findall(r"--[a-z-]+", up.epilog or ""))
    assert "--in-flight-mib" in spoken_of
    assert spoken_of <= flags
    of_envoy = {
        "mode",
        "transport",
        "http",
        "rate_limit",
        "trusted_hops",
        "docs",
        "cors_origins",
        "instance",
        "access_log",
    }
    assert {parameter.name for parameter in main.commands["serve"].params} == {
        *Settings.model_fields,
        "config",
    } - of_envoy


def test_help_shows_the_choices_of_a_setting_or_the_kind_of_its_value() -> None:
    """In every command, in place of its value; every choice that is shown is accepted."""
    shown = {
        (option.name, option.metavar)
        for command in main.commands.values()
        for option in command.params
        if option.name in Settings.model_fields and not option.is_flag
    }
    flags = {"insecure", "insecure_metrics"}
    assert {name for name, _ in shown} == set(Settings.model_fields) - flags
    of = dict(shown)
    assert of["mode"] == "[embedded|proxied]"
    assert of["layout"] == "[taskgate|conductor]"
    assert of["task_id_format"] == "[uuid|any]"
    assert {of["http"], of["grpc"]} == {"HOST:PORT"}
    assert of["mask"] == "PATTERN,..."
    choices = {name: text.strip("[]").split("|") for name, text in shown if text.startswith("[")}
    assert len(choices) == 9
    of_jwt = {"jwks": "keys.json", "jwt_issuer": "https://id.example.org", "jwt_audience": "taskgate"}
    for name, values in choices.items():
        for value in values:
            assert str(getattr(Settings.model_validate({name: value, **of_jwt}), name)) == value


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_access_log_has_a_line_for_each_request(tmp_path: Path, mode: str) -> None:
    """Also for requests that Envoy answers itself, with the answer's request ID; paths are relative to ``up``'s."""
    file = tmp_path / "access.log"
    arguments = ("--demo", "--access-log", os.path.relpath(file))
    with running_system(tmp_path / "tasks.db", *arguments, mode=mode, workers=1) as system:
        paths = [f"/api/tasks/{DOCUMENTED_ID}", "/nope"]
        answers = [httpx.get(f"http://{system.http}{path}?token=secret", trust_env=False) for path in paths]
        assert system.stop() == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [line for line in lines if line.get("path") in paths]  # without those of probes
    assert [(line["path"], int(line["status"])) for line in lines] == [(paths[0], 200), (paths[1], 404)]
    assert [line["request_id"] for line in lines] == [answer.headers["x-request-id"] for answer in answers]
    assert "secret" not in file.read_text()


def test_help_names_every_kind_of_store() -> None:
    """The same ones as the refusal of an unknown one."""
    refusal = asked("serve", "--store", "mongodb://x").stderr
    schemes = set(re.findall(r"([a-z+]+)://", refusal)) - {"mongodb"}
    assert len(schemes) == 7
    text = "".join(asked("serve", "--help").stdout.split())
    assert {scheme for scheme in schemes if f"{scheme}://" in text} == schemes


def test_variables_that_are_no_settings_are_named_in_one_line() -> None:
    """Without their values; they may be another program's, and cause no refusal."""
    misspelt = {"TASKGATE_STOER": "secret", "TASKGATE_WORKERZ": "secret"}
    done = taskgate("gateway", env={**misspelt, "TASKGATE_WORKERS": "1", "TASKGATE_TOKEN": "secret"})
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
        closing(RestClient("rest", system.http)) as client,
    ):
        outcome = client.get_task_json(UNKNOWN_ID)
    assert outcome.status == 503
    assert not database.exists()


def test_version_is_said() -> None:
    done = taskgate("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("taskgate, version ")


ABSENT_ID = "00000000-0000-4000-8000-000000000000"
WATCHED_ID = "00000000-0000-4000-8000-00000000000a"

_CONDUCTOR = ("--layout", "conductor", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve", "--store", "mongodb://x"), "taskgate: store: "),
        (("serve", "--store", "sqlite:///:memory:"), "taskgate: store: "),
        (("up", *_CONDUCTOR, "--store", "jdbc:postgresql://h/d"), "taskgate: store: this is a JDBC URL; "),
        (
            ("up", *_CONDUCTOR, "--store", "h:6379:rack", "--mode", "proxied"),
            "taskgate: store: this is written",
        ),
        (
            ("up", *_CONDUCTOR, "--store", "postgresql://h/d?currentSchema=x"),
            "taskgate: store: a postgresql URL has",
        ),
        (("up", "--store", "cassandra://h/k"), "taskgate: layout: in Cassandra, taskgate reads what Conductor writes"),
        (("serve", "--workers", "2", "--store", "/var/lib/c123.db"), "taskgate: store: a file is written sqlite:////v"),
        (("import", "--store", "jdbc:sqlite:c123.db", "-"), "taskgate: store: this is a JDBC URL; "),
        (("up", "--mode", "proxied", "--http", "nohost.invalid:0"), "taskgate: http: nohost.invalid is not an"),
        (("up", "--store", "sqlite:///"), "taskgate: store: "),
        (("settings", "--workers", "0"), "taskgate: workers (--workers): "),
        (("serve", "--workers", "0"), "taskgate: workers (--workers): "),
        (
            ("up", "--mode", "proxied", "--workers", "9", "--grpc", "127.0.0.1:65530"),
            "taskgate: grpc: 9 workers from port 65530",
        ),
        (("up", "--mode", "carrier-pigeon"), "taskgate: mode (--mode): "),
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
        (("serve", "--config", "/nowhere.toml"), "taskgate: config: the file /nowhere.toml does not exist"),
        (("up", "--store", "redis://h\udcff/0"), "taskgate: store (--store): it is not text in UTF-8; "),
        (("get", "zz", "--server", "h\udc9b:1"), "taskgate: server: it is not text in UTF-8"),
        (("up", "--http", "hé..x:0"), "taskgate: http (--http): 'hé..x:0' does not begin with a valid host name"),
        (("serve", "--store", "redis://hé..x/0"), "taskgate: store: a host of the redis URL is not a valid host name"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    """Exit code 2, and the sentence names the setting."""
    done = asked(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve", "--store", "mongodb://x"), "taskgate: store: "),
        (("serve", "--grpc", "nohost.invalid:0"), "taskgate: grpc: cannot listen on nohost.invalid:0: "),
        (("get", "zz\udc9b"), "taskgate: TASK_ID: it is not text in UTF-8"),
    ],
    ids=["before anything starts", "while it starts", "not decodable"],
)
def test_refusal_ends_a_process_with_2_and_nothing_but_the_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = taskgate(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("up", "--mode", "embedded"), ("up", "--mode", "proxied"), ("serve",)], ids=str)
def test_what_is_only_found_out_in_a_process_that_starts_is_one_sentence(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """For any cause, here a driver that cannot be loaded: exit code 1, the reason, and no words of Envoy's."""
    (tmp_path / "asyncpg").mkdir()
    (tmp_path / "asyncpg" / "__init__.py").write_text("raise RuntimeError('damaged\\ninstallation')\n")
    arguments = ("--layout", "conductor", "--grpc", "127.0.0.1:0", "--workers", "2")
    arguments += ("--http", "127.0.0.1:0") if command[0] == "up" else ()
    paths = os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])))
    done = taskgate(*command, *arguments, "--store", "postgresql://h/d", env={"PYTHONPATH": paths})
    assert done.returncode == 1, done.stderr
    # A warning about the limit of open files may precede it.
    said = [line for line in done.stderr.splitlines() if '"file_limit"' not in line]
    assert re.fullmatch(r"taskgate: the \w+ cannot (start|run): RuntimeError: damaged installation", "\n".join(said))


def test_store_of_an_envoy_that_was_started_by_hand_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """With the printed configuration, and settings from variables; its exit code is that of a bad setting."""
    config = tmp_path / "envoy.yaml"
    config.write_text(taskgate("gateway", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0").stdout)
    environment = {**os.environ, **embedded.environment(), "TASKGATE_STORE": "jdbc:postgresql://h/d"}
    command = [envoy_command(), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stderr == "taskgate: store: this is a JDBC URL; taskgate's form of it is postgresql://USER@h:5432/d\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("environment", "file", "sentence"),
    [
        ({"TASKGATE_WORKERS": "many"}, "", "taskgate: workers (TASKGATE_WORKERS): "),
        ({"TASKGATE_HTTP_FILE": "/dev"}, "", "taskgate: http (TASKGATE_HTTP_FILE): cannot read /dev: Is a directory"),
        ({}, 'http = "8080"', "taskgate: http: '8080' is not HOST:PORT"),
        ({}, "wrokers = 2", "taskgate: wrokers: unknown setting"),
        ({}, "workers = = 2", "taskgate: config: "),
    ],
    ids=["environment", "file of a variable", "file", "unknown key", "not TOML"],
)
def test_bad_setting_is_one_sentence_wherever_it_was_made(
    tmp_path: Path, environment: dict[str, str], file: str, sentence: str
) -> None:
    """Exit code 2 and the key, from a variable or a file."""
    config = tmp_path / "taskgate.toml"
    config.write_text(file)
    done = asked("gateway", "--config", str(config), env=environment)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    """Each source is overridden by the one above it, in the command as in ``load_settings``."""
    config = tmp_path / "taskgate.toml"
    config.write_text('http = "127.0.0.1:1111"\n')

    def port(*flags: str, **environment: str) -> int:
        done = asked("gateway", "--config", str(config), *flags, env=environment)
        listener = YAML(typ="safe").load(done.stdout)["static_resources"]["listeners"][0]
        return int(listener["address"]["socket_address"]["port_value"])

    assert port() == 1111
    assert port(TASKGATE_HTTP="127.0.0.1:2222") == 2222
    assert port("--http", "127.0.0.1:3333", TASKGATE_HTTP="127.0.0.1:2222") == 3333


def test_settings_says_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    """From a flag, a variable, a file that one names, the TOML file, and by default: to people and as JSON.

    No part of a password is shown.
    """
    config = tmp_path / "taskgate.toml"
    config.write_text('http = "127.0.0.1:1111"\nlayout = "conductor"\n')
    store = tmp_path / "store"
    store.write_text("postgresql://me:hidden@db/c?sslmode=prefer&sslpassword=hidden\n")
    environment = {"TASKGATE_STORE_FILE": str(store), "TASKGATE_TRANSPORT": "grpcio", "TASKGATE_HTTP": "[::1]:2"}
    arguments = ("settings", "--config", str(config), "--workers", "3")
    shown, as_json = taskgate(*arguments, env=environment), taskgate(*arguments, "--json", env=environment)
    assert (shown.returncode, as_json.returncode) == (0, 0)
    assert "hidden" not in shown.stdout + as_json.stdout
    found = json.loads(as_json.stdout)
    assert set(found) == {*Settings.model_fields} - {"transport"}
    assert found["workers"] == {"value": 3, "source": "flag", "name": "--workers"}
    assert found["http"] == {"value": "[::1]:2", "source": "variable", "name": "TASKGATE_HTTP"}
    assert found["mode"] == {"value": "proxied", "source": "variable", "name": "TASKGATE_TRANSPORT"}
    url = "postgresql://***@db/c?sslmode=prefer&sslpassword=***"
    assert found["store"] == {"value": url, "source": "file", "name": "TASKGATE_STORE_FILE", "file": str(store)}
    assert found["layout"] == {"value": "conductor", "source": "config", "file": str(config)}
    assert found["log_level"] == {"value": "info", "source": "default"}
    rows = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
    assert rows["store"] == [url, "TASKGATE_STORE_FILE", f"({store})"]
    assert rows["layout"] == ["conductor", str(config)]
    assert rows["log_level"] == ["info", "default"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--store", "redis://h?x=hidden"), "taskgate: store: a redis URL has no parameter 'x'; there are"),
        (("--http", "0.0.0.0:8080"), "taskgate: http: 0.0.0.0:8080 is reachable from other machines"),
        (("--auth", "keys", "--auth-store", "mysql://h/d"), "taskgate: auth_store: "),
        (("--tls-cert", "/nowhere", "--tls-key", "/nowhere"), "taskgate: tls_cert: "),
    ],
    ids=["store", "exposure", "auth store", "TLS"],
)
def test_settings_says_at_the_end_what_up_would_refuse(arguments: tuple[str, ...], sentence: str) -> None:
    """Below the table, which tells where the value comes from; exit code 2, as of ``up``."""
    shown, up = asked("settings", *arguments), asked("up", *arguments)
    assert (shown.exit_code, up.exit_code) == (2, 2)
    assert shown.stderr == up.stderr
    assert shown.stderr.startswith(sentence)
    assert shown.stdout.startswith("setting ")
    assert "hidden" not in shown.output


def test_every_url_of_a_store_is_taken_for_a_url_that_may_hold_a_password() -> None:
    assert [name for name in Settings.model_fields if name.endswith("store") and not is_url(name)] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://idp.example/keys.json", "https://idp.example/keys.json"),
        ("https://me:hidden@idp.example/keys.json", "https://***"),
        ("https://idp.example/keys?token=hidden", "https://idp.example/keys?***"),
        ("postgresql://me:hid?den@h/d", "postgresql://***"),
        ("me:hidden@h", "***"),
        ("/etc/keys.json", "/etc/keys.json"),
        ("", ""),
    ],
)
def test_url_that_is_no_stores_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_up_takes_settings_from_files_and_from_former_names_alike(tmp_path: Path) -> None:
    """In each process that it starts; the file is read once, at the start."""
    file = tmp_path / "store"
    file.write_text(f"sqlite:///{tmp_path / 'tasks.db'}\n")
    environment = {"TASKGATE_STORE_FILE": str(file), "TASKGATE_TRANSPORT": "grpcio", "TASKGATE_DRAIN_DELAY": "0"}
    with Running("up", "--demo", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", env=environment) as running:
        http = running.wait_for(r"REST +http://(\S+)/api/tasks/")[1]
        answer = httpx.get(f"http://{http}/api/tasks/{DOCUMENTED_ID}", trust_env=False)
        assert answer.content == DOCUMENTED_COMPACT
        file.unlink()
        (before,) = running.workers()
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("restarted", in_log=True)
        assert before not in running.workers()
        assert running.stop() == 0


def test_up_refuses_a_store_that_it_cannot_use(tmp_path: Path) -> None:
    """A damaged file, a missing folder: one sentence and exit code 1, before anything is started."""
    (tmp_path / "damaged.db").write_bytes(b"no database" * 500)
    for path, reason in ((tmp_path / "damaged.db", "damaged"), (tmp_path / "no" / "x.db", "its folder does not exist")):
        done = asked("up", "--store", f"sqlite:///{path}", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
        assert done.exit_code == 1
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_gateway_prints_the_configuration_with_these_settings() -> None:
    """Valid YAML, one endpoint for each worker, comments kept."""
    done = asked("gateway", "--mode", "proxied", "--workers", "3", "--grpc", "127.0.0.1:6000")
    config = YAML(typ="safe").load(done.stdout)
    (group,) = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    ports = [e["endpoint"]["address"]["socket_address"]["port_value"] for e in group["lb_endpoints"]]
    assert ports == [6000, 6001, 6002]
    assert "# " in done.stdout


def test_gateway_prints_the_configuration_of_mode_embedded() -> None:
    """The default mode: both addresses, comments kept, and how to run it."""
    done = asked("gateway", "--http", "127.0.0.1:6080", "--grpc", "127.0.0.1:6051")
    (listener,) = YAML(typ="safe").load(done.stdout)["static_resources"]["listeners"]
    addresses = [listener["address"], *(more["address"] for more in listener["additional_addresses"])]
    assert [address["socket_address"]["port_value"] for address in addresses] == [6080, 6051]
    assert "taskgate.processes.embedded_app:app" in done.stdout
    assert re.search(r"^# .*PYTHONHOME=\S+ .*envoy --concurrency 1 -c FILE", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_gateway_validate_has_envoy_check_it(mode: str) -> None:
    done = taskgate("gateway", "--validate", "--mode", mode)
    assert (done.returncode, done.stdout) == (0, "Envoy accepts the configuration.\n")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("get") / "tasks.db", "--demo", workers=1) as running:
        yield running


def test_get_asks_a_running_server(system: System) -> None:
    """The exact document, a summary for people, and exit code 1 with the server's words."""
    for server in (system.grpc, system.http):
        exact = asked("get", "--json", DOCUMENTED_ID, "--server", server)
        assert (0, DOCUMENTED_COMPACT.decode() + "\n") == (exact.exit_code, exact.stdout)
        summary = asked("get", DOCUMENTED_ID, "--server", server)
        assert "COMPLETED" in summary.stdout
        assert "2026-02-09T07:10:22.070+00:00" in summary.stdout
        unknown = asked("get", ABSENT_ID, "--server", server)
        assert unknown.exit_code == 1
        assert f"NOT_FOUND: Task not found for taskId: {ABSENT_ID}" in unknown.stderr


def test_get_shows_text_of_others_escaped_on_a_terminal(system: System) -> None:
    """A worker's name, a reason: without characters that a terminal acts on or hides, and ``--json`` the same value.

    In a pipe ``--json`` is the document, byte for byte.
    """
    odd = "\x1b]0;title\x07\x7f\x85\x9b2J\u202e\u2028"
    escaped = r"\x1b]0;title\x07\x7f\x85\x9b2J\u202e\u2028"
    fields = {"taskId": UNKNOWN_ID, "status": "FAILED", "workerId": odd, "reasonForIncompletion": odd + "\n", "n": 1e5}
    document = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    put_row(system.database, UNKNOWN_ID, document.decode())
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


def test_get_watch_prints_each_change_until_the_task_has_ended(system: System) -> None:
    """A line for each status, then the summary, or a document for each; 3 for a failed task. It waits out outages."""

    def become(status: str) -> None:
        put_row(system.database, WATCHED_ID, task(WATCHED_ID, status=status).decode())

    command = ("get", WATCHED_ID, "--server", system.grpc, "--watch", "--interval", "0.1", "--timeout", "5")
    become("SCHEDULED")
    with Running(*command) as summaries, Running(*command, "--json") as documents:
        summaries.wait_for("^ +status  SCHEDULED")
        documents.wait_for('"status":"SCHEDULED"')
        system.envoy().kill()  # and is replaced within a second
        for each in (summaries, documents):
            each.wait_for("(UNAVAILABLE|DEADLINE_EXCEEDED): .*; asking again$", in_log=True)
        become("IN_PROGRESS")
        summaries.wait_for("^ +status  IN_PROGRESS")
        documents.wait_for('"status":"IN_PROGRESS"')
        become("FAILED")
        assert (summaries.wait(), documents.wait()) == (3, 3)
        assert [line.split()[1] for line in summaries.out if "status" in line] == ["SCHEDULED", "IN_PROGRESS", "FAILED"]
        assert documents.out[-1].encode() == task(WATCHED_ID, status="FAILED")
        assert len(documents.out) == 3
    become("COMPLETED")
    assert asked(*command).exit_code == 0
    assert asked("get", "00000000-0000-4000-8000-00000000000b", *command[2:]).exit_code == 1


def test_get_ends_at_ctrl_c_without_a_trace(system: System) -> None:
    """Exit code 130, as a shell has it."""
    put_row(system.database, WATCHED_ID, task(WATCHED_ID, status="IN_PROGRESS").decode())
    with Running("get", WATCHED_ID, "--server", system.grpc, "--watch") as watching:
        watching.wait_for("IN_PROGRESS")
        assert watching.stop(signal.SIGINT) == 130
        assert watching.log == []


def test_get_without_a_server_says_so() -> None:
    done = asked("get", UNKNOWN_ID, "--server", "127.0.0.1:1", "--timeout", "2")
    assert done.exit_code == 1
    assert "127.0.0.1:1: UNAVAILABLE" in done.stderr
