"""From trained weights to predictions, metrics with intervals, and figures."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    SeveralTarget,
    SurvivalTarget,
    Target,
    columns_of,
    prediction_names,
)
from ehrseq.files import atomic_folder, is_current, read_json, read_manifest, write_json, write_manifest
from ehrseq.metrics import Estimate, evaluate_predictions
from ehrseq.store import Store
from ehrseq.tasks.outcomes import EVENT, TIME_TO_EVENT
from ehrseq.tracking import RunTracker
from ehrseq.workflows.alarms import evaluate_utility
from ehrseq.workflows.aspects import Aspects
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.forecasts import evaluate_forecasts
from ehrseq.workflows.ledger import Ledger, record_look
from ehrseq.workflows.prepare import Prepared, check_same_data
from ehrseq.workflows.runs import EVALUATE, TrainedRun
from ehrseq.workflows.scorers import ForecastScorer, score_members

PREDICTIONS, METRICS, TABLES = "predictions.parquet", "metrics.json", "tables"
Metrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` gives.

    Attributes:
        folder: `evaluate/` in the run folder.
        metrics: `{"held_out/auroc": {"value", "ci_low", "ci_high"}, ...}`.
        ledger: With how many models the scored split has been looked at.
    """

    folder: Path
    metrics: Metrics
    ledger: Ledger


def evaluate_key(settings: Settings, trained: TrainedRun) -> dict[str, Any]:
    """What determines this workflow's output."""
    options = settings.evaluate.plain()
    options.pop("individuals")  # who may be seen elsewhere; in the run folder everything is the same
    return {"weights": trained.weights_digest, "evaluate": options, "recalibration": settings.recalibration}


def run(settings: Settings, prepared: Prepared, trained: TrainedRun, tracker: RunTracker) -> Evaluated:
    """Score a run on a split it did not learn from.

    Writes `evaluate/`: `predictions.parquet`, `metrics.json`, tables and figures; of forecasts see
    `evaluate_forecasts`.

    Raises:
        DataError: If the data are not those of the training.
        RunError: If risks are to be mended and nothing was fitted for it.
        ConfigError: If `evaluate.subgroups` names a code that the data do not have.
    """
    check_same_data(prepared, trained.key)
    key = evaluate_key(settings, trained)
    folder = trained.folder / EVALUATE
    if not settings.force and is_current(folder, key):
        say(f"evaluate: {folder} is up to date")
        return Evaluated(folder, read_json(folder / METRICS), _look(settings, prepared, trained))
    split = settings.evaluate.split
    with atomic_folder(folder) as staging, timed(f"evaluate: {split} scored"):
        store = prepared.open()
        samples, scorer = store.samples(split), trained.scorer()
        options = bootstrap_options(settings)
        estimates: dict[str, Estimate] = {}
        if isinstance(scorer, ForecastScorer):
            estimates, raw = evaluate_forecasts(
                settings, store, scorer, trained.preprocessor(), samples, staging, **options
            )
            spread = None
        else:
            raw, spread = score_members(scorer, store, samples, settings)
        prediction = trained.recalibrate(raw, settings.recalibration)
        target, outcome = trained.target(), store.arrays.sample_label[samples]
        frame = prediction_frame(store, target, samples, prediction, outcome)
        if spread is not None:
            frame = frame.with_columns(pl.Series("spread", spread))
            estimates["members/spread"] = Estimate(float(spread.mean()), None, None)
        frame.write_parquet(staging / PREDICTIONS)
        estimates |= evaluate_predictions(
            target, outcome, prediction, store.subjects_of(samples), **options, stratified=settings.evaluate.stratified
        )
        if isinstance(target, BinaryTarget) and target.utility == "sepsis2019":
            estimates |= evaluate_utility(settings, trained, store, scorer, samples, prediction[:, 0], **options)
        page = Aspects(settings, prepared, trained, store, scorer, samples, options)
        findings = page.examine(target, outcome, prediction, raw, estimates, staging)
        metrics = {f"{split}/{name}": plain(estimate) for name, estimate in findings.metrics.items()}
        if isinstance(target, BinaryTarget):
            ceiling = _planted_rule(prepared.dataset, store, samples, outcome[:, 0])
            if ceiling is not None:
                metrics[f"{split}/planted_rule_auroc"] = {"value": ceiling, "ci_low": None, "ci_high": None}
        (staging / TABLES).mkdir()
        for name, table in findings.tables.items():
            table.write_csv(staging / TABLES / f"{name}.csv")
        write_json(staging / METRICS, metrics)
        facts = {
            "split": split,
            "level": settings.evaluate.level,
            "source": prepared.source,
            "data_digest": prepared.data_digest,
            "store_digest": prepared.digest,
            "splits": (read_manifest(prepared.store) or {}).get("splits", {}),
        }
        write_manifest(staging, EVALUATE, key, samples=len(samples), **facts)
    tracker.metrics(flatten(metrics), 0)
    return Evaluated(folder, metrics, _look(settings, prepared, trained))


def _look(settings: Settings, prepared: Prepared, trained: TrainedRun) -> Ledger:
    """Note in the ledger that this model was scored, and tell how many were."""
    ledger = record_look(settings, prepared.open(), trained.weights_digest, trained.folder.name)
    if ledger.looks:
        say(f"evaluate: {ledger.tell()}")
    return ledger


