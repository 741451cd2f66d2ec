"""Describe faults of a Redis server in public words; Redis' own words stay in the exception chain."""

import socket
import ssl
from typing import Any

from hiredis import ReplyError

from taskgate.base.errors import StoreUnavailable


class Unreachable(Exception):
    """The store does not answer; ``reason`` is public, and says why as a clause about the store.

    ``node`` names the server, one of several, for the log.
    """

    def __init__(self, reason: str, *, node: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


class ConnectionLost(Unreachable):
    """A connection ended, or was given up, before the answer. ``silent``: still connected, but no byte arrived."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


NOT_REDIS = "what answers there is not Redis"
CLOSED_BY_SERVER = "it closed the connection"

_REASONS = {
    "NOAUTH": "it asks for a password, and the URL has none",
    "WRONGPASS": "it refuses the user or the password of the URL",
    "NOPERM": "the user of the URL lacks a permission; look at its ACL",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "CLUSTERDOWN": "the cluster is down, because some of its slots are not served",
    "TRYAGAIN": "the cluster is moving its keys between nodes",
    "MOVED": "it is a node of a Redis Cluster, which takes a URL that begins with redis+cluster://",
    "ASK": "it is a node of a Redis Cluster, which takes a URL that begins with redis+cluster://",
    "MISCONF": "it takes no writes, because it cannot save them to its disk",
    "OOM": "its memory is full",
    "READONLY": "it is a replica, which takes no writes",
    "NOREPLICAS": "it takes no writes, because too few replicas are connected to it",
    "BUSY": "it is busy with another program's script",
    "DENIED": "it is in protected mode, in which it serves its own machine alone",
    "WRONGTYPE": "a key where a task should be holds something else",
}
"""Public words by the first word of a Redis error."""

_ERR_REASONS = {
    "max number of clients": "it has as many clients as it allows",
    "invalid DB index": "it has no database of that number",
    "DB index is out of range": "it has no database of that number",
    "SELECT is not allowed in cluster mode": _REASONS["MOVED"],
    "no password is set": "it has no password, and the URL has one",
    "without any password configured": "it has no password, and the URL has one",
    "cluster support disabled": "it is no node of a Redis Cluster; its URL begins with redis://",
    "unknown command": "it does not know a command that taskgate needs",
    "unknown subcommand": "it does not know a command that taskgate needs",
}
"""Public words for errors that begin with ERR, by a part of the text."""


def code_of(error: ReplyError) -> str:
    """Return the first word, which is the kind of the error."""
    return str(error).partition(" ")[0]


def reply_reason(error: ReplyError) -> str:
    """Return why the store is unavailable if it answers with ``error``."""
    text = str(error)
    code = code_of(error)
    if code == "ERR":
        return next((reason for part, reason in _ERR_REASONS.items() if part in text), "Redis reported an error")
    return _REASONS.get(code, "Redis reported an error")


def checked(reply: Any) -> Any:
    """Return ``reply``; raise Unreachable if it is an error."""
    if isinstance(reply, ReplyError):
        raise Unreachable(reply_reason(reply)) from reply
    return reply


def see_that_it_reads(reply: object) -> None:
    """Raise Unreachable if this answer to a read shows that the server does not serve reads now."""
    if not (isinstance(reply, ReplyError) and code_of(reply) == "WRONGTYPE"):
        checked(reply)


def connect_reason(error: OSError) -> str:
    """Return why no connection can be made. The caller handles TimeoutError: it knows how long it waited."""
    match error:
        case ssl.SSLCertVerificationError():
            return "its TLS certificate is not trusted"
        case ssl.SSLError():
            return "the TLS handshake with it failed"
        case ConnectionRefusedError():
            return "it refuses connections"
        case ConnectionError():
            return CLOSED_BY_SERVER
        case socket.gaierror():
            return "its host name is not known"
        case _:
            return "it cannot be reached"


def silence_reason(seconds: float) -> str:
    """Return the reason for a server that did not answer for ``seconds``."""
    return f"it did not answer within {seconds:g} s"


def unavailable(name: str, error: Unreachable) -> StoreUnavailable:
    """Return the public error for a caller of the store."""
    return StoreUnavailable(error.reason, store=name, node=error.node)
