"""The keys of an identity provider: followed, and kept while the provider is away, slow, or lies."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from support.key_server import Answer, KeyServer, body, key_set, running_key_server, trickle
from support.lateness import within
from support.tokens import Minter
from taskgate.access import provider_keys
from taskgate.access.provider_keys import ProviderKeys, check_location
from taskgate.base.errors import SettingsError, StoreUnavailable

FIRST, SECOND = Minter.new("first"), Minter.new("second")
GOOD = key_set(FIRST.jwk())
SYMMETRIC = {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac", "alg": "HS256", "use": "sig"}

LIES: dict[str, Answer] = {
    "status 500": body(b"", 500),
    "status 404 with keys": body(key_set(SECOND.jwk()), 404),
    "redirect": body(key_set(SECOND.jwk()), 302, location="http://127.0.0.1:9/"),
    "not JSON": body(b"<html>"),
    "not UTF-8": body(b'{"keys":"\xff"}'),
    "no key set": body(b'{"key":[]}'),
    "a list": body(b"[]"),
    "no keys": body(key_set()),
    "keys are text": body(b'{"keys":"first"}'),
    "members are no objects": body(b'{"keys":[1,null,"x",[]]}'),
    "nested 100,000 deep": body(b"[" * 100_000),
    "larger than 1 MiB": body(GOOD + b" " * (1 << 20)),
    "cut off": body(GOOD[:-10], **{"content-length": str(len(GOOD))}),
    "keys, but cut off": body(GOOD, **{"content-length": "5000"}),
    "only symmetric keys": body(key_set(SYMMETRIC)),
    "only private keys": body(key_set(SECOND.jwk() | {"d": SECOND.jwk()["x"]})),
    "only keys for encryption": body(key_set(SECOND.jwk() | {"use": "enc"})),
    "keys without an ID": body(key_set({name: value for name, value in SECOND.jwk().items() if name != "kid"})),
    "an algorithm that is not allowed": body(key_set(SECOND.jwk() | {"alg": "HS256"})),
    "an algorithm of another type of key": body(key_set(SECOND.jwk() | {"alg": "RS256"})),
    "a point beside the curve": body(key_set(SECOND.jwk() | {"y": SECOND.jwk()["x"]})),
    "no HTTP": lambda request: request.wfile.write(b"SSH-2.0\r\n") and None,
    "nothing": lambda _: None,
}
"""Answers that hold no key that can verify a token."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pauses are short here."""
    for name, seconds in {"_FETCH_SECONDS": 0.4, "_RETRY_SECONDS": 0.1, "_FILE_SECONDS": 0.1}.items():
        monkeypatch.setattr(provider_keys, name, seconds)
    monkeypatch.setattr(provider_keys._File, "refresh_seconds", 0.05)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with running_key_server(body(GOOD)) as running:
        yield running


