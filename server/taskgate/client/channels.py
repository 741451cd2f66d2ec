"""How a client reaches the server: TLS, and the options of gRPC's channel with its retries."""

import ipaddress
import json
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

Pem = bytes | str | os.PathLike[str]
"""The content of a PEM file in bytes, or the path of one."""

Options = list[tuple[str, Any]]

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""The largest answer that a server sends; gRPC's own limit is 4 MiB."""

MOST_ATTEMPTS: Final = 5
"""gRPC makes no more, whatever its service config asks for."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server. The files are read once, when the client is made.

    Attributes:
        ca: authorities to trust; None for those that this machine trusts.
        cert: the certificate to show to a server that asks for one, followed by those of its authorities.
        key: its private key, without a password.
        server_name: the name that the server's certificate must have, if it is not the host of the target.
    """

    ca: Pem | None = None
    cert: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's form. Raises OSError for a file that cannot be read, ValueError for half of a pair."""
        if (self.cert is None) is not (self.key is None):
            raise ValueError("cert and key: each needs the other")
        ca = _system_authorities() if self.ca is None else _content(self.ca)
        cert, key = (None if pem is None else _content(pem) for pem in (self.cert, self.key))
        return grpc.ssl_channel_credentials(ca, key, cert)


def channel_options(target: str, *, tls: Tls | None, attempts: int) -> Options:
    """Return the options for a channel to ``target``. Raises ValueError for ``attempts`` outside 1 to 5."""
    options: Options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(_service_config(attempts))),
        ("grpc.service_config_disable_resolution", 1),  # DNS has no say in it, and is not asked
        # Notice a connection that a firewall has forgotten before a call hangs on it; servers allow a ping a second.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if _is_this_machine(target):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy could not reach this machine's loopback address
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def _service_config(attempts: int) -> dict[str, Any]:
    if not 1 <= attempts <= MOST_ATTEMPTS:
        raise ValueError(f"attempts: {attempts} is not from 1 to {MOST_ATTEMPTS}")
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}  # over all addresses of the target
    if attempts > 1:
        policy = {
            "maxAttempts": attempts,
            # 3 s of pauses in all, each ±20 %: as long as the replacement of a server takes.
            "initialBackoff": "0.2s",
            "backoffMultiplier": 2,
            "maxBackoff": "2s",
            # Not RESOURCE_EXHAUSTED: gRPC does not read the RetryInfo that comes with it, and would repeat the call
            # before the server has room again. The caller gets ``retry_after``, and decides.
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
        # In an outage, stop repeating calls after 50 failed ones; ten that succeed allow one more again.
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return config


def _is_this_machine(target: str) -> bool:
    """Whether ``target`` is a loopback address: HOST:PORT, perhaps with gRPC's ``dns:///``, ``ipv4:`` or ``ipv6:``."""
    address = re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", target)
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _content(pem: Pem) -> bytes:
    return pem if isinstance(pem, bytes) else Path(pem).read_bytes()


def _system_authorities() -> bytes | None:
    """The authorities that this machine trusts; None, for gRPC's own list, if there is no file of them."""
    file = ssl.get_default_verify_paths().cafile
    return None if file is None else Path(file).read_bytes()
