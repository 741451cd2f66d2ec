"""Settings: where they come from, and the sentence for each that cannot be used."""

import errno
import os
import re
from pathlib import Path

import pytest

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.settings import (
    Settings,
    load_settings,
    origins,
    settings_of_supervisor,
    unknown_variables,
)
from taskgate.base.variable_files import metavar_of


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TASKGATE_")]:
        monkeypatch.delenv(name)


def test_flag_wins_over_variable_over_its_file_over_config_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting from each source, and each source loses to the one above it. Where each is from is known."""
    config = tmp_path / "taskgate.toml"
    config.write_text('workers = 2\nhttp = "127.0.0.1:2"\nlog_level = "error"\ndrain_delay = 2\n')
    file = tmp_path / "value"
    file.write_text("5\n")
    monkeypatch.setenv("TASKGATE_WORKERS_FILE", "/nowhere")  # is not read: the flag wins
    monkeypatch.setenv("TASKGATE_HTTP", "127.0.0.1:3")
    monkeypatch.setenv("taskgate_drain_delay_file", str(file))  # in any case, as variables
    flags = {"workers": "4"}
    settings = load_settings(config, flags)
    assert settings.workers == 4
    assert settings.http == Address("127.0.0.1", 3)
    assert settings.drain_delay == 5
    assert settings.log_level == "error"
    assert settings.grpc == Address("127.0.0.1", 50051)
    found = {name: str(origin) for name, origin in origins(settings, config, flags).items()}
    assert {name: text for name, text in found.items() if text != "default"} == {
        "workers": "--workers",
        "http": "TASKGATE_HTTP",
        "drain_delay": f"TASKGATE_DRAIN_DELAY_FILE ({file})",
        "log_level": str(config),
    }


def is_path(name: str) -> bool:
    return metavar_of(Settings.model_fields[name]) == "FILE"


EXAMPLES = {
    "transport": "grpcio",
    "metrics": "127.0.0.1:1",
    "mask": "a*",
    "cors_origins": "https://a.example",
    "jwt_roles": "a=reader",
    "otlp_endpoint": "http://h",
}
"""Values of settings whose default is none."""


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if not is_path(name)])
def test_any_setting_may_come_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from its variable; the variable and the file together are refused."""
    text = EXAMPLES.get(name) or str(Settings().model_dump(mode="json")[name]) or "x"
    file = tmp_path / "value"
    file.write_text(f"{text}\n")
    monkeypatch.setenv(f"TASKGATE_{name.upper()}_FILE", str(file))
    from_file = load_settings(None, {}).model_dump()
    monkeypatch.delenv(f"TASKGATE_{name.upper()}_FILE")
    monkeypatch.setenv(f"TASKGATE_{name.upper()}", text)
    assert from_file == load_settings(None, {}).model_dump()
    monkeypatch.setenv(f"TASKGATE_{name.upper()}_FILE", str(file))
    both = f"^{name}: TASKGATE_{name.upper()} and TASKGATE_{name.upper()}_FILE are both set; set one of them$"
    with pytest.raises(SettingsError, match=both):
        load_settings(None, {})


@pytest.mark.parametrize(
    ("content", "url"),
    [
        (b"redis://h", "redis://h"),
        (b"redis://h\n", "redis://h"),
        (b"redis://h\r\n", "redis://h"),
        (b" x \n", " x "),
    ],
)
def test_one_newline_at_the_end_of_a_file_is_no_part_of_the_value(
    content: bytes, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").write_bytes(content)
    monkeypatch.setenv("TASKGATE_STORE_FILE", str(tmp_path / "store"))
    assert load_settings(None, {}).store == url


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read {file}: No such file or directory"),
        (b"", "{file} is empty"),
        (b"\n", "{file} is empty"),
        (b"redis://h\xff", "{file} is not text in UTF-8"),
        (b"x" * 65537, "{file} is larger than 64 KiB"),
        (b"-----BEGIN\nPRIVATE\n", "{file} has more than one line"),
    ],
    ids=["missing", "empty", "blank", "not text", "large", "lines"],
)
def test_file_of_a_variable_that_cannot_be_used_is_named(
    content: bytes | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable; what is in it is not shown."""
    file = tmp_path / "store"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("TASKGATE_STORE_FILE", str(file))
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {})
    assert str(refused.value) == f"store (TASKGATE_STORE_FILE): {problem.format(file=file)}"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/dev", "cannot read /dev: Is a directory"),
        ("/dev/zero", "/dev/zero is larger than 64 KiB"),
        ("", "it names no file"),
        ("s3cret", "cannot read the file that it names: No such file or directory"),
        ("redis://:s3cret@h", "it holds a URL, not the path of a file; TASKGATE_STORE takes a URL"),
        ("/" + "x" * 5000, "cannot read /" + "x" * 5000 + ": File name too long"),
    ],
)
def test_path_of_a_variable_that_cannot_be_used_is_named(
    path: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where it is the secret itself by mistake."""
    monkeypatch.setenv("TASKGATE_STORE_FILE", path)
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {})
    assert str(refused.value) == f"store (TASKGATE_STORE_FILE): {problem}"


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if is_path(name)])
def test_setting_that_is_a_path_comes_from_no_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is meant for the path would be shown as one."""
    monkeypatch.setenv(f"TASKGATE_{name.upper()}_FILE", "/run/secrets/file")
    sentence = f"^{name}: TASKGATE_{name.upper()} takes the path, not TASKGATE_{name.upper()}_FILE$"
    with pytest.raises(SettingsError, match=sentence):
        load_settings(None, {})


def test_bad_value_in_the_file_of_a_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workers").write_text("two")
    monkeypatch.setenv("TASKGATE_WORKERS_FILE", str(tmp_path / "workers"))
    with pytest.raises(SettingsError, match=r"^workers \(TASKGATE_WORKERS_FILE\): Input should be a valid integer"):
        load_settings(None, {})


@pytest.mark.parametrize(("former", "mode"), [("envoy", "embedded"), ("grpcio", "proxied")])
def test_transport_is_the_former_name_of_mode(former: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a flag and as a variable. The new name is the one that is passed on; both at once are refused."""
    settings = load_settings(None, {"transport": former})
    assert settings.mode == mode
    assert settings_of_supervisor(settings.model_dump_json()).transport is None
    with pytest.raises(SettingsError, match=r"^transport is the former name of mode; set only mode$"):
        load_settings(None, {"transport": former, "mode": mode})
    monkeypatch.setenv("TASKGATE_TRANSPORT", former)
    assert load_settings(None, {}).mode == mode