async def eventually(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - a test polls
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within 20 s: {what}")


async def test_lies_are_refused_and_known_keys_stay(server: KeyServer) -> None:
    """Each lie is warned of once, and nothing of it is taken over; then the truth is."""
    keys = ProviderKeys(server.url, refresh_seconds=3600)
    await keys.start()
    assert [jwk["kid"] for jwk in keys.public_keys()] == ["first"]
    with structlog.testing.capture_logs() as logged:
        for name, lie in LIES.items():
            server.answer = lie
            before = server.asked
            keys._read_at = -3600
            assert await keys.key("second") is None, name
            assert server.asked == before + 1, name
            assert await keys.key("first") is not None, name
    assert [line["log_level"] for line in logged] == ["warning"]
    server.answer = body(key_set(SECOND.jwk()))
    keys._read_at = -3600
    assert await keys.key("second") is not None
    assert await keys.key("first") is None
    await keys.close()


async def test_only_usable_keys_of_a_mixed_set_are_taken(server: KeyServer) -> None:
    server.answer = body(key_set(SYMMETRIC, FIRST.jwk(), SECOND.jwk() | {"use": "enc"}, {"kid": "odd", "kty": "new"}))
    keys = ProviderKeys(server.url)
    await keys.start()
    assert [jwk["kid"] for jwk in keys.public_keys()] == ["first"]
    assert await keys.key("hmac") is None
    await keys.close()


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param(lambda _: time.sleep(5), id="silent"),
        pytest.param(trickle(b"x", 0.05), id="status line"),
        pytest.param(lambda r: [r.wfile.write(b"HTTP/1.1 200 OK\r\n"), trickle(b"x: y\r\n", 0.05)(r)], id="headers"),
        pytest.param(lambda r: [body(b"", **{"content-length": "9999"})(r), trickle(b" ", 0.05)(r)], id="body"),
        pytest.param(lambda r: [r.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n"), trickle(b" ", 0.05)(r)], id="endless"),
    ],
)
async def test_slow_answers_are_given_up(server: KeyServer, slow: Answer) -> None:
    """After the limit, however the answer trickles: the next look finds the keys."""
    server.answer = slow
    keys = ProviderKeys(server.url)
    async with within(3):
        await keys.start()
    with pytest.raises(StoreUnavailable, match="the keys cannot be read now"):
        keys.public_keys()
    server.answer = body(GOOD)
    await eventually(lambda: keys._keys, "keys")
    await keys.close()


async def test_away_at_first(server: KeyServer) -> None:
    """Until the keys have been read, no token can be judged: the error is retryable, and names no address."""
    server.answer = body(b"", 503)
    keys = ProviderKeys(server.url)
    await keys.start()
    with pytest.raises(StoreUnavailable) as away:
        await keys.key("first")
    assert "127.0.0.1" not in away.value.message
    server.answer = body(GOOD)
    await eventually(lambda: keys._keys, "keys")
    assert await keys.key("first") is not None
    await keys.close()


async def test_unknown_key_ids_cause_few_looks(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in ten seconds, also for many callers at once and for callers that leave while it is under way."""
    monkeypatch.setattr(provider_keys, "_RETRY_SECONDS", 10.0)
    keys = ProviderKeys(server.url)
    await keys.start()
    assert server.asked == 1
    for _ in range(20):
        assert await keys.key("unknown") is None
    assert server.asked == 1
    keys._read_at -= 10
    assert set(await asyncio.gather(*(keys.key("unknown") for _ in range(50)))) == {None}
    assert server.asked == 2
    keys._read_at -= 10
    server.answer = lambda request: (time.sleep(0.3), body(GOOD)(request))[1]
    for _ in range(5):
        with suppress(TimeoutError):  # the later ones are answered at once
            async with asyncio.timeout(0.05):
                await keys.key("unknown")
    await eventually(lambda: server.asked == 3, "one more look")
    server.answer = body(key_set(FIRST.jwk(), SECOND.jwk()))
    keys._read_at -= 10
    assert await keys.key("second") is not None
    await keys.close()


async def test_a_replaced_file_is_followed(tmp_path: Path) -> None:
    """Nothing else is: not a file that is half written, too large or gone."""
    path = tmp_path / "jwks.json"
    path.write_bytes(GOOD)
    keys = ProviderKeys(str(path))
    await keys.start()
    for content in (GOOD[:-5], b"", GOOD + b" " * (1 << 20)):
        path.write_bytes(content)
        keys._away = False
        await eventually(lambda: keys._away, "a look")
    path.unlink()
    await keys._look()
    assert [jwk["kid"] for jwk in keys.public_keys()] == ["first"]
    (tmp_path / "new").write_bytes(key_set(SECOND.jwk()))
    (tmp_path / "new").rename(path)
    await eventually(lambda: keys.public_keys()[0]["kid"] == "second", "the new file")
    await keys.close()


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("http://idp.example/keys", "use https://"),
        ("http://localhost.idp.example/keys", "use https://"),
        ("ftp://idp.example/keys", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("https://user:secret@idp.example/keys", "holds a user name"),
        ("https://idp.example:port/keys", "is not a URL"),
        ("https://", "begins with https://"),
    ],
)
def test_locations_that_cannot_be_trusted_are_refused(location: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        check_location(location)
    assert "secret" not in str(refused.value)


def test_locations() -> None:
    for location in ("jwks.json", "/run/jwks.json", "https://idp.example/keys", "http://[::1]:8080/keys"):
        check_location(location)


async def test_a_start_does_not_wait_for_a_provider_that_hangs(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are not known until it answers."""
    for name, seconds in {"_FIRST_READ_SECONDS": 0.01, "_FETCH_SECONDS": 20}.items():
        monkeypatch.setattr(provider_keys, name, seconds)
    released = threading.Event()
    server.answer = lambda request: released.wait(20) and body(GOOD)(request)
    keys = ProviderKeys(server.url)
    async with asyncio.timeout(5):
        await keys.start()
    assert (keys.known, keys.readable) == (False, False)
    released.set()
    await eventually(lambda: keys.known and keys.readable, "known")
    await keys.close()
