"""PostgreSQL URLs: what each part means, what is refused, and that nothing secret is ever said."""

from pathlib import Path

import pytest

from taskgate.errors import SettingsError
from taskgate.stores import open_store, store_name
from taskgate.stores.postgresql_url import parse_postgresql_url


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
    ],
)
def test_parts(
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


def test_parameters() -> None:
    root = Path(__file__).parents[1] / "data/certificates/ca.crt"
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
        ("me:secret@h:x/d", "a port is a number"),
        ("me:secret@h:70000/d", "a port is a number"),
        ("me:secret@a:b:c/d", "written HOST:PORT"),
        ("me:secret@a,b/d?port=1,2,3", "one port for all hosts"),
        ("me:secret@h/d?sslmode=secret", "sslmode is one of disable"),
        ("me:secret@h/d?target_session_attrs=secret", "target_session_attrs is one of any"),
        ("me:secret@h/d?sslrootcert=/no/secret", "sslrootcert names a file that does not exist"),
        ("me:secret@h/d?pool_size=0", "pool_size is a number from 1 to 200"),
        ("me:secret@h/d?currentSchema=secret", "no parameter 'currentSchema'"),
        ("me:secret@h/d?secret", "written \\?name=value"),
    ],
)
def test_refusals_name_the_key_and_no_value(rest: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=f"^store: .*{complaint}") as refused:
        open_store(f"postgresql://{rest}")
    assert "secret" not in str(refused.value)
