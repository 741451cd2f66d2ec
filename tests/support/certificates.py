"""Certificates for servers and callers, made by the tests, and clients of every front door over TLS."""

import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import trustme
from cryptography import x509

from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse

TIMEOUT = 20


@dataclass(frozen=True)
class Identity:
    """A certificate chain and its key, in PEM."""

    chain: bytes
    key: bytes

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``name.crt`` and ``name.key`` and return their paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        paths[0].write_bytes(self.chain)
        paths[1].write_bytes(self.key)
        return paths

    @property
    def serial(self) -> int:
        """The serial number of the certificate."""
        return x509.load_pem_x509_certificate(self.chain).serial_number


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def server(self, *, ended: timedelta | None = None) -> Identity:
        """A certificate for this machine's loopback addresses, which may have expired some time ago."""
        until = None if ended is None else datetime.now(UTC) - ended
        since = None if until is None else until - timedelta(days=1)
        return _identity(self._ca.issue_cert("127.0.0.1", "localhost", not_before=since, not_after=until))

    def client(self) -> Identity:
        """A certificate for a caller."""
        return _identity(self._ca.issue_cert("caller@example.org"))


def _identity(made: trustme.LeafCert) -> Identity:
    return Identity(b"".join(part.bytes() for part in made.cert_chain_pems), made.private_key_pem.bytes())


class MountedSecret:
    """Files of a secret as Kubernetes mounts them: links into a folder that is replaced as a whole."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        """``files`` are the contents, by name without the ending, such as ``tls_crt`` for ``tls.crt``."""
        self._folder = folder
        self._version = 0
        self.replace(**files)
        for name in files:
            self.path(name).symlink_to(Path("..data") / self.path(name).name)

    def path(self, name: str) -> Path:
        return self._folder / name.replace("_", ".")

    def replace(self, **files: bytes) -> None:
        """Write a new version, and swap the link to it."""
        self._version += 1
        version = self._folder / f"..version{self._version}"
        version.mkdir()
        for name, content in files.items():
            (version / self.path(name).name).write_bytes(content)
        temporary = self._folder / "..data_tmp"
        temporary.symlink_to(version.name)
        temporary.rename(self._folder / "..data")


@dataclass(frozen=True)
class Caller:
    """A client with TLS: what it trusts, and what it shows."""

    trusted: bytes
    identity: Identity | None = None

    def context(self, folder: Path, *, check: bool = True) -> ssl.SSLContext:
        """A context of Python's ssl; the files that it needs are written to ``folder``."""
        context = ssl.create_default_context(cadata=self.trusted.decode())
        if not check:  # of an expired certificate
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.identity is not None:
            context.load_cert_chain(*self.identity.save(folder, f"caller-{os.urandom(4).hex()}"))
        return context


Ask = Callable[[], bytes]
"""Ask for the task with the given ID and return its name or document. Raises an exception without an answer."""


def ask_rest(address: str, task_id: str, context: ssl.SSLContext, *, http2: bool) -> bytes:
    """The document over REST."""
    with httpx.Client(verify=context, http1=not http2, http2=http2, timeout=TIMEOUT, trust_env=False) as client:
        response = client.get(f"https://{address}/api/tasks/{task_id}")
        assert response.status_code == 200, response.text
        return response.content


def ask_grpc(address: str, task_id: str, caller: Caller) -> bytes:
    """The ID of the task over gRPC."""
    with secure_channel(address, caller) as channel:
        return ask_channel(channel, task_id)


def secure_channel(address: str, caller: Caller) -> grpc.Channel:
    identity = caller.identity
    credentials = grpc.ssl_channel_credentials(
        caller.trusted, None if identity is None else identity.key, None if identity is None else identity.chain
    )
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return grpc.secure_channel(address, credentials, options=options)


def ask_channel(channel: grpc.Channel, task_id: str) -> bytes:
    method: Any = channel.unary_unary("/taskgate.v1.TaskService/GetTask")
    answer = method(GetTaskRequest(task_id=task_id).SerializeToString(), timeout=TIMEOUT)
    return GetTaskResponse.FromString(answer).task.task_id.encode()


def serial_shown(address: str, context: ssl.SSLContext, protocols: list[str] | None = None) -> int:
    """The serial number of the certificate that a listener shows to a new connection."""
    context.set_alpn_protocols(protocols or ["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number
