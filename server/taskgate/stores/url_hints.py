"""Suggest the right URL if ``store`` is in the form of JDBC, Conductor or another program.

Such a value may hold a password in places that only that program knows. A hint therefore shows only names of hosts and
databases that cannot be mistaken, and never a user, a password or the value of any other parameter.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, quote

_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# A line of properties, of YAML, or of an environment.
_PROPERTY: Final = re.compile(r"\s*((?:spring|conductor)[._][^=:\s]*)\s*(?:=|:\s)", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_PATH: Final = re.compile(r"[^\s:;=?#@]+")
_DATABASE_FILE: Final = re.compile(r"\.(db3?|sqlite3?)$", re.IGNORECASE)

_SIMILAR: Final = 0.6
"""Least similarity of two names for one to count as a misspelling of the other (``difflib``)."""

# Other names of the databases that taskgate reads, in lower case.
_SCHEMES: Final = {
    "postgres": "postgresql",
    "pgsql": "postgresql",
    "psql": "postgresql",
    "pg": "postgresql",
    "valkey": "redis",
    "redis-sentinel": "redis+sentinel",
    "redis-cluster": "redis+cluster",
    "scylla": "cassandra",
    "cql": "cassandra",
    "sqlite3": "sqlite",
}

_EXAMPLES: Final = {
    "sqlite": "sqlite:////PATH/TO/FILE.db",
    "postgresql": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "mysql": "mysql://USER:PASSWORD@HOST:3306/DATABASE",
    "cassandra": "cassandra://HOST:9042/KEYSPACE",
    "redis": "redis://HOST:6379/0",
    "redis+sentinel": "redis+sentinel://HOST:26379/mymaster/0",
    "redis+cluster": "redis+cluster://HOST:6379",
}

_PORTS: Final = {"5432": "postgresql", "3306": "mysql", "6379": "redis", "26379": "redis+sentinel", "9042": "cassandra"}

# Values of Conductor's property conductor.db.type.
_DATABASE_TYPES: Final = {
    "postgres": "postgresql",
    "mysql": "mysql",
    "sqlite": "sqlite",
    "cassandra": "cassandra",
    "redis_standalone": "redis",
    "redis_sentinel": "redis+sentinel",
    "redis_cluster": "redis+cluster",
}

# Where the values of Conductor's other properties belong in a URL.
_PROPERTIES: Final = {
    "spring.datasource.username": "the user stands before the host, as in postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "spring.datasource.password": "the password stands before the host, as in"
    " postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "conductor.postgres.schema": "it is the parameter schema, as in postgresql://HOST:5432/DATABASE?schema=NAME",
    "conductor.redis.workflownamespaceprefix": "it is the parameter namespace, as in redis://HOST:6379/0?namespace=NAME",
    "conductor.app.stack": "it is the parameter stack, as in redis://HOST:6379/0?stack=NAME",
    "conductor.redis.keyspacedomain": "it is the parameter domain, as in redis://HOST:6379/0?domain=NAME",
    "conductor.redis.sentinel-master-name": "it stands after the hosts, as in redis+sentinel://HOST:26379/NAME/0",
    "conductor.redis.database": "it stands after the host, as in redis://HOST:6379/NUMBER",
    "conductor.redis.ssl": "the URL begins with rediss://",
    "conductor.redis.user": "the user stands before the host, as in redis://USER:PASSWORD@HOST:6379/0",
    "conductor.cassandra.hostaddress": "the host stands first, as in cassandra://HOST:9042/KEYSPACE",
    "conductor.cassandra.port": "the port stands after the host, as in cassandra://HOST:9042/KEYSPACE",
    "conductor.cassandra.keyspace": "the keyspace stands after the host, as in cassandra://HOST:9042/KEYSPACE",
}

_BEFORE_HOST: Final = "user and password stand before the host, as in {kind}://USER:PASSWORD@HOST"
_TIMEOUTS: Final = "timeouts are taskgate's own; leave it out"
_FOR_REDISS: Final = "ca_file is for TLS, in a URL that begins with rediss"
_NOT_NEEDED: Final = "leave it out: taskgate does not need it"

# Parameters of JDBC, other drivers and Conductor, without - and _ and in lower case, by kind of URL.
_PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "postgresql": {
        "currentschema": "it is called schema",
        "searchpath": "the table's schema is called schema",
        "options": "the table's schema is called schema",
        "ssl": "TLS is sslmode=verify-full, or sslmode=require where the certificate is not to be verified",
        "usessl": "TLS is sslmode=verify-full, or sslmode=require where the certificate is not to be verified",
        "requiressl": "it is called sslmode=require",
        "targetservertype": "it is called target_session_attrs",
        "database": "the database stands after the host, as in postgresql://HOST:5432/DATABASE",
        "maximumpoolsize": "it is called pool_size",
        "connecttimeout": _TIMEOUTS,
        "logintimeout": _TIMEOUTS,
        "sockettimeout": _TIMEOUTS,
        "preparethreshold": _NOT_NEEDED,
        "stringtype": _NOT_NEEDED,
        "rewritebatchedinserts": _NOT_NEEDED,
    },
    "mysql": {
        "usessl": "TLS is ssl=true, or ssl_ca=FILE for authorities of your own",
        "requiressl": "TLS is ssl=true, or ssl_ca=FILE for authorities of your own",
        "sslmode": "TLS is ssl=true, or ssl_ca=FILE for authorities of your own",
        "tls": "TLS is ssl=true, or ssl_ca=FILE for authorities of your own",
        "verifyservercertificate": "TLS is ssl=true, which always verifies",
        "trustcertificatekeystoreurl": "authorities are ssl_ca=FILE, in PEM",
        "allowpublickeyretrieval": "leave it out: the server's key is taken, unless server_public_key_path names one",
        "serverrsapublickeyfile": "it is called server_public_key_path",
        "maximumpoolsize": "it is called pool_size",
        "database": "the database stands after the host, as in mysql://HOST:3306/DATABASE",
        "connecttimeout": _TIMEOUTS,
        "sockettimeout": _TIMEOUTS,
        "servertimezone": _NOT_NEEDED,
        "useunicode": _NOT_NEEDED,
        "characterencoding": _NOT_NEEDED,
        "charset": _NOT_NEEDED,
        "autoreconnect": _NOT_NEEDED,
        "user": _BEFORE_HOST,
        "password": _BEFORE_HOST,
        "username": _BEFORE_HOST,
    },
    "redis": {
        "user": _BEFORE_HOST,
        "username": _BEFORE_HOST,
        "password": _BEFORE_HOST,
        "db": "the database stands after the host, as in redis://HOST:6379/0",
        "database": "the database stands after the host, as in redis://HOST:6379/0",
        "ssl": "TLS is a URL that begins with rediss",
        "tls": "TLS is a URL that begins with rediss",
        "workflownamespaceprefix": "it is called namespace",
        "keyspacedomain": "it is called domain",
        "prefix": "keys begin with namespace, stack and domain",
        "sentinelmastername": "the primary's name stands after the hosts, as in redis+sentinel://HOST:26379/NAME/0",
        "sslcacerts": _FOR_REDISS,
        "cafile": _FOR_REDISS,
        "certfile": "cert_file is for TLS, in a URL that begins with rediss",
        "keyfile": "key_file is for TLS, in a URL that begins with rediss",
        "timeout": _TIMEOUTS,
        "sockettimeout": _TIMEOUTS,
    },
    "cassandra": {
        "user": _BEFORE_HOST,
        "username": _BEFORE_HOST,
        "password": _BEFORE_HOST,
        "keyspace": "the keyspace stands after the host, as in cassandra://HOST:9042/KEYSPACE",
        "datacenter": "it is called local_dc",
        "localdatacenter": "it is called local_dc",
        "dc": "it is called local_dc",
        "consistencylevel": "it is called consistency",
        "readconsistencylevel": "it is called consistency",
        "ssl": "TLS is tls=verify-full",
        "usessl": "TLS is tls=verify-full",
        "protocolversion": _NOT_NEEDED,
    },
}


@dataclass(frozen=True, slots=True)
class _Jdbc:
    """How to translate the JDBC URLs of one database."""

    scheme: str
    port: str
    kept: Mapping[str, Callable[[str], str]]
    """Parameters with an equivalent here, in lower case, and their translations."""


def _named(name: str) -> Callable[[str], str]:
    """Put the same value under ``name`` if it is a plain word; else a placeholder."""
    return lambda value: f"{name}={value if _NAME.fullmatch(value) else 'VALUE'}"


def _if_true(text: str) -> Callable[[str], str]:
    return lambda value: text if value.lower() in {"true", "1", ""} else ""


def _mysql_tls(value: str) -> str:
    return "" if value.upper() in {"DISABLED", "PREFERRED"} else "ssl=true"


_JDBC: Final = {
    "postgresql": _Jdbc(
        "postgresql",
        "5432",
        {"currentschema": _named("schema"), "ssl": _if_true("sslmode=verify-full"), "sslmode": _named("sslmode")},
    ),
    "mysql": _Jdbc(
        "mysql", "3306", {"usessl": _if_true("ssl=true"), "requiressl": _if_true("ssl=true"), "sslmode": _mysql_tls}
    ),
}
_JDBC_NAMES: Final = {**_JDBC, "mariadb": _JDBC["mysql"]}


def unknown_url(url: str, schemes: Collection[str]) -> str | None:
    """Suggest a replacement for ``url``, which begins with none of ``schemes``; None if its form is not recognised."""
    for look in (_careless, _property, _jdbc, _redis_hosts, _keywords):
        if hint := look(url, schemes):
            return hint
    scheme, separator, _ = url.partition("://")
    return _scheme(scheme.lower(), schemes) if separator else _plain(url)


def refused_url(scheme: str, rest: str) -> str | None:
    """Suggest a replacement for a URL with a known ``scheme`` and a ``rest`` that could not be parsed; else None."""
    # A password, which may have colons in it, can stand before an @.
    return _redis_hosts(rest, ()) if scheme.startswith("redis") and "@" not in rest else None


def other_parameter(kind: str, name: str) -> str | None:
    """Suggest what to write for ``name``, a parameter known elsewhere but not in a URL of ``kind``; else None.

    If the result is not None, ``name`` is a public word and may be shown.
    """
    advice = _PARAMETERS.get(kind, {}).get(_bare(name))
    return None if advice is None else advice.format(kind=kind)


def similar(name: str, known: Collection[str]) -> str | None:
    """Return the one of ``known`` that ``name`` misspells or spells differently; None if none is similar."""
    bare = {_bare(candidate): candidate for candidate in known}
    close = get_close_matches(_bare(name), bare, n=1, cutoff=_SIMILAR)
    return bare[close[0]] if close else None


def _bare(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _careless(url: str, schemes: Collection[str]) -> str | None:
    """Recognise an empty value, quotes that a shell would have removed, and blanks."""
    del schemes
    if not url.strip():
        return "it is empty"
    if url[0] in "\"'" or url[-1] in "\"'":
        return "it stands in quotes, which belong to a shell and not to the value; leave them out"
    if url != url.strip():
        return "it begins or ends with a blank; leave that out"
    return None


def _property(url: str, schemes: Collection[str]) -> str | None:
    """Recognise a line of Conductor's configuration, or a value of ``conductor.db.type``."""
    if kind := _DATABASE_TYPES.get(url):
        return f"this is a value of Conductor's conductor.db.type; the place is a URL, as in {_EXAMPLES[kind]}"
    match = _PROPERTY.match(url)
    if match is None:
        return None
    # Spring's name for SPRING_DATASOURCE_URL is spring.datasource.url.
    name, value = match[1].replace("_", ".").lower(), url[match.end() :].strip()
    if name == "conductor.db.type" and value in _DATABASE_TYPES:
        example = _EXAMPLES[_DATABASE_TYPES[value]]
        return f"this is Conductor's property conductor.db.type; the place is a URL, as in {example}"
    if name in {"spring.datasource.url", "conductor.redis.hosts"}:
        inner = _jdbc(value, schemes) or _redis_hosts(value, schemes)
        return f"give the value without the name of the property; {inner}" if inner else None
    if name in _PROPERTIES:
        return f"this is Conductor's property {name}; in a URL {_PROPERTIES[name]}"
    return f"this is a property of Conductor's; the place is a URL, as in {_EXAMPLES['postgresql']}"


