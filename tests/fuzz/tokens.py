"""Tokens, the key sets of identity providers, and stored keyrings."""

import base64
import json
import time
from functools import cache

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from fuzz.grpc_framing import loop
from fuzz.target import JSON_WORDS, Choices, Target
from taskgate.access.credentials import token_in
from taskgate.access.jwt_gate import ProviderTokens
from taskgate.access.keyring import (
    ApplicationKey,
    Keyring,
    SigningKey,
    UnknownKeyring,
    decode,
    encode,
    with_signing_key,
)
from taskgate.access.provider_keys import ProviderKeys
from taskgate.access.roles import Role
from taskgate.access.signing import ALGORITHM, ASYMMETRIC, header_of, new_signing_key, public_jwk, sign, verify
from taskgate.access.tokens import Tokens
from taskgate.base.errors import TaskgateError, TokenExpired, TokenInvalid
from taskgate.base.settings import Settings

_NOW = 1_800_000_000.0
_ISSUER, _AUDIENCE, _KID = "https://idp.example.org/", "taskgate", "k"


@cache
def _key() -> tuple[SigningKey, jwt.PyJWK, ec.EllipticCurvePrivateKey]:
    _, pem = new_signing_key()
    key = SigningKey(_KID, pem, 0)
    private = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return key, jwt.PyJWK(public_jwk(key)), private


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def _signed(header: bytes, claims: bytes) -> str:
    """A token of any parts, with a signature that is right."""
    text = b".".join(map(_encoded, (header, claims)))
    r, s = utils.decode_dss_signature(_key()[2].sign(text, ec.ECDSA(hashes.SHA256())))
    return b".".join((text, _encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big")))).decode()


@cache
def _provider() -> ProviderTokens:
    keys = ProviderKeys("unread.json")
    keys._take(json.dumps({"keys": [public_jwk(_key()[0])]}).encode())
    keys._read_at = float("inf")  # it knows all keys
    return ProviderTokens(
        keys,
        Settings(
            auth="jwt", jwks="unread.json", jwt_issuer=_ISSUER, jwt_audience=_AUDIENCE, jwt_role_claim="realm.roles"
        ),
    )


def _refusal(refused: TaskgateError) -> None:
    assert isinstance(refused, TokenInvalid | TokenExpired), refused
    assert refused.message.isprintable()
    assert len(refused.private) < 300


def verify_any(data: bytes) -> None:
    """A token that our key has not signed is refused; one that it has signed needs claims of the right types."""
    choices = Choices(data)
    is_signed, split_at = choices.number(2), choices.number(256)
    rest = choices.rest()
    if is_signed:
        header = b'{"alg":"ES256","kid":"k"}' if split_at == 0 else rest[:split_at]
        token = _signed(header, rest if split_at == 0 else rest[split_at:])
    else:
        token = token_in(None, "Bearer " + rest.decode("latin-1"))
        assert token_in(rest.decode("latin-1"), "Basic a") == rest.decode("latin-1")
    try:
        assert isinstance(header_of(token), dict)
        found = verify(token, _key()[1], algorithms=(ALGORITHM,), now=_NOW)
    except TaskgateError as refused:
        _refusal(refused)
    else:
        assert is_signed
        assert isinstance(found.claims["sub"], str)
        assert _NOW < found.expires < 2**41
    try:
        known = loop().run_until_complete(_provider().verify(token, _NOW))
    except TaskgateError as refused:
        _refusal(refused)
    else:
        assert is_signed
        assert known.principal is not None
        assert known.principal.role in {None, *Role}
        assert len(known.principal.name) <= 128
    try:
        loop().run_until_complete(Tokens(_provider()).principal(token))
    except TaskgateError as refused:
        _refusal(refused)


def take_keys(data: bytes) -> None:
    """A key set is refused as a whole, or gives keys that verify tokens: public ones of allowed algorithms."""
    keys = ProviderKeys("unread.json")
    try:
        keys._take(data)
    except ValueError as refused:
        assert len(str(refused)) < 300
        return
    assert keys._keys
    assert keys.public_keys()
    for key in keys._keys.values():
        assert key.algorithm_name in ASYMMETRIC
    for public in keys.public_keys():
        assert not {"d", "k", "p", "q"} & set(public)
    json.dumps(keys.public_keys()).encode()


def decode_any(data: bytes) -> None:
    """A stored keyring is refused, or is what it encodes to, and can be asked for its keys."""
    try:
        keyring = decode(data)
    except UnknownKeyring:
        return
    assert decode(encode(keyring)) == keyring
    keyring.signing_key(_NOW)
    for key in keyring.keys:
        assert key.secret_hash in key.hashes(_NOW)


def _claims(**changes: object) -> bytes:
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "s", "exp": int(_NOW) + 60, "realm": {"roles": ["reader"]}}
    return json.dumps(claims | changes).encode()


def _jwks() -> bytes:
    private = rsa.generate_private_key(65537, 2048)
    second = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key())) | {"kid": "r", "alg": "RS256"}
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "o"}
    return json.dumps({"keys": [public_jwk(_key()[0]), second, okp, {"kty": "oct", "k": "AA", "kid": "s"}]}).encode()


def _keyring() -> bytes:
    application = ApplicationKey("id", "name", Role.READER, "hash", 1, ("a",), former_hash="h", former_until=5)
    return encode(with_signing_key(Keyring((application,)), "kid", "pem", now=int(time.time())))


_NAMES = ("alg", "kid", "typ", "crit", "b64", "iss", "aud", "sub", "exp", "nbf", "iat", "jti", "realm", "roles")
_WORDS = (
    *(*JSON_WORDS, b".", b"=", b"-", b"_", b'"none"', b'"HS256"', b'"ES256"', b'"EdDSA"', b'"reader"', b"1800000060"),
    *(f'"{name}":'.encode() for name in _NAMES),
)
_JWK_NAMES = ("keys", "kty", "use", "alg", "kid", "crv", "x", "y", "n", "e", "d", "k", "key_ops")
_JWK_WORDS = (
    *(*JSON_WORDS, b'"EC"', b'"RSA"', b'"OKP"', b'"oct"', b'"P-256"', b'"secp256k1"', b'"Ed448"', b'"AQAB"', b'"AA"'),
    *(f'"{name}":'.encode() for name in _JWK_NAMES),
)
_KEYRING_WORDS = (
    *(*JSON_WORDS, b'"reader"', b'"unmasked-reader"', b'"format":2'),
    *(f'"{name}":'.encode() for kind in (ApplicationKey, SigningKey, Keyring) for name in kind.__struct_fields__),
)

TARGETS = (
    Target(
        "token",
        verify_any,
        [
            *(b"\1\0" + _claims(), b"\1\0" + _claims(exp=1e400), b"\1\0" + _claims(nbf="1", sub=1, aud=[1])),
            *(
                b"\0\0"
                + sign(SigningKey(_KID, new_signing_key()[1], 0), subject="s", issued=_NOW, expires=_NOW + 60).encode(),
                b"\0\0e30.e30.",
                b"\0\0",
            ),
            b"\1\x19" + b'{"alg":"ES256","kid":"k"}' + _claims(realm=[]),
            b"\1\x1a" + b'{"alg":"none" ,"kid":"kk"}' + _claims(),
        ],
        _WORDS,
        16_384,
    ),
    Target("key_set", take_keys, [_jwks(), b'{"keys":[]}', b"[]"], _JWK_WORDS),
    Target("keyring", decode_any, [_keyring(), encode(Keyring()), b"{}"], _KEYRING_WORDS),
)
