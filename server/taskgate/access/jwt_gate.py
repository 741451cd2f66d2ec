"""The gate of ``--auth jwt``: callers have tokens of an identity provider."""

from collections.abc import Mapping
from typing import Any

from taskgate.access.gate import JWT_LEEWAY
from taskgate.access.provider_keys import ProviderKeys
from taskgate.access.roles import Principal, Role
from taskgate.access.signing import ASYMMETRIC, header_of, invalid, verify
from taskgate.access.tokens import KnownToken, Tokens, refused_tokens, require_token
from taskgate.base.settings import Settings
from taskgate.service.calls import Handler

_NAMED = 128


class JwtGate:
    """See ``Gate``."""

    def __init__(self, settings: Settings) -> None:
        """Fetch nothing yet. Raises SettingsError if a setting cannot be used."""
        self.keys = ProviderKeys(settings.jwks)
        self._tokens = Tokens(ProviderTokens(self.keys, settings))
        self._attempts = refused_tokens()
        self.endpoints: dict[str, Handler] = {}

    async def start(self) -> None:
        """See ``Gate``."""
        await self.keys.start()

    async def close(self) -> None:
        """See ``Gate``."""
        await self.keys.close()

    def layer(self, handler: Handler) -> Handler:
        """See ``Gate``."""
        return require_token(self._tokens, self._attempts, handler)


class ProviderTokens:
    """See ``TokenVerifier``."""

    def __init__(self, keys: ProviderKeys, settings: Settings) -> None:
        self._keys = keys
        self._issuer, self._audience = settings.jwt_issuer, settings.jwt_audience
        self._claim = settings.jwt_role_claim
        self._roles = settings.jwt_roles

    @property
    def version(self) -> int:
        """See ``TokenVerifier``."""
        return self._keys.version

    async def verify(self, token: str, now: float) -> KnownToken:
        """See ``TokenVerifier``."""
        kid = header_of(token).get("kid")
        key = await self._keys.key(kid) if isinstance(kid, str) else None
        if key is None:
            raise invalid("the identity provider has no key with its key ID")
        version = self._keys.version
        verified = verify(
            token,
            key,
            algorithms=ASYMMETRIC,
            now=now,
            issuer=self._issuer,
            audience=self._audience,
            leeway=JWT_LEEWAY,
        )
        subject = str(verified.claims["sub"])[:_NAMED]
        return KnownToken(Principal(subject, self._role(verified.claims)), verified.expires, version)

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        """Return the widest role that the token's claim gives; ``reader`` where no claim is configured."""
        if not self._claim:
            return Role.READER
        granted = {self._roles[value] for value in _values(claims, self._claim) if value in self._roles}
        if Role.UNMASKED_READER.value in granted:
            return Role.UNMASKED_READER
        return Role.READER if granted else None


def _values(claims: Mapping[str, Any], path: str) -> list[str]:
    """Return the texts at ``path``, whose steps are separated by dots: one text, words in one text, or a list."""
    found: Any = claims
    if path not in claims:  # a name may have dots itself: https://example.org/roles
        for step in path.split("."):
            found = found.get(step) if isinstance(found, dict) else None
    else:
        found = claims[path]
    if isinstance(found, str):
        return found.split()  # as the claim "scope" (RFC 8693, section 4.2)
    return [value for value in found if isinstance(value, str)] if isinstance(found, list) else []
