"""What a threshold on the probability means: how many are caught, how many alerts are in vain, what is gained.

A prediction alerts where its probability is at least the threshold. Ratios without anything below the line are
undefined (nan), also where other libraries say 0: precision without alerts, sensitivity without positives, F1 without
both, the correlation of a constant.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import Floats, roc_curve
from ehrseq.metrics.intervals import Estimate, estimate_sums, weigh

POINT_METRICS = ("sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "lift", "alert_rate", "nne")


def youden_threshold(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The threshold with the greatest sensitivity + specificity - 1 (Youden 1950), the highest of equals.

    Choose it on `tuning`, never on what is reported. nan where one class is missing.
    """
    curve = roc_curve(label, probability, weight)
    if not len(curve.x):
        return float("nan")
    best = int(np.argmax(curve.y - curve.x))
    # The first point of the curve is the threshold that nobody reaches.
    return _thresholds(probability)[best - 1] if best else float("inf")


def sensitivity_threshold(
    label: ArrayLike, probability: ArrayLike, sensitivity: float, weight: ArrayLike | None = None
) -> float:
    """The highest threshold that reaches a sensitivity; nan where there is no positive."""
    labels, risks = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    weights = np.ones_like(labels) if weight is None else np.asarray(weight, np.float64)
    positive = np.flatnonzero((labels == 1) & (weights > 0))
    if not len(positive):
        return float("nan")
    order = positive[np.argsort(-risks[positive], kind="stable")]
    caught = np.cumsum(weights[order])
    # A hair less, so that 9 of 10 are 0.9 whatever the rounding.
    place = int(np.searchsorted(caught, sensitivity * caught[-1] - 1e-9))
    return float(risks[order[min(place, len(order) - 1)]])


def alert_threshold(probability: ArrayLike, share: float) -> float:
    """The lowest threshold at which no more than a share of the predictions alerts; infinity where there is none."""
    values = np.asarray(probability, np.float64)
    if not len(values):
        return float("nan")
    thresholds, counts = np.unique(values, return_counts=True)
    alerts = counts[::-1].cumsum()[::-1]
    within = np.flatnonzero(alerts <= share * len(values) + 1e-9)
    return float(thresholds[within[0]]) if len(within) else float("inf")


def operating_point(
    label: ArrayLike, probability: ArrayLike, threshold: float, weight: ArrayLike | None = None
) -> dict[str, float]:
    """`POINT_METRICS` at one threshold: sensitivity, specificity, predictive values, F1, Matthews correlation, lift.

    Lift is precision over prevalence, `nne` the number needed to evaluate for one true alert (Romero-Brufau et al.
    2015), 1 over precision.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        threshold: At least so much alerts.
        weight: (N,) counts or importances.
    """
    given = np.asarray(label, np.float64), np.asarray(probability, np.float64), np.array([threshold])
    columns = alert_columns(*given, None if weight is None else np.asarray(weight, np.float64))
    return {name: float(value[0, 0]) for name, value in point_metrics(columns.sum(axis=0)[None]).items()}


def evaluate_thresholds(
    label: Floats,
    probability: Floats,
    subject: NDArray[np.generic],
    thresholds: Mapping[str, float],
    weight: Floats | None = None,
    **options: Any,
) -> dict[str, Estimate]:
    """`<name>/<metric>` of each threshold with intervals by subject, and `<name>/threshold` itself.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,).
        thresholds: By name; nan where it could not be chosen, which leaves its metrics undefined.
        weight: (N,) how much each counts; None: alike.
        **options: See `estimate_sums`.
    """
    values = np.array(list(thresholds.values()))
    chosen = ~np.isnan(values)

    def metrics(sums: Floats) -> dict[str, Floats]:
        found = point_metrics(sums)
        return {
            f"{name}/{metric}": np.where(chosen[number], found[metric][:, number], np.nan)
            for number, name in enumerate(thresholds)
            for metric in POINT_METRICS
        }

    estimates = estimate_sums(alert_columns(label, probability, values, weight), metrics, subject, **options)
    own = {f"{name}/threshold": Estimate(_finite(value), None, None) for name, value in thresholds.items()}
    return {key: value for name in thresholds for key, value in (own | estimates).items() if key.startswith(f"{name}/")}


def alert_columns(label: Floats, probability: Floats, thresholds: Floats, weight: Floats | None = None) -> Floats:
    """What thresholds are judged by, (N, 2 T + 2): alerts that are true and that are false, positives, ones.

    Each counts as much as its weight says.
    """
    alert = probability[:, None] >= thresholds
    positive = label[:, None] == 1
    columns = np.column_stack([alert & positive, alert & ~positive, positive, np.ones(len(label))])
    return weigh(columns, weight)


def split_sums(sums: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Sums (R, 2 T + 2) of `alert_columns` as true and false alerts (R, T), positives and negatives (R, 1)."""
    count = (sums.shape[1] - 2) // 2
    positive, everything = sums[:, -2:-1], sums[:, -1:]
    return sums[:, :count], sums[:, count : 2 * count], positive, everything - positive


def point_metrics(sums: Floats) -> dict[str, Floats]:
    """`POINT_METRICS`, (R, T) each, of sums (R, 2 T + 2) of `alert_columns`."""
    true, false, positive, negative = split_sums(sums)
    missed, spared = positive - true, negative - false
    total = positive + negative
    with np.errstate(invalid="ignore", divide="ignore"):
        ppv = _ratio(true, true + false)
        return {
            "sensitivity": _ratio(true, positive + 0 * true),
            "specificity": _ratio(spared, negative + 0 * spared),
            "ppv": ppv,
            "npv": _ratio(spared, spared + missed),
            "f1": _ratio(2 * true, 2 * true + false + missed),
            "mcc": _ratio(
                true * spared - false * missed,
                np.sqrt((true + false) * (spared + missed)) * np.sqrt(positive * negative),
            ),
            "lift": np.where(positive > 0, ppv * total / positive, np.nan),
            "alert_rate": _ratio(true + false, total + 0 * true),
            "nne": _ratio(true + false, true),
        }


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.where(below > 0, above / below, np.nan)


def _thresholds(probability: ArrayLike) -> list[float]:
    """All different probabilities, from the highest down."""
    values: list[float] = np.unique(np.asarray(probability, np.float64))[::-1].tolist()
    return values


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
