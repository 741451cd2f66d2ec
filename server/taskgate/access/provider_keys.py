"""Follow the keys of an identity provider: a JSON Web Key Set (RFC 7517) in a file or behind a URL."""

import asyncio
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
import structlog

from taskgate.access.signing import ASYMMETRIC
from taskgate.base.errors import SettingsError, StoreUnavailable

_FETCH_SECONDS = 5.0
_MAX_BYTES = 1 << 20
_REFRESH_SECONDS = 300.0
_FILE_SECONDS = 2.0
_RETRY_SECONDS = 10.0
"""Seconds between two attempts to get the keys, after a failure and for an unknown key ID."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_FIRST_READ_SECONDS = 5.0
"""Seconds for which a start waits for the first look, which may take longer: nothing limits the look-up of a name."""

_AWAY = "the keys cannot be read now"  # also what Envoy says, which does not know whose they are


class _Source(Protocol):
    refresh_seconds: float

    def read(self) -> bytes:
        """Return the document, in a thread. Raises OSError or ValueError."""
        ...


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to a place without TLS."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Url:
    def __init__(self, url: str, refresh_seconds: float) -> None:
        self.refresh_seconds = refresh_seconds
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirect, _HttpHandler, _HttpsHandler)

    def read(self) -> bytes:
        with self._opener.open(self._url, timeout=_FETCH_SECONDS) as response:
            declared = response.headers.get("content-length")
            body: bytes = response.read(_MAX_BYTES + 1)
        if len(body) > _MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        if declared is not None and declared.isdecimal() and len(body) < int(declared):
            raise TimeoutError("it takes too long, or breaks off")
        return body


def _connect(*arguments: Any) -> socket.socket:
    """Connect, and break the connection off after ``_FETCH_SECONDS``, however slowly an answer trickles in.

    A socket's own timeout starts again with each byte.
    """
    connected = socket.create_connection(*arguments)
    timer = threading.Timer(_FETCH_SECONDS, _break_off, (connected.dup(),))  # TLS takes over the original
    timer.daemon = True
    timer.start()
    return connected


def _break_off(connected: socket.socket) -> None:
    with connected, suppress(OSError):  # it is over
        connected.shutdown(socket.SHUT_RDWR)


def _http(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
    return _limited(http.client.HTTPConnection(*arguments, **options))


def _https(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
    return _limited(http.client.HTTPSConnection(*arguments, **options))


def _limited(connection: Any) -> http.client.HTTPConnection:
    connection._create_connection = _connect  # noqa: SLF001 - the one place before the TLS handshake
    limited: http.client.HTTPConnection = connection
    return limited


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_http, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_https, req)


class _File:
    refresh_seconds = _FILE_SECONDS

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()

    def read(self) -> bytes:
        with self._path.open("rb") as file:
            document = file.read(_MAX_BYTES + 1)
        if len(document) > _MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        return document


def check_location(location: str) -> None:
    """Raise SettingsError unless ``location`` is a file's path, an https URL, or an http URL on this machine."""
    if "://" not in location:
        return
    try:
        parts = urlsplit(location)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise SettingsError(f"jwks: {location} is not a URL") from error
    if not host or parts.scheme not in {"https", "http"}:
        raise SettingsError("jwks: expected the path of a file, or a URL that begins with https://")
    if parts.username is not None:
        raise SettingsError("jwks: the URL holds a user name; key sets are public, and need none")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise SettingsError("jwks: use https://; over http:// anyone on the way could put in keys")


class ProviderKeys:
    """The keys as last read. They stay valid while the provider is away, slow, or sends something else than keys.

    Call ``start`` once and ``close`` once.
    """

    def __init__(self, location: str, *, refresh_seconds: float = _REFRESH_SECONDS) -> None:
        """``location`` is a path, or a URL that is read every ``refresh_seconds``.

        Raises SettingsError as ``check_location`` does.
        """
        check_location(location)
        self._source: _Source = _Url(location, refresh_seconds) if "://" in location else _File(location)
        self._keys: dict[str, jwt.PyJWK] | None = None
        self._public: list[dict[str, object]] = []
        self._document: bytes | None = None
        self._following: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._read_at = -_RETRY_SECONDS
        self._away = False
        self._log = structlog.get_logger("taskgate.access")
        self.version = 0

    async def start(self) -> None:
        """Read the keys, and follow their changes. Goes on without keys after 5 s."""
        looked = asyncio.Event()
        self._following = asyncio.create_task(self._follow(looked))
        with suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), _FIRST_READ_SECONDS)

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()

    @property
    def known(self) -> bool:
        """See ``CallerKeys``."""
        return self._keys is not None

    @property
    def readable(self) -> bool:
        """See ``CallerKeys``."""
        return self.known and not self._away

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this ID; look again for one that is new, but not for every token that names one.

        Raises StoreUnavailable if the keys have never been read.
        """
        known = self._keys
        if (known is None or kid not in known) and time.monotonic() - self._read_at >= _RETRY_SECONDS:
            await self._look()
        if self._keys is None:
            raise StoreUnavailable(_AWAY)
        return self._keys.get(kid)

    def public_keys(self) -> list[dict[str, object]]:
        """Return the keys as JSON Web Keys. Raises StoreUnavailable as ``key`` does."""
        if self._keys is None:
            raise StoreUnavailable(_AWAY)
        return self._public

    async def _follow(self, looked: asyncio.Event) -> None:
        while True:
            await self._look()
            looked.set()
            await asyncio.sleep(_RETRY_SECONDS if self._away else self._source.refresh_seconds)

    async def _look(self) -> None:
        """Read the keys. Raises nothing: it is called again."""
        async with self._reading:
            if time.monotonic() - self._read_at < _FILE_SECONDS / 2:
                return  # another caller has just looked
            try:
                document = await asyncio.to_thread(self._source.read)
                if document != self._document:
                    self._take(document)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._note(error)
            except Exception:  # noqa: BLE001 - no caller awaits the following task, which must go on
                self._log.exception("the keys of the identity provider could not be read")
                self._away = True
            else:
                if self._away:
                    self._log.info("the keys of the identity provider can be read again")
                self._away = False
            finally:
                self._read_at = time.monotonic()  # also where the caller has left meanwhile

    def _take(self, document: bytes) -> None:
        """Take over a key set. Raises ValueError if it is none, or holds no key that can verify tokens."""
        public = [jwk for jwk in _members(document) if _usable(jwk)]
        keys = {str(jwk["kid"]): jwt.PyJWK(jwk) for jwk in public}
        if not keys:
            raise ValueError("it holds no public key with a key ID and an algorithm that is allowed")
        self._keys, self._public, self._document = keys, public, document
        self.version += 1

    def _note(self, error: Exception) -> None:
        if not self._away:
            reason = f"HTTP status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
            then = "known keys stay valid" if self.known else "calls are refused until they can"
            self._log.warning(f"the keys of the identity provider cannot be read; {then}", reason=reason)
        self._away = True


def _members(document: bytes) -> list[dict[str, object]]:
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    members = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is no JSON Web Key Set: an object with 'keys'")  # noqa: TRY004 - callers get ValueError
    return [jwk for jwk in members if isinstance(jwk, dict)]


def _usable(jwk: dict[str, object]) -> bool:
    """Whether ``jwk`` is a public key for signatures: no secret, no private part, a key ID and a pinned algorithm."""
    if not isinstance(jwk.get("kid"), str) or jwk.get("use", "sig") != "sig" or "d" in jwk or "k" in jwk:
        return False
    try:
        return jwt.PyJWK(jwk).algorithm_name in ASYMMETRIC
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return False
