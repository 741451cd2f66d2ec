"""What the URLs of all databases on a network have in common: one table of cases, tried with each engine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores import check_store, store_name

DOCUMENTATION = Path(__file__).parents[3] / "docs/stores"


class Engine(NamedTuple):
    """URLs of an engine that are right, for one wrong part to be put into."""

    scheme: str
    path: str
    parameter: str
    ca: str
    cert: str
    key: str
    tls: str = ""

    def url(self, hosts: str, *parameters: str) -> str:
        return f"{self.scheme}://me:secret@{hosts}{self.path}{'?' if parameters else ''}{'&'.join(parameters)}"

    def tls_url(self, files: Mapping[str, object]) -> str:
        """``files`` by the names ``ca``, ``cert`` and ``key``."""
        named = (f"{getattr(self, kind)}={path}" for kind, path in files.items())
        return self.url("h", *filter(None, [self.tls, *named]))


ENGINES = [
    Engine("postgresql", "/d", "schema", "sslrootcert", "sslcert", "sslkey"),
    Engine("mysql", "/d", "unix_socket", "ssl_ca", "ssl_cert", "ssl_key"),
    Engine("rediss", "/0", "stack", "ca_file", "cert_file", "key_file"),
    Engine("rediss+sentinel", "/main", "sentinel_user", "ca_file", "cert_file", "key_file"),
    Engine("rediss+cluster", "", "stack", "ca_file", "cert_file", "key_file"),
    Engine("cassandra", "/k", "local_dc", "ca_file", "cert_file", "key_file", tls="tls=verify-full"),
]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.scheme)


def refusal(url: str) -> str:
    """The sentence about what is wrong with ``url``, which shows none of its secrets."""
    with pytest.raises(SettingsError, match=r"^store: ") as refused:
        check_store(url, Layout.CONDUCTOR)
    assert "secret" not in str(refused.value)
    return str(refused.value)


@each_engine
@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        ("h", "h:"),
        ("H_1.example:1", "H_1.example:1/"),
        ("h:", "h:"),
        ("[::1]:6", "[::1]:6/"),
        ("[fe80::1%25eth0]:6", "[fe80::1%eth0]:6/"),
        ("\N{LATIN SMALL LETTER U WITH DIAERESIS}.example", "\N{LATIN SMALL LETTER U WITH DIAERESIS}.example:"),
    ],
)
def test_hosts_are_written_alike(engine: Engine, hosts: str, name: str) -> None:
    assert f"{store_name(engine.url(hosts))}/".startswith(f"{engine.scheme}://{name}")


@each_engine
@pytest.mark.parametrize(
    ("hosts", "complaint"),
    [
        ("a,,b", "empty host"),
        ("h:x", "invalid port number"),
        ("h:0", "invalid port number"),
        ("h:65536", "invalid port number"),
        ("h:" + "9" * 5000, "invalid port number"),
        ("a:b:c", "invalid port number"),
        ("[::1", "invalid IPv6 address"),
        ("h\N{LATIN SMALL LETTER E WITH ACUTE}..x", "is not a valid host name"),
        ("a" * 80, "is not a valid host name"),
        ("h\n", "control character"),
    ],
)
def test_host_or_port_that_is_wrong_is_named(engine: Engine, hosts: str, complaint: str) -> None:
    assert complaint in refusal(engine.url(hosts))


@pytest.mark.parametrize("url", ["redis://", "redis://:6379", "redis+cluster:///0", "cassandra:///k", "cassandra://:1"])
def test_host_is_needed_where_none_is_the_usual_one(url: str) -> None:
    assert "empty host" in refusal(url)


@each_engine
@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("{}=a&{}=a", "has parameter '{}' twice"),
        ("{}=a&secret", "written ?name=value&name=value"),
        ("colour=secret", "no parameter 'colour'; there are "),
        ("{}x=secret", "no parameter '{}x'; did you mean {}?"),
        ("{}=a#b", "# is written %23"),
        ("{}=a\tb", "control character"),
    ],
)
def test_parameter_that_is_wrong_is_named(engine: Engine, query: str, complaint: str) -> None:
    url = engine.url("h", query.replace("{}", engine.parameter))
    assert complaint.replace("{}", engine.parameter) in refusal(url)


@each_engine
def test_each_parameter_is_documented(engine: Engine) -> None:
    known = refusal(engine.url("h", "qqqq=1")).partition("there are ")[2].split(", ")
    text = "".join(page.read_text() for page in DOCUMENTATION.glob("*.md"))
    assert engine.parameter in known
    assert [name for name in known if not re.search(rf"[`?&]{name}\b", text)] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what they hold."""
    folder = tmp_path_factory.mktemp("pem")
    authority, other = trustme.CA(), trustme.CA()
    own = authority.issue_cert("client")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "both", "other_key", "text", "missing")}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    own.cert_chain_pems[0].write_to_path(str(paths["cert"]))
    own.private_key_pem.write_to_path(str(paths["key"]))
    own.private_key_and_cert_chain_pem.write_to_path(str(paths["both"]))
    other.issue_cert("client").private_key_pem.write_to_path(str(paths["other_key"]))
    paths["text"].write_text("secret")
    return {**paths, "folder": folder, "nothing": Path()}


@pytest.fixture
def _no_files_of_libpq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@each_engine
@pytest.mark.parametrize(
    "given",
    [{"ca": "ca"}, {"ca": "ca", "cert": "cert", "key": "key"}, {"cert": "both"}],
    ids=lambda given: "+".join(given.values()),
)
@pytest.mark.usefixtures("_no_files_of_libpq")
def test_files_for_tls_are_taken(engine: Engine, given: dict[str, str], files: dict[str, Path]) -> None:
    check_store(engine.tls_url({kind: files[name] for kind, name in given.items()}), Layout.CONDUCTOR)


@each_engine
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"ca": "missing"}, "{ca} names a file that does not exist"),
        ({"cert": "folder"}, "{cert} names a file that does not exist"),
        ({"ca": "nothing"}, "{ca} names a file that does not exist"),
        ({"ca": "text"}, "{ca} is not a file of PEM certificates that can be read"),
        ({"ca": "ca", "key": "key"}, "{key} needs {cert}"),
        ({"cert": "cert"}, "{cert} is not a certificate and its key"),
        ({"cert": "cert", "key": "other_key"}, "{cert} and {key} are not a certificate and its key"),
        ({"cert": "key", "key": "cert"}, "{cert} and {key} are not a certificate and its key"),
        ({"cert": "text", "key": "key"}, "{cert} and {key} are not a certificate and its key"),
    ],
    ids=lambda value: "+".join(value.values()) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("_no_files_of_libpq")
def test_file_for_tls_that_cannot_be_used_is_named(
    engine: Engine, given: dict[str, str], complaint: str, files: dict[str, Path]
) -> None:
    """Before the first connection, which would only find that TLS cannot be agreed on."""
    said = refusal(engine.tls_url({kind: files[name] for kind, name in given.items()}))
    assert complaint.format(ca=engine.ca, cert=engine.cert, key=engine.key) in said
