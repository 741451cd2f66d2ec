"""Verify tokens, and remember verified ones by their digests."""

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from taskgate.access.attempts import Attempts
from taskgate.access.gate import TOKEN_ISSUER
from taskgate.access.live_keyring import LiveKeyring
from taskgate.access.roles import Principal
from taskgate.access.signing import ALGORITHM, MAX_TOKEN, header_of, invalid, verify
from taskgate.base.errors import TokenInvalid
from taskgate.service.calls import Answer, Call, Handler

_MAX_KNOWN = 10_000
"""Tokens that one process remembers, about 300 bytes each."""


_REFUSALS = 600
"""Refused tokens of one address in a minute."""


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A verified token: whom it stands for, until when (Unix seconds), and the version of the keys that verified it."""

    principal: Principal
    expires: float
    version: int


class TokenVerifier(Protocol):
    """Verifies the tokens of one issuer."""

    @property
    def version(self) -> int:
        """Changes when keys do; what was verified before is then verified again."""
        ...

    async def verify(self, token: str, now: float) -> KnownToken:
        """Check the token. Raises TokenInvalid, TokenExpired or StoreUnavailable."""
        ...


class Tokens:
    """Find the caller of a token. A token that is known costs 2 µs; verifying one about 150."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self._known: dict[bytes, KnownToken] = {}

    def known(self, token: str) -> Principal | None:
        """Return the caller of a token that was verified before, and is still valid; else None."""
        known = self._known.get(_digest(token))
        if known is None or time.time() >= known.expires or known.version != self._verifier.version:
            return None
        return known.principal

    async def verified(self, token: str) -> Principal:
        """Return the caller that ``token`` stands for. Raises TokenInvalid, TokenExpired or StoreUnavailable."""
        known = await self._verifier.verify(token, time.time())
        self._known[_digest(token)] = known
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return known.principal

    async def principal(self, token: str) -> Principal:
        """Return the caller that ``token`` stands for; raises as ``verified``."""
        return self.known(token) or await self.verified(token)


def _digest(token: str) -> bytes:
    """Return what a verified token is known by; tokens that are too long for one are never verified."""
    return sha256(token.encode(errors="replace")).digest() if len(token) <= MAX_TOKEN else b""


def refused_tokens() -> Attempts:
    """Return the limit of refused tokens, high enough for many clients behind one address."""
    return Attempts(of_address=_REFUSALS, of_key=_REFUSALS)


def require_token(tokens: Tokens, attempts: Attempts, handler: Handler) -> Handler:
    """Return ``handler`` with the check of the caller's token before it; ``attempts`` limits refusals alone."""

    def authenticated(call: Call, request: bytes) -> Coroutine[Any, Any, Answer]:
        principal = tokens.known(call.token)
        # A coroutine of its own would cost every call of a known token half a microsecond more.
        return verified(call, request) if principal is None else handle(principal, call, request)

    async def verified(call: Call, request: bytes) -> Answer:
        try:
            principal = await tokens.verified(call.token)
        except TokenInvalid:
            attempts.count(call)
            raise
        return await handle(principal, call, request)

    def handle(principal: Principal, call: Call, request: bytes) -> Coroutine[Any, Any, Answer]:
        call.caller = principal.name
        call.view = principal.view
        return handler(call, request)

    return authenticated


class OwnTokens:
    """See ``TokenVerifier``. Tokens that ``CreateToken`` has signed with a key of the keyring."""

    def __init__(self, keyring: LiveKeyring) -> None:
        self._keyring = keyring

    @property
    def version(self) -> int:
        """See ``TokenVerifier``."""
        return self._keyring.version

    async def verify(self, token: str, now: float) -> KnownToken:
        """See ``TokenVerifier``."""
        kid = header_of(token).get("kid")
        _ = self._keyring.keyring  # raises if it has never been read: then no token can be judged
        key = self._keyring.verifying_key(kid, now) if isinstance(kid, str) else None
        if key is None:
            raise invalid("no key here has signed it")
        version = self._keyring.version
        verified = verify(token, key, algorithms=(ALGORITHM,), now=now, issuer=TOKEN_ISSUER)
        subject = verified.claims["sub"]
        await self._keyring.key(subject)  # one that was created just now: another process has given the token
        if verified.claims.get("iat", 0) < self._keyring.tokens_from(subject):
            raise invalid("it was issued for a former secret")
        principal = self._keyring.principals.get(subject)
        if principal is None:
            raise invalid("its key is disabled")
        return KnownToken(principal, verified.expires, version)
