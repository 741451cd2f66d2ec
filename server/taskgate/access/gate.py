"""Define the gate, which refuses calls without a valid token, and choose it by ``--auth``."""

from collections.abc import Mapping
from typing import Protocol

from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings
from taskgate.service.calls import Handler
from taskgate.service.readiness import CallerKeys
from taskgate.v1.token_service_pb2 import DESCRIPTOR

TOKEN_SERVICE = DESCRIPTOR.services_by_name["TokenService"].full_name

CREATE_TOKEN = f"/{TOKEN_SERVICE}/CreateToken"
"""The gRPC path behind ``POST /api/token``."""


TOKEN_ISSUER = "taskgate"  # noqa: S105 - a name
"""The claim ``iss`` of the tokens that ``CreateToken`` gives."""

JWT_LEEWAY = 60
"""Seconds by which the clocks of this machine and of an identity provider may differ; also Envoy's default."""


_REFRESH_FOR_ENVOY = 10.0
"""Seconds between two looks at the provider's URL by the process that serves Envoy, one for each node."""


class Gate(Protocol):
    """Who may call, decided before an endpoint runs."""

    @property
    def endpoints(self) -> Mapping[str, Handler]:
        """Further endpoints, by gRPC path, for callers without a token."""
        ...

    @property
    def keys(self) -> CallerKeys:
        """The keys that verify callers' tokens."""
        ...

    async def start(self) -> None:
        """Get ready. Until the keys have been read, calls are refused as retryable."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    def layer(self, handler: Handler) -> Handler:
        """Return ``handler`` for callers with a valid token.

        For others it raises TokenInvalid, TokenExpired, PermissionDenied or StoreUnavailable.
        """
        ...


def check_access(settings: Settings) -> None:
    """Check the settings of the gate without connecting to anything. Raises SettingsError."""
    if settings.auth == "keys":
        from taskgate.access.keyrings import open_keyring  # noqa: PLC0415 - as in ``open_gate``

        check_auth_store(settings)
        open_keyring(settings.auth_store)
    elif settings.auth == "jwt":
        from taskgate.access.provider_keys import check_location  # noqa: PLC0415 - same

        check_location(settings.jwks)


def check_auth_store(settings: Settings) -> None:
    """Raise SettingsError if the keys are to be where the tasks are. It compares the URLs as they are written."""
    if settings.auth_store == settings.store:
        raise SettingsError("auth_store: keys are kept apart from the tasks; name another database than store does")


class PublicKeys(Protocol):
    """The keys that verify tokens, kept up to date."""

    async def start(self) -> None:
        """Read them, and follow their changes. Goes on without them after 5 s."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    def public_keys(self) -> list[dict[str, object]]:
        """Return them as JSON Web Keys. Raises StoreUnavailable if they have never been read."""
        ...


def open_public_keys(settings: Settings) -> PublicKeys | None:
    """Return the keys for ``settings``; None if everyone may read. Raises SettingsError as ``open_gate`` does."""
    if settings.auth == "keys":
        from taskgate.access.keyrings import open_keyring  # noqa: PLC0415 - as in ``open_gate``
        from taskgate.access.live_keyring import LiveKeyring  # noqa: PLC0415 - same

        return LiveKeyring(open_keyring(settings.auth_store))
    if settings.auth == "jwt":
        from taskgate.access.provider_keys import ProviderKeys  # noqa: PLC0415 - same

        # Envoy refuses tokens of a key that it does not know, so that no server sees them, and looks for the key.
        return ProviderKeys(settings.jwks, refresh_seconds=_REFRESH_FOR_ENVOY)
    return None


def open_gate(settings: Settings, *, replacement: bool = False) -> Gate | None:
    """Return the gate for ``settings``; None if everyone may read.

    ``replacement`` says that this process comes after another one. It then creates no keyring: one that it does not
    find is away, and a new one would end all tokens. Raises SettingsError if a setting of the gate cannot be used.
    """
    if settings.auth == "keys":
        from taskgate.access.keys_gate import KeysGate  # noqa: PLC0415 - 20 MB that an open service does not need

        return KeysGate(settings, replacement=replacement)
    if settings.auth == "jwt":
        from taskgate.access.jwt_gate import JwtGate  # noqa: PLC0415 - same

        return JwtGate(settings)
    return None
