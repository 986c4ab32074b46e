"""Finished runs as a comparison sees them: what each predicted of whom, and what it was made with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    SeveralTarget,
    SurvivalTarget,
    Target,
    columns_of,
    prediction_names,
)
from ehrseq.errors import RunError
from ehrseq.files import read_json, read_manifest
from ehrseq.tasks.outcomes import EVENT, TIME_TO_EVENT
from ehrseq.tracking.link import SWEEP
from ehrseq.tracking.search import list_runs
from ehrseq.workflows.console import say
from ehrseq.workflows.evaluate import METRICS, PREDICTIONS, Metrics
from ehrseq.workflows.runs import EVALUATE, TRAIN, TrainedRun, find_run

Floats = NDArray[np.float64]
KEYS = ("subject_id", "prediction_time")


@dataclass(frozen=True)
class Finished:
    """A finished training, with the figure on `tuning` that chose its best epoch.

    Attributes:
        trained: The run.
        monitor: What chose its best epoch.
        score: That figure.
    """

    trained: TrainedRun
    monitor: str
    score: float

    @property
    def name(self) -> str:
        """The run folder's."""
        return self.trained.folder.name

    @property
    def settings(self) -> Settings:
        """What it was trained with."""
        return self.trained.settings


@dataclass(frozen=True)
class Scored(Finished):
    """A run with its predictions of one split.

    Attributes:
        target: What it predicts.
        split: Which split was scored.
        frame: Its predictions, sorted by their keys.
        metrics: `metrics.json`.
    """

    target: Target
    split: str
    frame: pl.DataFrame
    metrics: Metrics

    def subject(self) -> NDArray[np.generic]:
        """(N,) whose prediction each is."""
        return self.frame["subject_id"].to_numpy()

    def prediction(self) -> Floats:
        """(N, P), see `ehrseq.config.targets.prediction_names`."""
        columns = [
            self.frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in prediction_names(self.target)
        ]
        return np.column_stack(columns)

    def outcome(self) -> NDArray[np.float32]:
        """(N, L), see `ehrseq.tasks.Outcomes`."""
        return outcomes_of(self.target, self.frame)


def find_runs(references: Sequence[str], settings: Settings) -> list[TrainedRun]:
    """Finished runs, each once.

    Args:
        references: Run folders, MLflow run ids, `sweep=<id>`, `experiment=<name>`.
        settings: For `paths.runs` and `tracking.uri`.

    Raises:
        RunError: If one is missing.
    """
    found: dict[tuple[str, str], TrainedRun] = {}
    for reference in references:
        word, equals, value = reference.partition("=")
        members = _members(word, value, settings) if equals else [reference]
        for member in members:
            run = find_run(member, settings)
            found.setdefault((run.folder.name, run.weights_digest), run)
    return list(found.values())


def _members(kind: str, value: str, settings: Settings) -> list[str]:
    """What a sweep or an experiment consists of, as far as it is finished."""
    folders = [str(path) for path in _of_sweep(value, Path(settings.paths.runs))] if kind == "sweep" else []
    if folders and not settings.tracking.enabled:
        return folders
    try:
        listed = list_runs(settings.tracking.uri, **{kind: value})
    except RunError:
        if folders:  # MLflow is away, the folders are here
            return folders
        raise
    done = [run for run in listed if run.status == "FINISHED"]
    if len(done) < len(listed):
        say(f"{kind}={value}: {len(listed) - len(done)} of {len(listed)} runs did not finish and are left out")
    members = [run.folder if (Path(run.folder) / TRAIN).is_dir() else run.run_id for run in done]
    members += [folder for folder in folders if Path(folder).resolve() not in {Path(it).resolve() for it in members}]
    if not members:
        raise RunError(f"{kind}={value}: no finished runs in {settings.tracking.uri} or {settings.paths.runs}")
    return members


def _of_sweep(sweep: str, runs: Path) -> list[Path]:
    """Run folders that say they are of the sweep, in a JSON file beside their steps or in `tracking/`."""
    folders = []
    for path in sorted([*runs.glob("*/*.json"), *runs.glob("*/tracking/*.json")]):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get(SWEEP) == sweep:
            folder = path.parent.parent if path.parent.name == "tracking" else path.parent
            if (folder / TRAIN).is_dir() and folder not in folders:
                folders.append(folder)
    return folders


def read_finished(trained: TrainedRun) -> Finished:
    """A run, and how well it did on `tuning`."""
    manifest = read_manifest(trained.folder / TRAIN) or {}
    return Finished(trained, str(manifest.get("monitor")), float(manifest["score"]))


def read_scored(trained: TrainedRun) -> Scored:
    """A run's predictions.

    Raises:
        RunError: If it was not evaluated, or what it predicts cannot be compared.
    """
    place = trained.folder / EVALUATE
    if not (place / PREDICTIONS).is_file() or not (place / METRICS).is_file():
        raise RunError(
            f"{trained.folder} has no predictions; score it first: ehrseq evaluate run={trained.folder} (MLflow has "
            "those of single histories only of runs with evaluate.individuals=true)"
        )
    metrics: Metrics = read_json(place / METRICS)
    frame = pl.read_parquet(place / PREDICTIONS)
    target = trained.target()
    if isinstance(target, ForecastTarget) and "label" not in frame.columns:
        raise RunError(f"{trained.folder} foretells values and has no labels: there is nothing to compare by")
    split = next(iter(metrics)).split("/")[0]
    finished = read_finished(trained)
    return Scored(trained, finished.monitor, finished.score, target, split, frame.sort(KEYS), metrics)


def outcomes_of(target: Target, frame: pl.DataFrame, prefix: str = "") -> NDArray[np.float32]:
    """The outcomes (N, L) back from the columns that `evaluate` wrote; nan where unknown."""
    match target:
        case SeveralTarget():
            parts = [outcomes_of(part.target, frame, f"{prefix}{part.name}_") for part in columns_of(target.parts)]
            return np.concatenate(parts, axis=1)
        case MulticlassTarget(classes=classes):
            label = frame[f"{prefix}label"]
            columns = [label.replace_strict(classes, range(len(classes)), return_dtype=pl.Float32, default=None)]
        case MultilabelTarget(labels=labels):
            columns = [frame[f"{prefix}label_{name}"] for name in labels]
        case SurvivalTarget():
            columns = [frame[f"{prefix}{TIME_TO_EVENT}"], frame[f"{prefix}{EVENT}"]]
        case _:
            columns = [frame[f"{prefix}label"]]
    return np.column_stack([column.cast(pl.Float32).fill_null(np.nan).to_numpy() for column in columns])


def has_utility(target: Target) -> bool:
    """Whether alarms are scored by what they are worth."""
    return isinstance(target, BinaryTarget) and target.utility != "none"
