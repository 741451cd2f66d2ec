"""URLs of stores: of the tasks, and of the keyring."""

from contextlib import suppress

from fuzz.target import Choices, Target
from taskgate.access.keyrings import open_keyring
from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.base.printable import is_text
from taskgate.stores import _BACKENDS, check_store, files_of, is_embedded, store_name
from taskgate.stores.cassandra import url as cassandra_url
from taskgate.stores.mysql import url as mysql_url
from taskgate.stores.postgresql import url as postgresql_url

_SECRET = "JZJZ"  # noqa: S105 - of no use elsewhere
"""What no message and no name may show; not a part of any."""


def _sentence(refused: SettingsError, key: str) -> None:
    text = str(refused)
    assert text.startswith(key), text
    assert "\n" not in text
    assert len(text) < 12_000, len(text)
    text.encode()


def parse_any(data: bytes) -> None:
    """A URL is refused in one sentence, or has a name; neither shows the password."""
    choices = Choices(data)
    known = choices.number(len(_BACKENDS) + 1)
    with_secret = choices.number(2)
    text = choices.rest().decode(errors="replace")
    if known < len(_BACKENDS):
        text = f"{list(_BACKENDS)[known]}://" + (f"user:{_SECRET}@" if with_secret else "") + text
    hidden = (
        known < len(_BACKENDS)
        and with_secret
        and not text.startswith("sqlite")
        and _SECRET not in text[len("rediss+sentinel://") + 10 :]
    )
    for layout in Layout:
        try:
            check_store(text, layout)
        except SettingsError as refused:
            _sentence(refused, "layout" if str(refused).startswith("layout") else "store")
            assert not hidden or _SECRET not in str(refused)
    with suppress(SettingsError):
        name = store_name(text)
        assert not hidden or _SECRET not in name
        assert is_text(name)
        assert "\0" not in name
        assert is_embedded(text) == text.lower().startswith("sqlite:")
        assert 0 < files_of(text) < 10_000
    try:
        keyring = open_keyring(text)
    except SettingsError as refused:
        _sentence(refused, "auth_store")
        assert not hidden or _SECRET not in str(refused)
    else:
        assert not hidden or _SECRET not in keyring.name
        assert is_text(keyring.name)
        assert "\0" not in keyring.name


_PARAMETERS = sorted(
    {*postgresql_url._GRAMMAR.parameters, *mysql_url._GRAMMAR.parameters, *cassandra_url._GRAMMAR.parameters}
)
_SEEDS = [
    *(b"h:1/db", b"a,b:2/db?sslmode=prefer", b"[::1]:5/ks", b"/var/lib/tasks.db", b"h/main/0?stack=a", b"h:70000/0"),
    *(b"h/db?pool_size=3&pool_size=4", b"u:p@h/db", b"%2Ftmp/db", b"h/db?password=x", b"[fe80::1%25eth0]/0"),
]

TARGETS = (
    Target(
        "store_url",
        parse_any,
        [
            bytes([scheme, secret]) + rest
            for scheme in range(len(_BACKENDS) + 1)
            for secret in (0, 1)
            for rest in _SEEDS
        ],
        [
            *(b"/", b":", b"@", b"?", b"#", b"&", b"=", b",", b"[", b"]", b"%", b"%00", b"%2F", b"%40", b"%ff", b"\0"),
            *(f"&{name}=".encode() for name in (*_PARAMETERS, "namespace", "stack", "sentinel_password")),
            *(b"require", b"verify-full", b"8", b"h/db?a=b", b"localhost", b"127.0.0.1", b":65536", b"://", b"\n"),
            *("é".encode(), "。".encode(), b"xn--", b"a" * 64, b"a." * 200, b"sqlite:///", b"postgresql://", b"//"),
        ],
        2048,
    ),
)
