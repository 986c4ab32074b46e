"""Logistic regressions of one or two numbers: what calibration is measured and mended by."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Probabilities of 0 and 1 have no logit; these stand for them.
EDGE = 1e-12
_STEPS, _TOLERANCE = 100, 1e-13


def logit(probability: ArrayLike) -> Floats:
    """log(p / (1 - p)), with p cut to [`EDGE`, 1 - `EDGE`]."""
    cut = np.clip(np.asarray(probability, np.float64), EDGE, 1 - EDGE)
    result: Floats = np.log(cut) - np.log1p(-cut)
    return result


def sigmoid(value: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(0.5 * np.asarray(value, np.float64)))
    return result


def fit_logistic(columns: Floats, outcome: Floats, weight: Floats, offset: Floats | float = 0.0) -> Floats:
    """The coefficients of greatest likelihood, by damped Newton steps.

    Args:
        columns: (N, K).
        outcome: (N,) 0 and 1, or between.
        weight: (N,).
        offset: (N,) added to the linear part.

    Returns:
        (K,); nan where there is no maximum, as with outcomes of one kind or perfectly separated.
    """
    beta = np.zeros(columns.shape[1])
    undefined = np.full(len(beta), np.nan)
    likelihood = _likelihood(columns @ beta + offset, outcome, weight)
    for _ in range(_STEPS):
        chance = sigmoid(columns @ beta + offset)
        gradient = columns.T @ (weight * (outcome - chance))
        curvature = (columns * (weight * chance * (1 - chance))[:, None]).T @ columns
        if not np.linalg.cond(curvature) < 1e13:
            return undefined
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_STEPS):
            trial = _likelihood(columns @ (beta + step) + offset, outcome, weight)
            if trial >= likelihood - 1e-12 * abs(likelihood):
                break
            step = step / 2
        beta, likelihood = beta + step, trial
        if np.abs(step).max() <= _TOLERANCE * max(1.0, np.abs(beta).max()):
            return beta
    return beta if np.abs(step).max() <= 1e-9 * max(1.0, np.abs(beta).max()) else undefined


def _likelihood(linear: Floats, outcome: Floats, weight: Floats) -> float:
    """Weighted log-likelihood."""
    return float((weight * (outcome * linear - np.logaddexp(0, linear))).sum())


def normal_tail(z: float) -> float:
    """The chance of a standard normal number above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))
