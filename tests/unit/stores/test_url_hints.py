"""What people write in place of a store's URL: one sentence says what to write instead, and shows no secret."""

import itertools
import os

import pytest

from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.stores import check_store

JDBC = "store: this is a JDBC URL; taskgate's form of it is "
HOSTS = "store: this is written as Conductor's conductor.redis.hosts; taskgate's form of it is "
PASSWORD = "Geheim"  # noqa: S105 - to be looked for

TABLE = [
    # JDBC, as in spring.datasource.url
    (
        f"jdbc:postgresql://db.example:5432/conductor?currentSchema=cond&user=me&password={PASSWORD}&sslmode=require",
        f"{JDBC}postgresql://USER:PASSWORD@db.example:5432/conductor?schema=cond&sslmode=require",
    ),
    ("jdbc:postgresql://h/db", f"{JDBC}postgresql://USER@h:5432/db"),
    ("jdbc:postgresql://a:5432,b:5433/db", f"{JDBC}postgresql://USER@a:5432,b:5433/db"),
    ("jdbc:postgresql:conductor", f"{JDBC}postgresql://USER@localhost:5432/conductor"),
    ("jdbc:postgresql:/?ssl=true", f"{JDBC}postgresql://USER@localhost:5432/DATABASE?sslmode=verify-full"),
    ("JDBC:postgresql://h/db?ssl=true", f"{JDBC}postgresql://USER@h:5432/db?sslmode=verify-full"),
    (f"jdbc:postgresql://me:{PASSWORD}@h/db", f"{JDBC}postgresql://USER:PASSWORD@HOST/DATABASE"),
    (
        "jdbc:mysql://h:3306/conductor?useSSL=true&serverTimezone=UTC&user=x",
        f"{JDBC}mysql://USER:PASSWORD@h:3306/conductor?ssl=true",
    ),
    ("jdbc:mysql://h/c?sslMode=VERIFY_IDENTITY", f"{JDBC}mysql://USER@h:3306/c?ssl=true"),
    ("jdbc:mariadb://h/c?useSSL=false", f"{JDBC}mysql://USER@h:3306/c"),
    ("jdbc:sqlite:c123.db?busy_timeout=15000&journal_mode=WAL", f"{JDBC}sqlite:///c123.db"),
    ("jdbc:sqlite:/var/lib/c123.db", f"{JDBC}sqlite:////var/lib/c123.db"),
    ("jdbc:sqlite::memory:", f"{JDBC}sqlite:////PATH/TO/FILE.db"),
    ("jdbc:oracle:thin:@h:1521", "store: this is a JDBC URL, of a database that taskgate does not read"),
    # Parameters of other programs
    (
        "postgresql://h/db?currentSchema=x",
        "store: a postgresql URL has no parameter 'currentSchema': it is called schema",
    ),
    (f"postgresql://h/db?user=a&password={PASSWORD}&currentSchema=x", "'currentSchema': it is called schema"),
    ("postgresql://h/db?useSSL=true", "'useSSL': TLS is sslmode=verify-full, or sslmode=require where"),
    ("postgresql://h/db?sslMode=require", "no parameter 'sslMode'; did you mean sslmode?"),
    ("postgresql://h/db?schem=x", "no parameter 'schem'; did you mean schema?"),
    ("postgresql://h/db?colour=x", "no parameter 'colour'; there are application_name, "),
    ("mysql://h/db?useSSL=true", "'useSSL': TLS is ssl=true, or ssl_ca=FILE"),
    (
        f"mysql://h/db?user=me&password={PASSWORD}",
        "'user': user and password stand before the host, as in mysql://USER:",
    ),
    ("redis://h?database=3", "'database': the database stands after the host, as in redis://HOST:6379/0"),
    ("redis://h?stak=3", "no parameter 'stak'; did you mean stack?"),
    ("redis://h?ca_file=x", "no parameter 'ca_file': ca_file is for TLS, in a URL that begins with rediss"),
    ("cassandra://h/k?datacenter=dc1", "'datacenter': it is called local_dc"),
    # conductor.redis.hosts
    (
        "r1:6379:us-east-1c",
        f"{HOSTS}redis://r1:6379/0 for redis_standalone, redis+sentinel://r1:6379/mymaster/0 for redis_sentinel and",
    ),
    ("r1:6379:a;r2:6380:b", "redis+cluster://r1:6379,r2:6380 for redis_cluster"),
    (f"r1:6379:a:{PASSWORD}", "redis+cluster://:PASSWORD@r1:6379 for redis_cluster"),
    ("redis://r1:6379:a;r2:6379:b", "redis+sentinel://r1:6379,r2:6379/mymaster/0 for redis_sentinel"),
    # Conductor's properties, with the name or without
    ("conductor.redis.hosts=r1:6379:rack", "give the value without the name of the property; this is written as"),
    (
        "spring.datasource.url=jdbc:postgresql://h/db",
        "the property; this is a JDBC URL; taskgate's form of it is postg",
    ),
    (
        "spring.datasource.url: jdbc:postgresql://h/db",
        "the property; this is a JDBC URL; taskgate's form of it is postgresql://USER@h:5432/db",
    ),
    (
        "SPRING_DATASOURCE_URL=jdbc:postgresql:db",
        "the property; this is a JDBC URL; taskgate's form of it is postgresql://USER@localhost:5432/db",
    ),
    ("CONDUCTOR_REDIS_HOSTS=r1:6379:rack", "the property; this is written as Conductor's conductor.redis.hosts"),
    ("conductor.example:6379:rack", f"{HOSTS}redis://conductor.example:6379/0 for redis_standalone"),
    (f"spring.datasource.password: {PASSWORD}", "Conductor's property spring.datasource.password; in a URL the"),
    (
        f"spring.datasource.password={PASSWORD}",
        "Conductor's property spring.datasource.password; in a URL the password",
    ),
    ("conductor.postgres.schema=x", "it is the parameter schema"),
    ("conductor.db.type=redis_cluster", "the place is a URL, as in redis+cluster://HOST:6379"),
    (f"conductor.unheard.of={PASSWORD}", "store: this is a property of Conductor's"),
    ("postgres", "this is a value of Conductor's conductor.db.type; the place is a URL, as in postgresql://"),
    # Paths
    ("/var/lib/conductor/c123.db", "store: a file is written sqlite:////var/lib/conductor/c123.db"),
    ("tasks.db", "store: a file is written sqlite:///tasks.db"),
    ("./tasks.db", "store: a file is written sqlite:///tasks.db"),
    ("sqlite:tasks.db", "store: a file is written sqlite:///tasks.db"),
    ("~nosuchuser/tasks.db", "store: a file is written sqlite:////PATH/TO/FILE.db"),
    ("~nosuchuser", "store: a file is written sqlite:////PATH/TO/FILE.db"),
    ("sqlite3:~nosuchuser/x", "store: a file is written sqlite:////PATH/TO/FILE.db"),
    ("jdbc:sqlite:~nosuchuser/x.db", f"{JDBC}sqlite:////PATH/TO/FILE.db"),
    ("file:///var/lib/tasks.db", "store: a file is written sqlite:////PATH/TO/FILE.db"),
    ("sqlite://tasks.db", "three slashes before a relative path"),
    # Other schemes
    ("postgress://h/db", "store: did you mean postgresql://?"),
    ("postgresql+asyncpg://h/db", "store: did you mean postgresql://?"),
    ("mysql+pymysql://h/db", "store: did you mean mysql://?"),
    ("rediss+sentinal://h/m", "store: did you mean rediss+sentinel://?"),
    ("valkey://h", "store: did you mean redis://?"),
    ("http://conductor:8080/api", "store: taskgate reads the database of Conductor, not its API; name the database"),
    ("mongodb://x", "store: expected a URL that begins with sqlite:// or postgresql://"),
    # What no part of a URL can hold, and what may come with one that was read from a file
    ("sqlite:///a%00.db", "store: the URL has a zero byte in it (%00)"),
    ("postgresql://h/%00", "store: the URL has a zero byte in it (%00)"),
    ("postgresql://h/d?schema=%00", "store: the URL has a zero byte in it (%00)"),
    ("mysql://h/a%00b", "store: the URL has a zero byte in it (%00)"),
    (f"mysql://u:{PASSWORD}%00@h/d", "store: the URL has a zero byte in it (%00)"),
    ("redis://h?stack=%00", "store: the URL has a zero byte in it (%00)"),
    ("cassandra://h/k?local_dc=%00", "store: the URL has a zero byte in it (%00)"),
    ("~\0/tasks.db", "store: the URL has a zero byte in it (%00)"),
    ("mysql://h/d\n", "store: the mysql URL has a control character in it, such as the end of a line"),
    ("redis://h?stack=a\tb", "store: the redis URL has a control character in it"),
    ("postgresql://h/d?sslrootcert=" + "x" * 5000, "store: sslrootcert names a file that does not exist"),
    # Neither
    ("localhost:5432", "a URL begins with the kind of database, as in postgresql://"),
    (f"me:{PASSWORD}@localhost:3306/db", "a URL begins with the kind of database, as in mysql://"),
    (f"host=h dbname=x password={PASSWORD}", "these are libpq's keywords; write a URL"),
    ('"sqlite:///x.db"', "it stands in quotes, which belong to a shell"),
    (" sqlite:///x.db", "it begins or ends with a blank"),
    ("", "store: it is empty"),
    ("nonsense", "store: expected a URL that begins with"),
]


