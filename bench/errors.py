"""What goes wrong in a benchmark, as sentences."""


class BenchError(Exception):
    """A measurement cannot be made, or what it measured is not the right answer; the message is a sentence."""


class PeerMissing(BenchError):
    """A server to compare with is not to be had on this machine; the message says why, and what would help."""
