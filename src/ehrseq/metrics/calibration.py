"""Whether risks are what they say: slope, intercept, the parts of the Brier score, the reliability curve."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import Floats, log_losses, mass_bins, reliability_curve
from ehrseq.metrics.intervals import Estimate, estimate_sums, weigh
from ehrseq.metrics.logistic import fit_logistic, logit, sigmoid

_Z = 1.959963984540054  # 97.5% point of the normal distribution
_BINS = 10


class Fit(NamedTuple):
    """The calibration line of risks on the scale of log odds; 1 and 0 are perfect, nan is undefined."""

    slope: float
    intercept: float


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty + within (Murphy 1973; Stephenson et al. 2008).

    `within` is what the bins hide: the spread of the risks inside each and their covariance with the outcome. Low
    reliability and high resolution are good; uncertainty is that of the outcome, whatever the model.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def calibration_fit(label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Fit:
    """Slope and intercept (Cox 1958; Van Calster et al. 2016).

    The slope is that of a logistic regression of the outcome on the log odds of the risk: below 1, risks are too
    extreme. The intercept is that with the slope held at 1 (calibration in the large): below 0, risks are too high.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        weight: (N,) counts or importances.

    Returns:
        nan where undefined: one class only; and no slope of constant or perfectly separating risks.
    """
    labels, odds = np.asarray(label, np.float64), logit(probability)
    weights = np.ones_like(labels) if weight is None else np.asarray(weight, np.float64)
    used = weights > 0
    labels, odds, weights = labels[used], odds[used], weights[used]
    if len(np.unique(labels)) < 2:
        return Fit(float("nan"), float("nan"))
    ones = np.ones((len(labels), 1))
    intercept = fit_logistic(ones, labels, weights, odds)[0]
    positive, negative = odds[labels == 1], odds[labels == 0]
    separated = positive.min() >= negative.max() or positive.max() <= negative.min()
    slope = float("nan") if separated else fit_logistic(np.column_stack([ones, odds]), labels, weights)[1]
    return Fit(float(slope), float(intercept))


def brier_parts(
    label: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = _BINS
) -> BrierParts:
    """The parts of the Brier score over bins of equal mass; nan without predictions."""
    labels, risks = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    weights = np.ones_like(labels) if weight is None else np.asarray(weight, np.float64)
    sums = weights @ _brier_columns(labels, risks, bins)
    return BrierParts(*(float(value[0]) for value in _brier_parts(sums[None], bins).values()))


def _brier_columns(label: Floats, probability: Floats, bins: int) -> Floats:
    """Squared errors, and by bin ones, labels and risks: (N, 1 + 3 B)."""
    member = np.eye(bins)[mass_bins(probability, bins)]
    errors = (probability - label) ** 2
    return np.column_stack([errors, member, member * label[:, None], member * probability[:, None]])


def _brier_parts(sums: Floats, bins: int) -> dict[str, Floats]:
    size, positive, risk = (sums[:, 1 + part * bins : 1 + (part + 1) * bins] for part in range(3))
    total = size.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = positive.sum(axis=1) / total
        observed, told = (np.where(size > 0, part / np.maximum(size, 1e-300), 0) for part in (positive, risk))
        reliability = (size * (told - observed) ** 2).sum(axis=1) / total
        resolution = (size * (observed - share[:, None]) ** 2).sum(axis=1) / total
        uncertainty = share * (1 - share)
        within = sums[:, 0] / total - (reliability - resolution + uncertainty)
    return dict(zip(BrierParts._fields, (reliability, resolution, uncertainty, within), strict=True))


def evaluate_calibration(
    label: Floats, probability: Floats, subject: NDArray[np.generic], weight: Floats | None = None, **options: Any
) -> dict[str, Estimate]:
    """Slope, intercept, ratio of observed to expected, and the parts of the Brier score, with intervals by subject.

    A replicate of slope and intercept is one Newton step from those of the whole sample: as good for intervals as the
    whole way (Shao and Tu 1995, section 8.2), and no more than a sum. The bins stay those of the whole sample.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,).
        weight: (N,) how much each counts; None: alike.
        **options: See `estimate_sums`.
    """
    fit = calibration_fit(label, probability, weight)
    odds = logit(probability)
    known = not np.isnan(fit.slope)
    # The constant that belongs to the slope: no figure of its own, but the step needs it.
    columns = np.column_stack([np.ones(len(label)), odds])
    line = fit_logistic(columns, label, np.ones(len(label)) if weight is None else weight) if known else np.zeros(2)
    chance = sigmoid(columns @ line)
    spread = chance * (1 - chance)
    large = sigmoid(odds + np.nan_to_num(fit.intercept))
    parts = [label - chance, (label - chance) * odds, spread, spread * odds, spread * odds**2]
    parts += [label - large, large * (1 - large), label, probability]
    brier = _brier_columns(label, probability, _BINS)

    def metrics(sums: Floats) -> dict[str, Floats]:
        first, second, flat, tilt, steep, miss, room, positive, expected = sums[:, : len(parts)].T
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = line[1] + (flat * second - tilt * first) / (flat * steep - tilt**2)
            figures = {
                "calibration_slope": slope if known else np.full(len(sums), np.nan),
                "calibration_intercept": fit.intercept + miss / room,
                "observed_expected": np.where(expected > 0, positive / expected, np.nan),
            }
        return figures | {f"brier/{name}": part for name, part in _brier_parts(sums[:, len(parts) :], _BINS).items()}

    return estimate_sums(weigh(np.column_stack([*parts, brier]), weight), metrics, subject, **options)


def evaluate_errors(
    label: Floats, probability: Floats, subject: NDArray[np.generic], weight: Floats | None = None, **options: Any
) -> dict[str, Estimate]:
    """`brier`, `log_loss` and `ece` alone, with intervals by subject: what changes when risks are mended.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,).
        weight: (N,) how much each counts; None: alike.
        **options: See `estimate_sums`.
    """
    gaps = np.eye(_BINS)[mass_bins(probability, _BINS)] * (probability - label)[:, None]
    errors = [(probability - label) ** 2, log_losses(label, probability), np.ones(len(label))]

    def metrics(sums: Floats) -> dict[str, Floats]:
        squared, logs, count = sums[:, :3].T
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.abs(sums[:, 3:]).sum(axis=1) / count
            return {"ece": gap, "brier": squared / count, "log_loss": logs / count}

    columns = np.column_stack([*errors, gaps])
    return estimate_sums(weigh(columns, weight), metrics, subject, **options)


class ReliabilityCurve(NamedTuple):
    """Mean risk, share of positives and its interval, number of predictions, a bin each: (K,)."""

    probability: Floats
    positive: Floats
    low: Floats
    high: Floats
    size: Floats


def reliability(
    label: ArrayLike,
    probability: ArrayLike,
    bins: int = _BINS,
    minimum: int = 1,
    weight: Floats | None = None,
    subject: NDArray[np.generic] | None = None,
) -> ReliabilityCurve:
    """The reliability curve over bins of equal mass, with 95% intervals (Wilson 1927).

    Where predictions are of the same subject, or count differently, the interval is that of as many independent ones as
    would vary as much (Kish 1965; Dean and Pagano 2015).

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        bins: As many, or fewer where that many would hold fewer predictions than `minimum`.
        minimum: See `bins`; bins of fewer subjects are left out.
        weight: (N,) how much each counts, above 0; None: alike.
        subject: (N,) whose prediction each is; None: of another one each.
    """
    labels, risks = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    count = len(labels)
    weights = np.ones(count) if weight is None else weight
    who = np.arange(count) if subject is None else np.unique(subject, return_inverse=True)[1]
    used = max(1, min(bins, count // max(minimum, 1)))
    curve = reliability_curve(labels, risks, weights, used)
    number = np.unique(mass_bins(risks, used), return_inverse=True)[1]
    # The subjects of each bin, and by how much the outcomes of each are more than the share there.
    cells, cell = np.unique(number * max(count, 1) + who, return_inverse=True)
    place = cells // max(count, 1)
    excess = np.bincount(cell, weights * (labels - curve.positive[number]), minlength=len(cells))
    people, spread = (np.bincount(place, part, minlength=len(curve.size)) for part in (None, excess**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = curve.positive * (1 - curve.positive) * curve.size**2 / spread
    # Of outcomes that are all the same nothing varies: then each subject counts once.
    effective = np.where(spread > 0, alike, people)
    predictions = np.bincount(number, minlength=len(curve.size)).astype(np.float64)
    shown = people >= minimum
    low, high = wilson(curve.positive, effective)
    return ReliabilityCurve(*(part[shown] for part in (curve.probability, curve.positive, low, high, predictions)))


def wilson(share: Floats, count: Floats) -> tuple[Floats, Floats]:
    """The 95% interval of shares (Wilson 1927): lower and upper ends, (K,) each."""
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return center - half, center + half
