"""Check the patterns of key names that ``--mask`` takes; they are written like patterns of file names."""

import fnmatch

MAX_PATTERNS = 100
MAX_PATTERN_CHARACTERS = 128


def parse_patterns(value: object) -> tuple[str, ...]:
    """Return the patterns of a text, or of a list of texts, in which commas separate patterns.

    Raises ValueError, a clause that says what is wrong with one of them.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it is not a list of patterns, such as password,*token*")
    patterns = tuple(pattern.strip() for text in texts for pattern in text.split(","))
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"there are {len(patterns)} patterns; at most {MAX_PATTERNS} are possible")
    for pattern in patterns:
        if (fault := _fault(pattern)) is not None:
            raise ValueError(fault)
    return patterns


def _fault(pattern: str) -> str | None:
    if not pattern:
        return "a pattern is empty; leave it out or name a key"
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"a pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARACTERS} are possible"
    if not pattern.isprintable():
        return f"the pattern {pattern!a} has a character that cannot be printed"
    if pattern.startswith(("$.", "inputData.", "outputData.")):
        return f"the pattern {pattern} is a path; name the key alone, which is found at any depth"
    if "(?!)" in fnmatch.translate(pattern):  # a range such as [z-a], which would hide nothing
        return f"the pattern {pattern} matches no key"
    return None
