"""The gate of ``--auth keys``: callers exchange keys of our own for tokens."""

from taskgate.access.create_token import CreateToken
from taskgate.access.gate import CREATE_TOKEN
from taskgate.access.keyrings import open_keyring
from taskgate.access.live_keyring import LiveKeyring
from taskgate.access.tokens import OwnTokens, Tokens, refused_tokens, require_token
from taskgate.base.settings import Settings
from taskgate.service.calls import Handler


class KeysGate:
    """See ``Gate``."""

    def __init__(self, settings: Settings, *, replacement: bool) -> None:
        """Open nothing yet. ``replacement`` is as in ``open_gate``.

        Raises SettingsError if the URL of the store cannot be used.
        """
        self.keys = LiveKeyring(open_keyring(settings.auth_store), create=not replacement)
        self._create_token = CreateToken(self.keys, lifetime=settings.token_lifetime)
        self._tokens = Tokens(OwnTokens(self.keys))
        self._attempts = refused_tokens()
        self.endpoints: dict[str, Handler] = {CREATE_TOKEN: self._create_token}

    async def start(self) -> None:
        """See ``Gate``."""
        await self.keys.start()

    async def close(self) -> None:
        """See ``Gate``."""
        await self._create_token.close()
        await self.keys.close()

    def layer(self, handler: Handler) -> Handler:
        """See ``Gate``."""
        return require_token(self._tokens, self._attempts, handler)
