"""Controls that show what a run's result is worth: here, that nothing is learned from permuted labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ehrseq.audit.shuffled import permute_labels
from ehrseq.config.schema import Settings
from ehrseq.config.targets import read_target
from ehrseq.files import atomic_folder, is_current, read_json, write_json, write_manifest
from ehrseq.metrics import evaluate_predictions, headline
from ehrseq.store import Store
from ehrseq.tracking import RunTracker
from ehrseq.workflows.checkpoints import CHECKPOINTS, checkpoints
from ehrseq.workflows.console import say
from ehrseq.workflows.evaluate import Metrics, bootstrap_options, flatten, plain
from ehrseq.workflows.learn import learn_members
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.pretrained import find_start
from ehrseq.workflows.runs import AUDIT, train_key

CONTROL = "control/shuffled_labels_"  # and the headline metric of the target
RESULT = "audit.json"


def audit_key(settings: Settings, prepared: Prepared) -> dict[str, Any]:
    """What determines this workflow's output."""
    return {**train_key(settings, prepared), "evaluate": settings.evaluate.plain()}


def is_done(settings: Settings, prepared: Prepared, folder: Path) -> bool:
    """Whether the run folder holds this very control."""
    return not settings.force and is_current(folder / AUDIT, audit_key(settings, prepared))


def take_part(settings: Settings, prepared: Prepared, folder: Path) -> None:
    """Train the control with the first process, which writes what comes of it."""
    start = find_start(settings, prepared)
    learn_members(settings, _permuted(settings, prepared), _kept(folder), lambda *_: None, None, start)


def _permuted(settings: Settings, prepared: Prepared) -> Store:
    store = prepared.open()
    return replace(store, arrays=permute_labels(store.arrays, settings.seed))


def _kept(folder: Path) -> Path:
    return folder / f"{CHECKPOINTS}_{AUDIT}"


def run(settings: Settings, prepared: Prepared, folder: Path, tracker: RunTracker) -> Metrics:
    """Train and score the same model on permuted labels.

    Labels are permuted within each split, before anything is learned, and the control is scored against the permuted
    labels of `held_out`: what it finds there is chance, or a leak of labels through the pipeline.

    Writes `audit/audit.json`.
    """
    key = audit_key(settings, prepared)
    place = folder / AUDIT
    if is_done(settings, prepared, folder):
        say(f"audit: {place} is up to date")
        metrics: Metrics = read_json(place / RESULT)
        return metrics
    store = _permuted(settings, prepared)
    with checkpoints(settings, _kept(folder), key) as kept, atomic_folder(place) as staging:
        say("audit: training the control on permuted labels")
        learned = learn_members(settings, store, kept, lambda *_: None, say, find_start(settings, prepared))
        samples = store.samples(settings.evaluate.split)
        prediction = learned.scorer.score(store, samples, settings)
        target = read_target(store.meta["target"])
        estimates = evaluate_predictions(
            target,
            store.arrays.sample_label[samples],
            prediction,
            store.subjects_of(samples),
            **bootstrap_options(settings),
        )
        name = headline(target)
        metrics = {f"{CONTROL}{name}": plain(estimates[name])}
        write_json(staging / RESULT, metrics)
        write_manifest(staging, AUDIT, key)
    tracker.metrics(flatten(metrics), 0)
    return metrics
