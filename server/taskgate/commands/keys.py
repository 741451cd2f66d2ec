"""``taskgate keys``: manage the keys with which applications get tokens."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from taskgate.access import keyring as keyrings
from taskgate.access.gate import check_auth_store
from taskgate.access.hashing import hash_secret
from taskgate.access.keyring import ApplicationKey, Keyring
from taskgate.access.keyrings import KeyringStore, open_keyring
from taskgate.access.live_keyring import change_keyring, keyring_of
from taskgate.access.roles import Role
from taskgate.access.signing import new_signing_key
from taskgate.base.printable import printable
from taskgate.base.settings import Settings

_KNOWN_EVERYWHERE = 5
"""Seconds until each server process knows of a change: until then, some give tokens for the former secret."""

_SHOWN_ONCE = "The secret is shown only now; taskgate stores its hash."


def run_create(settings: Settings, name: str, *, role: Role, workflow_types: Sequence[str], as_json: bool) -> None:
    """Create a key and print it. Raises SettingsError if the name is taken or unusable, and StoreUnavailable."""
    secret = keyrings.new_secret()
    key = ApplicationKey(
        key_id=keyrings.new_key_id(),
        name=keyrings.check_name(name),
        role=role,
        secret_hash=hash_secret(secret),
        created=_now(),
        workflow_types=keyrings.check_workflow_types(workflow_types),
    )
    _change(settings, lambda keyring: keyrings.with_key(keyring, key))
    _show_secret(key.key_id, secret, as_json=as_json)


def run_list(settings: Settings, *, as_json: bool) -> None:
    """Print all keys, without anything secret. Raises StoreUnavailable."""

    async def read(store: KeyringStore) -> Keyring:
        stored = await store.read()
        assert stored is not None  # noqa: S101 - no revision was given as known
        return keyring_of(stored, store)

    keys = _with_store(settings, read).keys
    if as_json:
        click.echo(json.dumps([_public(key) for key in keys], indent=2))
    elif not keys:
        click.echo("There are no keys yet; 'taskgate keys create NAME' makes one.")
    else:
        click.echo("\n".join(map(_line, keys)))


def run_set_disabled(settings: Settings, name: str, *, disabled: bool) -> None:
    """Disable a key, or enable it again. Raises SettingsError if there is none of this name or ID."""
    _change(settings, lambda keyring: keyrings.with_changed_key(keyring, name, disabled=disabled))
    click.echo(f"{name} is {'disabled: its tokens are refused within 5 s' if disabled else 'enabled'}.")


def run_rotate(settings: Settings, name: str, *, keep: int, as_json: bool) -> None:
    """Give a key a new secret and print it; the former one stays valid for ``keep`` seconds.

    With 0, all tokens that were issued for it are refused, too, also those of processes that do not know of it yet.
    """
    secret = keyrings.new_secret()
    new_hash = hash_secret(secret)

    def rotate(keyring: Keyring) -> Keyring:
        former = keyrings.find_key(keyring, name).secret_hash
        kept: dict[str, Any] = (
            {"former_hash": former, "former_until": _now() + keep}
            if keep
            else {"former_hash": None, "tokens_from": _now() + _KNOWN_EVERYWHERE}
        )
        return keyrings.with_changed_key(keyring, name, secret_hash=new_hash, **kept)

    key = keyrings.find_key(_change(settings, rotate), name)
    _show_secret(key.key_id, secret, as_json=as_json)


def run_rotate_signing(settings: Settings, *, drop_former: bool) -> None:
    """Add a signing key. With ``drop_former``, refuse at once all tokens of the earlier ones."""
    kid, pem = new_signing_key()

    def rotate(keyring: Keyring) -> Keyring:
        kept = Keyring(keyring.keys) if drop_former else keyring
        return keyrings.with_signing_key(kept, kid, pem, now=_now())

    _change(settings, rotate)
    if drop_former:
        click.echo(f"Signing key {kid} signs now; tokens of earlier keys are refused within 5 s.")
    else:
        delay = keyrings.SIGNING_KEY_DELAY
        click.echo(f"Signing key {kid} signs from {delay} s on; earlier keys verify until their tokens have expired.")


def _change(settings: Settings, change: Callable[[Keyring], Keyring]) -> Keyring:
    changed: Keyring = _with_store(settings, lambda store: change_keyring(store, change))
    return changed


def _with_store(settings: Settings, operation: Callable[[KeyringStore], Any]) -> Any:
    check_auth_store(settings)

    async def run() -> Any:
        store = open_keyring(settings.auth_store)
        try:
            return await operation(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _show_secret(key_id: str, secret: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"keyId": key_id, "keySecret": secret}))
    else:
        click.echo(f"key ID      {key_id}\nkey secret  {secret}")
        click.echo(_SHOWN_ONCE, err=True)


def _public(key: ApplicationKey) -> dict[str, object]:
    return {
        "keyId": key.key_id,
        "name": key.name,
        "role": key.role.value,
        "workflowTypes": None if key.workflow_types is None else list(key.workflow_types),
        "disabled": key.disabled,
        "created": _time(key.created),
    }


def _line(key: ApplicationKey) -> str:
    types = "all workflow types" if key.workflow_types is None else ", ".join(key.workflow_types)
    state = "disabled" if key.disabled else "enabled"
    return printable(f"{key.key_id}  {key.name}  {state}  {key.role.value}  {types}  created {_time(key.created)}")


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _now() -> int:
    return int(time.time())
