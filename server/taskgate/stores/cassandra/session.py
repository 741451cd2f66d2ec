"""Bridge the driver's session with a Cassandra cluster, which all reads share, to asyncio.

The driver, cassandra-driver, works in its own threads: one reads from all nodes, others reconnect and follow which
nodes are up. Nothing here blocks the event loop; the driver's blocking calls run in a worker thread.
"""

import asyncio
import contextlib
import logging
import ssl
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final, Self

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    RequestExecutionException,
    Unauthorized,
    UnresolvableContactPoints,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import ConstantReconnectionPolicy, ConstantSpeculativeExecutionPolicy, DCAwareRoundRobinPolicy
from cassandra.query import SimpleStatement, tuple_factory

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.cassandra.url import CassandraUrl

REQUEST_TIMEOUT: Final = 1.5
"""Seconds for one statement, on all tried nodes together."""

CONNECT_TIMEOUT: Final = 1.0
"""Seconds for one node to accept a connection, and again for it to list the others."""

_SECOND_NODE_AFTER: Final = 0.2
"""Seconds after which a statement is also sent to another node: the first may hang."""

_RECONNECT_INTERVAL: Final = 1.0
"""Seconds between two attempts to reach a node that is down, while others answer."""

_HEARTBEAT_INTERVAL, _HEARTBEAT_TIMEOUT = 2, 1
"""Seconds of silence after which a heartbeat is sent to a node, and seconds it has to answer."""

DRIVERS_ERRORS: Final = (NoHostAvailable, DriverException, OSError)
"""The driver's errors for a cluster that is unreachable or not as expected."""

OUT_OF_REACH: Final = (NoHostAvailable, UnresolvableContactPoints, OperationTimedOut, OSError)
"""Those that mean that no node answers."""

_WHO_ANSWERS: Final = SimpleStatement(
    "SELECT host_id FROM system.local",  # every user may read it
    consistency_level=ConsistencyLevel.ONE,
    is_idempotent=True,
)
"""Find the permanent ID of the node that answers."""

_PROTOCOL: Final = 4
"""Version of Cassandra's protocol: Conductor's driver and every server since 2.2 speak it. Version 5 adds checksums,
which the driver computes in Python."""

# The driver logs each lost connection with a stack trace; StoreUnavailable tells what matters of it.
logging.getLogger("cassandra").addHandler(logging.NullHandler())
logging.getLogger("cassandra").propagate = False


class CassandraSession:
    """A connected session with prepared statements. ``lost``: no node answers, and a new session may help."""

    def __init__(self, store: str, cluster: Cluster, session: Any, statements: Sequence[Any]) -> None:
        self.lost = False
        self._members = frozenset[uuid.UUID | None]()
        """Permanent IDs of the cluster's nodes when the session was lost."""
        self._store = store
        self._cluster = cluster
        self._session = session
        self._statements = statements
        self._answered = time.monotonic()

    @classmethod
    async def open(cls, url: CassandraUrl, statements: Sequence[str]) -> Self:
        """Connect through one of the URL's nodes and prepare; continues even if the caller is cancelled.

        Raises the driver's errors.
        """
        return await asyncio.to_thread(cls._open, url, statements)

    @classmethod
    def _open(cls, url: CassandraUrl, statements: Sequence[str]) -> Self:
        cluster = _cluster(url)
        try:
            session = cluster.connect()
            prepared = [session.prepare(statement) for statement in statements]
            for statement in prepared:
                statement.is_idempotent = True  # may be sent to a second node
            return cls(url.name, cluster, session, prepared)
        except BaseException:
            cluster.shutdown()
            raise

    async def is_back(self) -> bool:
        """Return whether a node of the same cluster answers again; the session is then not ``lost`` any more.

        Another cluster may have the address of one of its nodes by now, and the driver connects to it all the same.
        """
        try:
            rows = await self._execute(_WHO_ANSWERS)
        except DRIVERS_ERRORS:
            return False
        self.lost = rows[0][0] not in self._members
        return not self.lost

    async def fetch_row(self, number: int, values: Sequence[object]) -> tuple[Any, ...] | None:
        """Return the first row that statement ``number`` finds.

        Raises StoreUnavailable if the cluster answers that it cannot, else the driver's errors.
        """
        began = time.monotonic()
        try:
            rows = await self._execute(self._statements[number].bind(values))
        except (RequestExecutionException, Unauthorized, InvalidRequest) as error:
            self._answered = time.monotonic()
            raise _unavailable(self._store, error) from error
        except NoHostAvailable:
            self._lose()
            raise
        except (OperationTimedOut, asyncio.CancelledError):
            # A cancellation may be a timeout; cancelled callers do not cancel this, see ``SingleFlight``.
            if time.monotonic() - max(began, self._answered) >= REQUEST_TIMEOUT:
                self._lose()
            raise
        self._answered = time.monotonic()
        return rows[0] if rows else None

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._members = frozenset(host.host_id for host in self._cluster.metadata.all_hosts())

    async def _execute(self, statement: Any) -> Sequence[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[tuple[Any, ...]]] = loop.create_future()

        def settle(rows: Sequence[tuple[Any, ...]] | None, error: Exception | None) -> None:
            if answer.done():  # cancelled
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(rows or [])

        def tell(rows: Sequence[tuple[Any, ...]] | None, error: Exception | None = None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, rows, error)

        request = self._session.execute_async(statement)
        request.add_callbacks(tell, lambda error: tell(None, error))
        return await answer

    async def close(self) -> None:
        """End every thread and connection; statements in flight fail."""
        self.lost = True
        await asyncio.to_thread(self._cluster.shutdown)


