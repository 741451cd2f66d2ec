"""Which tokens are accepted, for our own keys and for those of an identity provider; with injected times."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.tokens import EXPIRED, HOSTILE, WRONG_AUDIENCE, Minter
from taskgate.access.jwt_gate import ProviderTokens
from taskgate.access.keyring import ApplicationKey, Keyring, SigningKey, with_changed_key, with_key, with_signing_key
from taskgate.access.keyrings.sqlite import SqliteKeyring
from taskgate.access.live_keyring import LiveKeyring, change_keyring
from taskgate.access.provider_keys import ProviderKeys
from taskgate.access.roles import Principal, Role
from taskgate.access.signing import new_signing_key, sign
from taskgate.access.tokens import OwnTokens, Tokens, refused_tokens, require_token
from taskgate.base.errors import TokenExpired, TokenInvalid, TooManyAttempts
from taskgate.base.settings import Settings
from taskgate.service.calls import Call
from taskgate.service.view import NOTHING

ISSUER, AUDIENCE = "https://idp.example/", "taskgate"
RSA = Minter(
    rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "rsa",
    {"iss": ISSUER, "aud": AUDIENCE, "sub": "someone", "roles": "reader"},
)
EC = Minter.new("ec", **RSA.claims)


async def check_refusals(
    tokens: Tokens,
    minter: Minter,
    refused: Mapping[str, Callable[[Minter], str]],
    kind: type[TokenInvalid] | type[TokenExpired],
) -> None:
    """Each is refused as ``kind``. The message says nothing of the reason, and the log nothing of the token."""
    for name, token in refused.items():
        with pytest.raises((TokenInvalid, TokenExpired)) as error:
            await tokens.principal(token(minter))
        assert type(error.value) is kind, (name, error.value.private)
        if kind is TokenInvalid:
            assert error.value.message == "The token is not valid"
            assert error.value.private.startswith("The token is not valid: ")
            assert len(error.value.private) < 130, name


def own_minter(signing: SigningKey) -> Minter:
    key: Any = load_pem_private_key(signing.private_pem.encode(), None)
    return Minter(key, signing.kid, {"iss": "taskgate", "sub": "key-1"})


@pytest.fixture
async def keyring(tmp_path: Path) -> AsyncIterator[LiveKeyring]:
    """A followed keyring with the key ``key-1``."""
    store = SqliteKeyring(str(tmp_path / "keys.db"))
    key = ApplicationKey("key-1", "dashboard", Role.READER, "hash", 0, ("invoice",))
    await change_keyring(store, lambda keyring: with_key(keyring, key))
    live = LiveKeyring(store)
    await live.start()
    yield live
    await live.close()


def provider_settings(path: Path, **changes: Any) -> Settings:
    given = {
        "auth": "jwt",
        "jwks": str(path),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "jwt_role_claim": "roles",
    }
    return Settings(**(given | changes))


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[ProviderKeys]:
    """The followed key set of a provider with an RSA and an elliptic key."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [RSA.jwk(), EC.jwk()]}))
    keys = ProviderKeys(str(path))
    await keys.start()
    yield keys
    await keys.close()


