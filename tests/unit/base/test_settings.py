"""Settings: where they come from, and the sentence for each that cannot be used."""

import errno
import os
import re
from pathlib import Path

import pytest

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", *(field.upper() for field in Settings.model_fields)):
        monkeypatch.delenv(f"TASKGATE_{name}", raising=False)


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting from each source, and each source loses to the one above it."""
    config = tmp_path / "taskgate.toml"
    config.write_text('workers = 2\nhttp = "127.0.0.1:2"\nlog_level = "error"\n')
    monkeypatch.setenv("TASKGATE_WORKERS", "3")
    monkeypatch.setenv("TASKGATE_HTTP", "127.0.0.1:3")
    settings = load_settings(config, {"workers": "4"})
    assert settings.workers == 4
    assert settings.http == Address("127.0.0.1", 3)
    assert settings.log_level == "error"
    assert settings.grpc == Address("127.0.0.1", 50051)


@pytest.mark.parametrize(("former", "mode"), [("envoy", "embedded"), ("grpcio", "proxied")])
def test_transport_is_the_former_name_of_mode(former: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a flag and as a variable. The new name is the one that is passed on; both at once are refused."""
    settings = load_settings(None, {"transport": former})
    assert settings.mode == mode
    assert Settings.model_validate_json(settings.model_dump_json()).transport is None
    with pytest.raises(SettingsError, match=r"^transport: it is the former name of mode; set mode alone$"):
        load_settings(None, {"transport": former, "mode": mode})
    monkeypatch.setenv("TASKGATE_TRANSPORT", former)
    assert load_settings(None, {}).mode == mode


def test_config_file_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "taskgate.toml"
    config.write_text("workers = 2\n")
    monkeypatch.setenv("TASKGATE_CONFIG", str(config))
    assert load_settings(None, {}).workers == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"workers": "0"}, "workers (--workers): Input should be greater than or equal to 1"),
        ({"workers": "two"}, "workers (--workers): "),
        ({"http": "8080"}, "http (--http): '8080' is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ({"grpc": "127.0.0.1:70000"}, "grpc (--grpc): '127.0.0.1:70000' has a port above 65535"),
        ({"task_id_format": "uid"}, "task_id_format (--task-id-format): Input should be 'uuid' or 'any'"),
        ({"request_timeout": "-1"}, "request_timeout (--request-timeout): "),
        ({"instance": "a\nb"}, "instance (--instance): "),
        (
            {"store": "sqlite:////tmp/x\udcff.db"},
            "store (--store): it is not text in UTF-8; in a path, other bytes are written %FF",
        ),
        ({"http": "h\udcff:0"}, "http (--http): it is not text in UTF-8"),
    ],
)
def test_bad_flag_is_named(flags: dict[str, str], sentence: str) -> None:
    """The sentence names the key, where it was set, and what would be right."""
    with pytest.raises(SettingsError) as refused:
        load_settings(None, flags)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_bad_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKGATE_DRAIN_DELAY", "soon")
    with pytest.raises(SettingsError, match=r"drain_delay \(TASKGATE_DRAIN_DELAY\): "):
        load_settings(None, {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wrokers = 2", "wrokers: unknown setting"),
        ("workers = ", "config: .*taskgate.toml"),
        ('workers = "x"', "workers: "),
    ],
    ids=["unknown key", "not TOML", "bad value"],
)
def test_bad_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    config = tmp_path / "taskgate.toml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        load_settings(config, {})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_value_of_another_type_in_the_file_is_named(name: str, tmp_path: Path) -> None:
    """A file can hold lists and tables where a text or a number belongs."""
    config = tmp_path / "taskgate.toml"
    for value in ("[[1], 2]", "{a = [1]}"):
        config.write_text(f"{name} = {value}\n")
        with pytest.raises(SettingsError, match=f"^{name}"):
            load_settings(config, {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config: the file .*absent\.toml does not exist"):
        load_settings(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("name", ["x" * 5000, "no/such/folder", "."])
def test_file_that_cannot_be_looked_at_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"config: the file {re.escape(name)} does not exist"):
        load_settings(Path(name), {})


def test_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is made, as a test may run as a user who may read everything."""
    config = tmp_path / "taskgate.toml"
    config.touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(config))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SettingsError, match=f"^config: {config}: Permission denied$"):
        load_settings(config, {})


def test_several_faults_are_all_named() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {"workers": "0", "http": "x"})
    assert "workers" in str(refused.value)
    assert "http" in str(refused.value)


def test_variables_that_are_no_settings_are_found() -> None:
    """And those that are, in any case, and what Kubernetes makes of services named so, are not among them."""
    known = [
        "TASKGATE_STORE",
        "taskgate_store",
        "TASKGATE_CONFIG",
        "TASKGATE_LOG_LEVEL",
        "PATH",
        "TASKGATES",
        "TASKGATE",
    ]
    kubernetes = [
        *("TASKGATE_SERVICE_HOST", "TASKGATE_SERVICE_PORT", "TASKGATE_SERVICE_PORT_HTTP", "TASKGATE_PORT"),
        *("TASKGATE_PORT_8080_TCP", "TASKGATE_PORT_8080_TCP_ADDR", "TASKGATE_GRPC_SERVICE_HOST", "TASKGATE_GRPC_PORT"),
    ]
    unknown = ["TASKGATE_STOER", "taskgate_workerz", "TASKGATE_", "TASKGATE_GRPC_PROT"]
    environment = dict.fromkeys([*known, *kubernetes, *unknown], "x")
    assert unknown_variables(environment) == sorted(unknown)


def test_settings_survive_the_way_to_a_worker() -> None:
    """A supervisor hands settings to its workers as JSON; nothing changes on the way."""
    settings = load_settings(None, {"grpc": "[::1]:5", "store": "sqlite:////a b/c.db", "request_timeout": "0.5"})
    assert Settings.model_validate_json(settings.model_dump_json()).model_dump() == settings.model_dump()
