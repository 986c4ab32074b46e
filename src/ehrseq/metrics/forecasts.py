"""How good forecasts are: sums over the values that were measured, and the figures that these give."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.metrics.intervals import Estimate, estimate_sums

Floats = NDArray[np.float64]
CENTRAL = 0.9  # coverage that the intervals of forecasts promise
CENTRAL_DEVIATIONS = 1.6448536269514722  # half their width
_SUMS = 6  # a horizon: how many, absolute and squared error, that of the last value, CRPS, how many in the interval


def crps_normal(mean: Tensor, deviation: Tensor, value: Tensor) -> Tensor:
    """Continuous ranked probability score of Gaussian forecasts, in closed form (Gneiting and Raftery 2007, eq. 21).

    Args:
        mean: Any shape.
        deviation: Standard deviations, of the same shape.
        value: What came, of the same shape.
    """
    z = (value - mean) / deviation
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    score: Tensor = deviation * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return score


@dataclass(frozen=True)
class Foretold:
    """N values that were foretold and then measured, of B histories.

    Attributes:
        row: (N,) whose, 0 to B - 1.
        horizon: (N,) how many steps ahead, from 0 for the next one.
        feature: (N,) number of the feature.
        value: (N,) normalised.
        mean: (N,) of the forecast.
        deviation: (N,) its standard deviation.
        last: (N,) the last value seen before; 0, the train centre, where there was none.
    """

    row: NDArray[np.int64]
    horizon: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: Floats
    mean: Floats
    deviation: Floats
    last: Floats


def sum_forecasts(told: Foretold, own_error: Floats, rows: int, horizons: int, features: int) -> Floats:
    """What the figures are made of, (B, 6 H + 2 F): see `evaluate_forecasts`.

    Args:
        told: The forecasts.
        own_error: (N,) absolute errors in the units of the codes.
        rows: B.
        horizons: H.
        features: F.
    """
    error = told.value - told.mean
    crps = crps_normal(*(torch.from_numpy(part) for part in (told.mean, told.deviation, told.value))).numpy()
    inside = np.abs(error) <= CENTRAL_DEVIATIONS * told.deviation
    parts = [np.ones(len(error)), np.abs(error), error**2, np.abs(told.value - told.last), crps, inside]
    cell = told.row * horizons + told.horizon
    general = [np.bincount(cell, part, rows * horizons).reshape(rows, horizons) for part in parts]
    own = told.row * features + told.feature
    single = [np.bincount(own, part, rows * features).reshape(rows, features) for part in (parts[0], own_error)]
    return np.concatenate([np.stack(general, axis=2).reshape(rows, -1), *single], axis=1)


def evaluate_forecasts(
    sums: Floats, subject: NDArray[np.generic], hours: list[float], codes: tuple[str, ...], **options: Any
) -> dict[str, Estimate]:
    """Figures of forecasts with intervals by subject.

    In normalised units over all codes: `skill` (1 minus the ratio of the absolute error to that of carrying the last
    value forward, the train centre before there is one), `mae`, `rmse`, `crps`, and `coverage_90` of the central 90%
    intervals; with several horizons skill and MAE of each; `mae_<code>` in the unit of each code that was measured.

    Args:
        sums: (S, 6 H + 2 F) from `sum_forecasts`.
        subject: (S,) whose they are.
        hours: H, how far ahead each horizon is.
        codes: F names.
        **options: `replicates`, `seed` and `level`, see `estimate_sums`.
    """
    measured = np.flatnonzero(sums[:, _SUMS * len(hours) :].sum(axis=0)[: len(codes)])
    names = [codes[column] for column in measured]

    def metrics(total: Floats) -> dict[str, Floats]:
        parts = total[:, : _SUMS * len(hours)].reshape(len(total), len(hours), _SUMS)
        count, absolute, squared, carried, crps, inside = parts.sum(axis=1).T
        size, own = np.split(total[:, _SUMS * len(hours) :], 2, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            figures = {
                "skill": np.where(carried > 0, 1 - absolute / carried, np.nan),
                "mae": absolute / count,
                "rmse": np.sqrt(squared / count),
                "crps": crps / count,
                f"coverage_{CENTRAL * 100:.0f}": inside / count,
            }
            for number, ahead in enumerate(hours if len(hours) > 1 else []):
                count, absolute, carried = parts[:, number, [0, 1, 3]].T
                figures[f"skill_{ahead:g}h"] = np.where(carried > 0, 1 - absolute / carried, np.nan)
                figures[f"mae_{ahead:g}h"] = absolute / count
            return figures | {
                f"mae_{code}": own[:, column] / size[:, column] for column, code in zip(measured, names, strict=True)
            }

    return estimate_sums(sums, metrics, subject, **options)
