"""Parse the URLs of databases on a network, which share one grammar; a ``Grammar`` for each engine says what differs.

``[user[:password]@][host[:port][,host[:port]…]][/path][?name=value[&name=value…]]``, with percent encoding as in any
URL. Each refusal is a SettingsError that says what is wrong and how to write it. It never quotes a user, a password or
a value.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from pydantic_core import MultiHostUrl, ValidationError

from taskgate.base.addresses import MAX_PORT, Address, may_be_host
from taskgate.base.errors import SettingsError
from taskgate.stores.url_hints import other_parameter, similar

Endpoint = Address
"""Host and port of a server."""

DEFAULT_POOL_SIZE: Final = 8
_MOST_CONNECTIONS: Final = 200

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PASSWORDS: Final = re.compile(r"(?<![^&])\w*password=[^&]*")
"""Parameters that may contain any character."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_]{1,40}")
_HOSTS: Final = "%:,[]"
_AFTER_HOSTS: Final = "%/?=&+"
"""Characters with a meaning there. The rest is quoted: the library drops blanks and control characters, and takes a
comma in a path for one between hosts."""

_ZONED: Final = re.compile(r"\[[0-9A-Fa-f:]+%[^\]]+\]")
"""An IPv6 address with a zone, which the library accepts only as a name."""

_CREDENTIALS: Final = re.compile("user|password")
"""What the names of parameters that hold a user or a password contain."""

Check = Callable[[str], str | None]
"""Returns what is wrong with the value of a parameter, as the end of a sentence; None for a valid value."""


def text(_: str) -> None:
    """Accept any value."""


def one_of(*values: str) -> Check:
    """Accept one of ``values``."""
    return lambda value: None if value in values else f"is one of {', '.join(values)}"


def number(most: int) -> Check:
    """Accept a number from 1 to ``most``, in digits."""
    digits = re.compile(f"[0-9]{{1,{len(str(most))}}}")
    return lambda value: None if digits.fullmatch(value) and 0 < int(value) <= most else f"is a number from 1 to {most}"


def file(value: str) -> str | None:
    """Accept the name of a file that exists."""
    return None if os.path.isfile(value) else "names a file that does not exist"  # noqa: PTH113 - Path may raise


pool_size: Final = number(_MOST_CONNECTIONS)
"""Accept the number of connections that one process may have."""


