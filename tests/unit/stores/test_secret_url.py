"""Passwords in the URLs of all databases on a network: no piece of one is ever shown, however it is written."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores import masked_url, open_store, store_name

AFTER_AUTHORITY = {
    "postgresql": "h:1/db",
    "postgres": "a,b/db?sslmode=prefer",
    "mysql": "h:1/db",
    "mariadb": "h/db?pool_size=3",
    "cassandra": "h:1,h2/ks",
    "redis": "h:1/0",
    "rediss": "h",
    "redis+sentinel": "h:1/main/0",
    "rediss+sentinel": "h/main",
    "redis+cluster": "h:1,h2",
    "rediss+cluster": "h?stack=a",
}
"""A URL's end, by scheme."""

PASSWORD_PARAMETERS = {
    "postgresql": ("password", "sslpassword"),
    "redis+sentinel": ("sentinel_password",),
    "rediss+sentinel": ("sentinel_password",),
}

LETTERS = "JZ"
"""Letters of passwords, which are in no message."""

passwords = st.text(alphabet=f"{LETTERS}{LETTERS}12/?#@:&=%,[];+", min_size=1, max_size=20)


def shown(url: str) -> str:
    """All that people may get to read of a URL: the store's name, its masked URL, or what is wrong, as in a log."""
    try:
        return f"{store_name(url)} {masked_url(url)}"
    except SettingsError as refused:
        return "".join(traceback.format_exception_only(refused.__cause__ or refused)) + str(refused)


@pytest.mark.parametrize("scheme", AFTER_AUTHORITY)
@given(password=passwords)
def test_password_before_the_hosts_is_not_shown(scheme: str, password: str) -> None:
    text = shown(f"{scheme}://user:{password}@{AFTER_AUTHORITY[scheme]}")
    assert not set(LETTERS) & set(text), text
    assert "user" not in text.replace("in a user, a password", "")


@pytest.mark.parametrize("scheme", PASSWORD_PARAMETERS)
@given(data=st.data(), password=passwords)
def test_password_as_a_parameter_is_not_shown(scheme: str, data: st.DataObject, password: str) -> None:
    name = data.draw(st.sampled_from(PASSWORD_PARAMETERS[scheme]))
    base = f"{scheme}://h/main" if "sentinel" in scheme else f"{scheme}://h/db"
    text = shown(f"{base}?{name}={password}")
    assert not set(LETTERS) & set(text), text


CUT_IN_TWO = ("12/secret", "se?cret=pw", "se?cret", "sec#ret", "1234/secret@x", "1?secret=1&cret", "12%2F/secret")


@pytest.mark.parametrize("scheme", AFTER_AUTHORITY)
def test_password_that_is_cut_in_two_is_refused_with_the_remedy(scheme: str) -> None:
    """Also a password of digits first, which would be a port."""
    for password in CUT_IN_TWO:
        with pytest.raises(SettingsError) as refused:
            open_store(f"{scheme}://u:{password}@{AFTER_AUTHORITY[scheme]}", Layout.CONDUCTOR)
        text = str(refused.value)
        assert "/ is written %2F, ? is written %3F, # is written %23 and @ is written %40" in text, password
        assert "ret" not in text
        assert "34" not in text


@pytest.mark.parametrize("scheme", AFTER_AUTHORITY)
def test_separator_that_is_escaped_too_is_refused(scheme: str) -> None:
    """Else user and password would be the name of a host, which is shown."""
    text = shown(f"{scheme}://me:1234%40{AFTER_AUTHORITY[scheme]}")
    assert "the @ before the hosts" in text
    assert "1234" not in text


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("sqlite:////srv/a@b/c.db", "sqlite:////srv/a@b/c.db"),
        (
            "postgresql://me:J@a:1,b/db?sslmode=require&pool_size=3",
            "postgresql://***@a:1,b/db?sslmode=require&pool_size=3",
        ),
        ("postgres://h/db?user=me&p%61ssword=J%26Z", "postgres://h/db?user=***&p%61ssword=***"),
        ("postgresql://?password=J=Z", "postgresql://?password=***"),
        ("redis://:J@h/0?namespace=n", "redis://***@h/0?namespace=n"),
        ("redis+sentinel://h/m?sentinel_user=me&sentinel_password=J", None),
    ],
)
def test_url_is_shown_with_all_but_users_and_passwords(url: str, masked: str | None) -> None:
    """However they are written, also where a parameter's name is escaped."""
    assert masked_url(url) == (masked or "redis+sentinel://h/m?sentinel_user=***&sentinel_password=***")


@pytest.mark.parametrize("scheme", AFTER_AUTHORITY)
def test_escaped_password_is_taken(scheme: str) -> None:
    name = store_name(f"{scheme}://u:12%2Fse%3Fcr%23e%40t@{AFTER_AUTHORITY[scheme]}")
    assert name.partition("://")[2].startswith(AFTER_AUTHORITY[scheme][0])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://h/db?password=abc&defghi=1", "has no such parameter (it is not shown"),
        ("redis+sentinel://h/m?sentinel_password=abc&defghi", "written ?name=value&name=value"),
        ("mysql://h/db?d3fghi=1", "has no such parameter (it is not shown"),
        ("cassandra://h?defghi%40h=1", "has no such parameter (it is not shown"),
        ("postgresql://h/db?defghi=1", "has no parameter 'defghi'; there are application_name"),
        ("redis://h?defghi=1", "has no parameter 'defghi'; there are namespace"),
    ],
)
def test_unknown_parameter_is_named_where_it_cannot_be_secret(url: str, text: str) -> None:
    refused = shown(url)
    assert text in refused
    assert ("fghi" in refused) == ("'defghi'" in text)


def test_path_of_a_file_may_have_any_character() -> None:
    assert store_name("sqlite:////srv/a@b/c@d.db") == "sqlite:////srv/a@b/c@d.db"
