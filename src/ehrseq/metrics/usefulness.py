"""What acting on risks brings: net benefit against treating everybody and nobody."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import Floats
from ehrseq.metrics.intervals import estimate_sums
from ehrseq.metrics.thresholds import alert_columns, split_sums


class DecisionCurve(NamedTuple):
    """Net benefit a prediction at each threshold, (T,) each: of the model with its interval, of alerting to everybody.

    Alerting to nobody has the net benefit 0. nan: no interval.
    """

    threshold: Floats
    model: Floats
    low: Floats
    high: Floats
    everybody: Floats


def net_benefit(
    label: ArrayLike, probability: ArrayLike, thresholds: ArrayLike, weight: Floats | None = None
) -> Floats:
    """True alerts less false ones at the exchange rate of the threshold, a prediction (Vickers and Elkin 2006), (T,).

    At a threshold of 0.1, one true alert is taken to be worth nine false ones. nan without predictions and at 1.
    """
    values = np.asarray(thresholds, np.float64)
    columns = alert_columns(np.asarray(label, np.float64), np.asarray(probability, np.float64), values, weight)
    benefit: Floats = _benefit(columns.sum(axis=0)[None], values)[0]
    return benefit


def decision_curve(
    label: Floats,
    probability: Floats,
    subject: NDArray[np.generic],
    thresholds: Floats,
    weight: Floats | None = None,
    **options: Any,
) -> DecisionCurve:
    """Net benefit at thresholds below 1 with intervals by subject; options as of `estimate_sums`.

    With weights (N,) for censoring this is the net benefit of times to an event (Vickers et al. 2008).
    """

    def metrics(sums: Floats) -> dict[str, Floats]:
        return {str(number): column for number, column in enumerate(_benefit(sums, thresholds).T)}

    columns = alert_columns(label, probability, thresholds, weight)
    found = list(estimate_sums(columns, metrics, subject, **options).values())
    rows = [(item.value, item.ci_low, item.ci_high) for item in found]
    model, low, high = np.array(rows, np.float64).reshape(-1, 3).T
    return DecisionCurve(thresholds, model, low, high, net_benefit(label, np.ones(len(label)), thresholds, weight))


def _benefit(sums: Floats, thresholds: Floats) -> Floats:
    true, false, positive, negative = split_sums(sums)
    total = positive + negative
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(thresholds < 1, thresholds / (1 - thresholds), np.nan)
        return np.where(total > 0, true / total - false / total * rate, np.nan)
