"""Keep a copy of the stored keyring up to date in each process, and change the stored one safely."""

import asyncio
import time
from contextlib import suppress

import jwt
import structlog

from taskgate.access.keyring import (
    ApplicationKey,
    Change,
    Keyring,
    SigningKey,
    UnknownKeyring,
    decode,
    encode,
    with_signing_key,
)
from taskgate.access.keyrings import KeyringStore, StoredKeyring
from taskgate.access.roles import Principal
from taskgate.access.signing import new_signing_key, public_jwk
from taskgate.base.errors import StoreUnavailable, TaskgateError

POLL_SECONDS = 2.0
"""Seconds between two looks at the store: a disabled key is refused after this time at most, plus that of one read."""

_SOONEST = 0.25
"""Seconds between two looks that refused credentials cause: their key may just have been created or changed."""

_CHANGES = 20
"""Attempts to change a keyring that others change at the same time."""

_FIRST_READ_SECONDS = 5.0
"""Seconds for which a start waits for the first look; then it goes on without keys."""

_NO_KEYRING = "it holds no keyring; a first start of taskgate makes one, and 'taskgate keys create'"

_UNREADABLE = "it holds no keyring that this version of taskgate can read"


async def change_keyring(store: KeyringStore, change: Change, *, create: bool = True) -> Keyring:
    """Replace the stored keyring by ``change`` of it, however many others change it at the same time.

    Returns the keyring that is stored then. Raises SettingsError as ``change`` does, and StoreUnavailable, also
    without ``create`` if there is no keyring.
    """
    for _ in range(_CHANGES):
        stored = await store.read()
        assert stored is not None  # noqa: S101 - no revision was given as known
        if not (stored.revision or create):
            raise StoreUnavailable(_NO_KEYRING, store=store.name)
        before = keyring_of(stored, store)
        after = change(before)
        if after is before or await store.replace(encode(after), revision=stored.revision):
            return after
    raise StoreUnavailable(f"other commands changed it during all {_CHANGES} attempts; try again", store=store.name)


def keyring_of(stored: StoredKeyring, store: KeyringStore) -> Keyring:
    """Return the keyring in ``stored``; an empty one if there is none. Raises StoreUnavailable if it is unreadable."""
    try:
        return decode(stored.document) if stored.revision else Keyring()
    except UnknownKeyring as error:
        raise StoreUnavailable(_UNREADABLE, store=store.name) from error


