"""From a store to trained weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from ehrseq.config.load import dump_settings
from ehrseq.config.model import Trees
from ehrseq.config.schema import Settings
from ehrseq.files import atomic_folder, is_current, read_manifest, sweep_leftovers, write_json, write_manifest
from ehrseq.tracking import RunTracker
from ehrseq.workflows.checkpoints import CHECKPOINTS, checkpoints, is_begun
from ehrseq.workflows.console import say
from ehrseq.workflows.environment import environment
from ehrseq.workflows.learn import learn_members
from ehrseq.workflows.prepare import PREPROCESSOR, Prepared
from ehrseq.workflows.pretrained import find_start
from ehrseq.workflows.recalibration import CALIBRATION, fit_calibrators
from ehrseq.workflows.runs import CONFIG, TARGET, TRAIN, TrainedRun, open_run, train_key

HISTORY, ENVIRONMENT, DATA = "history.csv", "environment.json", "data.json"
Watch = Callable[[Mapping[str, float], int], None]  # (metrics, epoch)


def is_done(settings: Settings, prepared: Prepared, folder: Path) -> bool:
    """Whether the run folder holds this very training."""
    return not settings.force and is_current(folder / TRAIN, train_key(settings, prepared))


def is_started(settings: Settings, prepared: Prepared, folder: Path) -> bool:
    """Whether the run folder holds this very training, finished or to be gone on with."""
    begun = is_begun(folder / CHECKPOINTS, train_key(settings, prepared))
    return is_done(settings, prepared, folder) or (begun and not settings.force)


def run(
    settings: Settings, prepared: Prepared, folder: Path, tracker: RunTracker, watch: Watch | None = None
) -> TrainedRun:
    """Train, or find the training done.

    Writes `train/`: weights (safetensors), trees (text) and the gain of each feature; settings, fitted
    preprocessing, how its risks can be mended, what the data were made from, history of the figures, environment.
    Meanwhile `checkpoints/` holds what a killed training goes on from.

    Args:
        settings: What and how.
        prepared: The data.
        folder: The run folder.
        tracker: Receives each epoch's figures.
        watch: Called with them too; may end a hopeless training by raising `Pruned`.

    Raises:
        TrainingError: If the loss is no longer finite.
        InterruptedBySignalError: After a signal.
        ConfigError: If a block cannot be built, or does not take the weights that it is to begin with.
        DataError: If the run to begin with has seen subjects that are to judge this one.
    """
    if is_done(settings, prepared, folder):
        say(f"train: {folder / TRAIN} is up to date")
        return open_run(folder)
    history: list[dict[str, float]] = []

    def sink(metrics: Mapping[str, float], epoch: int) -> None:
        tracker.metrics(metrics, epoch)
        # Seconds are for the eye; what is written must be the same in every repetition.
        history.append({"epoch": epoch} | {name: value for name, value in metrics.items() if name != "epoch_seconds"})
        if watch is not None:
            watch(metrics, epoch)

    store = prepared.open()
    sweep_leftovers(folder)
    with (
        checkpoints(settings, folder / CHECKPOINTS, train_key(settings, prepared)) as kept,
        atomic_folder(folder / TRAIN) as staging,
    ):
        learned = learn_members(settings, store, kept, sink, say, find_start(settings, prepared))
        learned.write(staging)
        (staging / CONFIG).write_text(dump_settings(portable(settings)), encoding="utf-8")
        write_json(staging / TARGET, store.meta["target"])
        write_json(staging / CALIBRATION, fit_calibrators(settings, store, learned.scorer))
        write_json(staging / PREPROCESSOR, prepared.preprocessor().to_json())
        pl.DataFrame(history).write_csv(staging / HISTORY)
        write_json(staging / ENVIRONMENT, environment())
        made_of = read_manifest(prepared.store) or {}
        write_json(staging / DATA, {"key": made_of.get("key"), "files": made_of.get("files")})
        keep = "best" if isinstance(settings.model, Trees) else settings.trainer.keep
        facts = {
            "best_epoch": learned.epoch,
            "epochs": learned.epochs,
            "monitor": settings.trainer.monitor,
            "keep": keep,
        }
        counts = made_of.get("splits", {})
        write_manifest(staging, TRAIN, train_key(settings, prepared), **facts, score=learned.score, splits=counts)
    say(f"train: {keep} epoch {learned.epoch} of {learned.epochs}, {settings.trainer.monitor} {learned.score:.4f}")
    return open_run(folder)


def take_part(settings: Settings, prepared: Prepared, folder: Path) -> None:
    """Train with the first process, which writes what comes of it."""
    kept = folder / CHECKPOINTS
    learn_members(settings, prepared.open(), kept, lambda *_: None, None, find_start(settings, prepared))


def portable(settings: Settings) -> Settings:
    """The settings without what belongs to one command only."""
    return settings.model_copy(update={"run": None, "output": None, "resume": None, "force": False})
