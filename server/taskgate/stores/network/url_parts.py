"""What the URLs of databases on a network have in common.

Whatever is wrong with one raises SettingsError, never with a word of the user's part; ``kind`` is what messages call
the URL, such as ``postgresql``.
"""

import os
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from taskgate.base.addresses import may_be_host
from taskgate.base.errors import SettingsError
from taskgate.stores.url_hints import other_parameter, similar

MOST_PORT: Final = 65535

_MOST_DIGITS: Final = 20
"""More than any number here has; Python refuses to read thousands of them."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PASSWORDS: Final = re.compile(r"(?<![^&])\w*password=[^&]*")
"""Parameters that may hold anything."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_]{1,40}")

DEFAULT_POOL_SIZE: Final = 8
_MOST_CONNECTIONS: Final = 200

Choices = Mapping[str, Collection[str]]
"""The values that some parameters may have."""


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UrlParts:
    """``[user[:password]@]hosts[/path][?query]``; the last three are as they stand there, per cent signs included."""

    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    hosts: str
    path: str
    query: str = field(repr=False)


def split_url(kind: str, rest: str) -> UrlParts:
    """The parts of what follows ``scheme://``. A password may have an @ in it as it is, but no /, ? or #.

    The part after one of those would be taken for a path or a parameter, which messages and logs show; the @ that then
    follows tells of it.
    """
    if re.search("[/?#].*@", rest, re.DOTALL):
        raise SettingsError(
            f"store: a {kind} URL has no @ after the first /, ? or #; in a user, a password or anything else,"
            " / is written %2F, ? is written %3F, # is written %23 and @ is written %40"
        )
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    if "@" in unquote(hosts):
        raise SettingsError(f"store: the @ before the hosts of a {kind} URL is written as it is, not as %40")
    if _CONTROL.search(hosts + path + _PASSWORDS.sub("", query)):
        raise SettingsError(
            f"store: the {kind} URL has a control character in it, such as the end of a line; leave it out, or write"
            " %0A and the like where one belongs to a name"
        )
    user, colon, password = credentials.partition(":")
    return UrlParts(
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
        hosts=hosts,
        path=path,
        query=query,
    )


def parse_number(digits: str, most: int) -> int | None:
    """A number from 1 to ``most``; None for anything else."""
    if len(digits) > _MOST_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if 0 < int(digits) <= most else None


def endpoint(kind: str, host: str, port: int) -> Endpoint:
    """One of the hosts; refuses a name that nothing can look up. A path is the folder of a socket."""
    if not host.startswith("/") and not may_be_host(host):
        raise SettingsError(f"store: a host of the {kind} URL is not the name of one")
    return Endpoint(host, port)


def refuse_fragment(kind: str, rest: str) -> None:
    """Refuse a ``#``, which everywhere else would end a URL."""
    if "#" in rest:
        raise SettingsError(f"store: in a {kind} URL, # is written %23")


def parse_port(kind: str, digits: str) -> int:
    """A port of one of the hosts."""
    port = parse_number(digits, MOST_PORT)
    if port is None:
        raise SettingsError(f"store: the port of a {kind} URL is a number from 1 to {MOST_PORT}")
    return port


def parse_parameters(
    kind: str, query: str, known: Collection[str], *, files: Collection[str], choices: Choices | None = None
) -> dict[str, str]:
    """Parameters of which the last counts, as in libpq; those of ``files`` must name one. No value is ever said."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:  # which quotes one
        raise SettingsError(f"store: the parameters of a {kind} URL are written ?name=value&name=value") from None
    parameters = dict(pairs)
    for name, value in parameters.items():
        if name not in known:
            raise unknown_parameter(kind, name, query, sorted(known))
        if choices and name in choices and value not in choices[name]:
            raise SettingsError(f"store: {name} is one of {', '.join(choices[name])}")
        if name in files and not os.path.isfile(value):  # noqa: PTH113 - Path raises for what cannot be looked at
            raise SettingsError(f"store: {name} names a file that does not exist")
    return parameters


def unknown_parameter(kind: str, name: str, query: str, known: Collection[str]) -> SettingsError:
    """What to raise for parameter ``name`` of ``query``, which is none of ``known``.

    The name may be a piece of a password, as where a value that is one has an & in it. It is shown only where it looks
    like nothing of the kind.
    """
    if advice := other_parameter(kind, name):
        return SettingsError(f"store: a {kind} URL has no parameter {name!r}: {advice}")
    if not _PLAIN_NAME.fullmatch(name) or re.search("@|%40|pass", query, re.IGNORECASE):
        shown = "such parameter (it is not shown: it may be part of a password)"
    elif near := similar(name, known):
        return SettingsError(f"store: a {kind} URL has no parameter {name!r}; did you mean {near}?")
    else:
        shown = f"parameter {name!r}"
    return SettingsError(f"store: a {kind} URL has no {shown}; there are {', '.join(known)}")


def each_parameter(kind: str, query: str) -> Iterator[tuple[str, str]]:
    """Name and value of parameters that may be there once each; refuse an unknown one before asking for the next."""
    names = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in names:
            raise SettingsError(f"store: the {kind} URL has parameter {name!r} twice")
        names.add(name)
        yield name, value


def see_that_file_exists(kind: str, name: str, path: str) -> None:
    """Refuse parameter ``name`` if there is no file at ``path``."""
    if not os.path.isfile(path):  # noqa: PTH113 - a name, passed on as it is
        raise SettingsError(f"store: {name} of the {kind} URL: there is no file {path}")


def see_that_pem_loads(
    kind: str, *, ca: str | None, cert: str | None, key: str | None, password: str = "", crl: str | None = None
) -> None:
    """Refuse files for TLS that OpenSSL cannot use; the first connection would be too late to say so."""
    fault = "the file of authorities is not one of PEM certificates that can be read"
    try:
        context = ssl.create_default_context(cafile=ca or None)
        fault = "certificate and key are not files in PEM that belong together and can be read"
        if cert:
            # Without a password, an encrypted key would make OpenSSL ask on the terminal.
            context.load_cert_chain(cert, key or None, password=password)
        fault = "the file of revoked certificates is not a list in PEM that can be read"
        if crl:
            context.load_verify_locations(cafile=crl)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise SettingsError(f"store: TLS of the {kind} URL: {fault}") from error


def parse_pool_size(parameters: Mapping[str, str]) -> int:
    """``pool_size``: how many connections one process may have."""
    size = parse_number(parameters.get("pool_size", str(DEFAULT_POOL_SIZE)), _MOST_CONNECTIONS)
    if size is None:
        raise SettingsError(f"store: pool_size is a number from 1 to {_MOST_CONNECTIONS}")
    return size