class TestOwnTokens:
    """Tokens that CreateToken has signed."""

    @pytest.fixture
    def minter(self, keyring: LiveKeyring) -> Minter:
        return own_minter(keyring.keyring.signing_keys[0])

    async def test_a_valid_token_stands_for_its_key(self, keyring: LiveKeyring, minter: Minter) -> None:
        principal = await Tokens(OwnTokens(keyring)).principal(minter.token())
        assert principal == Principal("dashboard", Role.READER, frozenset({"invoice"}))

    async def test_hostile_and_expired_tokens_are_refused(self, keyring: LiveKeyring, minter: Minter) -> None:
        tokens = Tokens(OwnTokens(keyring))
        await check_refusals(tokens, minter, HOSTILE, TokenInvalid)
        await check_refusals(tokens, minter, EXPIRED, TokenExpired)

    async def test_an_expired_token_of_a_stranger_is_invalid(self, keyring: LiveKeyring, minter: Minter) -> None:
        """Only a token that we signed can be known as expired."""
        with pytest.raises(TokenInvalid):
            await Tokens(OwnTokens(keyring)).principal(Minter.new(minter.kid, **minter.claims).token(exp=1))

    async def test_the_clock_decides_and_may_jump(self, keyring: LiveKeyring, minter: Minter) -> None:
        """A token is valid until exp, and again when a clock that was ahead is set back."""
        tokens = OwnTokens(keyring)
        now = time.time()
        token = minter.token(exp=int(now) + 100, nbf=int(now) - 100)
        assert (await tokens.verify(token, now + 99)).expires == int(now) + 100
        for later in (now + 101, now + 10**9):
            with pytest.raises(TokenExpired):
                await tokens.verify(token, later)
        with pytest.raises(TokenInvalid, match="not valid"):
            await tokens.verify(token, now - 10**6)
        assert (await tokens.verify(token, now)).principal.name == "dashboard"

    async def test_a_known_token_expires_too(
        self, keyring: LiveKeyring, minter: Minter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = Tokens(OwnTokens(keyring))
        token = minter.token()
        await tokens.principal(token)
        now = time.time() + 601
        monkeypatch.setattr(time, "time", lambda: now)
        with pytest.raises(TokenExpired):
            await tokens.principal(token)

    async def test_a_known_token_of_a_disabled_key_is_refused(self, keyring: LiveKeyring, minter: Minter) -> None:
        tokens = Tokens(OwnTokens(keyring))
        token = minter.token()
        await tokens.principal(token)
        await change_keyring(keyring._store, lambda ring: with_changed_key(ring, "key-1", disabled=True))
        await keyring._look()
        with pytest.raises(TokenInvalid) as refused:
            await tokens.principal(token)
        assert refused.value.private.endswith("its key is disabled")

    async def test_tokens_of_a_dropped_signing_key_are_refused(self, keyring: LiveKeyring, minter: Minter) -> None:
        """Also those that were verified before."""
        tokens = Tokens(OwnTokens(keyring))
        token = minter.token()
        await tokens.principal(token)
        kid, pem = new_signing_key()
        dropped = lambda ring: with_signing_key(Keyring(ring.keys), kid, pem, now=int(time.time()))  # noqa: E731
        await change_keyring(keyring._store, dropped)
        await keyring._look()
        with pytest.raises(TokenInvalid):
            await tokens.principal(token)
        signing = keyring.keyring.signing_key(time.time())
        assert signing is not None
        assert signing.kid == kid
        fresh = sign(signing, subject="key-1", issued=time.time(), expires=time.time() + 60)
        assert (await tokens.principal(fresh)).name == "dashboard"

    async def test_a_token_of_a_key_that_was_created_just_now_is_valid(
        self, keyring: LiveKeyring, minter: Minter
    ) -> None:
        """Another process has given it, which knows of the key already."""
        tokens = Tokens(OwnTokens(keyring))
        new = ApplicationKey("key-new", "new", Role.READER, "hash", 1)
        await change_keyring(keyring._store, lambda ring: with_key(ring, new))
        assert (await tokens.principal(minter.token(sub="key-new"))).name == "new"
        with pytest.raises(TokenInvalid):
            await tokens.principal(minter.token(sub="key-never"))

    async def test_tokens_of_a_secret_that_became_known_are_refused(self, keyring: LiveKeyring, minter: Minter) -> None:
        """Also those that were verified before; later ones are valid."""
        tokens = Tokens(OwnTokens(keyring))
        token = minter.token()
        await tokens.principal(token)
        since = int(time.time()) + 1
        await change_keyring(keyring._store, lambda ring: with_changed_key(ring, "key-1", tokens_from=since))
        await keyring._look()
        with pytest.raises(TokenInvalid):
            await tokens.principal(token)
        for undated in (minter.token(iat=...), minter.token(iat=since - 1), minter.token(iat="2030")):
            with pytest.raises(TokenInvalid):
                await tokens.principal(undated)
        assert (await tokens.principal(minter.token(iat=since))).name == "dashboard"

    async def test_tokens_that_are_remembered_are_bounded(
        self, keyring: LiveKeyring, minter: Minter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskgate.access.tokens._MAX_KNOWN", 3)
        tokens = Tokens(OwnTokens(keyring))
        for number in range(10):
            await tokens.principal(minter.token(jti=str(number)))
        assert len(tokens._known) == 3

    async def test_refusals_are_limited_and_valid_tokens_are_not(self, keyring: LiveKeyring, minter: Minter) -> None:
        """After 600 refusals of an address in a minute, it gets 429; its valid tokens, and other addresses, go on."""

        async def endpoint(_: Call, request: bytes) -> bytes:
            return request

        handler = require_token(Tokens(OwnTokens(keyring)), refused_tokens(), endpoint)

        async def outcome(token: str, address: str = "192.0.2.1") -> object:
            try:
                return await handler(Call("/path", "id", token=token, peer=(address, 1)), b"ok")
            except (TokenInvalid, TooManyAttempts) as error:
                return type(error)

        assert {await outcome("hostile") for _ in range(600)} == {TokenInvalid}
        assert await outcome("hostile") is TooManyAttempts
        assert await outcome(minter.token()) == b"ok"
        assert await outcome("hostile", "192.0.2.2") is TokenInvalid


class TestProviderTokens:
    """Tokens of an identity provider, signed with either of its keys."""

    @pytest.fixture(params=[RSA, EC], ids=["RS256", "ES256"])
    def minter(self, request: pytest.FixtureRequest) -> Minter:
        found: Minter = request.param
        return found

    @pytest.fixture
    def tokens(self, provider: ProviderKeys, tmp_path: Path) -> ProviderTokens:
        return ProviderTokens(provider, provider_settings(tmp_path / "jwks.json"))

    async def test_a_valid_token_stands_for_its_subject(self, tokens: ProviderTokens, minter: Minter) -> None:
        for audience in (AUDIENCE, ["elsewhere", AUDIENCE]):
            assert await Tokens(tokens).principal(minter.token(aud=audience)) == Principal("someone", Role.READER)

    async def test_hostile_and_expired_tokens_are_refused(self, tokens: ProviderTokens, minter: Minter) -> None:
        await check_refusals(Tokens(tokens), minter, HOSTILE | WRONG_AUDIENCE, TokenInvalid)
        await check_refusals(Tokens(tokens), minter, EXPIRED, TokenExpired)

    async def test_the_clocks_may_differ_by_a_minute(self, tokens: ProviderTokens, minter: Minter) -> None:
        now = time.time()
        token = minter.token(exp=int(now) + 10, nbf=int(now))
        for seen in (now - 59, now, int(now) + 69):
            assert (await tokens.verify(token, seen)).principal.name == "someone"
        with pytest.raises(TokenExpired):
            await tokens.verify(token, int(now) + 70)
        with pytest.raises(TokenInvalid):
            await tokens.verify(token, int(now) - 61)

    @pytest.mark.parametrize(
        ("claim", "claims", "role"),
        [
            ("roles", {"roles": "reader"}, Role.READER),
            ("roles", {"roles": ["other", "unmasked-reader", "reader"]}, Role.UNMASKED_READER),
            ("roles", {"roles": "openid reader"}, Role.READER),
            ("roles", {"roles": ["reader other"]}, None),
            ("roles", {"roles": [1, None, {"reader": 1}]}, None),
            ("roles", {"roles": {"reader": True}}, None),
            ("roles", {"roles": ""}, None),
            ("roles", {"roles": ...}, None),
            ("roles", {"roles": "Reader"}, None),
            ("realm_access.roles", {"realm_access": {"roles": ["reader"]}}, Role.READER),
            ("realm_access.roles", {"realm_access": ["roles"]}, None),
            ("realm_access.roles", {"realm_access": "roles"}, None),
            ("https://example.org/roles", {"https://example.org/roles": "reader"}, Role.READER),
            ("", {"roles": "unmasked-reader"}, Role.READER),
        ],
    )
    async def test_a_claim_gives_the_role(
        self, provider: ProviderKeys, tmp_path: Path, claim: str, claims: Any, role: Role | None
    ) -> None:
        """A text, words in a text or a list, at any depth; the widest role counts; none gives none."""
        settings = provider_settings(tmp_path / "jwks.json", jwt_role_claim=claim)
        assert (await Tokens(ProviderTokens(provider, settings)).principal(EC.token(**claims))).role is role

    async def test_values_are_mapped_to_roles(self, provider: ProviderKeys, tmp_path: Path) -> None:
        """With an own mapping, the names of roles themselves give nothing; a caller without a role sees nothing."""

        async def endpoint(_: Call, request: bytes) -> bytes:
            return request

        settings = provider_settings(tmp_path / "jwks.json", jwt_roles="staff=reader,admins=unmasked-reader")
        tokens = Tokens(ProviderTokens(provider, settings))
        handler = require_token(tokens, refused_tokens(), endpoint)
        call = Call("/path", "id", token=EC.token(roles=["admins"]))
        await handler(call, b"")
        assert call.view is not None
        assert not call.view.masked
        call = Call("/path", "id", token=EC.token(roles=["reader"]))
        await handler(call, b"")
        assert (call.caller, call.view) == ("someone", NOTHING)
