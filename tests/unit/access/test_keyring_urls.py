"""URLs of the store of keys: each kind is opened by its own store, which is named without its password."""

import pytest

from taskgate.access.gate import check_access
from taskgate.access.keyrings import open_keyring
from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings
from taskgate.commands.keys import run_list


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("sqlite:///keys.db", "SqliteKeyring"),
        ("postgresql://u:secret@h:5432/taskgate", "PostgresqlKeyring"),
        ("postgres://u:secret@h/taskgate", "PostgresqlKeyring"),
        *[
            (f"{scheme}://u:secret@h{path}", "RedisKeyring")
            for scheme, path in (
                *(("redis", ":6379/0"), ("rediss", ""), ("redis+sentinel", "/main"), ("rediss+sentinel", "/main")),
                *(("redis+cluster", ""), ("rediss+cluster", ":7000")),
            )
        ],
    ],
)
def test_store_of_keys_is_chosen_by_its_url(url: str, store: str) -> None:
    """However often: a URL is parsed for the checks, for the gate and for Envoy's keys."""
    for _ in range(2):
        keyring = open_keyring(url)
        assert type(keyring).__name__ == store
        assert "secret" not in keyring.name


@pytest.mark.parametrize("url", ["sqlite:///a%00b.db", "postgresql://u%00:p@h/db", "redis://h/0\0"])
def test_zero_byte_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^auth_store: the URL has a zero byte in it \(%00\)"):
        open_keyring(url)


def test_name_of_a_file_is_text_for_logs_and_terminals() -> None:
    assert open_keyring("sqlite:////srv/%ff%1b.db").name == r"sqlite:////srv/\udcff\x1b.db"


@pytest.mark.parametrize("url", ["mysql://h/db", "keys.db", "", "redis:/h"])
def test_other_url_is_refused_with_those_that_are_taken(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^auth_store: expected a URL that begins with sqlite://, postgresql://"):
        open_keyring(url)


def test_the_url_of_the_tasks_is_refused_by_servers_and_commands() -> None:
    """All that could create the keyring there."""
    settings = Settings(auth="keys", auth_store="redis://h:6379/0", store="redis://h:6379/0")
    for refusing in (lambda: check_access(settings), lambda: run_list(settings, as_json=True)):
        with pytest.raises(SettingsError, match=r"^auth_store: keys are kept apart from the tasks"):
            refusing()
