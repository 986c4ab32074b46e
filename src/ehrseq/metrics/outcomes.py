"""The metrics of each kind of target, with intervals by subject."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    SeveralTarget,
    SingleTarget,
    SurvivalTarget,
    Target,
    columns_of,
)
from ehrseq.metrics.binary import auroc, average_precision
from ehrseq.metrics.calibration import evaluate_calibration
from ehrseq.metrics.intervals import Draws, Estimate, Ranked, bootstrap, estimate, estimate_sums, evaluate_binary
from ehrseq.metrics.survival import brier_columns, case_weights, concordance

Floats = NDArray[np.float64]
# By which figure a run of each kind is judged at a glance.
_HEADLINE = {
    "binary": "auroc",
    "multiclass": "macro_auroc",
    "multilabel": "macro_auroc",
    "regression": "r2",
    "ordinal": "kappa",
    "survival": "c_index",
    "forecast": "skill",
}


def headline(target: Target) -> str:
    """By which of its metrics a run is judged at a glance; of several targets, by that of the first."""
    if isinstance(target, SeveralTarget):
        return f"{target.first}_{headline(target.parts[target.first].target)}"
    if isinstance(target, SurvivalTarget) and len(target.causes) > 1:
        return f"{_HEADLINE[target.kind]}_{target.causes[0]}"
    return _HEADLINE[target.kind]


def evaluate_predictions(
    target: Target,
    outcome: NDArray[np.float32],
    prediction: Floats,
    subject: NDArray[np.generic],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    stratified: bool = False,
) -> dict[str, Estimate]:
    """All metrics of a kind of target with percentile bootstrap intervals, drawn by subject.

    Args:
        target: The kind.
        outcome: (N, L), see `ehrseq.tasks.Outcomes`.
        prediction: (N, P), see `ehrseq.nn.Objective`.
        subject: (N,) whose prediction each is.
        replicates: How many samples are drawn; 0 gives no intervals.
        seed: The same seed gives the same intervals.
        level: Coverage of the intervals.
        stratified: Whether as many subjects with and without the outcome are drawn as there are; of binary targets.
    """
    options: dict[str, Any] = {"replicates": replicates, "seed": seed, "level": level, "stratified": stratified}
    if isinstance(target, SeveralTarget):
        result: dict[str, Estimate] = {}
        for part in columns_of(target.parts):
            known = ~np.isnan(outcome[:, part.outcomes]).all(axis=1)
            own = outcome[known, part.outcomes], prediction[known, part.predictions], subject[known]
            estimates = evaluate_predictions(part.target, *own, **options)
            result |= {f"{part.name}_{name}": value for name, value in estimates.items()}
        return result
    return _evaluate_single(target, outcome, prediction, subject, options)


def _evaluate_single(
    target: SingleTarget | ForecastTarget,
    outcome: NDArray[np.float32],
    prediction: Floats,
    subject: NDArray[np.generic],
    options: dict[str, Any],
) -> dict[str, Estimate]:
    stratified = options.pop("stratified")
    match target:
        case BinaryTarget():
            label, risk = outcome[:, 0].astype(np.float64), prediction[:, 0]
            ranked = evaluate_binary(label, risk, subject, **options, stratified=stratified)
            strata = label if stratified else None
            return ranked | evaluate_calibration(label, risk, subject, **options, strata=strata)
        case MulticlassTarget(classes=classes):
            truth = outcome[:, :1] == np.arange(len(classes))
            macro = _macro(truth.astype(np.float64), prediction, subject, classes, **options)
            return macro | estimate_sums(_class_columns(truth, prediction), _class_metrics, subject, **options)
        case MultilabelTarget(labels=labels):
            return _macro(outcome.astype(np.float64), prediction, subject, labels, **options)
        case RegressionTarget():
            return estimate_sums(_number_columns(outcome[:, 0], prediction[:, 0]), _number_metrics, subject, **options)
        case OrdinalTarget(edges=edges):
            columns = _bucket_columns(outcome[:, 0], prediction, len(edges) + 1)
            return estimate_sums(columns, _bucket_metrics, subject, **options)
        case SurvivalTarget():
            return _survival(target, outcome.astype(np.float64), prediction, subject, **options)
        case ForecastTarget():
            return _anomaly(outcome[:, 0].astype(np.float64), prediction[:, 0], subject, **options)


def _macro(
    truth: Floats,
    prediction: Floats,
    subject: NDArray[np.generic],
    names: tuple[str, ...],
    *,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, Estimate]:
    """Mean AUROC and AUPRC over labels, and each label's own; all labels are drawn together."""
    result: dict[str, Estimate] = {}
    points: dict[str, list[float]] = {"auroc": [], "auprc": []}
    drawn: dict[str, list[Floats]] = {"auroc": [], "auprc": []}
    for column, name in enumerate(names):
        known = ~np.isnan(truth[:, column])
        label, probability = truth[known, column], prediction[known, column]
        own = {"auroc": auroc(label, probability), "auprc": average_precision(label, probability)}
        table = bootstrap(label, probability, subject[known], replicates, seed) if replicates and known.any() else {}
        for metric, values in points.items():
            values.append(own[metric])
            drawn[metric].append(table.get(metric, np.full(replicates, np.nan)))
            result[f"{metric}_{name}"] = estimate(values[-1], table.get(metric), level)
    macro = {}
    for metric, values in points.items():
        defined = [value for value in values if not np.isnan(value)]
        mean = float(np.mean(defined)) if defined else float("nan")
        together = np.stack(drawn[metric])
        enough = (~np.isnan(together)).sum(axis=0)
        average = np.where(enough > 0, np.nansum(together, axis=0) / np.maximum(enough, 1), np.nan)
        macro[f"macro_{metric}"] = estimate(mean, average, level)
    return macro | result


