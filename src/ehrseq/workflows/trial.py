"""One run of a sweep, in a process of its own: override words in, figures out."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehrseq.config.load import check
from ehrseq.config.schema import Settings
from ehrseq.errors import Pruned
from ehrseq.files import read_manifest
from ehrseq.tracking import RunLink, Spool, reason
from ehrseq.workflows import experiment
from ehrseq.workflows.runs import TRAIN
from ehrseq.workflows.train import HISTORY

# Imported once, before any trial begins. Only what starts no threads by being imported.
PRELOAD = (
    "ehrseq.workflows.trial",
    "ehrseq.training.fit",
    "ehrseq.plotting",
    "hydra",
    "mlflow.store.tracking.sqlalchemy_store",
    "ehrseq.tracking.sweeps",
)


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        plain: The configuration, composed.
        cwd: The folder in which the command was given.
        scored: Whether the run is evaluated and explained, too.
        link: Where the run stands in its sweep.
    """

    plain: Mapping[str, Any]
    cwd: Path
    scored: bool
    link: RunLink


@dataclass(frozen=True)
class Epoch:
    """What the process that waits is told after each epoch; it answers whether the trial is hopeless.

    Attributes:
        number: From 1.
        metrics: Its figures.
    """

    number: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        folder: The run folder.
        run_id: The MLflow run.
        values: Figures: `tuning/...` and `train/...` of the best epoch, `model/weights`, and what evaluation gave.
    """

    folder: str
    run_id: str | None
    values: dict[str, float]


def main(request: Request, ask: Callable[[Epoch], bool]) -> Answer:
    """Run it.

    Args:
        request: What.
        ask: Tells the waiting process of an `Epoch`; says whether the trial is hopeless.

    Raises:
        Pruned: If it is.
        EhrseqError: Whatever the user can mend.
    """
    os.chdir(request.cwd)
    settings = check(request.plain)
    begun = time.monotonic()

    def watch(metrics: Mapping[str, float], epoch: int) -> None:
        shown = {name: value for name, value in metrics.items() if name != "epoch_seconds"}
        print(f"epoch {epoch}: " + "  ".join(f"{name} {value:.5g}" for name, value in shown.items()), flush=True)
        if ask(Epoch(epoch, shown)):
            raise Pruned(f"given up after epoch {epoch}: others of the sweep do better")

    result = experiment.run(settings, request.link, watch, request.scored)
    seconds = time.monotonic() - begun
    run_id = _in_sweep(settings, result, request.link)
    values = {**figures(result.folder), "train/seconds": seconds}
    scores = {name: item["value"] for name, item in result.metrics.items() if item["value"] is not None}
    return Answer(str(result.folder), run_id, values | scores)


def _in_sweep(settings: Settings, result: experiment.Experiment, link: RunLink) -> str | None:
    """The MLflow run, or a copy in the sweep where it was made before the sweep and belongs elsewhere."""
    if not settings.tracking.enabled or result.run_id is None:
        return None
    from ehrseq.tracking.sweeps import stand_for

    spool = Spool(result.folder / "tracking" / "metrics.jsonl")
    try:
        return stand_for(settings.tracking, result.run_id, link, spool)
    except Exception as error:  # a result is never lost because MLflow is away
        print(f"MLflow at {settings.tracking.uri} did not take the run: {reason(error)}")
        return result.run_id


def figures(folder: Path) -> dict[str, float]:
    """What a trained run tells of itself: the figures of its best epoch, and its size.

    Args:
        folder: The run folder.
    """
    import polars as pl

    facts = read_manifest(folder / TRAIN) or {}
    history = pl.read_csv(folder / TRAIN / HISTORY, infer_schema_length=None)
    # Of trees not every one is in the history: the last look before the best.
    best = history.filter(pl.col("epoch") <= facts["best_epoch"]).tail(1).to_dicts()[0]
    values = {name: float(value) for name, value in best.items() if name != "epoch" and value is not None}
    values |= {facts["monitor"]: float(facts["score"]), "train/epochs": float(facts["epochs"])}
    weights = _count_weights(folder / TRAIN)
    return values | ({"model/weights": float(weights)} if weights else {})


def _count_weights(folder: Path) -> int:
    """How many numbers the networks of a run hold; 0 of trees."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                total += size
    return total
