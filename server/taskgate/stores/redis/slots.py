"""Which of a Redis Cluster's slots a key is in (Redis Cluster specification, "Key distribution model")."""

from binascii import crc_hqx

SLOTS = 16384


def slot_of(key: bytes) -> int:
    """CRC-16/XMODEM of the key, or of what is between its first brace and the next closing one, if anything is."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return crc_hqx(key, 0) % SLOTS
