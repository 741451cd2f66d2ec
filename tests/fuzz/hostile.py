"""Inputs for a fuzz target from Hypothesis: seeds in which words and bytes replace what was there."""

from hypothesis import strategies as st

from fuzz.target import Choices, Target

_LENGTHS = (0, 0, 1, 2, 8, 1 << 20)
"""Of what is replaced."""


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Inputs of up to ``target.most_bytes``. Few draws, since each takes longer than most parsers."""

    def damaged(seed: bytes, script: bytes) -> bytes:
        choices, text = Choices(script), seed
        while choices.rest():
            start = (choices.number(256) << 8 | choices.number(256)) % (len(text) + 1)
            end = start + _LENGTHS[choices.number(len(_LENGTHS))]
            number = choices.number(256)
            word = target.words[number % len(target.words)] if number < 192 else bytes([choices.number(256)])
            text = text[:start] + word + text[end:]
        return text[: target.most_bytes]

    return st.builds(damaged, st.sampled_from([b"", *target.seeds]), st.binary(max_size=60))
