"""Credentials are exchanged for tokens; guesses and floods are limited."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from taskgate.access.attempts import Attempts
from taskgate.access.create_token import CreateToken
from taskgate.access.hashing import hash_secret
from taskgate.access.keyring import ApplicationKey, Keyring, with_changed_key, with_key, with_signing_key
from taskgate.access.keyrings.sqlite import SqliteKeyring
from taskgate.access.live_keyring import LiveKeyring, change_keyring
from taskgate.access.roles import Role
from taskgate.access.signing import new_signing_key
from taskgate.access.tokens import OwnTokens, Tokens
from taskgate.base.errors import CredentialsInvalid, InvalidRequest, Overloaded, TokenInvalid, TooManyAttempts
from taskgate.base.settings import Settings
from taskgate.commands.keys import run_rotate
from taskgate.service.calls import Call
from taskgate.v1.token_service_pb2 import CreateTokenRequest

KEY, SECRET = "0123456789abcdef01234567", "the secret"
HASH = hash_secret(SECRET)


@pytest.fixture
async def keyring(tmp_path: Path) -> AsyncIterator[LiveKeyring]:
    """A keyring with one key."""
    store = SqliteKeyring(str(tmp_path / "keys.db"))
    key = ApplicationKey(KEY, "dashboard", Role.READER, HASH, 1)
    await change_keyring(store, lambda ring: with_key(ring, key))
    live = LiveKeyring(store)
    await live.start()
    yield live
    await live.close()


@pytest.fixture
async def create(keyring: LiveKeyring) -> AsyncIterator[CreateToken]:
    endpoint = CreateToken(keyring, lifetime=600)
    yield endpoint
    await endpoint.close()


def call(address: str = "192.0.2.1") -> Call:
    return Call("/path", "id", peer=(address, 1))


async def token(create: CreateToken, secret: str = SECRET, key_id: str = KEY, **fields: Any) -> str:
    return await create.token(CreateTokenRequest(key_id=key_id, key_secret=secret, **fields), call())


async def change(keyring: LiveKeyring, **changes: Any) -> None:
    await change_keyring(keyring._store, lambda ring: with_changed_key(ring, KEY, **changes))
    await keyring._look()


@pytest.mark.parametrize(
    ("expiration", "seconds"), [(0, 600), (-1, 600), (30_000, 30), (1, 0), (10**12, 600), (2**63 - 1, 600)]
)
async def test_a_token_lasts_as_long_as_asked_and_allowed(create: CreateToken, expiration: int, seconds: int) -> None:
    """``expiration`` is in milliseconds, and never longer than the setting; "never" is not had."""
    began = time.time()
    claims = jwt.decode(await token(create, expiration=expiration), options={"verify_signature": False})
    assert claims["sub"] == KEY
    assert began + seconds <= claims["exp"] <= time.time() + seconds + 1


async def test_empty_fields_are_an_invalid_request(create: CreateToken) -> None:
    for fields in ({"key_id": KEY}, {"key_secret": SECRET}, {}):
        with pytest.raises(InvalidRequest, match="needs keyId and keySecret"):
            await create.token(CreateTokenRequest(**fields), call())
    with pytest.raises(InvalidRequest):
        await create(call(), b"\xff")


async def test_refusals_are_alike_and_the_log_quotes_nothing(create: CreateToken, keyring: LiveKeyring) -> None:
    """A person may mix up key ID and secret: the log must not show what came as ID, unless it is one."""
    refused = []
    for key_id, secret in ((KEY, "wrong"), ("f" * 24, SECRET), (SECRET, KEY), (KEY + "x" * 100, SECRET)):
        with pytest.raises(CredentialsInvalid) as error:
            await token(create, secret, key_id)
        refused.append(error.value)
    await change(keyring, disabled=True)
    with pytest.raises(CredentialsInvalid) as error:
        await token(create)
    refused.append(error.value)
    assert {error.message for error in refused} == {"Key ID and secret are not valid"}
    assert [error.private for error in refused] == [
        f"Key {KEY} gets no token: another secret",
        *["There is no key with this ID"] * 3,
        f"Key {KEY} gets no token: it is disabled",
    ]


async def test_the_former_secret_gives_tokens_until_its_time(create: CreateToken, keyring: LiveKeyring) -> None:
    until = int(time.time()) + 100
    await change(keyring, secret_hash=hash_secret("new"), former_hash=HASH, former_until=until)
    assert await token(create, "new")
    assert await token(create, SECRET)
    await change(keyring, former_until=int(time.time()))
    with pytest.raises(CredentialsInvalid):
        await token(create, SECRET)
    assert await token(create, "new")


async def test_a_secret_that_became_known_gives_no_token_that_lasts(
    create: CreateToken, keyring: LiveKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has not heard of ``taskgate keys rotate`` gives one, which is refused as soon as it has."""
    settings = Settings(auth_store=f"sqlite:///{tmp_path / 'keys.db'}")
    await asyncio.to_thread(run_rotate, settings, KEY, keep=0, as_json=True)
    later = time.time() + 2
    monkeypatch.setattr(time, "time", lambda: later)
    late = await token(create)
    await keyring._look()
    with pytest.raises(CredentialsInvalid):
        await token(create)
    with pytest.raises(TokenInvalid):
        await Tokens(OwnTokens(keyring)).principal(late)