def _jdbc(url: str, schemes: Collection[str]) -> str | None:
    del schemes
    prefix, _, rest = url.partition(":")
    if prefix.lower() != "jdbc":
        return None
    kind, _, place = rest.partition(":")
    kind = kind.lower()
    if kind == "sqlite":
        path = place.partition("?")[0]
        return f"this is a JDBC URL; taskgate's form of it is {_sqlite_url(path) or _EXAMPLES['sqlite']}"
    if kind not in _JDBC_NAMES:
        return "this is a JDBC URL, of a database that taskgate does not read"
    if "//" not in place:  # a database of this machine
        place = f"//localhost/{place.removeprefix('/')}"
    return f"this is a JDBC URL; taskgate's form of it is {_from_jdbc(_JDBC_NAMES[kind], place.removeprefix('//'))}"


def _from_jdbc(jdbc: _Jdbc, rest: str) -> str:
    place, _, query = rest.partition("?")
    hosts, _, database = place.partition("/")
    pairs = [(name.lower(), value) for name, value in parse_qsl(query, keep_blank_values=True)]
    parameters = list(dict.fromkeys(filter(None, (jdbc.kept[n](v) for n, v in pairs if n in jdbc.kept))))
    user = "USER:PASSWORD@" if "@" in rest or {"user", "password"} & {name for name, _ in pairs} else "USER@"
    # With an @, anything up to it may be a password.
    hosts = "HOST" if "@" in rest else _shown_hosts(hosts.split(",")) or "HOST"
    database = database if _NAME.fullmatch(database) and "@" not in rest else "DATABASE"
    default = "" if ":" in hosts or hosts == "HOST" else f":{jdbc.port}"
    return f"{jdbc.scheme}://{user}{hosts}{default}/{database}{'?' if parameters else ''}{'&'.join(parameters)}"


