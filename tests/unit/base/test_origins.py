"""The origins that ``--cors-origins`` takes: those that a browser can send."""

import pytest

from taskgate.base.errors import SettingsError
from taskgate.base.origins import MAX_ORIGINS
from taskgate.base.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ()),
        ("https://tools.example.org", ("https://tools.example.org",)),
        (" https://A.example , http://localhost:3000 ", ("https://a.example", "http://localhost:3000")),
        (("https://a.example,https://b.example", "https://a.example"), ("https://a.example", "https://b.example")),
        ("https://a.example:443,http://a.example:80", ("https://a.example", "http://a.example")),
        ("http://a.example:443", ("http://a.example:443",)),
        ("http://[0:0:0:0:0:0:0:1]:3000", ("http://[::1]:3000",)),
        ("http://127.0.0.1:5173", ("http://127.0.0.1:5173",)),
        ("chrome-extension://abcdefghijklmnop", ("chrome-extension://abcdefghijklmnop",)),
    ],
)
def test_origins_are_kept_as_browsers_send_them(given: object, kept: tuple[str, ...]) -> None:
    assert Settings.model_validate({"cors_origins": given}).cors_origins == kept


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("https://a.example/", "has a path"),
        ("https://a.example/app", "has a path"),
        ("https://a.example?x", "has a path"),
        ("tools.example.org", "has no scheme"),
        ("localhost:3000", "has no scheme"),
        ("https://*.example.org", "is a pattern"),
        ("https://münchen.example", "Punycode"),
        ("https://user@a.example", "is no origin"),
        ("https://a.example:", "is no origin"),
        ("https://", "is no origin"),
        ("https://a.example' || true || '", "is no origin"),
        ("https://a.example:70000", "70000 is no port"),
        ("https://a.example:0", "0 is no port"),
        ("http://[1:2]", "is no IPv6 address"),
        ("https://a.example,", "an origin is empty"),
        ("null", "names none of them"),
        ("*,https://a.example", "give it alone"),
        (7, "not a list of origins"),
        (",".join(f"https://a{i}.example" for i in range(MAX_ORIGINS + 1)), f"at most {MAX_ORIGINS}"),
    ],
)
def test_what_no_browser_sends_is_refused_with_the_reason(given: object, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {"cors_origins": given})
    assert str(refused.value).startswith("cors_origins (--cors-origins): ")
    assert reason in str(refused.value)


def test_every_page_may_read_only_if_it_needs_a_token() -> None:
    """Without one, any page that a person opens could read tasks through the browser."""
    with pytest.raises(SettingsError, match=r"cors_origins: \* needs --auth keys or jwt"):
        load_settings(None, {"cors_origins": "*"})
    assert load_settings(None, {"cors_origins": "*", "auth": "keys"}).cors_origins == ("*",)
