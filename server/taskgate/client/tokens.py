"""The token that calls carry: a ready one, or one that is fetched for a key and renewed."""

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import grpc

from taskgate.client.errors import CallError
from taskgate.client.steps import Flow, Rpc, Tokens
from taskgate.v1.token_service_pb2 import CreateTokenRequest

_RENEWED_AFTER: Final = 0.8
"""The part of a token's life after which it is renewed."""

_PAUSE_SECONDS: Final = 5.0
"""Until the next attempt, while a token that cannot be renewed now is still valid."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as ``taskgate keys create`` printed it."""

    id: str
    secret: str = field(repr=False)


Token = str | Callable[[], str]
"""A token, or a function that returns the one to use now. It is called before each call, so it should not wait."""


def tokens_for(token: Token | None, key: Key | None) -> Tokens:
    """Return the source of tokens. Raises ValueError for both, or for a text that is no token."""
    if key is not None:
        if token is not None:
            raise ValueError("token and key: give one of them")
        return _KeyTokens(key)
    return _ReadyToken("" if token is None else token)


class _ReadyToken:
    """A token that the caller has; an empty one is not sent."""

    def __init__(self, token: Token) -> None:
        self._token = token
        if isinstance(token, str):
            _check(token)

    def current(self) -> str:
        return self._token if isinstance(self._token, str) else _check(self._token())

    def renewed(self, refused: str | None, deadline: float) -> Flow[str]:
        del refused, deadline
        yield from ()
        return self.current()


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, and the times of this process's clock when to renew it, and when it ends."""

    token: str
    renew_at: float = math.inf
    ends_at: float = math.inf


class _KeyTokens:
    """Tokens of a key: the first one is fetched with the first call."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._held: _Held | None = None

    def current(self) -> str | None:
        held = self._held
        return held.token if held is not None and time.monotonic() < held.renew_at else None

    def renewed(self, refused: str | None, deadline: float) -> Flow[str]:
        """Exchange the key for a token, unless another call has just done so.

        A server without keys needs no token. While the former token is valid, an outage of the keys fails no call.
        """
        held = self._held
        asked = time.monotonic()
        usable = held is not None and held.token != refused
        if held is not None and usable and asked < held.renew_at:
            return held.token
        try:
            request = CreateTokenRequest(key_id=self._key.id, key_secret=self._key.secret)
            answer = yield Rpc("CreateToken", request, deadline)
        except CallError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                self._held = _Held("")
            elif held is not None and usable and error.retryable and time.monotonic() < held.ends_at:
                self._held = replace(held, renew_at=time.monotonic() + _PAUSE_SECONDS)
            else:
                raise
        else:
            life = _lifetime(answer.token)
            self._held = _Held(answer.token, asked + _RENEWED_AFTER * life, asked + life)
        return self._held.token


def _check(token: str) -> str:
    """Refuse what gRPC would quote in its own error."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("token: it has a space, a line break or another character that no token has")
    return token


def _lifetime(token: str) -> float:
    """Return the seconds from issue to expiry by the claims of ``token``; infinite if they cannot be read.

    A difference: the server's clock may show another time than ours.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"] - claims["iat"])
    except (IndexError, KeyError, TypeError, ValueError):
        return math.inf