def without_credentials(rest: str) -> str:
    """Return the part after ``scheme://`` of a URL that a ``Grammar`` accepts, with *** for users and passwords."""
    _, at, place = rest.rpartition("@")
    before, question, query = place.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    # The name may be percent-encoded, too.
    shown = "&".join(
        f"{name}{sign}{'***' if _CREDENTIALS.search(unquote(name)) else value}" for name, sign, value in pairs
    )
    return f"{'***@' if at else ''}{before}{question}{shown}"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of a URL, decoded except for the path."""

    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    hosts: tuple[Endpoint, ...]
    path: str
    """Without its first slash, and not decoded: %2F is no separator."""
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def pool_size(self) -> int:
        """The most connections that one process may have."""
        return int(self.parameters.get("pool_size", DEFAULT_POOL_SIZE))


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the URLs of one engine may contain."""

    kind: str
    """What messages call such a URL."""
    example: str
    port: int
    """The default port of a host."""
    parameters: Mapping[str, Check]
    host: str = ""
    """The default for a first host that is left out; empty if the host is required."""

    def parse(self, rest: str) -> StoreUrl:
        """Parse the part after ``scheme://``. A password may contain a bare @, but no /, ? or #.

        The rest of such a password would be taken for a path or a parameter, which messages and logs show. A later @
        reveals this case.
        """
        if re.search("[/?#].*@", rest, re.DOTALL):
            raise SettingsError(
                f"store: a {self.kind} URL has no @ after the first /, ? or #; in a user, a password or anything else,"
                " / is written %2F, ? is written %3F, # is written %23 and @ is written %40"
            )
        if "#" in rest:
            raise SettingsError(f"store: in a {self.kind} URL, # is written %23")
        credentials, at, place = rest.rpartition("@")
        user, colon, password = credentials.partition(":")
        query = place.partition("?")[2]
        if "%40" in re.split("[/?]", place)[0]:
            raise SettingsError(f"store: the @ before the hosts of a {self.kind} URL is written as it is, not as %40")
        if _CONTROL.search(place.removesuffix(query) + _PASSWORDS.sub("", query)):
            raise SettingsError(
                f"store: the {self.kind} URL has a control character in it, such as the end of a line; leave it out,"
                " or write %0A and the like where one belongs to a name"
            )
        url = self._split(f"{self.host}{place}" if place.startswith(":") else place)
        return StoreUrl(
            user=unquote(user) if at else None,
            password=unquote(password) if colon else None,
            hosts=self._hosts(url),
            path=(url.path or "").removeprefix("/"),
            parameters=self._parameters(url),
        )

    def hosts(self, written: str) -> tuple[Endpoint, ...]:
        """Parse hosts from outside a URL, without percent encoding; a slash begins a socket's folder."""
        return self._hosts(self._split(quote(written, safe=":,[]", errors="replace")))

    def _split(self, place: str) -> MultiHostUrl:
        hosts = re.split("[/?]", place, maxsplit=1)[0]
        after = quote(place.removeprefix(hosts), safe=_AFTER_HOSTS, errors="replace")
        hosts = _ZONED.sub(lambda address: quote(address[0], safe="%"), hosts)
        try:
            return MultiHostUrl(f"store://{quote(hosts, safe=_HOSTS, errors='replace')}{after}")
        except ValidationError as error:  # only its reason does not quote the URL
            reason = error.errors(include_input=False)[0]["ctx"]["error"]
            raise self._refused_hosts(reason) from None

    def _refused_hosts(self, reason: str) -> SettingsError:
        return SettingsError(
            f"store: {reason} in a {self.kind} URL; hosts are written HOST:PORT, with the port a number from 1 to"
            f" {MAX_PORT}, as in {self.example}"
        )

    def _hosts(self, url: MultiHostUrl) -> tuple[Endpoint, ...]:
        hosts = [(unquote(part["host"] or "").strip("[]"), part["port"]) for part in url.hosts()]
        if any(port == 0 for _, port in hosts):
            raise self._refused_hosts("invalid port number")
        if not all(host.startswith("/") or may_be_host(host) for host, _ in hosts):
            raise SettingsError(f"store: a host of the {self.kind} URL is not a valid host name")
        if not hosts and not self.host:
            raise self._refused_hosts("empty host")
        return tuple(Endpoint(host, port or self.port) for host, port in hosts)

    def _parameters(self, url: MultiHostUrl) -> dict[str, str]:
        query = url.query or ""
        if not all("=" in pair for pair in query.split("&") if pair):
            raise SettingsError(f"store: the parameters of a {self.kind} URL are written ?name=value&name=value")
        parameters: dict[str, str] = {}
        for name, value in url.query_params():
            if name not in self.parameters:
                raise self._unknown(name, query)
            if name in parameters:
                raise SettingsError(f"store: the {self.kind} URL has parameter {name!r} twice; leave one out")
            if fault := self.parameters[name](value):
                raise SettingsError(f"store: {name} {fault}")
            parameters[name] = value
        return parameters

    def _unknown(self, name: str, query: str) -> SettingsError:
        """Return the error for the unknown parameter ``name`` of ``query``.

        The name may be a piece of a password, for example of a value that contains an &. It is shown only if it does
        not look like one.
        """
        known: Collection[str] = self.parameters
        if advice := other_parameter(self.kind, name):
            return SettingsError(f"store: a {self.kind} URL has no parameter {name!r}: {advice}")
        if not _PLAIN_NAME.fullmatch(name) or re.search("@|%40|pass", query, re.IGNORECASE):
            shown = "such parameter (it is not shown: it may be part of a password)"
        elif near := similar(name, known):
            return SettingsError(f"store: a {self.kind} URL has no parameter {name!r}; did you mean {near}?")
        else:
            shown = f"parameter {name!r}"
        return SettingsError(f"store: a {self.kind} URL has no {shown}; there are {', '.join(known)}")