@pytest.mark.parametrize(("value", "sentence"), TABLE)
def test_url_written_another_way_is_answered_with_ours(value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_store(value, Layout.CONDUCTOR)
    text = str(refused.value)
    assert sentence in text
    assert PASSWORD not in text
    assert "\n" not in text


@pytest.mark.parametrize("home", ["/home/me", "/h\udcff", None])
def test_hint_names_a_file_at_home_only_if_there_is_a_home(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    """``None``: neither the environment nor the list of users knows one, as of a container's numbered user."""
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    else:
        monkeypatch.setenv("HOME", home)
    place = {"/home/me": "//home/me/x.db", "/h\udcff": "//h%FF/x.db", None: "//PATH/TO/FILE.db"}[home]
    with pytest.raises(SettingsError, match=f"^store: a file is written sqlite://{place}$"):
        check_store("~/x.db", Layout.CONDUCTOR)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a\tb\n@h/d",
        "postgresql://u:%01@h/d",
        "postgresql://h/d?password=a\tb",
        "postgresql://h/d%0A?schema=%09",
        "redis+sentinel://h/m?sentinel_password=\t&stack=x",
        "sqlite:///a\nb.db",
    ],
)
def test_password_or_encoded_name_may_have_control_characters(url: str) -> None:
    check_store(url, Layout.CONDUCTOR)


@pytest.mark.parametrize(
    "scheme", ["jdbc:postgresql", "jdbc:mysql", "postgress", "pgsql", "spring.datasource.url=jdbc:mysql"]
)
def test_password_before_the_hosts_is_not_shown(scheme: str) -> None:
    ends = ("h:1/db", "h/db?useSSL=true", "h", "")
    passwords = ("JZ", "J/Z", "J?Z", "J#Z", "J@Z", "J:Z", "J&Z=1", "12:Z", "J;Z", "J,Z:6379")
    for end, password in itertools.product(ends, passwords):
        with pytest.raises(SettingsError) as refused:
            check_store(f"{scheme}://user:{password}@{end}", Layout.CONDUCTOR)
        shown = str(refused.value).replace("JDBC", "")
        assert not {"J", "Z"} & set(shown), (end, password, shown)
