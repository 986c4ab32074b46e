"""Metrics with intervals: a bootstrap that draws subjects, since the predictions of one subject are not independent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import auroc, average_precision, brier, ece, log_loss, log_losses, mass_bins

Floats = NDArray[np.float64]
METRICS = ("auroc", "auprc", "brier", "log_loss", "ece", "prevalence")
_ECE_BINS = 10
_CHUNK_BYTES = 64 * 2**20  # one (replicates, N) matrix of a chunk


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; None where undefined.

    Attributes:
        value: The metric.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        replicates: (R,) the metric in each bootstrap sample, nan where undefined. The same subjects, number and seed
            give the same samples, so that those of two models can be compared one by one.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    replicates: Floats | None = field(default=None, compare=False, repr=False)


def evaluate_binary(
    label: ArrayLike,
    probability: ArrayLike,
    subject: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """All metrics of a binary outcome with percentile bootstrap intervals (Efron 1979), drawn by subject.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,) whose prediction each is; all predictions of a drawn subject come together (cluster bootstrap).
        replicates: How many samples are drawn; 0 gives no intervals.
        seed: The same seed gives the same intervals.
        level: Coverage of the intervals.

    Returns:
        Estimates of `METRICS`. Replicates in which a metric is undefined are left out of its interval.
    """
    labels, probabilities = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    points = {
        "auroc": auroc(labels, probabilities),
        "auprc": average_precision(labels, probabilities),
        "brier": brier(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "ece": ece(labels, probabilities, bins=_ECE_BINS),
        "prevalence": float(labels.mean()) if len(labels) else float("nan"),
    }
    drawn = (
        bootstrap(labels, probabilities, np.asarray(subject), replicates, seed) if replicates and len(labels) else {}
    )
    return {name: estimate(points[name], drawn.get(name), level) for name in METRICS}


def estimate(point: float, drawn: Floats | None, level: float) -> Estimate:
    """A figure with the percentile interval of its bootstrap replicates, as far as they are defined."""
    if np.isnan(point):
        return Estimate(None, None, None)
    defined = drawn[~np.isnan(drawn)] if drawn is not None else np.empty(0)
    if not len(defined):
        return Estimate(point, None, None)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(point, float(low), float(high), drawn)


@dataclass(frozen=True)
class Draws:
    """Bootstrap samples as rows of weights, (R, N) at a time: how often each prediction was drawn.

    Attributes:
        subject: (N,) whose prediction each is; subjects are drawn, with all that is theirs.
        replicates: How many in all.
        seed: Of the draws.
    """

    subject: NDArray[np.generic]
    replicates: int
    seed: int

    def __iter__(self) -> Iterator[Floats]:
        if not len(self.subject):
            return
        _, cluster = np.unique(self.subject, return_inverse=True)
        clusters = int(cluster.max()) + 1
        as_they_are = np.array_equal(cluster, np.arange(clusters))
        generator = np.random.default_rng(self.seed)
        size = max(1, _CHUNK_BYTES // (8 * len(self.subject)))
        for start in range(0, self.replicates, size):
            draws = generator.integers(clusters, size=(min(size, self.replicates - start), clusters))
            drawn = np.stack([np.bincount(row, minlength=clusters) for row in draws]).astype(np.float64)
            yield drawn if as_they_are else drawn[:, cluster]


def estimate_sums(
    columns: Floats,
    metrics: Callable[[Floats], dict[str, Floats]],
    subject: NDArray[np.generic],
    *,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, Estimate]:
    """Metrics that are functions of sums over predictions, with intervals by subject.

    Args:
        columns: (N, C) what is summed; rows with NaN, whose outcome is unknown, take no part.
        metrics: Sums (R, C) to metrics (R,).
        subject: (N,).
        replicates: How many samples are drawn; 0 gives no intervals.
        seed: The same seed gives the same intervals.
        level: Coverage of the intervals.
    """
    known = ~np.isnan(columns).any(axis=1)
    columns, subject = columns[known], subject[known]
    points = metrics(columns.sum(axis=0)[None])
    parts = [metrics(weight @ columns) for weight in Draws(subject, replicates, seed)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in points} if parts else {}
    return {name: estimate(float(value[0]), drawn.get(name), level) for name, value in points.items()}


def bootstrap(
    label: Floats, probability: Floats, subject: NDArray[np.generic], replicates: int, seed: int
) -> dict[str, Floats]:
    """Metrics of bootstrap samples, all at once: a sample is a row of weights, and every metric a sum over them.

    The bins of the calibration error stay those of the whole sample.

    Returns:
        (replicates,) values of each of `METRICS`; nan where undefined.
    """
    order = np.argsort(-probability, kind="stable")
    label, probability, subject = label[order], probability[order], subject[order]
    ends = np.append(np.flatnonzero(np.diff(probability)), len(label) - 1)
    per_row = np.column_stack([(probability - label) ** 2, log_losses(label, probability), label])
    bins = mass_bins(probability, _ECE_BINS)
    gap = np.zeros((len(label), _ECE_BINS))
    gap[np.arange(len(label)), bins] = probability - label
    columns = np.column_stack([per_row, gap])
    parts = [_metrics(weights, label, ends, columns) for weights in Draws(subject, replicates, seed)]
    table = np.concatenate(parts)
    return {name: table[:, column] for column, name in enumerate(METRICS)}


def _metrics(weights: Floats, label: Floats, ends: NDArray[np.int64], columns: Floats) -> Floats:
    """Metrics (R, 6) of weight rows (R, N), whose columns are sorted by falling probability.

    Args:
        weights: How often each prediction was drawn.
        label: (N,).
        ends: Last position of each group of equal probabilities.
        columns: (N, 3 + bins): squared errors, log losses, labels, signed gaps by bin.
    """
    true = np.cumsum(weights * label, axis=1)
    all_ = np.cumsum(weights, axis=1)
    if len(ends) < len(label):
        true, all_ = true[:, ends], all_[:, ends]
    total, positive = all_[:, -1], true[:, -1]
    negative = total - positive
    false = all_ - true
    sums = weights @ columns
    with np.errstate(invalid="ignore", divide="ignore"):
        # Trapezoids, with the step from (0, 0) to the first threshold.
        area = (np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1])).sum(axis=1) + false[:, 0] * true[:, 0]
        auroc_ = area / (2 * positive * negative)
        precision = true / np.maximum(all_, 1)
        gain = (np.diff(true, axis=1) * precision[:, 1:]).sum(axis=1) + true[:, 0] * precision[:, 0]
        auprc = gain / positive
        means = sums[:, :3] / total[:, None]
        ece_ = np.abs(sums[:, 3:]).sum(axis=1) / total
    undefined = (positive == 0) | (negative == 0)
    auroc_[undefined] = np.nan
    auprc[positive == 0] = np.nan
    return np.column_stack([auroc_, auprc, means[:, 0], means[:, 1], ece_, means[:, 2]])