async def test_a_key_that_was_created_just_now_gets_a_token(create: CreateToken, keyring: LiveKeyring) -> None:
    new = ApplicationKey("new", "new", Role.READER, HASH, 1)
    await change_keyring(keyring._store, lambda ring: with_key(ring, new))
    assert await token(create, key_id="new")


async def test_a_signing_key_of_the_future_signs_if_it_is_the_only_one(
    create: CreateToken, keyring: LiveKeyring
) -> None:
    """The clock of this machine is behind; that must not stop the service."""
    kid, pem = new_signing_key()
    ahead = lambda ring: with_signing_key(Keyring(ring.keys), kid, pem, now=int(time.time()) + 1000)  # noqa: E731
    await change_keyring(keyring._store, ahead)
    await keyring._look()
    assert jwt.get_unverified_header(await token(create))["kid"] == kid


async def test_guesses_at_a_key_are_limited(create: CreateToken) -> None:
    """Ten in a minute of one address; then also the right secret waits. Other keys and addresses do not."""
    for _ in range(10):
        with pytest.raises(CredentialsInvalid):
            await token(create, "wrong")
    for secret in ("wrong", SECRET):
        with pytest.raises(TooManyAttempts) as limited:
            await token(create, secret)
        assert 1 <= limited.value.retry_after <= 60
    with pytest.raises(CredentialsInvalid):
        await token(create, key_id="another")
    assert await create.token(CreateTokenRequest(key_id=KEY, key_secret=SECRET), call("192.0.2.2"))


async def test_a_flood_waits_in_a_short_queue(create: CreateToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check takes a processor for a while: beyond those that may wait, calls are refused as retryable."""
    monkeypatch.setattr("taskgate.access.create_token._MAX_WAITING", 8)

    async def outcome() -> object:
        try:
            return bool(await token(create))
        except Overloaded as error:
            return error.status.http_status

    outcomes = await asyncio.gather(*(outcome() for _ in range(20)))
    assert (outcomes.count(True), outcomes.count(503)) == (8, 12)
    assert await token(create)


class TestAttempts:
    """The counters."""

    def test_a_network_of_ipv6_is_one_caller(self) -> None:
        attempts = Attempts(of_address=2, of_key=5)
        for number in range(2):
            attempts.count(call(f"2001:db8::{number}"), "a")
        with pytest.raises(TooManyAttempts):
            attempts.check(call("2001:db8::ffff:9"), "a")
        attempts.check(call("2001:db8:0:1::1"), "a")

    def test_keys_and_addresses_have_their_own_limits(self) -> None:
        attempts = Attempts(of_address=5, of_key=2)
        for _ in range(2):
            attempts.count(call(), "a")
        with pytest.raises(TooManyAttempts):
            attempts.check(call(), "a")
        with pytest.raises(TooManyAttempts):
            attempts.count(call(), "a")  # not counted: one broken client does not use up its address
        for name in ("b", "c", "d"):
            attempts.count(call(), name)
        with pytest.raises(TooManyAttempts):
            attempts.check(call(), "e")
        attempts.check(call("192.0.2.9"), "a")
        attempts.check(Call("/path", "id"), "a")

    def test_the_limit_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After ``retry_after`` seconds."""
        attempts = Attempts(of_address=1, of_key=1)
        attempts.count(call(), "a")
        with pytest.raises(TooManyAttempts) as limited:
            attempts.check(call(), "a")
        now = time.time() + limited.value.retry_after
        monkeypatch.setattr(time, "time", lambda: now)
        attempts.check(call(), "a")

    def test_a_clock_that_is_set_back_does_not_prolong_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise a clock that was an hour ahead would lock callers out for an hour."""
        attempts = Attempts(of_address=1, of_key=1)
        attempts.count(call(), "a")
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() - 3600)
        attempts.count(call(), "a")
        with pytest.raises(TooManyAttempts) as limited:
            attempts.check(call(), "a")
        assert limited.value.retry_after <= 60
