"""Cassandra URLs: what each part means, what is refused, and that nothing secret is ever said."""

import subprocess
import sys
from pathlib import Path

import pytest

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores import is_embedded, open_store, store_name
from taskgate.stores.cassandra.url import parse_cassandra_url
from taskgate.stores.network.tls import Tls

CERTIFICATES = Path(__file__).parents[2] / "data/certificates"


@pytest.mark.parametrize(
    ("rest", "hosts", "keyspace", "user", "password"),
    [
        ("db.example/conductor", (("db.example", 9042),), "conductor", None, ""),
        ("u:p%40%2F%3A@h:1/d", (("h", 1),), "d", "u", "p@/:"),
        ("a:1,b,c:3/d", (("a", 1), ("b", 9042), ("c", 3)), "d", None, ""),
        ("u@[::1]:6,[::2]", (("::1", 6), ("::2", 9042)), "conductor", "u", ""),
        ("h/", (("h", 9042),), "conductor", None, ""),
        ("h/My_Tasks", (("h", 9042),), "my_tasks", None, ""),
    ],
)
def test_url_is_split_into_hosts_keyspace_user_and_password(
    rest: str, hosts: tuple[tuple[str, int], ...], keyspace: str, user: str | None, password: str
) -> None:
    url = parse_cassandra_url(rest)
    assert (url.hosts, url.keyspace, url.user, url.password) == (hosts, keyspace, user, password)


def test_parameters_of_the_url_are_read() -> None:
    ca, cert, key = (str(CERTIFICATES / name) for name in ("ca.crt", "redis.crt", "redis.key"))
    url = parse_cassandra_url(
        f"h?local_dc=eu%20west&consistency=QUORUM&tls=verify-ca&ca_file={ca}&cert_file={cert}&key_file={key}"
    )
    assert (url.local_dc, url.consistency) == ("eu west", "QUORUM")
    assert url.tls == Tls(ca, cert, key, check_names=False)
    assert parse_cassandra_url("h?tls=verify-full").tls == Tls()
    plain = parse_cassandra_url("h")
    assert (plain.local_dc, plain.consistency, plain.tls) == (None, "LOCAL_QUORUM", None)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("cassandra://me:secret@h/d?local_dc=x", "cassandra://h:9042/d"),
        ("CASSANDRA://me:sec@ret@h:1,[::1]:2/d", "cassandra://h:1,[::1]:2/d"),
    ],
)
def test_name_has_nothing_secret(url: str, name: str) -> None:
    assert store_name(url) == name
    assert not is_embedded(url)
    assert "secret" not in repr(parse_cassandra_url(url.partition("://")[2]))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("cassandra://h/a-b", "keyspace of a cassandra URL"),
        ("cassandra://h/a/b", "keyspace of a cassandra URL"),
        ('cassandra://h/a"; --', "keyspace of a cassandra URL"),
        ("cassandra://h?consistency=secret", "consistency is one of ONE, TWO"),
        ("cassandra://h?tls=on", "tls is one of verify-full"),
        (f"cassandra://h?ca_file={__file__}", "add tls=verify-full"),
    ],
)
def test_wrong_part_of_a_cassandra_url_is_named(url: str, said: str) -> None:
    """One sentence about the part that is wrong."""
    with pytest.raises(SettingsError, match="store: ") as refused:
        open_store(url)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_driver_is_loaded_when_it_is_needed() -> None:
    """Who has another store pays nothing for this one."""
    program = "import sys, taskgate.stores; sys.exit('cassandra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: the sentence says how to get it."""
    monkeypatch.setitem(sys.modules, "taskgate.stores.cassandra.store", None)
    with pytest.raises(SettingsError, match=r"pip install 'taskgate\[cassandra\]'"):
        open_store("cassandra://h", Layout.CONDUCTOR)
