"""Test what only Redis has: its errors, its accounts, its connections, its keys."""

import asyncio
import bisect
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from redis.crc import key_slot

from conformance.suite import ID, stored
from support.database_server import free_port
from support.dead_address import NAME, dead_address, resolve
from support.documented import statements
from support.lateness import within
from support.redis_servers import CLUSTER_OPTIONS, PASSWORD, PRIMARY_NAME, SLOT_BOUNDS, Cluster, RedisServer, Watched
from support.running import eventually
from support.slow_line import SlowLine
from taskgate.base.errors import SettingsError, StoreUnavailable
from taskgate.base.layout import Layout
from taskgate.stores import open_store, open_writer, store_name
from taskgate.stores.base import TaskStore, WriteCounts
from taskgate.stores.redis import writer as writer_module
from taskgate.stores.redis.slots import slot_of

pytestmark = pytest.mark.needs("redis-server")

USER_INFO = f":{quote(PASSWORD)}@"
CERTIFICATES = Path(__file__).parents[1] / "data" / "certificates"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("shared") / "redis")
    yield server
    server.kill()


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server without keys, with its initial accounts and settings."""
    with shared.client() as client:
        client.flushall()
    return shared


def url_of(server: RedisServer, rest: str = "/0", user_info: str = USER_INFO, scheme: str = "redis") -> str:
    return f"{scheme}://{user_info}{server}{rest}"


async def refusal(store: TaskStore) -> str:
    """The error of a read; a check says the same."""
    messages = set()
    for ask in (store.get_document(ID), store.check()):
        with pytest.raises(StoreUnavailable) as refused:
            await ask
        messages.add(refused.value.private)
        assert str(refused.value.reason) in refused.value.message
    await store.close()
    (message,) = messages
    assert PASSWORD not in message
    assert "wrong" not in message
    return message


@pytest.mark.parametrize(
    ("user_info", "rest", "scheme", "reason"),
    [
        ("", "/0", "redis", "it asks for a password, and the URL has none"),
        (":wrong@", "/0", "redis", "it refuses the user or the password of the URL"),
        ("nobody:wrong@", "/0", "redis", "it refuses the user or the password of the URL"),
        (USER_INFO, "/99", "redis", "it has no database of that number"),
        (USER_INFO, "", "redis+cluster", "it is no node of a Redis Cluster"),
        (
            USER_INFO,
            "/0",
            "rediss",
            "the TLS handshake with it failed|it closed the connection|it did not answer within 1 s",
        ),
    ],
)
async def test_reason_is_named(server: RedisServer, user_info: str, rest: str, scheme: str, reason: str) -> None:
    """Each cause of a refused connection has its own sentence."""
    message = await refusal(open_store(url_of(server, rest, user_info, scheme)))
    assert message.startswith(f"The store {scheme}://{server}{rest} is unavailable: ")
    assert any(each in message for each in reason.split("|")), message


async def test_absent_and_unknown_hosts_are_named() -> None:
    port = free_port()
    assert "it refuses connections" in await refusal(open_store(f"redis://127.0.0.1:{port}"))
    assert "its host name is not known" in await refusal(open_store("redis://no-such-host.invalid"))
    message = await refusal(open_store(f"redis+sentinel://127.0.0.1:{port}/tasks"))
    assert "none of its Sentinels answers" in message


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_address_that_does_not_answer_is_no_outage(
    server: RedisServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A name with two addresses, of which the first belongs to a dead host."""
    asked = server if scheme == "redis" else cluster.nodes[0]
    with dead_address(asked.port) as dead:
        resolve(monkeypatch, dead, "127.0.0.1")
        store = open_store(f"{scheme}://{USER_INFO}{NAME}:{asked.port}")
        assert await store.get_document(ID) is None
        await store.close()


