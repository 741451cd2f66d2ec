"""The certificates of our listeners: load the files of TLS together, and follow them when they are replaced.

``load`` refuses files that a listener could not use, in one sentence. A ``Follower`` looks at the files twice a second,
so it notices a renamed file, a swapped link (``..data`` in Kubernetes) and a file that was written in place.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog

from taskgate.base.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from taskgate.base.settings import Settings

_POLL_SECONDS = 0.5
_EXPIRES_SOON = timedelta(days=14)
_RSA_BITS = 2048  # Envoy refuses shorter keys


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a listener with TLS, in PEM; all paths are absolute."""

    certificate: Path
    """The server's certificate, followed by those between it and its authority."""
    key: Path
    """The certificate's private key, without a password."""
    client_ca: Path | None = None
    """The authorities of callers' certificates; with them, a caller without a certificate is refused."""

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return the files that ``settings`` name, or None without TLS. Raises SettingsError if one is missing."""
        cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if cert and key:
            return cls(Path(cert).absolute(), Path(key).absolute(), Path(client_ca).absolute() if client_ca else None)
        if cert:
            raise SettingsError("tls_cert: it needs tls_key, the file of its private key")
        if key:
            raise SettingsError("tls_key: it needs tls_cert, the file of its certificate")
        if client_ca:
            raise SettingsError(
                "tls_client_ca: it needs tls_cert and tls_key: without TLS no caller shows a certificate"
            )
        return None


@dataclass(frozen=True, slots=True)
class Certificates:
    """The contents of ``TlsFiles``, which belong together."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    ends: datetime = field(compare=False)
    """When the server's certificate expires."""
    client_ca_ends: datetime | None = field(compare=False)
    """When the last of the authorities of callers expires."""


def load(files: TlsFiles) -> Certificates:
    """Read and check all files.

    Raises SettingsError, naming setting and file, if one cannot be read or used. Expired certificates are loaded: a
    restart must not be worse than going on.
    """
    chain, key = _read("tls_cert", files.certificate), _read("tls_key", files.key)
    client_ca = None if files.client_ca is None else _read("tls_client_ca", files.client_ca)
    own = _certificates("tls_cert", files.certificate, chain)[0]
    _check_key(files, key, own)
    authorities = [] if client_ca is None else _certificates("tls_client_ca", files.client_ca, client_ca)
    last = max((authority.not_valid_after_utc for authority in authorities), default=None)
    return Certificates(chain, key, client_ca, own.not_valid_after_utc, last)


class Follower:
    """The certificates of ``files``, and what replaces them."""

    def __init__(self, files: TlsFiles, *, copies: bool = False) -> None:
        """Load the files; raises SettingsError as ``load``.

        ``copies`` are files that another process has checked, and logged as replaced.
        """
        self._files = files
        self._copies = copies
        self._seen = _marks(files)
        self.current = load(files)
        self._failed = False
        self._log = structlog.get_logger("taskgate.tls")

    async def follow(self, use: Callable[[Certificates], None]) -> None:
        """Call ``use`` with certificates that have replaced the current ones, for ever.

        Files that cannot be used are named in a warning, and the current certificates stay.
        """
        before = self._seen
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            # In a thread: a network file system may block.
            marks = await asyncio.to_thread(_marks, self._files)
            if marks == before != self._seen:  # changed, and not being written any more
                self._seen = marks
                await self._replace(use)
            before = marks

    async def _replace(self, use: Callable[[Certificates], None]) -> None:
        try:
            loaded = await asyncio.to_thread(load, self._files)
            if loaded == self.current:
                return
            use(loaded)
        except SettingsError as error:
            self._log.warning("the new certificate is not used; the previous one stays", reason=str(error))
        except Exception:  # noqa: BLE001 - such as a full disk; no caller awaits this
            if not self._failed:
                self._log.exception("the new certificate cannot be put into use; trying again")
            self._failed, self._seen = True, ()
        else:
            self.current, self._failed = loaded, False
            (self._log.debug if self._copies else self._log.info)(
                "certificate replaced", expires=f"{loaded.ends:%Y-%m-%dT%H:%M:%SZ}"
            )


class ExpiryNotices:
    """Warnings in the log about certificates that expire soon or have expired, each once and again after a day."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, datetime]] = {}
        self._log = structlog.get_logger("taskgate.tls")

    async def watch(self, follower: Follower) -> None:
        """Give notices for ever."""
        while True:
            self.give(follower.current)
            await asyncio.sleep(_POLL_SECONDS)

    def give(self, certificates: Certificates) -> None:
        """Log what has changed since the last call."""
        now = datetime.now(UTC)
        for key, ends in (("tls_cert", certificates.ends), ("tls_client_ca", certificates.client_ca_ends)):
            text = _notice(ends, now)
            last, when = self._given.get(key, ("", now))
            if text and (text != last or now - when > timedelta(days=1)):
                self._given[key] = text, now
                self._log.warning(text, setting=key, expires=f"{ends:%Y-%m-%dT%H:%M:%SZ}")
            elif not text:
                self._given.pop(key, None)


def _notice(ends: datetime | None, now: datetime) -> str:
    if ends is None or ends - now > _EXPIRES_SOON:
        return ""
    if ends > now:
        return "a certificate expires soon: replace its file, no restart is needed"
    return "a certificate has expired, clients refuse it: replace its file, no restart is needed"


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise SettingsError(f"{setting}: cannot read {path}: it is no file name") from error


def _certificates(setting: str, path: Path | None, pem: bytes) -> "list[Certificate]":
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - without TLS nothing needs it

    try:
        return load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SettingsError(f"{setting}: {path} holds no certificate in PEM, or one that is damaged") from error


def _check_key(files: TlsFiles, pem: bytes, certificate: "Certificate") -> None:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - without TLS nothing needs it
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415 - same
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415 - same
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - same

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise SettingsError(f"tls_key: {files.key} is protected by a password; give a key without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"tls_key: {files.key} holds no private key in PEM, or one that is damaged") from error
    if key.public_key() != certificate.public_key():
        raise SettingsError(f"tls_key: {files.key} is not the key of the first certificate in {files.certificate}")
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise SettingsError(f"tls_key: {files.key} is neither an RSA key nor one of an elliptic curve")
    if isinstance(key, RSAPrivateKey) and key.key_size < _RSA_BITS:
        raise SettingsError(f"tls_key: {files.key} is an RSA key of {key.key_size} bits; {_RSA_BITS} are the least")


def _marks(files: TlsFiles) -> tuple[object, ...]:
    """Return what changes when one of the files is replaced or written."""
    return tuple(_mark(path) for path in _paths(files))


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - Path.stat has no advantage, and more cost
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _paths(files: TlsFiles) -> Iterator[Path]:
    yield from (files.certificate, files.key)
    if files.client_ca is not None:
        yield files.client_ca