def _redis_hosts(url: str, schemes: Collection[str]) -> str | None:
    """Recognise ``host:port:rack[:password];…``, as in Conductor's ``conductor.redis.hosts``."""
    del schemes
    # The port makes it certain; after the rack comes a password, which may contain anything.
    nodes = [re.match(r"([^:;@/]+):([0-9]{1,5}):([A-Za-z][\w-]*)(:.*)?$", node) for node in url.strip(";").split(";")]
    if not nodes or not all(nodes):
        return None
    found = [f"{node[1]}:{node[2]}" for node in nodes if node]
    hosts = ("@" not in url and _shown_hosts(found)) or "HOST:6379"
    user = ":PASSWORD@" if any(node and node[4] for node in nodes) else ""
    one = hosts.partition(",")[0]
    return (
        "this is written as Conductor's conductor.redis.hosts; taskgate's form of it is"
        f" redis://{user}{one}/0 for redis_standalone, redis+sentinel://{user}{hosts}/mymaster/0 for redis_sentinel"
        f" and redis+cluster://{user}{hosts} for redis_cluster"
    )


def _keywords(url: str, schemes: Collection[str]) -> str | None:
    """Recognise ``host=… dbname=…``, which libpq accepts besides URLs."""
    del schemes
    if re.match(r"\s*(host|hostaddr|dbname|port|user|password)\s*=", url):
        return f"these are libpq's keywords; write a URL, as in {_EXAMPLES['postgresql']}"
    return None


