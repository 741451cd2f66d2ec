"""The stored keyring: what is not one is refused, whatever it is."""

import pytest

from taskgate.access.keyring import Keyring, UnknownKeyring, decode, encode


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"null", b"[]", b"{", b'{"keys":1}', b'{"keys":[{}]}', encode(Keyring(format=2))),
        b'{"keys":[{"key_id":"\xff","name":"n","role":"reader","secret_hash":"h","created":1}]}',
        b'{"keys":[{"key_id":"i","name":"n","role":"re\xff","secret_hash":"h","created":1}]}',
        b'{"other":' + b"[" * 100_000,
        b'{"other":' + b'{"a":' * 100_000,
    ],
)
def test_damaged_keyring_is_unknown(document: bytes) -> None:
    """Its reader then says that the store holds none, and known keys stay valid."""
    with pytest.raises(UnknownKeyring):
        decode(document)
