"""Sign tokens, and verify their signatures and claims. RFC 7519; the algorithms are pinned.

The tokens of our own keys are signed with ES256 (ECDSA on P-256): Envoy, which verifies them too, knows it, and a token
is short.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from taskgate.access.gate import TOKEN_ISSUER
from taskgate.access.keyring import SigningKey
from taskgate.base.errors import TOKEN_INVALID, TOKEN_MISSING, TokenExpired, TokenInvalid

ALGORITHM = "ES256"

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What tokens of an identity provider may be signed with: a public key verifies them. Never ``none``, and never HMAC,
whose secret would be that public key."""

MAX_TOKEN = 8 * 1024
"""Characters of a token; longer ones are refused before they are parsed."""

_FAR_FUTURE = 1 << 40
"""Unix seconds that no real token holds, about the year 36,800."""


def invalid(private: str) -> TokenInvalid:
    """Return the error for a token that is refused; ``private`` says why, for the log."""
    return TokenInvalid(TOKEN_INVALID, private=f"{TOKEN_INVALID}: {private}")


@dataclass(frozen=True, slots=True)
class Verified:
    """The claims of a token whose signature and times have been checked, and the key that verified it."""

    claims: Mapping[str, Any]
    kid: str
    expires: float


def new_signing_key() -> tuple[str, str]:
    """Return the ID and the PEM text of a new private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:16], pem


def public_jwk(key: SigningKey) -> dict[str, Any]:
    """Return the public part of ``key`` as a JSON Web Key (RFC 7517)."""
    private: Any = serialization.load_pem_private_key(key.private_pem.encode(), None)
    jwk: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
    return {**jwk, "kid": key.kid, "alg": ALGORITHM, "use": "sig"}


def sign(key: SigningKey, *, subject: str, issued: float, expires: float) -> str:
    """Return a token of ``key`` for ``subject``."""
    claims = {"iss": TOKEN_ISSUER, "sub": subject, "iat": int(issued), "exp": math.ceil(expires)}
    return jwt.encode(claims, key.private_pem, ALGORITHM, {"kid": key.kid})


def header_of(token: str) -> Mapping[str, Any]:
    """Return the header of ``token``, which is not verified. Raises TokenInvalid."""
    if not token:
        raise TokenInvalid(TOKEN_MISSING)
    if len(token) > MAX_TOKEN:
        raise invalid(f"it is longer than {MAX_TOKEN} characters")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise invalid("it is not a JSON Web Token") from error


def verify(
    token: str,
    key: jwt.PyJWK,
    *,
    algorithms: tuple[str, ...],
    now: float,
    issuer: str = "",
    audience: str = "",
    leeway: float = 0,
) -> Verified:
    """Check signature, issuer, audience and times of ``token``.

    ``issuer`` and ``audience`` are not checked if they are empty; ``leeway`` are seconds by which clocks may differ.
    Raises TokenExpired or TokenInvalid.
    """
    header = header_of(token)
    if header.get("alg") not in algorithms or header["alg"] != key.algorithm_name:
        raise invalid("it is not signed with an algorithm that is allowed for its key")
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=issuer or None,
            audience=audience or None,
            options={
                "require": ["exp", "sub"] + ["iss"] * bool(issuer) + ["aud"] * bool(audience),
                "verify_aud": bool(audience),
                # Times are checked below: PyJWT reads the clock itself, and takes texts for numbers.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise invalid(_reason(error)) from error
    expires = _check_times(claims, now, leeway)
    return Verified(claims, str(header.get("kid", "")), expires)


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """Return when a token expires. Raises TokenExpired or TokenInvalid."""
    expires = _time(claims, "exp")
    if "iat" in claims:
        _time(claims, "iat")
    if now >= expires + leeway:
        raise TokenExpired
    if "nbf" in claims and now < _time(claims, "nbf") - leeway:
        raise invalid("it is not valid yet; do the clocks differ?")
    return expires + leeway


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR_FUTURE:
        raise invalid(f"its claim {name} is not a time")
    return float(value)


def _reason(error: Exception) -> str:
    """Return a clause for the log; it quotes no claim."""
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (jwt.MissingRequiredClaimError, "it lacks a claim that is needed: exp, sub, or iss and aud where they are set"),
        (jwt.InvalidIssuerError, "its issuer is another one"),
        (jwt.InvalidAudienceError, "it is for another audience"),
        (jwt.InvalidSignatureError, "its signature does not match"),
        (jwt.InvalidKeyError, "its key does not fit its algorithm"),
    )
    return next((text for kind, text in reasons if isinstance(error, kind)), "it cannot be read")
