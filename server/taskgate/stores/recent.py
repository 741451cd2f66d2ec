"""A bounded memory of which keys were seen a short while ago."""


class Recent:
    """Keys that were added within the last ``seconds``, and the last ``size`` of them; some for up to twice as much.

    There are two generations, and the older one is dropped as a whole: that costs no bookkeeping for each key. What is
    kept is hashes. Two keys that share one are taken for each other, so that an answer is a hint and no proof. All
    times are of ``time.monotonic``.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._turns_at = 0.0

    def add(self, key: str, now: float) -> None:
        """Remember ``key`` from ``now`` on."""
        if now >= self._turns_at:
            self._grow_older(now)
        if len(self._young) >= self._size:
            self._turn(now)
        self._young.add(hash(key))

    def discard(self, key: str) -> None:
        """Forget ``key``, if it is here."""
        self._young.discard(hash(key))
        self._old.discard(hash(key))

    def has(self, key: str, now: float) -> bool:
        """Whether ``key`` was added a short while before ``now``."""
        if now >= self._turns_at:
            self._grow_older(now)
        number = hash(key)
        return number in self._young or number in self._old

    def _grow_older(self, now: float) -> None:
        if now >= self._turns_at + self._seconds:  # nothing was asked for that long: all of it is old
            self._young.clear()
        self._turn(now)

    def _turn(self, now: float) -> None:
        self._old, self._young = self._young, set()
        self._turns_at = now + self._seconds
