"""Metrics with intervals: a bootstrap that draws subjects, since the predictions of one subject are not independent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import auroc, average_precision, brier, ece, log_loss, log_losses, mass_bins

Floats = NDArray[np.float64]
METRICS = ("auroc", "auprc", "brier", "log_loss", "ece", "prevalence")
_ECE_BINS = 10
_CHUNK_BYTES = 2**19  # one (replicates, N) matrix of a chunk: what fits the cache of a core


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
    stratified: bool = False,
    weight: Floats | None = None,
) -> dict[str, Estimate]:
    """All metrics of a binary outcome with percentile bootstrap intervals (Efron 1979), drawn by subject.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,) whose prediction each is; all predictions of a drawn subject come together (cluster bootstrap).
        replicates: How many samples are drawn; 0 gives no intervals.
        seed: The same seed gives the same intervals.
        level: Coverage of the intervals.
        stratified: Whether as many subjects with and without the outcome are drawn as there are.
        weight: (N,) how much each counts; None: alike.

    Returns:
        Estimates of `METRICS`. Replicates in which a metric is undefined are left out of its interval.
    """
    labels, probabilities = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    points = {
        "auroc": auroc(labels, probabilities, weight),
        "auprc": average_precision(labels, probabilities, weight),
        "brier": brier(labels, probabilities, weight),
        "log_loss": log_loss(labels, probabilities, weight),
        "ece": ece(labels, probabilities, weight, bins=_ECE_BINS),
        "prevalence": float(np.average(labels, weights=weight)) if len(labels) else float("nan"),
    }
    drawn = {}
    if replicates and len(labels):
        drawn = bootstrap(labels, probabilities, np.asarray(subject), replicates, seed, stratified, weight)
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
        strata: (N,) as many subjects are drawn of each stratum as there are; a subject is in the greatest of its
            predictions' strata. None: of all together.
    """

    subject: NDArray[np.generic]
    replicates: int
    seed: int
    strata: NDArray[np.generic] | None = None

    def __iter__(self) -> Iterator[Floats]:
        if not len(self.subject):
            return
        _, cluster = np.unique(self.subject, return_inverse=True)
        clusters = int(cluster.max()) + 1
        as_they_are = np.array_equal(cluster, np.arange(clusters))
        groups = self._groups(cluster, clusters)
        generator = np.random.default_rng(self.seed)
        size = max(1, _CHUNK_BYTES // (8 * len(self.subject)))
        for start in range(0, self.replicates, size):
            drawn: Floats = np.zeros((min(size, self.replicates - start), clusters))
            for row in drawn:
                for group in groups:
                    chosen = generator.integers(len(group), size=len(group), dtype=np.int32)
                    row[group] = np.bincount(chosen, minlength=len(group))
            yield drawn if as_they_are else drawn[:, cluster]

    def _groups(self, cluster: NDArray[np.intp], clusters: int) -> list[NDArray[np.intp]]:
        """The subjects that are drawn from together."""
        if self.strata is None:
            return [np.arange(clusters)]
        number = np.unique(self.strata, return_inverse=True)[1]
        stratum = np.zeros(clusters, np.intp)
        np.maximum.at(stratum, cluster, number)
        return [np.flatnonzero(stratum == value) for value in np.unique(stratum)]


def estimate_sums(
    columns: Floats,
    metrics: Callable[[Floats], dict[str, Floats]],
    subject: NDArray[np.generic],
    *,
    replicates: int,
    seed: int,
    level: float,
    strata: NDArray[np.generic] | None = None,
) -> dict[str, Estimate]:
    """Metrics that are functions of sums over predictions, with intervals by subject.

    Args:
        columns: (N, C) what is summed; rows with NaN, whose outcome is unknown, take no part.
        metrics: Sums (R, C) to metrics (R,).
        subject: (N,).
        replicates: How many samples are drawn; 0 gives no intervals.
        seed: The same seed gives the same intervals.
        level: Coverage of the intervals.
        strata: (N,) see `Draws`.
    """
    known = ~np.isnan(columns).any(axis=1)
    columns, subject = columns[known], subject[known]
    strata = None if strata is None else strata[known]
    people, who = np.unique(subject, return_inverse=True)
    if len(people) < len(subject):
        # Subjects are drawn with all that is theirs: their sums will do, and there are fewer of them.
        columns = np.stack([np.bincount(who, column, len(people)) for column in columns.T], axis=1)
        if strata is not None:
            highest = np.zeros(len(people), np.int64)
            np.maximum.at(highest, who, np.unique(strata, return_inverse=True)[1])
            strata = highest
        subject = people
    points = metrics(columns.sum(axis=0)[None])
    parts = [metrics(weight @ columns) for weight in Draws(subject, replicates, seed, strata)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in points} if parts else {}
    return {name: estimate(float(value[0]), drawn.get(name), level) for name, value in points.items()}


def weigh(columns: Floats, weight: Floats | None) -> Floats:
    """Rows (N, C) that count as much as their weights (N,) say; None: alike."""
    return columns if weight is None else columns * weight[:, None]


def bootstrap(
    label: Floats,
    probability: Floats,
    subject: NDArray[np.generic],
    replicates: int,
    seed: int,
    stratified: bool = False,
    weight: Floats | None = None,
) -> dict[str, Floats]:
    """Metrics of bootstrap samples, many at once: a sample is a row of weights, and every metric a sum over them.

    The bins of the calibration error stay those of the whole sample.

    Returns:
        (replicates,) values of each of `METRICS`; nan where undefined.
    """
    ranked, draws = Ranked(label, probability), Draws(subject, replicates, seed, label if stratified else None)
    parts = [ranked.metrics(drawn if weight is None else drawn * weight) for drawn in draws]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


class Ranked:
    """Binary predictions sorted once, after which the metrics of any weighting of them are a few sums.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
    """

    def __init__(self, label: Floats, probability: Floats) -> None:
        self.order = np.argsort(-probability, kind="stable")
        label, probability = label[self.order], probability[self.order]
        ends = np.append(np.flatnonzero(np.diff(probability)), len(label) - 1)
        # Ranking needs sums at the places of positives only: up to the last of their equals, and to before the first.
        self.positives = np.flatnonzero(label == 1)
        group = np.searchsorted(ends, self.positives)
        self._last = ends[group]
        self._before = np.where(group > 0, ends[group - 1], -1)
        self._true_last = np.searchsorted(self.positives, self._last, side="right")
        self._true_before = np.searchsorted(self.positives, self._before, side="right")
        self._columns = np.column_stack([(probability - label) ** 2, log_losses(label, probability), label])
        self._gap = probability - label
        bins = mass_bins(probability, _ECE_BINS)
        self._bins = np.append(0, np.flatnonzero(np.diff(bins)) + 1)

    def metrics(self, weights: Floats) -> dict[str, Floats]:
        """`METRICS` of weightings, (R,) each; nan where undefined.

        Args:
            weights: (R, N) how much each prediction counts, in the order in which they were given.
        """
        weights = weights.take(self.order, axis=1)
        all_ = _running_sum(weights)
        mine = weights.take(self.positives, axis=1)
        true = _running_sum(mine)
        total, positive = all_[:, -1], true[:, -1]
        negative = total - positive
        true_last, all_last = true.take(self._true_last, axis=1), all_.take(self._last + 1, axis=1)
        false_before = all_.take(self._before + 1, axis=1) - true.take(self._true_before, axis=1)
        sums = weights @ self._columns
        gaps = np.add.reduceat(weights * self._gap, self._bins, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            above = (mine * (false_before + all_last - true_last)).sum(axis=1)
            precision = np.where(all_last > 0, true_last / all_last, 0.0)
            return {
                "auroc": np.where((positive > 0) & (negative > 0), 1 - above / (2 * positive * negative), np.nan),
                "auprc": np.where(positive > 0, (mine * precision).sum(axis=1) / positive, np.nan),
                "brier": sums[:, 0] / total,
                "log_loss": sums[:, 1] / total,
                "ece": np.abs(gaps).sum(axis=1) / total,
                "prevalence": sums[:, 2] / total,
            }


def _running_sum(weights: Floats) -> Floats:
    """The sums before each column and after the last, (R, N + 1)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
