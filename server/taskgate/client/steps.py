"""What happens in a call, step by step, without threads or an event loop.

A flow is a generator: it yields what to do next, and gets the outcome sent, or thrown. ``Client`` and ``AsyncClient``
do the steps, each in its own way.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from taskgate.client.errors import Unauthenticated

T = TypeVar("T")

_REFUSED_TOKEN: Final = frozenset({"ERROR_REASON_TOKEN_EXPIRED", "ERROR_REASON_TOKEN_INVALID"})


@dataclass(frozen=True, slots=True)
class Rpc:
    """Send ``request`` to ``method``. The outcome is the response, or a CallError is thrown.

    ``deadline`` is a time of ``time.monotonic``.
    """

    method: str
    request: Message
    deadline: float
    token: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send beside the request."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


@dataclass(frozen=True, slots=True)
class Turn:
    """Run ``flow`` while no other call does such a step. The outcome is its token."""

    flow: "Flow[str]"
    deadline: float


Flow: TypeAlias = Generator[Rpc | Turn, Any, T]


class Tokens(Protocol):
    """Where the token of a call comes from."""

    def current(self) -> str | None:
        """Return the token to send, empty for none; None if it has to be renewed first."""
        ...

    def renewed(self, refused: str | None, deadline: float) -> Flow[str]:
        """Return a token in place of ``refused``, or the same if there is no other."""
        ...


def answered(tokens: Tokens, rpc: Rpc) -> Flow[Any]:
    """Return the response to ``rpc``, sent with a token. Renew a token that the server refuses, once.

    Raises CallError.
    """
    token = tokens.current()
    if token is None:
        token = yield Turn(tokens.renewed(None, rpc.deadline), rpc.deadline)
    try:
        return (yield replace(rpc, token=token))
    except Unauthenticated as error:
        if error.reason not in _REFUSED_TOKEN:
            raise
        refusal = error
    other = yield Turn(tokens.renewed(token, rpc.deadline), rpc.deadline)
    if other == token:
        raise refusal
    return (yield replace(rpc, token=other))


def remaining(deadline: float) -> float:
    """Return the seconds until ``deadline``, at least 0."""
    return max(deadline - time.monotonic(), 0.0)
