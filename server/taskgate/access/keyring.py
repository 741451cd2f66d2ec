"""The keyring: all keys of applications and all signing keys, as one value that is replaced as a whole.

A keyring is stored as one JSON document with a revision number. Each change compares the revision and replaces the
document in one step (``keyrings.base``), so an interrupted command leaves either the old keyring or the new one.
The functions here are pure: they take the time and return a new keyring.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from taskgate.access.roles import Role
from taskgate.base.errors import SettingsError

MAX_KEYS = 10_000
"""Keys in one keyring; each process holds all of them in memory."""

MAX_NAME = 128

SIGNING_KEY_DELAY = 15
"""Seconds from the creation of a further signing key until tokens are signed with it: until then every process that
shares the keyring has read it. Processes look for changes every two seconds."""


MAX_TOKEN_LIFETIME = 30 * 86400
"""The longest time for which a token is valid, in seconds."""


class ApplicationKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """The credentials and rights of one application. Times are Unix seconds."""

    key_id: str
    name: str
    role: Role
    secret_hash: str
    created: int
    workflow_types: tuple[str, ...] | None = None
    disabled: bool = False
    former_hash: str | None = None
    """The hash of the secret before the last rotation, valid until ``former_until``."""
    former_until: int = 0
    tokens_from: int = 0
    """Tokens that were issued before this time are refused: the secret that they were issued for had become known."""

    def hashes(self, now: float) -> tuple[str, ...]:
        """Return the hashes of the secrets that are valid at ``now``, the newest first."""
        if self.former_hash is not None and now < self.former_until:
            return self.secret_hash, self.former_hash
        return (self.secret_hash,)


class SigningKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key pair that signs tokens from ``sign_from`` on, and verifies them until ``verify_until``."""

    kid: str
    private_pem: str
    sign_from: int
    verify_until: int | None = None

    def verifies(self, now: float) -> bool:
        """Whether tokens of this key may still be valid at ``now``."""
        return self.verify_until is None or now < self.verify_until


class Keyring(msgspec.Struct, frozen=True):
    """All keys. The newest signing key is the last one."""

    keys: tuple[ApplicationKey, ...] = ()
    signing_keys: tuple[SigningKey, ...] = ()
    format: int = 1
    """A later taskgate that changes what is stored counts this up, so that an older one refuses it."""

    def signing_key(self, now: float) -> SigningKey | None:
        """Return the key that signs tokens at ``now``; None if there is none at all.

        A clock that is behind must not stop the service: before its time, the oldest key signs.
        """
        started = [key for key in self.signing_keys if key.sign_from <= now]
        candidates = started[-1:] or self.signing_keys[:1]
        return candidates[0] if candidates else None


Change = Callable[[Keyring], Keyring]
"""A change of the keyring. Raises SettingsError if it does not apply."""


class UnknownKeyring(Exception):
    """The stored document is no keyring that this version can read."""


def encode(keyring: Keyring) -> bytes:
    """Return the document to store."""
    return msgspec.json.encode(keyring)


def decode(document: bytes) -> Keyring:
    """Parse a stored document. Raises UnknownKeyring."""
    try:
        keyring = msgspec.json.decode(document, type=Keyring)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownKeyring from error
    if keyring.format != 1:
        raise UnknownKeyring
    return keyring


def new_key_id() -> str:
    """Return a new ID for an application's key: 12 random bytes in hexadecimal."""
    return secrets.token_hex(12)


def new_secret() -> str:
    """Return a new secret: 32 random bytes, in 43 characters that need no quoting in a shell or in JSON."""
    return secrets.token_urlsafe(32)


def with_key(keyring: Keyring, key: ApplicationKey) -> Keyring:
    """Add ``key``. Raises SettingsError if its name is taken, also as the ID of a key, or the keyring is full."""
    if any(key.name in {known.name, known.key_id} for known in keyring.keys):
        raise SettingsError(f"keys: there is already a key named {key.name}; rotate it, or choose another name")
    if len(keyring.keys) >= MAX_KEYS:
        raise SettingsError(f"keys: the store holds {MAX_KEYS} keys, and cannot hold more")
    return _replaced(keyring, keys=(*keyring.keys, key))


def with_changed_key(keyring: Keyring, name: str, **changes: Any) -> Keyring:
    """Change fields of the key with this name or ID. Raises SettingsError if there is none."""
    found = find_key(keyring, name)
    changed = msgspec.structs.replace(found, **changes)
    return _replaced(keyring, keys=tuple(changed if key is found else key for key in keyring.keys))


def find_key(keyring: Keyring, name: str) -> ApplicationKey:
    """Return the key with this name or ID. Raises SettingsError if there is none."""
    for key in keyring.keys:
        if name in {key.name, key.key_id}:
            return key
    raise SettingsError(f"keys: there is no key named {name}; 'taskgate keys list' shows all")


def with_signing_key(keyring: Keyring, kid: str, private_pem: str, *, now: int) -> Keyring:
    """Add a signing key, and let the earlier ones verify for as long as a token of theirs may be valid.

    The first one signs at once; a further one after ``SIGNING_KEY_DELAY``. Expired keys are removed.
    """
    sign_from = now + SIGNING_KEY_DELAY if keyring.signing_keys else now
    until = sign_from + MAX_TOKEN_LIFETIME
    kept = [
        msgspec.structs.replace(key, verify_until=until) if key.verify_until is None else key
        for key in keyring.signing_keys
        if key.verifies(now)
    ]
    return _replaced(keyring, signing_keys=(*kept, SigningKey(kid, private_pem, sign_from)))


def check_name(name: str) -> str:
    """Return ``name``. Raises SettingsError unless it is 1 to 128 printable characters."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise SettingsError(f"keys: a name has 1 to {MAX_NAME} printable characters, and no space at its ends")
    return name


def check_workflow_types(types: Sequence[str]) -> tuple[str, ...] | None:
    """Return ``types`` as a key holds them: None for all. Raises SettingsError for an empty one."""
    if any(not name.strip() for name in types):
        raise SettingsError("keys: --workflow-type needs the name of a workflow type")
    return tuple(dict.fromkeys(types)) or None


def _replaced(keyring: Keyring, **changes: Any) -> Keyring:
    return msgspec.structs.replace(keyring, **changes)
