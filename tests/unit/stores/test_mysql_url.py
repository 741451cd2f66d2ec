"""MySQL URLs: what each part means, what is refused, and that nothing secret is ever said."""

import ssl

import pytest

from taskgate.base.errors import SettingsError
from taskgate.stores import open_store, store_name
from taskgate.stores.mysql.url import parse_mysql_url


@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        ("db.example/conductor", ("db.example", 3306, "conductor", None, "")),
        ("u:p%40%2F%3A@h:1/d", ("h", 1, "d", "u", "p@/:")),
        ("u:p:@q@h/d%20e", ("h", 3306, "d e", "u", "p:@q")),
        ("[::1]:6/d", ("::1", 6, "d", None, "")),
        ("/d", ("localhost", 3306, "d", None, "")),
    ],
)
def test_url_is_split_into_host_port_database_user_and_password(
    rest: str, parts: tuple[str, int, str, str | None, str]
) -> None:
    url = parse_mysql_url(rest)
    assert (url.host, url.port, url.database, url.user, url.password) == parts
    assert (url.tls, url.unix_socket, url.pool_size) == (None, None, 8)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mysql://me:secret@h/d?pool_size=3", "mysql://h:3306/d"),
        ("mariadb://me:sec@ret@[::1]:2/d", "mysql://[::1]:2/d"),
        ("MYSQL://me:secret@/d?unix_socket=%2Frun%2Fs", "mysql:///run/s/d"),
    ],
)
def test_name_has_nothing_secret(url: str, name: str) -> None:
    assert store_name(url) == name
    assert "secret" not in repr(parse_mysql_url(url.partition("://")[2]))


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("me:secret@a,b/d", "has one host"),
        ("me:secret@h", "names a database after the host"),
        ("me:secret@h/d/e", "names a database after the host"),
        ("me:secret@h/d?ssl=secret", "ssl is one of true, false"),
        (f"me:secret@h/d?ssl=false&ssl_ca={__file__}", "ssl=false cannot be combined with ssl_ca"),
        (f"me:secret@h/d?server_public_key_path={__file__}", "server_public_key_path is not a PEM file of an RSA"),
        ("me:secret@h/d?server_public_key_path=/no/secret", "server_public_key_path names a file that does not"),
        ("me:secret@h/d?ssl=true&unix_socket=/s", "TLS cannot be combined with unix_socket"),
        ("me:secret@h/d?pool_size=0", "pool_size is a number from 1 to 200"),
    ],
)
def test_refusals_name_the_key_and_no_value(rest: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=f"^store: .*{complaint}") as refused:
        open_store(f"mysql://{rest}")
    assert "secret" not in str(refused.value)


def test_tls_context_is_strict() -> None:
    """What the URL makes is a context that verifies."""
    context = parse_mysql_url("h/d?ssl=true").tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
