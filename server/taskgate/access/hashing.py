"""Hash the secrets of keys, and compare them in constant time, with Argon2id (RFC 9106)."""

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

# The least that OWASP's Password Storage Cheat Sheet recommends: 19 MiB and 2 passes, about 15 ms. The secrets are
# random, so a slower hash would only make it cheaper to keep the server busy.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

MAX_SECRET = 1024
"""Bytes of a secret; longer ones are refused without hashing."""

_OF_NO_KEY = _HASHER.hash("the secret of no key")


def hash_secret(secret: str) -> str:
    """Return the hash to store, with its salt and parameters in it."""
    return _HASHER.hash(secret)


def secret_matches(secret: str, hashes: tuple[str, ...]) -> bool:
    """Whether ``secret`` belongs to one of ``hashes``. Takes as long for no hashes as for one."""
    if len(secret.encode(errors="surrogatepass")) > MAX_SECRET:
        return False
    matches = [_matches(secret, stored) for stored in hashes or (_OF_NO_KEY,)]
    return bool(hashes) and any(matches)


def _matches(secret: str, stored: str) -> bool:
    try:
        return _HASHER.verify(stored, secret)
    except (Argon2Error, InvalidHashError, UnicodeEncodeError):
        return False