async def test_server_that_takes_no_more_clients_is_named(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    try:
        with server.client() as client:
            client.config_set("maxclients", 1)
            assert "it has as many clients as it allows" in await refusal(open_store(url_of(server)))
    finally:
        server.kill()


async def test_user_without_permission_is_told_so(server: RedisServer) -> None:
    with server.client() as client:
        client.acl_setuser("weak", enabled=True, passwords=["+weak"], keys=["other.*"], commands=["+get"])
    message = await refusal(open_store(url_of(server, user_info="weak:weak@")))
    assert "the user of the URL lacks a permission; look at its ACL" in message


def test_writer_says_why_nothing_can_be_written(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full memory, a replica, and a key of another type: nothing of a batch is written."""
    monkeypatch.setattr(writer_module, "WRITE_TIMEOUT", 0.1)
    batch = [stored(f"id-{number}") for number in range(20)]
    with server.client() as client, open_writer(url_of(server)) as writer:
        client.rpush("taskgate.TASK.id-19", "x")
        with pytest.raises(StoreUnavailable, match="a key where a task should be holds something else"):
            writer.write(batch)
        client.delete("taskgate.TASK.id-19")
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="its memory is full"):
            writer.write(batch)
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreUnavailable, match="it is a replica, which takes no writes"):
            writer.write(batch)
        client.replicaof("NO", "ONE")
        assert writer.total == WriteCounts()
        assert client.keys("taskgate.TASK.*") == []
        assert writer.write(batch) == WriteCounts(added=20)


@pytest.mark.parametrize(
    ("layout", "parameters", "key"),
    [
        (Layout.CONDUCTOR, "", "test.TASK."),
        (Layout.CONDUCTOR, "?namespace=conductor&stack=prod&domain=eu", "conductor.prod.eu.TASK."),
        (Layout.CONDUCTOR, "?namespace=%20&stack=&domain=eu", "eu.TASK."),
        (Layout.CONDUCTOR, "?stack=", "TASK."),
        (Layout.TASKGATE, "", "taskgate.TASK."),
        (Layout.TASKGATE, "?namespace=a*%5Bb&stack=c", "a*[b.c.TASK."),
    ],
)
async def test_key_has_the_parts_that_are_not_blank(
    server: RedisServer, layout: Layout, parameters: str, key: str
) -> None:
    """As Conductor's ``BaseDynoDAO`` makes keys."""
    document = bytes(range(256))
    with server.client() as client:
        if layout is Layout.CONDUCTOR:
            client.set(f"{key}{ID}", document)
        else:
            client.hset(f"{key}{ID}", "document", document)  # type: ignore[arg-type] # bytes are accepted
    store = open_store(url_of(server, f"/0{parameters}"), layout)
    assert await store.get_document(ID) == document
    assert await store.get_document(f"{ID}.") is None
    await store.close()


def test_keys_of_others_are_left_alone_and_tasks_go_beside_them(server: RedisServer) -> None:
    """One database may hold Conductor's keys and ours, with different prefixes."""
    with server.client() as client:
        client.mset({f"a*.TASK.{number}": "{}" for number in range(3000)})
        with pytest.raises(StoreUnavailable, match="belongs to another program"):
            open_writer(url_of(server, "/0?stack=a*"))
        with open_writer(url_of(server, "/0?stack=a")) as writer:  # no pattern, and not the same
            assert writer.created
        client.set("odd.LAYOUT", "2")
        with pytest.raises(StoreUnavailable, match="its layout is not 1, which this taskgate writes"):
            open_writer(url_of(server, "/0?stack=odd"))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [(9, 10), (-10, -9), (-1, 0), (-5, 3), (2**53, 2**53 + 1), (2**63 - 2, 2**63 - 1), (1 - 2**63, 2 - 2**63)],
)
def test_update_times_are_compared_exactly(server: RedisServer, earlier: int, later: int) -> None:
    """To the last of 64 bits, though a script compares them."""
    with open_writer(url_of(server)) as writer:
        assert writer.write([stored(update_time=earlier)]) == WriteCounts(added=1)
        assert writer.write([stored(update_time=later)]) == WriteCounts(replaced=1)
        assert writer.write([stored(update_time=earlier)]) == WriteCounts(older=1)
        assert writer.write([stored(update_time=later)]) == WriteCounts(unchanged=1)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_no_answer_ever_goes_to_another_caller(server: RedisServer, runner: Callable[[Any], Any]) -> None:
    """Reads cancelled at every moment, connections killed now and then: every remaining caller gets the right answer.

    All connections are killed at once, and no read meets that twice, since it might be refused.
    """
    with server.client() as client:
        client.mset({f"test.TASK.{number}": f'{{"n":{number}}}' + " " * (number % 7) * 5000 for number in range(200)})

    async def stress() -> tuple[int, int]:
        store = open_store(url_of(server), Layout.CONDUCTOR)
        random_numbers = random.Random(5)
        right = cancelled = 0

        async def read() -> None:
            nonlocal right, cancelled
            number = random_numbers.randrange(200)
            task = asyncio.ensure_future(store.get_document(str(number)))
            if random_numbers.random() < 0.6:
                await asyncio.sleep(random_numbers.choice((0, 0, 0.0002, 0.001)))
                task.cancel()
            try:
                document = await task
            except asyncio.CancelledError:
                cancelled += 1
                return
            assert document is not None
            assert document.rstrip() == b'{"n":%d}' % number
            right += 1

        async def disturb() -> None:
            await asyncio.sleep(random_numbers.choice((0, 0.0005, 0.002)))
            await asyncio.to_thread(kill_connections, server)

        for batch in range(150):
            disturbing = [disturb()] if batch % 3 == 0 else []
            await asyncio.gather(*disturbing, *(read() for _ in range(40)))
        await store.check()
        await store.close()
        return right, cancelled

    right, cancelled = runner(stress())
    assert right > 1000
    assert cancelled > 500


def kill_connections(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("CLIENT KILL TYPE normal SKIPME yes")


async def test_small_answers_pass_a_large_one(server: RedisServer) -> None:
    """While 30 MB are being transferred, another connection answers for documents of everyday size."""
    with server.client() as client:
        for number in range(3):
            client.set(f"test.TASK.large-{number}", b"x" * 30_000_000)
        client.set("test.TASK.small", "{}")
    store = open_store(url_of(server), Layout.CONDUCTOR)
    assert await store.get_document("small") == b"{}"
    large = [asyncio.create_task(store.get_document(f"large-{number}")) for number in range(3)]
    await asyncio.sleep(0.02)  # the server has begun
    slowest, count = 0.0, 0
    while not all(task.done() for task in large):
        began = time.perf_counter()
        assert await store.get_document("small") == b"{}"
        slowest, count = max(slowest, time.perf_counter() - began), count + 1
        await asyncio.sleep(0)
    assert [len(await task or b"") for task in large] == [30_000_000] * 3
    assert count > 3
    assert slowest < 2  # the server itself does one thing at a time, and copies 90 MB
    await store.close()


async def test_large_answer_over_a_slow_line_is_no_outage(server: RedisServer) -> None:
    """An answer that keeps coming may take longer than the second that a silent server has; others pass it."""
    document = b"x" * 8_000_000
    with server.client() as client:
        client.mset({"test.TASK.large": document, "test.TASK.small": "{}"})
    async with SlowLine(server.port, bytes_per_second=4_000_000) as line:
        store = open_store(f"redis://{USER_INFO}127.0.0.1:{line.port}", Layout.CONDUCTOR)
        assert await store.get_document("small") == b"{}"
        began = time.monotonic()
        large = asyncio.create_task(store.get_document("large"))
        count = 0
        while not large.done():
            assert await store.get_document("small") == b"{}"
            await store.check()
            count += 1
            await asyncio.sleep(0.02)
        assert await large == document
        assert time.monotonic() - began > 1.5
        assert count > 10
        await store.close()


async def test_stalled_connection_fails_only_the_reads_that_wait_on_it(server: RedisServer) -> None:
    """It stays open without data: it is abandoned within seconds; meanwhile and afterwards others are answered."""
    with server.client() as client:
        client.mset({f"test.TASK.{number}": "{}" for number in range(2)})
    async with SlowLine(server.port) as line:
        store = open_store(f"redis://{USER_INFO}127.0.0.1:{line.port}", Layout.CONDUCTOR)
        assert await store.get_document("0") == b"{}"
        line.stall()
        async with within(3):
            stuck = asyncio.create_task(store.get_document("0"))
            await asyncio.sleep(0.1)  # on purpose: until an answer is late
            while not stuck.done():
                assert await store.get_document("1") == b"{}"
                await asyncio.sleep(0.02)
        with pytest.raises(StoreUnavailable, match="it did not answer within 1 s"):
            await stuck
        assert await store.get_document("0") == b"{}"
        await store.close()


async def test_crowd_around_a_large_document_costs_few_reads(server: RedisServer) -> None:
    """A hundred callers of one task at once: each gets it, and Redis does not copy it a hundred times."""
    document = b"x" * 8_000_000
    with server.client() as client:
        client.set("test.TASK.large", document)
        store = open_store(url_of(server), Layout.CONDUCTOR)
        for _ in range(2):  # first it is not known to be large, then it is
            client.config_resetstat()
            found = await asyncio.gather(*(store.get_document("large") for _ in range(100)))
            assert found == [document] * 100
            assert client.info("commandstats")["cmdstat_get"]["calls"] <= 2
    await store.close()


async def test_connections_are_few_and_closed(server: RedisServer) -> None:
    """Hundreds of callers share one, or a few where the server is slow; a closed store leaves none."""
    store = open_store(url_of(server))
    before = connections(server)
    await asyncio.gather(*(store.get_document(f"{number}") for number in range(500)))
    assert 1 <= connections(server) - before <= 4
    await store.close()
    eventually(lambda: connections(server) == before, "closed")


def connections(server: RedisServer) -> int:
    with server.client() as client:
        return len(client.client_list())


async def test_read_after_a_restart_is_answered(tmp_path: Path) -> None:
    """The connection has ended meanwhile: the read is repeated on a new one."""
    server = RedisServer(tmp_path / "redis")
    try:
        with open_writer(url_of(server)) as writer:
            writer.write([stored()])
        store = open_store(url_of(server))
        for _ in range(3):
            assert await store.get_document(ID) == b'{"a":1}'
            with server.stopped():
                pass
        assert await store.get_document(ID) == b'{"a":1}'
        await store.close()
    finally:
        server.kill()


async def test_outage_costs_each_read_a_moment(server: RedisServer) -> None:
    """No queue builds up: without a server, reads fail within three seconds, however many they are."""
    store = open_store(f"redis://127.0.0.1:{free_port()}")
    for _ in range(5):
        async with within(3):
            results = await asyncio.gather(*(store.get_document(ID) for _ in range(3000)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
    await store.close()


def test_connection_lost_within_an_import_loses_no_task(server: RedisServer) -> None:
    """Batches are sent again when the answer was lost; each task is counted once."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.03):
            kill_connections(server)

    disturbing = threading.Thread(target=disturb)
    with open_writer(url_of(server)) as writer:
        disturbing.start()
        for batch in range(40):
            counts = writer.write([stored(f"{batch}-{number}", 1, b"x" * 2000) for number in range(500)])
            assert counts.added + counts.unchanged == 500
        stop.set()
        disturbing.join()
        assert writer.total.added + writer.total.unchanged == 20_000
    with server.client() as client:
        assert client.dbsize() == 20_001


IMPORT = """
import signal, sys
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask
with open_writer(sys.argv[1]) as writer:
    print("begin", flush=True)
    try:
        for batch in range(10_000):
            writer.write([StoredTask(f"{batch}-{n}", 1, b"x" * 500) for n in range(1000)])
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
print(writer.total.added)
"""


@pytest.mark.parametrize("written", [1, 2_000, 20_000])
def test_ctrl_c_leaves_whole_batches_and_an_exact_count(server: RedisServer, written: int) -> None:
    """The tasks that the writer reports are stored, and no others."""
    assert interrupted_import(url_of(server), written, server) == task_count(server)
    assert task_count(server) % 1000 == 0


def interrupted_import(url: str, written: int, *servers: RedisServer) -> int:
    """The number of tasks that an import reports as added, when Ctrl-C ended it after ``written`` were stored."""
    process = subprocess.Popen([sys.executable, "-c", IMPORT, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    eventually(lambda: sum(map(key_count, servers)) > written, "tasks are written")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return int(output)


def key_count(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.dbsize())


def task_count(server: RedisServer) -> int:
    with server.client() as client:
        return sum(1 for _ in client.scan_iter("taskgate.TASK.*", count=1000))


def test_ctrl_c_ends_an_import_into_a_server_that_hangs(server: RedisServer) -> None:
    with server.frozen():
        process = subprocess.Popen([sys.executable, "-c", IMPORT, url_of(server)], stdout=subprocess.PIPE)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=30)
    assert time.monotonic() - began < 15


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("written", [1, 20_000])
def test_ctrl_c_in_a_cluster_leaves_an_exact_count(cluster: Cluster, written: int) -> None:
    """No transaction can promise whole batches there, but the writer can promise that the count is right."""
    with cluster.client() as client:
        client.flushall()
    url = f"redis+cluster://{USER_INFO}{cluster.nodes[0]}"
    assert interrupted_import(url, written, *cluster.nodes) == sum(task_count(node) for node in cluster.nodes) > 0


async def test_connections_to_nodes_that_left_are_closed(tmp_path: Path, cluster: Cluster) -> None:
    """A node joins, has a slot for a while, and gives it back: then it is in no slot map any more."""
    stays_primary = "cluster-allow-replica-migration no"  # so that it does not become a replica without slots
    newcomer = RedisServer(tmp_path / "newcomer", *CLUSTER_OPTIONS, f"cluster-port {free_port()}", stays_primary)
    try:
        cluster.meet(newcomer)
        slot = slot_of(f"taskgate.TASK.{ID}".encode())
        owner = cluster.nodes[bisect.bisect(SLOT_BOUNDS, slot) - 1]
        store = open_store(f"redis+cluster://{USER_INFO}{owner}")
        assert await store.get_document(ID) is None
        before = connections(newcomer)
        cluster.give_slot(slot, owner, newcomer)
        assert await store.get_document(ID) is None
        assert connections(newcomer) > before
        cluster.give_slot(slot, newcomer, owner)
        assert await store.get_document(ID) is None
        await asyncio.to_thread(eventually, lambda: connections(newcomer) <= before, "closed")
        assert await store.get_document(ID) is None
        await store.close()
    finally:
        cluster.forget(newcomer)
        newcomer.kill()


@pytest.mark.parametrize(
    "key", ["", "a", "{a}b", "x{a}", "{}a", "{a", "a}b{c}d{e}", "{{a}}", "é{ü}", "test.TASK." + ID]
)
def test_slots_are_those_of_redis(key: str) -> None:
    assert slot_of(key.encode()) == key_slot(key.encode())


# The permissions in docs/stores/redis.md: after "ACL SETUSER name on >secret", in this order.
READ, READ_CLUSTER, ASK_SENTINEL, IMPORT_RULES = (line.split()[5:] for line in statements("redis"))
IN_CLUSTER = ["+cluster|slots", "+asking"]


def in_layout(layout: Layout, rules: list[str]) -> list[str]:
    """Rules for reading in layout conductor, changed as docs/stores/redis.md says for the other one."""
    other = {"~test.TASK.*": "~taskgate.TASK.*", "+get": "+hget"}
    return rules if layout is Layout.CONDUCTOR else [other.get(rule, rule) for rule in rules]


def grant(server: RedisServer, user: str, *rules: str) -> None:
    with server.client() as client:
        client.execute_command("ACL SETUSER", user, "reset", "on", ">secret", *rules)


async def assert_reads(url: str, layout: Layout) -> None:
    store = open_store(url, layout)
    await store.check()
    assert await store.get_document(ID) == b'{"a":1}'
    await store.close()


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("database", [0, 2])
async def test_least_privilege_is_enough(server: RedisServer, layout: Layout, database: int) -> None:
    """One server: one command on one pattern; SELECT unless it is database 0."""
    select = ["+select"] * bool(database)
    grant(server, "taskgate", *in_layout(layout, READ), *select)
    url = url_of(server, f"/{database}", "taskgate:secret@")
    if layout is Layout.TASKGATE:
        grant(server, "importer", *IMPORT_RULES, *select)
        with open_writer(url_of(server, f"/{database}", "importer:secret@")) as writer:
            assert writer.write([stored(), stored()]) == WriteCounts(added=1, unchanged=1)
        with pytest.raises(StoreUnavailable, match="lacks a permission"):
            open_writer(url)
    else:
        with server.client(db=database) as client:
            client.set(f"test.TASK.{ID}", '{"a":1}')
    await assert_reads(url, layout)


async def test_least_privilege_is_enough_in_a_cluster(cluster: Cluster) -> None:
    """A cluster: also the command that asks nodes for the slot map."""
    for node in cluster.nodes:
        grant(node, "taskgate", *in_layout(Layout.TASKGATE, READ_CLUSTER))
        grant(node, "importer", *IMPORT_RULES, *IN_CLUSTER)
    with cluster.client() as client:
        client.flushall()
    with open_writer(f"redis+cluster://importer:secret@{cluster.nodes[0]}") as writer:
        assert writer.write([stored(), stored()]) == WriteCounts(added=1, unchanged=1)
    await assert_reads(f"redis+cluster://taskgate:secret@{cluster.nodes[1]}", Layout.TASKGATE)


async def test_least_privilege_is_enough_under_sentinel(tmp_path: Path) -> None:
    """Sentinels may have accounts of their own."""
    watched = Watched(tmp_path / "watched", down_after=60_000)
    try:
        grant(watched.primary, "taskgate", *in_layout(Layout.TASKGATE, READ))
        for sentinel in watched.sentinels:
            grant(sentinel, "taskgate", *ASK_SENTINEL)
            with sentinel.client() as client:
                client.execute_command("ACL SETUSER default off")
        parameters = "sentinel_user=taskgate&sentinel_password=secret"
        addresses = ",".join(map(str, watched.sentinels))
        with open_writer(url_of(watched.primary)) as writer:
            writer.write([stored()])
        url = f"redis+sentinel://taskgate:secret@{addresses}/{PRIMARY_NAME}"
        await assert_reads(f"{url}?{parameters}", Layout.TASKGATE)
        assert "its Sentinel reports a fault: it asks for a password" in await refusal(open_store(url))
        assert "its Sentinels know no primary of this name" in await refusal(
            open_store(f"redis+sentinel://{addresses}/other?{parameters}")
        )
    finally:
        watched.stop()


async def test_tls_is_spoken_and_certificates_are_checked(tmp_path: Path) -> None:
    """``rediss://`` with a private authority, and with a client's certificate."""
    port = free_port()
    files = [f"tls-{kind}-file {CERTIFICATES}/{name}" for kind, name in TLS_FILES.items()]
    server = RedisServer(tmp_path / "redis", f"tls-port {port}", *files, "tls-auth-clients yes")
    try:
        ca, certificate, key = (f"{CERTIFICATES}/{name}" for name in ("ca.crt", "redis.crt", "redis.key"))
        url = f"rediss://{USER_INFO}localhost:{port}"
        own = f"cert_file={certificate}&key_file={key}"
        with open_writer(f"{url}/1?ca_file={ca}&{own}") as writer:
            writer.write([stored()])
        await assert_reads(f"{url}/1?ca_file={ca}&{own}", Layout.TASKGATE)
        assert "its TLS certificate is not trusted" in await refusal(open_store(f"{url}?{own}"))
        assert "unavailable" in await refusal(open_store(f"{url}?ca_file={ca}"))
        with pytest.raises(SettingsError, match="cert_file and key_file are not a certificate and its key"):
            open_store(f"{url}?cert_file={key}&key_file={certificate}")
    finally:
        server.kill()


TLS_FILES = {"cert": "redis.crt", "key": "redis.key", "ca-cert": "ca.crt"}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://", "empty host in a redis URL"),
        ("redis://host/x", "the database of a redis URL is a number"),
        ("redis://host/1/2", "the database of a redis URL is a number"),
        ("redis://a,b/0", "names one server"),
        ("redis://host?prefix=a", "no parameter 'prefix': keys begin with namespace, stack and domain"),
        ("redis://host?ca_file=a", "ca_file is for TLS, in a URL that begins with rediss"),
        ("redis+sentinel://host", "the name that Sentinel has for the primary"),
        ("redis+sentinel://host/name/x", "the database of a redis URL is a number"),
        ("redis+cluster://host/1", "has no databases to choose from"),
        ("redis+cluster://a?sentinel_user=x", "no parameter 'sentinel_user'; there are namespace, stack, domain"),
        ("redis", "expected a URL that begins with"),
    ],
)
def test_url_that_names_no_store_is_refused_by_key(url: str, complaint: str) -> None:
    for opening in (open_store, open_writer, store_name):
        with pytest.raises(SettingsError, match=r"^store: ") as refused:
            opening(url.replace("//", "//user:hunter2@"))
        assert complaint in str(refused.value)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:p@host", "redis://host:6379/0"),
        ("redis://u:p%40%2F@[::1]:7/2?stack=x", "redis://[::1]:7/2"),
        ("REDISS://host", "rediss://host:6379/0"),
        ("redis+sentinel://u:p@a,b:1/main", "redis+sentinel://a:26379,b:1/main/0"),
        ("redis+cluster://u:p@a,b:1", "redis+cluster://a:6379,b:1"),
    ],
)
def test_name_of_a_store_has_no_secret(url: str, name: str) -> None:
    assert store_name(url) == name


async def test_refused_reads_of_a_stranger_are_one_sentence(server: RedisServer) -> None:
    """A host that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = open_store(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        async with within(5):
            with pytest.raises(StoreUnavailable, match="it did not answer within 1 s"):
                await store.get_document(ID)
        await store.close()
