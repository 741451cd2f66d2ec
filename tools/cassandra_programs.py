"""Make the settings and the command of a Cassandra node from its jars alone, for tests and benchmarks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import cassandra_jars

_OPENED = (
    *("java.base/java.io", "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect"),
    *("java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent"),
    *("java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader", "java.base/jdk.internal.math"),
    *("java.base/jdk.internal.module", "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect"),
    *("java.base/sun.nio.ch", "java.base/sun.nio.fs", "java.rmi/sun.rmi.transport.tcp"),
    "jdk.management/com.sun.management.internal",
)
_EXPORTED = (
    *("java.base/java.lang.ref", "java.base/jdk.internal.misc", "java.sql/java.sql", "jdk.unsupported/sun.misc"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server"),
)
"""Internal parts of Java that Cassandra uses, as in its own ``jvm17-server.options``."""

_LOGGING = """
<configuration>
  <appender name="file" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date %level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="file"/></root>
</configuration>
"""


def configure(folder: Path, port: int, storage_port: int, address: str, own: Mapping[str, Any]) -> None:
    """Write the files that a node reads at its start. It keeps all its data in ``folder``; ``own`` settings come last.

    ``storage_port`` is for other nodes, the first of which is on 127.0.0.1.
    """
    settings = {
        "num_tokens": 1,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        # As in production: a node that has a copy asks itself, and not the first one in the ring.
        "endpoint_snitch": "GossipingPropertyFileSnitch",
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": f"127.0.0.1:{storage_port}"}],
            }
        ],
        "listen_address": address,
        "storage_port": storage_port,
        "rpc_address": address,
        "native_transport_port": port,
        "commitlog_sync": "periodic",
        "commitlog_sync_period": "10s",
        "data_file_directories": [str(folder / "data")],
    } | {f"{name}_directory": str(folder / name) for name in ("commitlog", "hints", "saved_caches", "cdc_raw")}
    (folder / "cassandra.yaml").write_text(json.dumps(settings | dict(own), indent=1))
    (folder / "cassandra-rackdc.properties").write_text("dc=datacenter1\nrack=rack1\n")
    (folder / "logback.xml").write_text(_LOGGING)


def command(folder: Path, java_options: Sequence[str], *, joins: bool = False) -> list[str]:
    """Return the command line for the files from ``configure``; the log goes to standard output. Raises Missing.

    A node that ``joins`` another one ends if it receives nothing from it within 20 seconds.
    """
    properties = {
        "java.security.manager": "allow",
        "cassandra.config": (folder / "cassandra.yaml").as_uri(),
        "cassandra.storagedir": str(folder),
        "cassandra-foreground": "yes",
        "logback.configurationFile": str(folder / "logback.xml"),
        # The first node has no others to wait for, and weak passwords are good enough here.
        "cassandra.skip_wait_for_gossip_to_settle": "0",
        "cassandra.ring_delay_ms": "20000" if joins else "1",
        "cassandra.superuser_setup_delay_ms": "0",
        "cassandra.auth_bcrypt_gensalt_log2_rounds": "4",
        "jdk.attach.allowAttachSelf": "true",
    }
    return [
        *(cassandra_jars.find_java(), *java_options),
        *(f"-D{name}={value}" for name, value in properties.items()),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED),
        *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTED),
        *("-cp", f"{cassandra_jars.find_jars()}/*:{folder}", "org.apache.cassandra.service.CassandraDaemon"),
    ]
