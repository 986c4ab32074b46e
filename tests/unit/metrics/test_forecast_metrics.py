"""Figures of forecasts against numerical integration and plain loops."""

import math

import numpy as np
import pytest
import torch

from ehrseq.metrics.forecasts import CENTRAL_DEVIATIONS, Foretold, crps_normal, evaluate_forecasts, sum_forecasts

CODES = ("pulse", "never", "glucose")
HOURS = [2.0, 4.0]
ROWS = 5


def foretold(seed: int, size: int = 60) -> tuple[Foretold, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    generator = np.random.default_rng(seed)
    told = Foretold(
        row=generator.integers(0, ROWS, size),
        horizon=generator.integers(0, 2, size),
        feature=generator.choice([0, 2], size),
        value=generator.normal(size=size),
        mean=generator.normal(size=size),
        deviation=generator.uniform(0.2, 2, size),
        last=generator.normal(size=size),
    )
    return told, generator.uniform(0, 9, size)


@pytest.mark.parametrize(("mean", "deviation", "value"), [(0.0, 1.0, 0.0), (1.5, 0.3, 2.2), (-2.0, 4.0, 3.0)])
def test_crps_is_the_integral_that_defines_it(mean: float, deviation: float, value: float) -> None:
    x = np.linspace(min(mean - 12 * deviation, value - 1), max(mean + 12 * deviation, value + 1), 400_001)
    below = np.array([0.5 * (1 + math.erf((point - mean) / deviation / math.sqrt(2))) for point in x])
    expected = np.trapezoid((below - (x >= value)) ** 2, x)
    found = crps_normal(*(torch.tensor(number, dtype=torch.float64) for number in (mean, deviation, value)))
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_figures_are_those_of_plain_loops() -> None:
    told, own = foretold(0)
    sums = sum_forecasts(told, own, ROWS, 2, len(CODES))
    found = evaluate_forecasts(sums, np.arange(ROWS), HOURS, CODES, replicates=50, seed=0, level=0.95)
    error = [abs(value - mean) for value, mean in zip(told.value, told.mean, strict=True)]
    carried = [abs(value - last) for value, last in zip(told.value, told.last, strict=True)]
    inside = [one <= CENTRAL_DEVIATIONS * wide for one, wide in zip(error, told.deviation, strict=True)]
    expected = {
        "mae": sum(error) / len(error),
        "rmse": math.sqrt(sum(one**2 for one in error) / len(error)),
        "skill": 1 - sum(error) / sum(carried),
        "coverage_90": sum(inside) / len(inside),
    }
    for number, hours in enumerate((2, 4)):
        rows = [row for row in range(len(error)) if told.horizon[row] == number]
        expected[f"mae_{hours}h"] = sum(error[row] for row in rows) / len(rows)
        expected[f"skill_{hours}h"] = 1 - sum(error[row] for row in rows) / sum(carried[row] for row in rows)
    for number, code in enumerate(CODES):
        rows = [row for row in range(len(error)) if told.feature[row] == number]
        if rows:
            expected[f"mae_{code}"] = sum(own[row] for row in rows) / len(rows)
    assert set(found) == {*expected, "crps"}
    for name, value in expected.items():
        estimate = found[name]
        assert estimate.value == pytest.approx(value), name
        assert estimate.ci_low is not None
        assert estimate.ci_high is not None
        assert estimate.ci_low < estimate.ci_high, name


def test_batches_give_what_all_histories_at_once_give() -> None:
    (one, own_one), (two, own_two) = foretold(1), foretold(2)
    joined = Foretold(*(np.concatenate([getattr(one, name), getattr(two, name)]) for name in vars(one)))
    joined = Foretold(**{**vars(joined), "row": np.concatenate([one.row, two.row + ROWS])})
    apart = [sum_forecasts(told, own, ROWS, 2, 3) for told, own in ((one, own_one), (two, own_two))]
    together = sum_forecasts(joined, np.concatenate([own_one, own_two]), 2 * ROWS, 2, 3)
    np.testing.assert_allclose(np.concatenate(apart), together)


def test_where_nothing_was_measured_nothing_is_said() -> None:
    empty = Foretold(*(np.zeros(0, kind) for kind in (int, int, int, float, float, float, float)))
    sums = sum_forecasts(empty, np.zeros(0), 3, 1, 2)
    found = evaluate_forecasts(sums, np.arange(3), [1.0], ("a", "b"), replicates=5, seed=0, level=0.9)
    assert found["mae"].value is None
    assert found["skill"].value is None
