"""Keys of applications and their signing key, made and read past the command line, which takes a second for each."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.tokens import Minter
from taskgate.access.hashing import hash_secret
from taskgate.access.keyring import ApplicationKey, Change, Keyring, new_key_id, new_secret, with_key
from taskgate.access.keyrings import open_keyring
from taskgate.access.live_keyring import change_keyring, keyring_of
from taskgate.access.roles import Role


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an application has."""

    name: str
    key_id: str
    secret: str

    @property
    def request(self) -> dict[str, str]:
        """The body of ``POST /api/token``."""
        return {"keyId": self.key_id, "keySecret": self.secret}


def change(url: str, *changes: Change) -> Keyring:
    """Apply the changes to the keyring at ``url``; return it."""

    async def apply() -> Keyring:
        store = open_keyring(url)
        try:
            for each in changes:
                await change_keyring(store, each)
            stored = await store.read()
            assert stored is not None
            return keyring_of(stored, store)
        finally:
            await store.close()

    return asyncio.run(apply())


def create_keys(url: str, **keys: tuple[Role, tuple[str, ...] | None]) -> dict[str, Credentials]:
    """Create a key for each name, with its role and workflow types."""
    made = {name: Credentials(name, new_key_id(), new_secret()) for name in keys}

    def adding(new: Credentials) -> Change:
        role, types = keys[new.name]
        key = ApplicationKey(new.key_id, new.name, role, hash_secret(new.secret), int(time.time()), types)
        return lambda keyring: with_key(keyring, key)

    change(url, *map(adding, made.values()))
    return made


def minter_of(url: str, subject: str) -> Minter:
    """Mints tokens with the newest signing key of the keyring at ``url``, as CreateToken does for ``subject``."""
    signing = change(url).signing_keys[-1]
    key: Any = load_pem_private_key(signing.private_pem.encode(), None)
    return Minter(key, signing.kid, {"iss": "taskgate", "sub": subject})
