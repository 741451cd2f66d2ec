"""Make tokens, valid and hostile ones, without the library that verifies them."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_STRANGER = ec.generate_private_key(ec.SECP256R1())
_RSA_STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def b64(raw: bytes) -> str:
    """Base64 as tokens have it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwk_of(key: Private, kid: str, **members: object) -> dict[str, object]:
    """The public part of ``key`` as a JSON Web Key; a member of None is left out."""
    jwk: dict[str, object]
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        jwk = {"kty": "RSA", "alg": "RS256", "n": _number(public.n), "e": _number(public.e)}
    else:
        point = key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256"}
        jwk |= {"x": b64(point.x.to_bytes(32, "big")), "y": b64(point.y.to_bytes(32, "big"))}
    jwk |= {"kid": kid, "use": "sig"} | members
    return {name: value for name, value in jwk.items() if value is not None}


def _signed(key: Private, content: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    numbers = utils.decode_dss_signature(key.sign(content, ec.ECDSA(hashes.SHA256())))
    return b"".join(number.to_bytes(32, "big") for number in numbers)


@dataclass
class Minter:
    """Makes tokens of one issuer with one key. ``claims`` are those of a valid token beside the times."""

    key: Private
    kid: str
    claims: dict[str, object] = field(default_factory=dict)

    @classmethod
    def new(cls, kid: str = "first", **claims: object) -> "Minter":
        """A minter with a new key for ES256."""
        return cls(ec.generate_private_key(ec.SECP256R1()), kid, claims)

    @property
    def algorithm(self) -> str:
        return "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"

    def header(self, **changes: object) -> dict[str, object]:
        """The header of a valid token with ``changes``."""
        return {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | changes

    def token(
        self, header: Mapping[str, object] | bytes | None = None, key: Private | None = None, **claims: Any
    ) -> str:
        """A token with ``claims`` added to those of a valid one; a claim of ``...`` is left out."""
        now = int(time.time())
        merged = {"iat": now, "exp": now + 600, **self.claims, **claims}
        kept = {name: value for name, value in merged.items() if value is not ...}
        return self.raw(header, json.dumps(kept).encode(), key)

    def raw(self, header: Mapping[str, object] | bytes | None, payload: bytes, key: Private | None = None) -> str:
        """A signed token of these bytes."""
        first = (
            header if isinstance(header, bytes) else json.dumps(self.header() if header is None else header).encode()
        )
        content = f"{b64(first)}.{b64(payload)}"
        return f"{content}.{b64(_signed(key or self.key, content.encode()))}"

    def hmac(self, secret: bytes, **header: object) -> str:
        """A token that an attacker signed with ``secret``."""
        content = self.token({"alg": "HS256", "kid": self.kid} | header).rpartition(".")[0]
        signer = hmac.HMAC(secret, hashes.SHA256())
        signer.update(content.encode())
        return f"{content}.{b64(signer.finalize())}"

    def public(self, encoding: serialization.Encoding = serialization.Encoding.PEM) -> bytes:
        """The public key, as an attacker can have it."""
        return self.key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

    def jwk(self) -> dict[str, object]:
        return jwk_of(self.key, self.kid)


def _without_signature(token: str) -> str:
    return token.rpartition(".")[0] + "."


_NOW = time.time()
_TIMES: dict[str, Any] = {
    "text": str(int(_NOW) + 600),
    "true": True,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "1e300": 1e300,
    "negative": -1,
    "10^18": 10**18,
    "list": [int(_NOW) + 600],
}
"""No times, or absurd ones."""

HOSTILE: dict[str, Callable[[Minter], str]] = {
    # The algorithm.
    "none": lambda m: _without_signature(m.token(m.header(alg="none"))),
    "none, with a signature": lambda m: m.token(m.header(alg="none")),
    "NONE": lambda m: _without_signature(m.token(m.header(alg="NONE"))),
    "no alg": lambda m: m.token({"kid": m.kid}),
    "alg is a list": lambda m: m.token(m.header(alg=["ES256"])),
    "HMAC with the public key in PEM": lambda m: m.hmac(m.public()),
    "HMAC with the public key in DER": lambda m: m.hmac(m.public(serialization.Encoding.DER)),
    "HMAC with the JSON Web Key": lambda m: m.hmac(json.dumps(m.jwk()).encode()),
    "HMAC with nothing": lambda m: m.hmac(b""),
    "another algorithm than the key's": lambda m: m.token(m.header(alg="RS256"), _RSA_STRANGER),
    "ES384 with a key for ES256": lambda m: m.token(m.header(alg="ES384")),
    "critical extension": lambda m: m.token(m.header(crit=["exotic"], exotic=1)),
    # The key.
    "signed by a stranger": lambda m: m.token(key=_STRANGER),
    "brings its own key": lambda m: m.token(m.header(jwk=jwk_of(_STRANGER, m.kid)), _STRANGER),
    "names its own key set": lambda m: m.token(m.header(jku="http://127.0.0.1:9/keys"), _STRANGER),
    "no kid": lambda m: m.token({"alg": m.algorithm}, _STRANGER),
    "unknown kid": lambda m: m.token(m.header(kid="unknown"), _STRANGER),
    "kid is a path": lambda m: m.token(m.header(kid="../../../dev/null"), _STRANGER),
    "kid is a number": lambda m: m.token(m.header(kid=1)),
    "kid is a list": lambda m: m.token(m.header(kid=[m.kid])),
    "kid is an object": lambda m: m.token(m.header(kid={"kid": m.kid})),
    "kid is null": lambda m: m.token(m.header(kid=None), _STRANGER),
    # Times.
    "no exp": lambda m: m.token(exp=...),
    **{f"exp {name}": lambda m, value=value: m.token(exp=value) for name, value in _TIMES.items()},  # type: ignore[misc]
    **{f"nbf {name}": lambda m, value=value: m.token(nbf=value) for name, value in _TIMES.items()},  # type: ignore[misc]
    "iat text": lambda m: m.token(iat=str(int(_NOW))),
    "iat true": lambda m: m.token(iat=True),
    "exp 5000 digits": lambda m: m.raw(None, b'{"exp":1' + b"0" * 5000 + b"}"),
    "exp twice": lambda m: m.raw(None, json.dumps(m.claims).encode()[:-1] + b',"exp":9999999999,"exp":true}'),
    "not yet valid": lambda m: m.token(nbf=time.time() + 500),
    # Other claims.
    "no issuer": lambda m: m.token(iss=...),
    "another issuer": lambda m: m.token(iss="https://elsewhere.example"),
    "issuer in capitals": lambda m: m.token(iss=str(m.claims["iss"]).upper()),
    "a list of issuers": lambda m: m.token(iss=[m.claims["iss"]]),
    "no subject": lambda m: m.token(sub=...),
    "subject is a number": lambda m: m.token(sub=1),
    "subject is a list": lambda m: m.token(sub=[m.claims["sub"]]),
    # The form.
    "16 KB, signed": lambda m: m.token(padding="x" * 12_000),
    "16 KB of letters": lambda _: "x" * 16_384,
    "16 KB of dots": lambda _: "." * 16_384,
    "a word": lambda _: "token",
    "a dot": lambda _: ".",
    "two dots": lambda _: "..",
    "four dots": lambda m: m.token() + ".x.y",
    "a dot before": lambda m: "." + m.token(),
    "a dot behind": lambda m: m.token() + ".",
    "duplicate dots": lambda m: m.token().replace(".", ".."),
    "two parts": lambda m: m.token().rpartition(".")[0],
    "no signature": lambda m: _without_signature(m.token()),
    "half a signature": lambda m: m.token()[:-40],
    "header is no base64": lambda m: "!!!." + m.token().partition(".")[2],
    "header is no JSON": lambda m: m.raw(b"{alg: ES256}", b"{}"),
    "header is no UTF-8": lambda m: m.raw(b'{"alg":"\xff"}', b"{}"),
    "header is a list": lambda m: m.raw(b"[]", b"{}"),
    "header is a number": lambda m: m.raw(b"1", b"{}"),
    "header nested 2000 deep": lambda m: m.raw(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", b"{}"),
    "claims are no JSON": lambda m: m.raw(None, b"exp=1"),
    "claims are a list": lambda m: m.raw(None, b"[]"),
    "claims are null": lambda m: m.raw(None, b"null"),
    "claims nested 2000 deep": lambda m: m.raw(None, b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
}
"""Tokens that are refused as invalid, by what is wrong with them. A minter's claims hold ``iss`` and ``sub``."""

WRONG_AUDIENCE: dict[str, Callable[[Minter], str]] = {
    "no audience": lambda m: m.token(aud=...),
    "another audience": lambda m: m.token(aud="elsewhere"),
    "other audiences": lambda m: m.token(aud=["elsewhere", "there"]),
    "no audiences": lambda m: m.token(aud=[]),
    "audience is a number": lambda m: m.token(aud=1),
    "audience is an object": lambda m: m.token(aud={str(m.claims["aud"]): True}),
}
"""The same where an audience is asked for: the minter's claims hold ``aud``."""

EXPIRED: dict[str, Callable[[Minter], str]] = {
    "an hour ago": lambda m: m.token(exp=int(time.time()) - 3600),
    "long ago": lambda m: m.token(exp=1),
    "a fraction": lambda m: m.token(exp=time.time() - 3600.5),
}
"""Tokens that were valid."""