def bootstrap_options(settings: Settings) -> dict[str, Any]:
    """How sure the figures are made."""
    options = settings.evaluate
    return {"replicates": options.replicates, "seed": options.seed, "level": options.level}


def prediction_frame(
    store: Store,
    target: Target,
    samples: NDArray[np.int64],
    prediction: NDArray[np.float64],
    outcome: NDArray[np.float32] | None = None,
) -> pl.DataFrame:
    """Predictions as people get them: `subject_id`, `prediction_time`, outcomes where known, predictions.

    The columns are `label` and `probability`; with several classes or labels `probability_<name>`, of numbers
    `prediction`, of times `time_to_event_hours`, `event` and `incidence_<cause>_<hours>h`, of forecasts `anomaly`.
    Those of several targets have the name of their part and `_` in front.
    """
    columns = [
        pl.Series("subject_id", store.subjects_of(samples)),
        pl.Series("prediction_time", store.arrays.sample_time[samples]).cast(pl.Datetime("us")),
    ]
    if outcome is not None:
        columns += _outcome_columns(target, outcome)
    names = prediction_names(target)
    columns += [pl.Series(name, prediction[:, number], nan_to_null=True) for number, name in enumerate(names)]
    return pl.DataFrame(columns)


def _outcome_columns(target: Target, outcome: NDArray[np.float32]) -> list[pl.Series]:
    """The outcomes (M, L) as labels have them; null where unknown."""
    known = [pl.Series(column).fill_nan(None) for column in outcome.T]
    match target:
        case BinaryTarget():
            columns = {"label": known[0] == 1}
        case MulticlassTarget(classes=classes):
            numbers = known[0].cast(pl.Int64)
            columns = {"label": numbers.replace_strict(range(len(classes)), classes, return_dtype=pl.String)}
        case MultilabelTarget(labels=labels):
            columns = {f"label_{name}": known[number] == 1 for number, name in enumerate(labels)}
        case OrdinalTarget():
            columns = {"label": known[0].cast(pl.Int64)}
        case RegressionTarget():
            columns = {"label": known[0]}
        case SurvivalTarget():
            columns = {TIME_TO_EVENT: known[0], EVENT: known[1].cast(pl.Int64)}
        case ForecastTarget():
            columns = {} if np.isnan(outcome).all() else {"label": known[0] == 1}
        case SeveralTarget():
            parts = [
                (part.name, _outcome_columns(part.target, outcome[:, part.outcomes]))
                for part in columns_of(target.parts)
            ]
            return [column.alias(f"{name}_{column.name}") for name, own in parts for column in own]
    return [column.alias(name) for name, column in columns.items()]


def describe_outcome(target: Target, outcome: NDArray[np.float32]) -> str:
    """One history's outcome (L,) in words."""
    if isinstance(target, SeveralTarget):
        own = columns_of(target.parts)
        return ", ".join(f"{part.name} {describe_outcome(part.target, outcome[part.outcomes])}" for part in own)
    words = {
        column.name: "unknown" if column[0] is None else column[0] for column in _outcome_columns(target, outcome[None])
    }
    if set(words) != {"label"}:
        return ", ".join(f"{name.removeprefix('label_')} {value}" for name, value in words.items())
    value = words["label"]
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def flatten(metrics: Metrics) -> dict[str, float]:
    """Metrics as MLflow takes them: `held_out/auroc`, `held_out/auroc_ci_low`, ...; undefined ones are left out.

    Figures of a section of their own, such as `held_out/at_youden/ppv`, go without their intervals, which would be most
    of the page; tables have them. Names of codes lose what MLflow does not allow in a name: `VITAL//heart_rate` becomes
    `VITAL/heart_rate`.
    """
    flat = {}
    for full_name, estimate in metrics.items():
        name = re.sub("/+", "/", re.sub(r"[^\w./ -]", "_", full_name)).rstrip("/")
        for part, value in estimate.items():
            if value is not None and (part == "value" or full_name.count("/") == 1 or "//" in full_name):
                flat[name if part == "value" else f"{name}_{part}"] = value
    return flat


def plain(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as JSON has it."""
    return {"value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}


def _planted_rule(dataset: Path, store: Store, samples: NDArray[np.int64], label: NDArray[np.float32]) -> float | None:
    """AUROC of the true risk, where the source knows it: the ceiling of every model on these samples."""
    from ehrseq.metrics import auroc

    shards = sorted((dataset / "ground_truth").glob("scores*/*.parquet")) + sorted(
        (dataset / "ground_truth").glob("scores.parquet")
    )
    if not shards:
        return None
    wanted = pl.DataFrame(
        {
            "subject_id": store.subjects_of(samples),
            "prediction_time": pl.Series(store.arrays.sample_time[samples]).cast(pl.Datetime("us")),
        }
    )
    truth = pl.concat([pl.read_parquet(path) for path in shards])
    joined = wanted.join(truth, on=["subject_id", "prediction_time"], how="left", maintain_order="left", suffix="_true")
    value = auroc(label, joined["score"].to_numpy())
    return None if np.isnan(value) else float(value)