def test_patterns_to_mask_are_a_list_or_have_commas_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a flag that may be repeated, a variable, and a file as a text or a list; workers get the same."""
    config = tmp_path / "taskgate.toml"
    config.write_text('mask = ["a*", "b, c"]\n')
    from_file = load_settings(config, {})
    assert from_file.mask == ("a*", "b", "c")
    assert Settings.model_validate_json(from_file.model_dump_json()).mask == from_file.mask
    config.write_text('mask = "d,[ef]"\n')
    assert load_settings(config, {}).mask == ("d", "[ef]")
    monkeypatch.setenv("TASKGATE_MASK", "password, *token*")
    assert load_settings(config, {}).mask == ("password", "*token*")
    assert load_settings(config, {"mask": ("x,y", "Größe")}).mask == ("x", "y", "Größe")
    assert Settings().mask == ("password", "*token*")


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ("", "a pattern is empty; leave it out or name a key"),
        ("password,,token", "a pattern is empty; leave it out or name a key"),
        (" , ", "a pattern is empty; leave it out or name a key"),
        ("x" * 129, "a pattern has 129 characters; at most 128 are possible"),
        (",".join("x" * 101), "there are 101 patterns; at most 100 are possible"),
        ("a\x00b", "the pattern 'a\\x00b' has a character that cannot be printed"),
        (
            "inputData.password",
            "the pattern inputData.password is a path; name the key alone, which is found at any depth",
        ),
        ("$.password", "the pattern $.password is a path; name the key alone, which is found at any depth"),
        ("x[z-a]", "the pattern x[z-a] matches no key"),
        ("\udcff", "it is not text in UTF-8; in a path, other bytes are written %FF"),
    ],
)
def test_pattern_that_would_hide_nothing_is_refused(patterns: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {"mask": (patterns,)})
    assert str(refused.value) == f"mask (--mask): {sentence}"


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
        ("mask = " + "[" * 2000, "config: .*taskgate.toml: a value is nested too deep$"),
        ("mask = " + "{a=" * 2000, "config: .*taskgate.toml: a value is nested too deep$"),
    ],
    ids=["unknown key", "not TOML", "bad value", "deep list", "deep table"],
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
        "TASKGATE_STORE_FILE",
        "taskgate_log_level_file",
        "PATH",
        "TASKGATES",
        "TASKGATE",
    ]
    kubernetes = [
        *("TASKGATE_SERVICE_HOST", "TASKGATE_SERVICE_PORT", "TASKGATE_SERVICE_PORT_HTTP", "TASKGATE_PORT"),
        *("TASKGATE_SERVICE_PORT_FILE", "TASKGATE_STORE_FILE_SERVICE_HOST"),  # services of such names, too
        *("TASKGATE_PORT_8080_TCP", "TASKGATE_PORT_8080_TCP_ADDR", "TASKGATE_GRPC_SERVICE_HOST", "TASKGATE_GRPC_PORT"),
    ]
    unknown = ["TASKGATE_STOER", "taskgate_workerz", "TASKGATE_", "TASKGATE_GRPC_PROT"]
    unknown += ["TASKGATE_STOER_FILE", "TASKGATE_CONFIG_FILE", "TASKGATE_STORE_FILE_FILE"]
    environment = dict.fromkeys([*known, *kubernetes, *unknown], "x")
    assert unknown_variables(environment) == sorted(unknown)


def test_settings_survive_the_way_to_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor hands settings to its workers as JSON; nothing changes on the way, and variables are not read again.

    Among them may be a former name, or a file that has been removed.
    """
    file = tmp_path / "store"
    file.write_text("sqlite:////a b/c.db")
    monkeypatch.setenv("TASKGATE_STORE_FILE", str(file))
    monkeypatch.setenv("TASKGATE_TRANSPORT", "grpcio")
    settings = load_settings(None, {"grpc": "[::1]:5", "request_timeout": "0.5"})
    file.unlink()
    monkeypatch.setenv("TASKGATE_WORKERS", "many")
    assert settings_of_supervisor(settings.model_dump_json()).model_dump() == settings.model_dump()
