"""Parsers of hostile bytes keep their contracts, for a second each; ``make fuzz`` goes on for longer."""

import time
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given, settings

from fuzz.all_targets import TARGETS
from fuzz.engine import silence
from fuzz.hostile import inputs
from fuzz.target import Target

SECONDS_OF_AN_INPUT = 5.0
"""Of CPU time, generous for inputs of up to 70 KB that take 0.1 s."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    silence()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_hostile_bytes_are_taken_or_refused(target: Target) -> None:
    """The docstring of each target says what it promises."""
    for seed in target.seeds:
        target.run(seed)

    @settings(max_examples=target.examples * (1 if settings().max_examples < 100 else 10), database=None)
    @given(inputs(target))
    def run(data: bytes) -> None:
        began = time.process_time()
        target.run(data)
        assert time.process_time() - began < SECONDS_OF_AN_INPUT

    run()
