"""TLS of a grpc.aio server, whose certificates are replaced while it runs."""

import asyncio

import grpc

from taskgate.base.certificates import Certificates, ExpiryNotices, Follower, TlsFiles


class ServerCertificates:
    """The certificates of ``files``: new connections get those that were usable last."""

    def __init__(self, files: TlsFiles, *, copies: bool) -> None:
        """Load the files; raises SettingsError if they cannot be used.

        ``copies`` are files that a supervisor checks; it also warns before certificates expire.
        """
        self._follower = Follower(files, copies=copies)
        self._mutual = files.client_ca is not None
        self._copies = copies
        self._new: grpc.ServerCertificateConfiguration | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a port: TLS 1.2 and later; with authorities, callers must have a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._follower.current),
            self._take_new,  # type: ignore[arg-type] # None means no change, which the stubs do not know
            require_client_authentication=self._mutual,
        )

    def start(self) -> None:
        """Follow the files."""
        self._tasks = [asyncio.create_task(self._follower.follow(self._put_new))]
        if not self._copies:
            self._tasks.append(asyncio.create_task(ExpiryNotices().watch(self._follower)))

    def stop(self) -> None:
        """Follow no more; connections are still accepted, with the last certificates."""
        for task in self._tasks:
            task.cancel()

    def _put_new(self, certificates: Certificates) -> None:
        self._new = _configuration(certificates)

    def _take_new(self) -> grpc.ServerCertificateConfiguration | None:
        """Return certificates that replace those in use, or None. gRPC asks at each connection, in its own threads."""
        new, self._new = self._new, None
        return new


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.client_ca
    )
