"""Limit how often a caller may try wrong credentials: this stops guessing, and spares the CPU that hashing takes."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from taskgate.base.addresses import network_of
from taskgate.base.errors import TooManyAttempts
from taskgate.service.calls import Call

_STEP = 1.0
"""Seconds of a step of the clock; time servers correct smaller differences gradually."""


class Attempts:
    """Count refusals in this process, for each address and for each key of an address."""

    def __init__(self, *, of_address: int, of_key: int) -> None:
        """The refusals that are allowed in a minute."""
        self._counts = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._counts)
        self._of_address = RateLimitItemPerMinute(of_address)
        self._of_key = RateLimitItemPerMinute(of_key)
        self._clock_ahead = _clock_ahead()

    def check(self, call: Call, key_id: str = "") -> None:
        """Raise TooManyAttempts if the caller's address, alone or with this key, has been refused too often."""
        self._forget_if_clock_was_set_back()
        for limit, names in self._limits(call, key_id):
            if not self._limiter.test(limit, *names):
                raise TooManyAttempts(self._seconds(limit, *names))

    def count(self, call: Call, key_id: str = "") -> None:
        """Count a refusal. Raises TooManyAttempts in its place, as ``check`` does."""
        self.check(call, key_id)
        for limit, names in self._limits(call, key_id):
            self._limiter.hit(limit, *names)

    def _forget_if_clock_was_set_back(self) -> None:
        """Forget refusals whose times now lie in the future: they would count until the clock has come there again."""
        ahead = _clock_ahead()
        if ahead < self._clock_ahead - _STEP:
            self._counts.reset()
        self._clock_ahead = ahead

    def _limits(self, call: Call, key_id: str) -> tuple[tuple[RateLimitItemPerMinute, tuple[str, ...]], ...]:
        network = network_of(call.peer[0] if call.peer else "")
        return (self._of_address, (network,)), (self._of_key, (network, key_id))

    def _seconds(self, limit: RateLimitItemPerMinute, *names: str) -> int:
        reset: float = self._limiter.get_window_stats(limit, *names).reset_time
        return max(1, math.ceil(reset - time.time()))


def _clock_ahead() -> float:
    """Return the clock's time, by which ``limits`` counts, less that of a clock that is never set."""
    return time.time() - time.monotonic()
