"""Metrics of binary outcomes: pure functions of labels, probabilities and weights.

Every function takes `label` (N,) of 0 and 1, `probability` (N,) and, where it makes sense, `weight` (N,) counts or
importances. What is undefined (one class only, no data) is `nan`, never an error and never 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Probabilities of exactly 0 or 1 would make the log loss infinite; scikit-learn clips at the float64 resolution too.
_EPSILON = float(np.finfo(np.float64).eps)


class Curve(NamedTuple):
    """A curve: x and y (P,)."""

    x: Floats
    y: Floats


class Reliability(NamedTuple):
    """Bins of a reliability curve: mean probability, share of positives and number of predictions, (K,) each."""

    probability: Floats
    positive: Floats
    size: Floats


def _prepare(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    labels = np.asarray(label, np.float64)
    probabilities = np.asarray(probability, np.float64)
    weights = np.ones_like(labels) if weight is None else np.asarray(weight, np.float64)
    if not labels.shape == probabilities.shape == weights.shape or labels.ndim != 1:
        raise ValueError(
            f"label {labels.shape}, probability {probabilities.shape}, weight {weights.shape}: expected (N,)"
        )
    return labels, probabilities, weights


def _steps(label: Floats, probability: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weight of true and of false positives at each threshold, from the highest down; ties share a threshold."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    positives = np.cumsum((label * weight)[order])[ends]
    negatives = np.cumsum(((1 - label) * weight)[order])[ends]
    return positives, negatives


def roc_curve(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Curve:
    """False-positive rate (x) and true-positive rate (y), from (0, 0) to (1, 1); empty where undefined."""
    labels, probabilities, weights = _prepare(label, probability, weight)
    if not _has_both(labels, weights):
        return Curve(np.empty(0), np.empty(0))
    positives, negatives = _steps(labels, probabilities, weights)
    return Curve(np.append(0.0, negatives / negatives[-1]), np.append(0.0, positives / positives[-1]))


def precision_recall_curve(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Curve:
    """Recall (x) and precision (y), from the highest threshold down; empty where there is no positive."""
    labels, probabilities, weights = _prepare(label, probability, weight)
    if not (labels * weights).sum() > 0:
        return Curve(np.empty(0), np.empty(0))
    positives, negatives = _steps(labels, probabilities, weights)
    chosen = np.maximum(positives + negatives, np.finfo(np.float64).tiny)
    return Curve(np.append(0.0, positives / positives[-1]), np.append(1.0, positives / chosen))


def auroc(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half (Hanley 1982)."""
    curve = roc_curve(label, probability, weight)
    return float(np.trapezoid(curve.y, curve.x)) if len(curve.x) else float("nan")


def average_precision(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """AUPRC as average precision: precision weighted by the gain in recall, without interpolation."""
    curve = precision_recall_curve(label, probability, weight)
    return float(np.sum(np.diff(curve.x) * curve.y[1:])) if len(curve.x) else float("nan")


def brier(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean squared distance of probability and outcome (Brier 1950)."""
    labels, probabilities, weights = _prepare(label, probability, weight)
    return _mean((probabilities - labels) ** 2, weights)


def log_loss(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean negative log-likelihood, in nats."""
    labels, probabilities, weights = _prepare(label, probability, weight)
    return _mean(log_losses(labels, probabilities), weights)


def log_losses(label: Floats, probability: Floats) -> Floats:
    """Negative log-likelihood of each prediction, (N,)."""
    clipped = np.clip(probability, _EPSILON, 1 - _EPSILON)
    losses: Floats = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
    return losses


def ece(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = 10) -> float:
    """Expected calibration error: mean distance of probability and share of positives over bins of equal mass.

    Equal mass, since equal widths leave most bins of a rare outcome empty (Nixon et al. 2019). Equal probabilities
    always share a bin, so the order of the input does not matter.
    """
    curve = reliability_curve(label, probability, weight, bins)
    return _mean(np.abs(curve.probability - curve.positive), curve.size)


def reliability_curve(
    label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = 10
) -> Reliability:
    """Mean probability and share of positives in bins of equal mass; empty bins are left out."""
    labels, probabilities, weights = _prepare(label, probability, weight)
    if not weights.sum() > 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    number = mass_bins(probabilities, bins)
    count: Floats = np.bincount(number, weights, minlength=bins).astype(np.float64)
    used = count > 0
    probability_sum = np.bincount(number, weights * probabilities, minlength=bins)
    positive_sum = np.bincount(number, weights * labels, minlength=bins)
    return Reliability(probability_sum[used] / count[used], positive_sum[used] / count[used], count[used])


def mass_bins(probability: Floats, bins: int) -> NDArray[np.int64]:
    """The equal-mass bin of each prediction, (N,): by the rank of the first of its equals."""
    ordered = np.sort(probability)
    number: NDArray[np.int64] = np.searchsorted(ordered, probability, side="left") * bins // max(len(probability), 1)
    return number


def _has_both(label: Floats, weight: Floats) -> bool:
    return bool((label * weight).sum() > 0 and ((1 - label) * weight).sum() > 0)


def _mean(value: Floats, weight: Floats) -> float:
    total = weight.sum()
    return float((value * weight).sum() / total) if total > 0 else float("nan")
