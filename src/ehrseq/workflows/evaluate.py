"""From trained weights to predictions, metrics with intervals, and figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.files import atomic_folder, is_current, read_json, write_json, write_manifest
from ehrseq.metrics import Estimate, evaluate_binary
from ehrseq.store import Store
from ehrseq.tracking import RunTracker
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.prepare import Prepared, check_same_data
from ehrseq.workflows.runs import EVALUATE, TrainedRun

PREDICTIONS, METRICS = "predictions.parquet", "metrics.json"
Metrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` gives.

    Attributes:
        folder: `evaluate/` in the run folder.
        metrics: `{"held_out/auroc": {"value", "ci_low", "ci_high"}, ...}`.
    """

    folder: Path
    metrics: Metrics


def evaluate_key(settings: Settings, trained: TrainedRun) -> dict[str, Any]:
    """What determines this workflow's output."""
    return {"weights": trained.weights_digest, "evaluate": settings.evaluate.plain()}


def run(settings: Settings, prepared: Prepared, trained: TrainedRun, tracker: RunTracker) -> Evaluated:
    """Score a run on a split it did not learn from.

    Writes `evaluate/`: `predictions.parquet`, `metrics.json`, figures.

    Raises:
        DataError: If the data are not those of the training.
    """
    check_same_data(prepared, trained.key)
    key = evaluate_key(settings, trained)
    folder = trained.folder / EVALUATE
    if not settings.force and is_current(folder, key):
        say(f"evaluate: {folder} is up to date")
        return Evaluated(folder, read_json(folder / METRICS))
    split = settings.evaluate.split
    with atomic_folder(folder) as staging, timed(f"evaluate: {split} scored"):
        store = prepared.open()
        samples, probability = score(settings, trained, store, split)
        label = store.arrays.sample_label[samples]
        prediction_frame(store, samples, probability, label).write_parquet(staging / PREDICTIONS)
        subject = store.subjects_of(samples)
        options = settings.evaluate
        estimates = evaluate_binary(
            label, probability, subject, replicates=options.replicates, seed=options.seed, level=options.level
        )
        metrics = {f"{split}/{name}": _plain(estimate) for name, estimate in estimates.items()}
        ceiling = _planted_rule(prepared.dataset, store, samples, label)
        if ceiling is not None:
            metrics[f"{split}/planted_rule_auroc"] = {"value": ceiling, "ci_low": None, "ci_high": None}
        write_json(staging / METRICS, metrics)
        _draw(label, probability, staging, estimates)
        write_manifest(staging, EVALUATE, key, samples=len(samples))
    tracker.metrics(flatten(metrics), 0)
    return Evaluated(folder, metrics)


def score(
    settings: Settings, trained: TrainedRun, store: Store, split: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sample numbers of a split and their probabilities, in the order of the store."""
    samples = store.samples(split)
    return samples, trained.scorer().score(store, samples, settings)


def prediction_frame(
    store: Store,
    samples: NDArray[np.int64],
    probability: NDArray[np.float64],
    label: NDArray[np.float32] | None = None,
) -> pl.DataFrame:
    """Predictions as people get them: `subject_id`, `prediction_time`, `label` where known, `probability`."""
    frame = pl.DataFrame(
        {
            "subject_id": store.subjects_of(samples),
            "prediction_time": pl.Series(store.arrays.sample_time[samples]).cast(pl.Datetime("us")),
        }
    )
    if label is not None:
        frame = frame.with_columns(pl.Series("label", label == 1))
    return frame.with_columns(pl.Series("probability", probability))


def flatten(metrics: Metrics) -> dict[str, float]:
    """Metrics as MLflow takes them: `held_out/auroc`, `held_out/auroc_ci_low`, ...; undefined ones are left out."""
    flat = {}
    for name, estimate in metrics.items():
        for part, value in estimate.items():
            if value is not None:
                flat[name if part == "value" else f"{name}_{part}"] = value
    return flat


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}


def _planted_rule(dataset: Path, store: Store, samples: NDArray[np.int64], label: NDArray[np.float32]) -> float | None:
    """AUROC of the true risk, where the source knows it: the ceiling of every model on these samples."""
    from ehrseq.metrics import auroc

    shards = sorted((dataset / "ground_truth").glob("scores*/*.parquet")) + sorted(
        (dataset / "ground_truth").glob("scores.parquet")
    )
    if not shards:
        return None
    wanted = prediction_frame(store, samples, np.zeros(len(samples)))
    truth = pl.concat([pl.read_parquet(path) for path in shards])
    joined = wanted.join(truth, on=["subject_id", "prediction_time"], how="left", maintain_order="left", suffix="_true")
    value = auroc(label, joined["score"].to_numpy())
    return None if np.isnan(value) else float(value)


def _draw(label: NDArray[Any], probability: NDArray[np.float64], folder: Path, estimates: dict[str, Estimate]) -> None:
    from ehrseq.metrics import figures

    for draw, name in (
        (figures.draw_roc, "roc"),
        (figures.draw_precision_recall, "precision_recall"),
        (figures.draw_calibration, "calibration"),
    ):
        draw(label, probability, folder / f"{name}.png", estimates=estimates)
