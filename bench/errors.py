"""The one exception that the command line turns into a sentence."""


class BenchError(Exception):
    """A measurement cannot be made, or what it measured is not the right answer; the message is a sentence."""
