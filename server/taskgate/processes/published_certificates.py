"""Publish the certificates of the listeners to the processes below this one.

The supervisor checks the files and copies those that can be used into a private folder. All processes read the copies:
they never see a certificate without its key, and a process that is replaced starts with the last certificates that were
usable, whatever the files hold by then. The folder is laid out as Kubernetes does it: the files are links into
``current``, itself a link, so that all change with one rename.
"""

import asyncio
import itertools
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from taskgate.base.certificates import Certificates, ExpiryNotices, Follower, TlsFiles
from taskgate.base.errors import StartError
from taskgate.base.settings import Settings
from taskgate.processes.envoy.folder import PrivateFolder

_CERTIFICATE, _KEY, _CLIENT_CA = "tls.crt", "tls.key", "ca.crt"


class PublishedCertificates:
    """Usable copies of ``files``, which follow them from ``start`` to ``stop``."""

    def __init__(self, files: TlsFiles) -> None:
        """Load and publish the files; raises SettingsError if they cannot be used, StartError if not copied."""
        self._follower = Follower(files)
        self._folder = PrivateFolder()
        folder = self._folder.path
        self.files = TlsFiles(folder / _CERTIFICATE, folder / _KEY, folder / _CLIENT_CA if files.client_ca else None)
        self._versions = itertools.count()
        self._published = Path()
        self._tasks: list[asyncio.Task[None]] = []
        try:
            for name in (_CERTIFICATE, _KEY, _CLIENT_CA):
                (folder / name).symlink_to(f"current/{name}")
            self._publish(self._follower.current)
        except OSError as error:
            self.remove()
            raise StartError(f"tls_cert: cannot copy it into {folder}: {error.strerror}") from error

    def start(self) -> None:
        """Follow the files, and warn of certificates that expire."""
        self._tasks = [
            asyncio.create_task(self._follower.follow(self._publish)),
            asyncio.create_task(ExpiryNotices().watch(self._follower)),
        ]

    async def stop(self) -> None:
        """Follow no more, and remove the copies."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.remove()

    def remove(self) -> None:
        """Remove the copies."""
        self._folder.remove()

    def settings(self, settings: Settings) -> Settings:
        """Return ``settings`` with the copies in place of the files."""
        files = self.files
        copies = {"tls_cert": files.certificate, "tls_key": files.key, "tls_client_ca": files.client_ca or ""}
        return settings.model_copy(update={name: str(path) for name, path in copies.items()})

    def _publish(self, certificates: Certificates) -> None:
        folder = self._folder.path
        version = folder / f"v{next(self._versions)}"
        version.mkdir(mode=0o700)
        _write(version / _CERTIFICATE, certificates.chain)
        _write(version / _KEY, certificates.key)
        if certificates.client_ca is not None:
            _write(version / _CLIENT_CA, certificates.client_ca)
        (folder / "next").unlink(missing_ok=True)  # left by an attempt that failed
        (folder / "next").symlink_to(version.name)
        (folder / "next").rename(folder / "current")
        if self._published.name:
            shutil.rmtree(self._published, ignore_errors=True)
        self._published = version


def publish_certificates(settings: Settings, stack: AsyncExitStack) -> PublishedCertificates | None:
    """Publish the certificates of ``settings`` until ``stack`` closes; return None without TLS.

    Raises SettingsError if they cannot be used, and StartError if they cannot be copied.
    """
    files = TlsFiles.of(settings)
    if files is None:
        return None
    certificates = PublishedCertificates(files)
    stack.push_async_callback(certificates.stop)
    return certificates


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