def _cluster(url: CassandraUrl) -> Cluster:
    profile = ExecutionProfile(
        # One hop more than with a token-aware policy, which would read the whole schema first.
        load_balancing_policy=DCAwareRoundRobinPolicy(url.local_dc or ""),
        consistency_level=ConsistencyLevel.name_to_value[url.consistency],
        request_timeout=REQUEST_TIMEOUT,
        row_factory=tuple_factory,
        speculative_execution_policy=ConstantSpeculativeExecutionPolicy(_SECOND_NODE_AFTER, 1),
    )
    return Cluster(
        contact_points=list(url.hosts),
        protocol_version=_PROTOCOL,
        auth_provider=None if url.user is None else PlainTextAuthProvider(url.user, url.password),
        ssl_context=None if url.tls is None else url.tls.context(),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=CONNECT_TIMEOUT,
        control_connection_timeout=CONNECT_TIMEOUT,
        reconnection_policy=ConstantReconnectionPolicy(_RECONNECT_INTERVAL, max_attempts=None),
        idle_heartbeat_interval=_HEARTBEAT_INTERVAL,
        idle_heartbeat_timeout=_HEARTBEAT_TIMEOUT,
        compression=False,
        schema_metadata_enabled=False,
        token_metadata_enabled=False,
        prepare_on_all_hosts=False,  # a node requests a statement it does not know
        reprepare_on_up=False,
        monitor_reporting_enabled=False,
        application_name="taskgate",
    )


_NO_ANSWER = "it does not answer"
_NOT_THAT_DATA_CENTRE = "no node of the data centre that is asked for can be reached"
_NO_TLS = "the TLS handshake with it failed"
_NO_TABLES = "it has no tables task_lookup and workflows as Conductor makes them"

_REASONS: Final[dict[type[BaseException], str]] = {
    AuthenticationFailed: "it does not let taskgate in with the user and password of the URL",
    Unauthorized: "the user may not read it; look at the grants on task_lookup and workflows",
    InvalidRequest: _NO_TABLES,
    RequestExecutionException: "too few of its nodes answer",
    UnresolvableContactPoints: "its host is not known",
    ssl.SSLCertVerificationError: "its TLS certificate is not trusted",
    ssl.SSLError: _NO_TLS,
    ConnectionRefusedError: "nothing listens there",
    OperationTimedOut: _NO_ANSWER,
    TimeoutError: _NO_ANSWER,
}
"""Public messages for the driver's errors; the first match counts."""


def explain(store: str, error: Exception) -> StoreUnavailable | None:
    """Return the public form of an ``error`` of the driver or network; None if it says nothing about the database."""
    return _unavailable(store, error) if isinstance(error, DRIVERS_ERRORS) else None


def _unavailable(store: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(_reason(error), store=store)


def _reason(error: Exception) -> str:
    causes: list[Exception] = [error]
    if isinstance(error, NoHostAvailable):
        if not isinstance(error.errors, dict):  # a node answered, but knows none in that data centre
            return _NOT_THAT_DATA_CENTRE
        causes = list(error.errors.values())
    if any("SSL" in str(cause) for cause in causes):  # the driver wraps it in its own error
        certificate = any("CERTIFICATE_VERIFY_FAILED" in str(cause) for cause in causes)
        return _REASONS[ssl.SSLCertVerificationError] if certificate else _NO_TLS
    fitting = (words for kind, words in _REASONS.items() if any(isinstance(cause, kind) for cause in causes))
    return next(fitting, "no node of it can be reached")
