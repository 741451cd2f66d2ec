"""Run a private Cassandra node on free ports, with a keyspace like Conductor's."""

import json
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import trustme
from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy
from cryptography.hazmat.primitives import serialization

from support.database_server import DatabaseServer, free_port
from support.documented import statements
from support.documents import DOCUMENTED, compact
from taskgate.documents.conductor import project_task_model
from tools import cassandra_programs

USER = "taskgate"  # as in docs/stores/cassandra.md
PASSWORD = "correct horse"  # noqa: S105 - the tests search messages for it

_SUPERUSER = PlainTextAuthProvider("cassandra", "cassandra")  # the superuser of a new node

_MEMORY = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Weak optimization, since a node lives for a minute: compiling well costs more than it saves."""

ROWS = {
    task_id: compact(json.loads(DOCUMENTED) | {"taskId": task_id}).decode()
    for task_id in (str(uuid.UUID(int=number)) for number in range(1, 51))
}
ANSWERS = {task_id: project_task_model(stored.encode(), 0).document for task_id, stored in ROWS.items()}
"""Fifty tasks as Conductor stores them, by ID, and the answer of taskgate for each."""


class CassandraNode(DatabaseServer):
    """One node, a cluster by itself. Its data, in ``folder``, outlives its process."""

    patience = 90.0  # a start takes 5 to 12 seconds on two cores

    def __init__(
        self,
        folder: Path,
        *,
        passwords: bool = True,
        first: "CassandraNode | None" = None,
        in_place_of: "CassandraNode | None" = None,
    ) -> None:
        """Without ``passwords``, everybody may connect and do everything. ``first`` makes it a cluster of two.

        All nodes of a cluster have the same ports, so the second one has its own address. A node ``in_place_of`` one
        that is down does not join its cluster, and takes over its address and port.
        """
        model = first or in_place_of
        super().__init__(folder, free_port() if model is None else model.port)
        self._joins = first is not None
        self.address = "127.0.0.2" if self._joins else "127.0.0.1"
        self._storage_port: int = free_port() if model is None else model._storage_port
        self.authority = folder / "authority.pem"
        self.direct_session: Any = None
        """A superuser session of the driver, with which tests bypass taskgate."""
        self.passwords = passwords
        self._cluster: Any = None
        self._configure()
        self.start()
        if passwords:
            create, *_ = statements("cassandra")
            self.execute(create.replace("'secret'", f"'{PASSWORD}'"))

    def _configure(self) -> None:
        self._certify()
        cassandra_programs.configure(self.folder, self.port, self._storage_port, self.address, self._settings())

    def _certify(self) -> None:
        """Make a certificate for localhost, and an authority that signs it."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        certificate = authority.issue_cert("localhost")
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        (self.folder / "certificate.pem").write_bytes(key + chain)

    def _settings(self) -> dict[str, Any]:
        return {
            "cluster_name": "tests",
            "auto_bootstrap": False,  # a second node has no data to copy yet
            # A node may choose the other one's copy by latency. If that one was killed or hangs, it would wait
            # until gossip reports it, ten seconds later.
            "dynamic_snitch": False,
            "authenticator": "PasswordAuthenticator" if self.passwords else "AllowAllAuthenticator",
            "authorizer": "CassandraAuthorizer" if self.passwords else "AllowAllAuthorizer",
            "permissions_validity": "0ms",
            # TLS and plain text on the same port.
            "client_encryption_options": {
                "enabled": True,
                "optional": True,
                "ssl_context_factory": {"class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"},
                "keystore": str(self.folder / "certificate.pem"),
            },
            # A write may be half as large as a segment of the commit log. Conductor's node accepts 16 MiB by default.
            "commitlog_sync_period": "500ms",  # older writes survive a kill
            "commitlog_segment_size": "128MiB",
            "native_transport_max_frame_size": "64MiB",
            "write_request_timeout": "20s",
            "auto_snapshot": False,  # of dropped tables
        }

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    def url(self, keyspace: str, hosts: str | None = None, **parameters: str) -> str:
        """The store URL, with the user who may only read."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"cassandra://{USER}:{quote(PASSWORD)}@{hosts or self}/{keyspace}{query}"

    def command(self) -> list[str]:
        return cassandra_programs.command(self.folder, _MEMORY, joins=self._joins)

    def answers(self) -> bool:
        """Open the superuser session, and return whether that worked. It connects to this node only."""
        profile = ExecutionProfile(
            WhiteListRoundRobinPolicy([self.address]), request_timeout=30, consistency_level=ConsistencyLevel.ALL
        )
        cluster = Cluster(
            [self.address], self.port, auth_provider=_SUPERUSER, protocol_version=4, compression=False,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile}, monitor_reporting_enabled=False,
        )  # fmt: skip
        try:
            self.direct_session = cluster.connect()
        except NoHostAvailable:
            cluster.shutdown()
            return False
        self._cluster = cluster
        return True

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of the result, as superuser."""
        return list(self.direct_session.execute(statement, values or None))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """See ``DatabaseServer``."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = self.direct_session = None
        super().stop(number)


class ConductorsKeyspace:
    """A keyspace with the two tables of tasks as ``CassandraBaseDAO`` makes them, and rows as it writes them."""

    def __init__(self, node: CassandraNode, name: str, *, copies: int = 1) -> None:
        self.node = node
        self.name = name
        node.execute(
            f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': {copies}}}"
        )
        node.execute(f"CREATE TABLE {name}.task_lookup (task_id uuid PRIMARY KEY, workflow_id uuid)")
        self.create_workflows()
        self._grant("task_lookup")

    def create_workflows(self, payload: str = "text") -> None:
        """Create the table, with a column ``payload`` of that type."""
        self._payload = payload
        self.node.execute(
            f"CREATE TABLE {self.name}.workflows (workflow_id uuid, shard_id int, entity text, task_id text,"
            f" payload {payload}, total_tasks int STATIC, total_partitions int STATIC,"
            " PRIMARY KEY ((workflow_id, shard_id), entity, task_id))"
        )
        self._grant("workflows")

    def _grant(self, table: str) -> None:
        if self.node.passwords:
            (grant,) = (text for text in statements("cassandra") if f".{table} " in text)
            self.node.execute(grant.replace("conductor.", f"{self.name}."))

    def replace_workflows(self, payload: str = "text") -> None:
        """Replace the table by an empty one, with such a column."""
        self.node.execute(f"DROP TABLE {self.name}.workflows")
        self.create_workflows(payload)

    def clear(self) -> None:
        """Remove all rows, and restore the tables of Conductor."""
        self.node.execute(f"TRUNCATE {self.name}.task_lookup")
        if self._payload == "text":
            self.node.execute(f"TRUNCATE {self.name}.workflows")
        else:
            self.replace_workflows()

    def put(self, task_id: str, payload: object) -> None:
        """Store a task of a workflow of its own."""
        key = uuid.UUID(task_id)
        workflow_id = uuid.uuid5(key, "workflow")
        lookup = f"INSERT INTO {self.name}.task_lookup (task_id, workflow_id) VALUES (%s, %s)"  # noqa: S608 - our own
        self.node.execute(lookup, (key, workflow_id))
        self.node.execute(
            f"INSERT INTO {self.name}.workflows (workflow_id, shard_id, entity, task_id, payload)"  # noqa: S608 - our own
            " VALUES (%s, 1, 'task', %s, %s)",
            (workflow_id, task_id, payload),
        )

    def rows(self) -> list[Any]:
        """Task ID and payload of every task."""
        rows = self.node.execute(f"SELECT entity, task_id, payload FROM {self.name}.workflows")  # noqa: S608 - our own
        return [(row.task_id, row.payload) for row in rows if row.entity == "task"]

    @contextmanager
    def without_workflows(self) -> Iterator[None]:
        """Drop the table while the block runs."""
        rows = self.rows()
        self.node.execute(f"DROP TABLE {self.name}.workflows")
        try:
            yield
        finally:
            self.create_workflows()
            for task_id, payload in rows:
                self.put(task_id, payload)

    def drop(self) -> None:
        self.node.execute(f"DROP KEYSPACE {self.name}")