def _scheme(scheme: str, schemes: Collection[str]) -> str | None:
    if scheme in {"http", "https"}:
        return "taskgate reads the database of Conductor, not its API; name the database"
    base = scheme.partition("+")[0]  # SQLAlchemy writes postgresql+asyncpg://
    if scheme == "file":
        return f"a file is written {_EXAMPLES['sqlite']}"
    known: str | None
    if base in schemes or base in _SCHEMES:
        known = _SCHEMES.get(scheme) or (similar(scheme, schemes) if base in {"redis", "rediss"} else None) or base
    else:
        known = similar(scheme, schemes)
    return f"did you mean {_SCHEMES.get(known, known)}://?" if known else None


def _plain(url: str) -> str | None:
    """Recognise a path, or a host and its port."""
    if re.match(r"sqlite3?:", url, re.IGNORECASE):
        return f"a file is written {_sqlite_url(url.partition(':')[2]) or _EXAMPLES['sqlite']}"
    if url.startswith(("/", "./", "../", "~")) or (_DATABASE_FILE.search(url) and "=" not in url):
        return f"a file is written {_sqlite_url(url) or _EXAMPLES['sqlite']}"
    place = re.match(r"(?:.*@)?([^/@]*)(?:/.*)?$", url)
    port = place[1].rpartition(":")[2] if place else ""
    if kind := _PORTS.get(port):
        return f"a URL begins with the kind of database, as in {_EXAMPLES[kind]}"
    return None


def _sqlite_url(path: str) -> str | None:
    """Return the URL of a file; None if the path may be something else, or its home folder cannot be found."""
    if not path or not _PATH.fullmatch(path):
        return None
    path = os.path.expanduser(path) if path.startswith("~") else path.removeprefix("./")  # noqa: PTH111 - Path raises
    if path.startswith("~"):  # of a user who does not exist, or has no home
        return None
    return f"sqlite:///{quote(os.fsencode(path))}"


def _shown_hosts(hosts: list[str]) -> str | None:
    return ",".join(hosts) if hosts and all(map(_HOST.fullmatch, hosts)) else None