def _class_columns(truth: NDArray[np.bool_], prediction: Floats) -> Floats:
    given = np.clip(np.where(truth, prediction, 0).sum(axis=1), np.finfo(np.float64).eps, 1)
    chosen = np.eye(truth.shape[1], dtype=bool)[prediction.argmax(axis=1)]
    rest = [-np.log(given), ((prediction - truth) ** 2).sum(axis=1), np.ones(len(truth))]
    return np.column_stack([truth, truth & chosen, chosen, *rest])


def _class_metrics(sums: Floats) -> dict[str, Floats]:
    size, right, chosen = np.split(sums[:, :-3], 3, axis=1)
    loss, squares, count = sums[:, -3], sums[:, -2], sums[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(size > 0, right / size, np.nan)
        f1 = np.where(size + chosen > 0, 2 * right / (size + chosen), np.nan)
        by_chance = (size * chosen).sum(axis=1) / count**2
        accuracy = right.sum(axis=1) / count
        return {
            "accuracy": accuracy,
            "balanced_accuracy": np.nanmean(recall, axis=1),
            "macro_f1": np.nanmean(f1, axis=1),  # over classes that are there or were chosen
            "kappa": np.where(by_chance < 1, (accuracy - by_chance) / (1 - by_chance), np.nan),  # Cohen 1960
            "log_loss": loss / count,
            "brier": squares / count,
        }


def _number_columns(outcome: NDArray[np.float32], prediction: Floats) -> Floats:
    truth = outcome.astype(np.float64)
    error = prediction - truth
    # Counted from the mean, so that the sum of squares keeps its digits.
    moved = truth - np.nanmean(truth)
    return np.column_stack([np.abs(error), error, error**2, moved, moved**2, np.ones(len(error))])


def _number_metrics(sums: Floats) -> dict[str, Floats]:
    absolute, error, squares, value, value_squares, count = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = value_squares - value**2 / count
        return {
            "mae": absolute / count,
            "rmse": np.sqrt(squares / count),
            "r2": np.where(spread > 0, 1 - squares / spread, np.nan),
            "bias": error / count,
        }


def _bucket_columns(outcome: NDArray[np.float32], prediction: Floats, buckets: int) -> Floats:
    """A column a cell of the table of truth and choice, and the distance of the expected bucket."""
    known = ~np.isnan(outcome)
    truth = np.where(known, outcome, 0).astype(np.int64)
    cell = truth * buckets + prediction.argmax(axis=1)
    table = np.eye(buckets * buckets)[cell]
    distance = np.abs(prediction @ np.arange(buckets) - truth)
    columns = np.column_stack([table, distance])
    columns[~known] = np.nan
    return columns


def _bucket_metrics(sums: Floats) -> dict[str, Floats]:
    buckets = round((sums.shape[1] - 1) ** 0.5)
    table = sums[:, :-1].reshape(len(sums), buckets, buckets)
    count = table.sum(axis=(1, 2))
    distance = (np.arange(buckets)[:, None] - np.arange(buckets)) ** 2
    by_chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :] / np.maximum(count, 1)[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        disagreement = (by_chance * distance).sum(axis=(1, 2))
        kappa = np.where(disagreement > 0, 1 - (table * distance).sum(axis=(1, 2)) / disagreement, np.nan)
        return {
            "kappa": kappa,  # quadratic weights (Cohen 1968)
            "accuracy": np.trace(table, axis1=1, axis2=2) / count,
            "mae": sums[:, -1] / count,
        }


def _survival(
    target: SurvivalTarget,
    outcome: Floats,
    prediction: Floats,
    subject: NDArray[np.generic],
    *,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, Estimate]:
    """Concordance of each cause and the Brier scores at the edges, weighted for censoring."""
    edges = len(target.edges)
    result: dict[str, Estimate] = {}
    for number, cause in enumerate(target.causes):
        incidence = prediction[:, number * edges : (number + 1) * edges]
        suffix = "" if len(target.causes) == 1 else f"_{cause}"
        weights = np.concatenate([np.ones((1, len(outcome))), *Draws(subject, replicates, seed)])
        values = concordance(outcome[:, 0], outcome[:, 1], number + 1, incidence[:, -1], weights)
        result[f"c_index{suffix}"] = estimate(float(values[0]), values[1:], level)
        columns = brier_columns(outcome[:, 0], outcome[:, 1], number + 1, incidence, np.array(target.edges))

        def integrated(sums: Floats) -> dict[str, Floats]:
            scores = sums[:, :-1] / sums[:, -1:]
            own = {f"brier_{edge:g}h": scores[:, place] for place, edge in enumerate(target.edges)}
            return {"integrated_brier": scores.mean(axis=1), **own}

        for column, edge in enumerate(target.edges):
            case, counts = case_weights(outcome[:, 0], outcome[:, 1], number + 1, edge)
            areas = _weighted_auroc(case, incidence[:, column], counts, weights)
            result[f"auroc_{edge:g}h{suffix}"] = estimate(float(areas[0]), areas[1:], level)
        briers = estimate_sums(columns, integrated, subject, replicates=replicates, seed=seed, level=level)
        result |= {f"{name}{suffix}": value for name, value in briers.items()}
    return result


def _weighted_auroc(label: Floats, risk: Floats, counts: Floats, weights: Floats) -> Floats:
    """AUROC of weightings (R, N) of predictions that count differently, (R,)."""
    used = np.flatnonzero(counts > 0)
    if not len(used):
        return np.full(len(weights), np.nan)
    return Ranked(label[used], risk[used]).metrics(weights[:, used] * counts[used])["auroc"]


def _anomaly(label: Floats, anomaly: Floats, subject: NDArray[np.generic], **options: Any) -> dict[str, Estimate]:
    """How well anomalies tell apart whom the labels tell apart; nothing where there are no labels."""
    known = ~(np.isnan(label) | np.isnan(anomaly))
    if not known.any():
        return {}
    # Only their order counts, so that ranks can stand where probabilities are expected.
    rank = np.unique(anomaly[known], return_inverse=True)[1]
    found = evaluate_binary(label[known], rank / max(rank.max(), 1), subject[known], **options)
    return {f"anomaly_{name}": found[name] for name in ("auroc", "auprc")}
