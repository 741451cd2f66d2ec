"""PostgreSQL URLs: what each part means, what is refused, and that nothing secret is ever said."""

import asyncio
from pathlib import Path

import pytest

from taskgate.base.errors import SettingsError
from taskgate.stores import open_store, store_name
from taskgate.stores.postgresql.connect import connect, explain
from taskgate.stores.postgresql.url import parse_postgresql_url

CERTIFICATES = Path(__file__).parents[2] / "data/certificates"


@pytest.mark.parametrize(
    ("rest", "hosts", "database", "user", "password"),
    [
        ("db.example/conductor", (("db.example", 5432),), "conductor", None, None),
        ("u:p%40%2F%3A@h:1/d", (("h", 1),), "d", "u", "p@/:"),
        ("u@h/d?password=x", (("h", 5432),), "d", "u", "x"),
        ("a:1,b,c:3/d?port=7", (("a", 1), ("b", 7), ("c", 3)), "d", None, None),
        ("[::1]:6/d", (("::1", 6),), "d", None, None),
        ("/d", (), "d", None, None),
        ("%2Frun%2Fpostgresql/d", (("/run/postgresql", 5432),), "d", None, None),
        ("/d?host=/run/postgresql&user=u", (("/run/postgresql", 5432),), "d", "u", None),
        ("h?dbname=d", (("h", 5432),), "d", None, None),
        ("u@h", (("h", 5432),), None, "u", None),
        ("u@/d?port=7", (("", 7),), "d", "u", None),
        ("%2Frun%2Fpostgresql:7,h/d", (("/run/postgresql", 7), ("h", 5432)), "d", None, None),
    ],
)
def test_url_is_split_into_host_port_database_user_and_password(
    rest: str, hosts: tuple[tuple[str, int], ...], database: str | None, user: str | None, password: str | None
) -> None:
    url = parse_postgresql_url(rest)
    assert (url.hosts, url.database, url.user, url.password) == (hosts, database, user, password)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:secret@h/d?sslpassword=secret&schema=s", "postgresql://h:5432/d"),
        ("postgres://me:secret@h:1,[::1]:2/d", "postgresql://h:1,[::1]:2/d"),
        ("postgresql://me:sec@ret@h/d", "postgresql://h:5432/d"),
        ("POSTGRESQL:///d?user=me&password=secret", "postgresql:///d"),
        ("postgresql://me@h", "postgresql://h:5432/"),
    ],
)
def test_name_has_nothing_secret(url: str, name: str) -> None:
    assert store_name(url) == name
    assert "secret" not in repr(parse_postgresql_url(url.partition("://")[2]))


def test_parameters_of_the_url_are_read() -> None:
    root = CERTIFICATES / "ca.crt"
    url = parse_postgresql_url(
        f"h/d?sslmode=verify-full&sslrootcert={root}&target_session_attrs=read-write&schema=my%20schema&pool_size=3"
    )
    assert url.tls == {"sslmode": "verify-full", "sslrootcert": str(root)}
    assert (url.target, url.schema, url.pool_size) == ("primary", "my schema", 3)
    plain = parse_postgresql_url("h/d")
    assert (plain.tls, plain.target, plain.schema, plain.pool_size) == ({}, "any", "public", 8)


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("me:secret@h/d?port=5432,secret", "port is a number from 1 to 65535"),
        ("me:secret@h/d?host=a:secret", "invalid port number in a postgresql URL"),
        ("me:secret@a,b/d?port=1,2,3", "one port for all hosts"),
        ("me:secret@h/d?sslmode=secret", "sslmode is one of disable"),
        ("me:secret@h/d?target_session_attrs=secret", "target_session_attrs is one of any"),
        ("me:secret@h/d?ssl_min_protocol_version=secret", "ssl_min_protocol_version is one of TLSv1, TLSv1.1, "),
        ("me:secret@h/d?ssl_max_protocol_version=TLS1", "ssl_max_protocol_version is one of TLSv1, TLSv1.1, "),
        (
            "me:secret@h/d?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "ssl_min_protocol_version is above ssl_max_protocol_version",
        ),
        (f"me:secret@h/d?sslcrl={__file__}", "sslcrl is not a list of revoked certificates in PEM"),
        ("me:secret@h/d?pool_size=0", "pool_size is a number from 1 to 200"),
    ],
)
def test_refusals_name_the_key_and_no_value(rest: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=f"^store: .*{complaint}") as refused:
        open_store(f"postgresql://{rest}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PGPORT", "abc", "a PG* variable has a value that cannot be used"),
        ("PGHOST", "h\u00e9..x", "a PG* variable has a value that cannot be used"),
        ("PGSSLMODE", "abc", "the TLS parameters of its URL, or PGSSL* variables, cannot be used"),
    ],
)
def test_variable_that_cannot_be_used_is_a_reason(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looks at it with each connection; callers hear that the store is unavailable, the log why."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is, it has a reason
        asyncio.run(connect(parse_postgresql_url("/d"), {}, timeout=5))
    unavailable = explain("a store", raised.value)
    assert unavailable is not None
    assert unavailable.reason == reason
