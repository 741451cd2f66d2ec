"""Remember recently seen keys in bounded memory."""


class Recent:
    """The last ``size`` keys that were added within the last ``seconds``; some for up to twice as much.

    Keys are kept in two generations, and the older one is dropped as a whole, which saves bookkeeping for each key.
    Only hashes are kept. Keys with equal hashes are confused, so an answer is a hint and not a proof. All times are of
    ``time.monotonic``.
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
        """Forget ``key``, if it is known."""
        self._young.discard(hash(key))
        self._old.discard(hash(key))

    def has(self, key: str, now: float) -> bool:
        """Whether ``key`` was added a short while before ``now``."""
        if now >= self._turns_at:
            self._grow_older(now)
        number = hash(key)
        return number in self._young or number in self._old

    def _grow_older(self, now: float) -> None:
        if now >= self._turns_at + self._seconds:  # unused for so long that all keys are old
            self._young.clear()
        self._turn(now)

    def _turn(self, now: float) -> None:
        self._old, self._young = self._young, set()
        self._turns_at = now + self._seconds
