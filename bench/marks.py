"""What a reader has to know about a row: marks behind its title, and notes that explain them."""

from bench.measuring import Measured

BUILT_IN_MARK, FULL_MARK, ERROR_MARK = "[1]", "[2]", "[FAILED]"

_MEANING = {
    ERROR_MARK: "Calls failed, or answers were wrong: not a measurement.",
    BUILT_IN_MARK: "Made with the built-in generator: the server may be much faster.",
    FULL_MARK: "The generator used up its own core: the server may be faster.",
}


def marks(*rows: Measured) -> list[str]:
    """What the notes explain of any of ``rows``."""
    found = {
        ERROR_MARK: any(row.failed for row in rows),
        BUILT_IN_MARK: any(not row.saturates for row in rows),
        FULL_MARK: any(row.samples and row.saturates and row.generator_is_full for row in rows),
    }
    return [mark for mark, applies in found.items() if applies]


def meanings(*rows: Measured) -> list[str]:
    """The notes for the marks of ``rows``."""
    return [f"{mark} {_MEANING[mark]}" for mark in marks(*rows)]
