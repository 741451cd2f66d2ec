"""Run real Redis servers on free ports: one, a cluster, or a primary and its replica under Sentinels."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from support.database_server import DatabaseServer, free_port
from support.running import eventually
from tools import servers

PASSWORD = "correct horse"  # noqa: S105 - the conformance suite searches messages for it
PRIMARY_NAME = "tasks"


class RedisServer(DatabaseServer):
    """One server process. Its data, in ``folder``, outlives it."""

    def __init__(
        self, folder: Path, *options: str, sentinel_of: "RedisServer | None" = None, down_after: int = 0
    ) -> None:
        """``options`` are lines of a configuration file; ``down_after`` (milliseconds) is for Sentinels."""
        folder.mkdir(parents=True)
        super().__init__(folder, free_port())
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", f"logfile {folder}/log", *options]
        if sentinel_of is None:
            # Without sync: data in the kernel survives the end of a process. Clients are fewer than open files may be.
            lines += ['save ""', "appendonly yes", "appendfsync no", f'requirepass "{PASSWORD}"', "maxclients 500"]
            lines += [f'masterauth "{PASSWORD}"', "repl-diskless-sync-delay 0"]
        else:
            lines += [
                f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {sentinel_of.port} 2",
                f'sentinel auth-pass {PRIMARY_NAME} "{PASSWORD}"',
                f"sentinel down-after-milliseconds {PRIMARY_NAME} {down_after}",
                f"sentinel failover-timeout {PRIMARY_NAME} 5000",
            ]
        self._configuration = folder / "redis.conf"
        self._configuration.write_text("\n".join(lines) + "\n")
        self._sentinel = sentinel_of is not None
        self.start()

    def __str__(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(servers.find(servers.REDIS)), str(self._configuration), *(["--sentinel"] * self._sentinel)]

    def answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        with suppress(redis.ConnectionError), self.client() as client:  # it may still be loading
            return bool(client.ping())
        return False

    def client(self, **options: Any) -> redis.Redis:
        """A redis-py client, with which tests bypass taskgate."""
        password = None if self._sentinel else PASSWORD
        return redis.Redis(port=self.port, socket_timeout=10, **({"password": password} | options))

    def kill(self) -> None:
        """End it at once."""
        self.stop(signal.SIGKILL)

    @contextmanager
    def replaced_by_a_stranger(self) -> Iterator[None]:
        """Replace it by a listener that is no Redis."""
        with self.stopped(), socket.create_server(("127.0.0.1", self.port)) as listener:
            thread = threading.Thread(target=_speak_http, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()


def _speak_http(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(1 << 16)


CLUSTER_OPTIONS = ("cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1000")
SLOT_BOUNDS = (0, 5461, 10923, 16384)
"""The first slot of each primary, and the number of slots."""


class Cluster:
    """Three primaries with a third of the slots each, and on request a replica of each."""

    def __init__(self, folder: Path, *, replicas: bool = False) -> None:
        count = 6 if replicas else 3
        self.nodes = []
        for number in range(count):
            bus = f"cluster-port {free_port()}"
            self.nodes.append(
                RedisServer(folder / f"node-{number}", *CLUSTER_OPTIONS, bus, "cluster-replica-validity-factor 0")
            )
        self.primaries, self.replicas = self.nodes[:3], self.nodes[3:]
        self._join(self._buses())

    def _buses(self) -> list[int]:
        return [
            int(line.split()[1])
            for node in self.nodes
            for line in (node.folder / "redis.conf").read_text().splitlines()
            if line.startswith("cluster-port")
        ]

    def _join(self, buses: list[int]) -> None:
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if node in self.primaries:
                    client.execute_command("CLUSTER ADDSLOTSRANGE", SLOT_BOUNDS[number], SLOT_BOUNDS[number + 1] - 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, buses[0])
        self.wait_ok(known=len(self.nodes))
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            with primary.client() as client:
                node_id = client.execute_command("CLUSTER MYID")
            with replica.client() as client:
                client.execute_command("CLUSTER REPLICATE", node_id)
        for replica in self.replicas:
            eventually(lambda replica=replica: _in_sync(replica), "replica in sync")

    def wait_ok(self, known: int | None = None) -> None:
        """Wait until every running node reports a complete cluster."""

        def ok() -> bool:
            for node in self.running():
                with node.client() as client:
                    info = client.execute_command("CLUSTER INFO")
                    if info["cluster_state"] != "ok" or (known and int(info["cluster_known_nodes"]) != known):
                        return False
            return True

        eventually(ok, "cluster_state:ok")

    def meet(self, newcomer: RedisServer) -> None:
        """Add a node without slots."""
        with newcomer.client() as client:
            client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, self._buses()[0])
        self.nodes.append(newcomer)
        self.wait_ok(known=len(self.nodes))

    def forget(self, newcomer: RedisServer) -> None:
        """Remove a node without slots."""
        node_id = _id_of(newcomer)
        self.nodes.remove(newcomer)
        for node in self.nodes:
            with node.client() as client:
                client.execute_command("CLUSTER FORGET", node_id)

    def give_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move an empty slot; all nodes are informed before this returns."""
        old_id, new_id = _id_of(source), _id_of(target)
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        for node in (target, *self.nodes):  # the new owner first
            with node.client() as client:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)
        self.wait_ok()

    def running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.runs]

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster(
            startup_nodes=[redis.cluster.ClusterNode("127.0.0.1", node.port) for node in self.running()],
            password=PASSWORD,
        )

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def _id_of(node: RedisServer) -> str:
    with node.client() as client:
        node_id: str = client.execute_command("CLUSTER MYID")
    return node_id


def _in_sync(replica: RedisServer) -> bool:
    with replica.client() as client:
        info: Any = client.info("replication")
    return info["role"] == "slave" and info["master_link_status"] == "up"


class Watched:
    """A primary and a replica, watched by three Sentinels."""

    def __init__(self, folder: Path, *, down_after: int) -> None:
        """Sentinels consider a server down after ``down_after`` milliseconds."""
        self.primary = RedisServer(folder / "primary")
        self.replica = RedisServer(folder / "replica", f"replicaof 127.0.0.1 {self.primary.port}")
        eventually(lambda: _in_sync(self.replica), "replica in sync")
        self.sentinels = [
            RedisServer(folder / f"sentinel-{number}", sentinel_of=self.primary, down_after=down_after)
            for number in range(3)
        ]
        for sentinel in self.sentinels:
            eventually(lambda sentinel=sentinel: self._knows_all(sentinel), "Sentinels know each other")

    def _knows_all(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            state: Any = client.execute_command("SENTINEL MASTER", PRIMARY_NAME)
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1

    @property
    def servers(self) -> list[RedisServer]:
        return [self.primary, self.replica]

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()
