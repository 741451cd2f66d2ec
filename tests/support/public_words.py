"""Check that an error shows callers no location and no words of a driver."""

import re

_PLACE = re.compile(r"\d+\.\d+\.\d+\.\d+|localhost|\.invalid|://\w|:\d{2,5}\b|\B/\w+/|\.db\b|conductor \d")
"""Addresses, ports, paths, and the names of the tests' own databases."""

_DRIVERS = ("sqlite3", "Error(", "Traceback", "errno", "asyncpg", "asyncmy", "NoHostAvailable", "OperationalError")


def assert_public(message: str) -> None:
    """``message`` is one sentence that any caller may read."""
    assert "\n" not in message
    assert not _PLACE.search(message), message
    assert not [word for word in _DRIVERS if word in message], message
