"""Implement ``TokenService.CreateToken``: exchange key ID and secret for a token."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from taskgate.access.attempts import Attempts
from taskgate.access.hashing import secret_matches
from taskgate.access.keyring import ApplicationKey
from taskgate.access.live_keyring import LiveKeyring
from taskgate.access.signing import sign
from taskgate.base.errors import CredentialsInvalid, InvalidRequest, Overloaded, StoreUnavailable
from taskgate.service.calls import Answer, Call
from taskgate.service.endpoints import decode_request
from taskgate.v1.token_service_pb2 import CreateTokenRequest, CreateTokenResponse

_MAX_WAITING = 64
"""Credentials that wait to be checked, each about 15 ms; further ones are refused."""

_REFUSALS_OF_ADDRESS = 60
_REFUSALS_OF_KEY = 10


class CreateToken:
    """The endpoint. One thread checks secrets, which takes 19 MiB and much of a processor."""

    def __init__(self, keyring: LiveKeyring, *, lifetime: float) -> None:
        """``lifetime`` is how long a token is valid, in seconds."""
        self._keyring = keyring
        self._lifetime = lifetime
        self._attempts = Attempts(of_address=_REFUSALS_OF_ADDRESS, of_key=_REFUSALS_OF_KEY)
        self._thread = ThreadPoolExecutor(1, "secrets")
        self._waiting = 0

    async def __call__(self, call: Call, request: bytes) -> Answer:
        """Return a serialised ``CreateTokenResponse``.

        Raises CredentialsInvalid, TooManyAttempts, InvalidRequest, StoreUnavailable or Overloaded.
        """
        asked: CreateTokenRequest = decode_request(CreateTokenRequest, request)
        return CreateTokenResponse(token=await self.token(asked, call)).SerializeToString()

    async def token(self, asked: CreateTokenRequest, call: Call) -> str:
        """Return a token for the key in ``asked``; see ``__call__``."""
        if not asked.key_id or not asked.key_secret:
            raise InvalidRequest("The request needs keyId and keySecret", message=asked.DESCRIPTOR.full_name)
        key_id = asked.key_id[:64]  # longer than any; what is not a key ID must not fill memory
        self._attempts.check(call, key_id)
        key = await self._keyring.key(key_id)
        accepted = await self._accepts(key, asked.key_secret)
        if not accepted and key is not None and (changed := await self._keyring.changed_key(key)) is not None:
            key, accepted = changed, await self._accepts(changed, asked.key_secret)
        if key is None or not accepted:
            self._attempts.count(call, key_id)
            raise CredentialsInvalid(_refusal(key))
        now = time.time()
        signing = self._keyring.keyring.signing_key(now)
        if signing is None:
            raise StoreUnavailable("the store of the keys holds no signing key")
        issued = max(now, key.tokens_from)
        return sign(signing, subject=key.key_id, issued=issued, expires=now + self._seconds(asked.expiration))

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _seconds(self, milliseconds: int) -> float:
        return min(milliseconds / 1000, self._lifetime) if milliseconds > 0 else self._lifetime

    async def _accepts(self, key: ApplicationKey | None, secret: str) -> bool:
        """Whether ``key`` gets a token for ``secret``. Takes as long for one that is unknown or disabled."""
        matches = await self._matches(secret, key.hashes(time.time()) if key is not None else ())
        return matches and key is not None and not key.disabled

    async def _matches(self, secret: str, hashes: tuple[str, ...]) -> bool:
        if self._waiting >= _MAX_WAITING:
            raise Overloaded("Too many credentials wait to be checked; try again", limit="credentials_waiting")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, secret_matches, secret, hashes)
        finally:
            self._waiting -= 1


def _refusal(key: ApplicationKey | None) -> str:
    """Return why ``key`` gets no token, for the log. It never quotes the caller, who may have sent a secret as ID."""
    if key is None:
        return "There is no key with this ID"
    return f"Key {key.key_id} gets no token: {'it is disabled' if key.disabled else 'another secret'}"