class LiveKeyring:
    """The keyring as last read. It goes on with what it knows while the store is away.

    ``version`` changes with the keyring. Call ``start`` once and ``close`` once.
    """

    def __init__(self, store: KeyringStore, *, create: bool = True) -> None:
        """With ``create``, make a keyring if the first look that the store answers finds none."""
        self._store = store
        self._create = create
        self._keyring: Keyring | None = None
        self._revision: int | None = None
        self._keys: dict[str, ApplicationKey] = {}
        self._polling: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._looking_again = asyncio.Lock()
        self._read_began = -_SOONEST
        self._away = False
        self._log = structlog.get_logger("taskgate.access")
        self.version = 0
        self.principals: dict[str, Principal] = {}
        """The callers that enabled keys stand for, by key ID."""
        self._verifying: dict[str, tuple[SigningKey, jwt.PyJWK]] = {}

    async def start(self) -> None:
        """Read the keyring, create its first signing key, and follow its changes. Goes on without keys after 5 s."""
        looked = asyncio.Event()
        self._polling = asyncio.create_task(self._poll(looked))
        with suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), _FIRST_READ_SECONDS)

    async def close(self) -> None:
        """Stop following, and close the store."""
        if self._polling is not None:
            self._polling.cancel()
        await self._store.close()

    @property
    def known(self) -> bool:
        """See ``CallerKeys``."""
        return self._keyring is not None

    @property
    def readable(self) -> bool:
        """See ``CallerKeys``."""
        return self.known and not self._away

    @property
    def keyring(self) -> Keyring:
        """The keyring as last read. Raises StoreUnavailable if it has never been read."""
        if self._keyring is None:
            raise StoreUnavailable("the keys cannot be read now", store=self._store.name)
        return self._keyring

    async def key(self, key_id: str) -> ApplicationKey | None:
        """Return the application's key with this ID; look into the store for one that was created just now.

        Raises StoreUnavailable as ``keyring`` does, and for an unknown key while the store is away.
        """
        if key_id not in self._keys:
            await self._look_again()
        _ = self.keyring
        found = self._keys.get(key_id)
        if found is None and self._away:
            raise StoreUnavailable("the keys cannot be read now", store=self._store.name)
        return found

    async def changed_key(self, key: ApplicationKey) -> ApplicationKey | None:
        """Look into the store, and return ``key`` as it is there; None if it has not changed, or is gone."""
        await self._look_again()
        found = self._keys.get(key.key_id)
        return None if found == key else found

    def verifying_key(self, kid: str, now: float) -> jwt.PyJWK | None:
        """Return the public key with this ID, if it verifies tokens at ``now``."""
        found = self._verifying.get(kid)
        return found[1] if found is not None and found[0].verifies(now) else None

    def tokens_from(self, key_id: str) -> int:
        """Return since when tokens of this key are valid, in Unix seconds."""
        key = self._keys.get(key_id)
        return 0 if key is None else key.tokens_from

    def public_keys(self) -> list[dict[str, object]]:
        """Return the JSON Web Keys that verify tokens. Raises StoreUnavailable as ``keyring`` does."""
        now = time.time()
        return [public_jwk(key) for key in self.keyring.signing_keys if key.verifies(now)]

    async def _poll(self, looked: asyncio.Event) -> None:
        while True:
            await self._look()
            looked.set()
            await asyncio.sleep(POLL_SECONDS)

    async def _look_again(self) -> None:
        """Look, so that all changes up to now are known; at most once in ``_SOONEST`` seconds for all callers together.

        Does not look while the store is away, which the poll finds out.
        """
        asked = time.monotonic()
        if self._away:
            return
        async with self._looking_again:
            if self._read_began >= asked:
                return  # another caller has just looked
            await asyncio.sleep(max(0, self._read_began + _SOONEST - asked))
            await self._look()

    async def _look(self) -> None:
        """Read the keyring if it has changed. Raises nothing: it is called again."""
        async with self._reading:
            self._read_began = time.monotonic()
            try:
                await self._read()
            except TaskgateError as error:
                self._note(error.private)
            except Exception:  # noqa: BLE001 - no caller awaits the polling task, which must go on
                self._log.exception("the keys could not be read")
                self._note("an unexpected error")
            else:
                if self._away:
                    self._log.info("the store of the keys answers again", store=self._store.name)
                self._away = False

    async def _read(self) -> None:
        stored = await self._store.read(self._revision)
        if stored is None:
            return
        if stored.revision == 0 and self._keyring is not None:
            self._revision = None  # a new keyring counts its revisions from the start
            raise StoreUnavailable("it no longer holds a keyring", store=self._store.name)
        keyring = keyring_of(stored, self._store)
        if not keyring.signing_keys:
            await self._add_first_signing_key()
            stored = await self._store.read() or stored
            keyring = keyring_of(stored, self._store)  # with its own revision: others may have changed it since
            if not keyring.signing_keys:
                raise StoreUnavailable("it holds no keyring", store=self._store.name)
        self._take(keyring, stored.revision)

    async def _add_first_signing_key(self) -> None:
        kid, pem = new_signing_key()

        def with_first(keyring: Keyring) -> Keyring:
            return keyring if keyring.signing_keys else with_signing_key(keyring, kid, pem, now=int(time.time()))

        create = self._create and self._keyring is None
        keyring = await change_keyring(self._store, with_first, create=create)
        if any(key.kid == kid for key in keyring.signing_keys) and not keyring.keys:
            self._log.warning(
                "a keyring was created, because there was none; tokens of another one are refused",
                store=self._store.name,
            )

    def _take(self, keyring: Keyring, revision: int) -> None:
        self._keyring, self._revision = keyring, revision
        self._keys = {key.key_id: key for key in keyring.keys}
        self.principals = {key.key_id: _principal(key) for key in keyring.keys if not key.disabled}
        self._verifying = {key.kid: (key, jwt.PyJWK(public_jwk(key))) for key in keyring.signing_keys}
        self.version += 1

    def _note(self, reason: str) -> None:
        if not self._away:
            then = "known keys stay valid" if self.known else "calls are refused until it does"
            self._log.warning(f"the store of the keys does not answer; {then}", reason=reason)
        self._away = True


def _principal(key: ApplicationKey) -> Principal:
    types = key.workflow_types
    return Principal(key.name, key.role, None if types is None else frozenset(types))
