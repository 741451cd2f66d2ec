"""The slope test of the soak: it finds a leak in noise, and none where there is none."""

import random

import pytest

from support.trend import slope


@pytest.mark.parametrize("samples", [30, 120, 1800])
def test_leak_is_found_in_noise(samples: int) -> None:
    """A leak of 1 in noise of 20, with an outlier of 1000 now and then."""
    rng = random.Random(samples)
    noise = [rng.uniform(-10, 10) + (1000 if rng.random() < 0.03 else 0) for _ in range(samples)]
    flat = slope(list(enumerate(noise)))
    assert flat.low <= 0 <= flat.high
    leak = slope([(second, second + value) for second, value in enumerate(noise)])
    assert leak.low > 0
    assert leak.low <= 1 <= leak.high
    assert leak.middle == pytest.approx(1, abs=0.5)


def test_one_step_is_no_slope() -> None:
    assert slope([(second, 0.0 if second < 20 else 5.0) for second in range(120)]).middle == 0
