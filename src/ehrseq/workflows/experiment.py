"""The whole way, as one tracked run: prepare, train, evaluate, explain, audit, report."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from ehrseq.config.model import Trees
from ehrseq.config.schema import Settings
from ehrseq.files import is_current, read_json
from ehrseq.tracking import RunLink
from ehrseq.workflows import audit, evaluate, explain, prepare, report, track, train
from ehrseq.workflows.console import is_first
from ehrseq.workflows.evaluate import Metrics
from ehrseq.workflows.launch import launch, must_launch
from ehrseq.workflows.runs import AUDIT, EVALUATE, EXPLAIN, open_run, run_folder


@dataclass(frozen=True)
class Experiment:
    """What an experiment gives.

    Attributes:
        folder: The run folder.
        metrics: All figures, with intervals.
        run_id: The MLflow run, where there is one.
    """

    folder: Path
    metrics: Metrics
    run_id: str | None


def run(
    settings: Settings, link: RunLink | None = None, watch: train.Watch | None = None, scored: bool = True
) -> Experiment:
    """Prepare the data, then train, evaluate and explain one model; steps that are done already are not done again.

    Args:
        settings: What and how.
        link: The sweep that the run belongs to.
        watch: Called with the figures of each epoch; may end a hopeless training by raising `Pruned`.
        scored: False trains alone: nothing but `train` and `tuning` is looked at.

    Raises:
        EhrseqError: Whatever the user can mend, from any of the steps.
    """
    if must_launch(settings):
        prepare.run(settings)
        result = launch(settings)
        folder = Path(str(result["folder"]))
        return Experiment(folder, read_metrics(folder), result["run_id"])
    # Importing torch and Lightning takes longer than preparing the data; the two go side by side.
    importing = Thread(target=_import_early, args=(settings,), daemon=True)
    importing.start()
    alone = settings.trainer.processes == 1
    prepared = prepare.run(settings if alone else settings.model_copy(update={"force": False}))
    # Two threads in the same circular imports would see half of a module.
    importing.join()
    folder = run_folder(settings, prepared)
    if not is_first():
        return _take_part(settings, prepared, folder)
    with track.tracked(settings, folder, link) as tracker:
        is_done = is_complete if scored else train.is_done
        if is_done(settings, prepared, folder) and tracker.is_known():
            return Experiment(folder, read_metrics(folder) if scored else {}, tracker.run_id)
        tracker.start(fresh=not train.is_started(settings, prepared, folder))
        track.log_setup(tracker, settings, prepared, folder)
        trained = train.run(settings, prepared, folder, tracker, watch)
        track.log_training(tracker, trained, prepared)
        if not scored:
            return Experiment(folder, {}, tracker.run_id)
        evaluated = evaluate.run(settings, prepared, trained, tracker)
        track.log_evaluation(tracker, evaluated, settings)
        if settings.explain.enabled:
            track.log_explanation(tracker, explain.run(settings, prepared, trained), settings)
        if settings.audit.shuffled_labels:
            audit.run(settings, prepared, folder, tracker)
        metrics = read_metrics(folder)
        track.log_report(tracker, report.run(settings, folder))
        tracker.describe(track.describe(settings, prepared, folder, metrics, evaluated.ledger))
    return Experiment(folder, metrics, tracker.run_id)


def _take_part(settings: Settings, prepared: prepare.Prepared, folder: Path) -> Experiment:
    """What all processes but the first do: train with it, and nothing else."""
    if not is_complete(settings, prepared, folder):
        if not train.is_done(settings, prepared, folder):
            train.take_part(settings, prepared, folder)
        if settings.audit.shuffled_labels and not audit.is_done(settings, prepared, folder):
            audit.take_part(settings, prepared, folder)
    return Experiment(folder, {}, None)


def is_complete(settings: Settings, prepared: prepare.Prepared, folder: Path) -> bool:
    """Whether every step that the settings ask for is done already."""
    if not train.is_done(settings, prepared, folder):
        return False
    trained = open_run(folder)
    wanted = [(EVALUATE, evaluate.evaluate_key(settings, trained))]
    if settings.explain.enabled:
        wanted.append((EXPLAIN, explain.explain_key(settings, trained)))
    if settings.audit.shuffled_labels:
        wanted.append((AUDIT, audit.audit_key(settings, prepared)))
    return all(is_current(folder / name, key) for name, key in wanted)


def read_metrics(folder: Path) -> Metrics:
    """All figures of a finished run."""
    metrics: Metrics = {}
    for path in (folder / EVALUATE / evaluate.METRICS, folder / AUDIT / audit.RESULT):
        if path.is_file():
            metrics |= read_json(path)
    return metrics


def _import_early(settings: Settings) -> None:
    with suppress(ImportError):  # told properly when it is imported for use
        if isinstance(settings.model, Trees):
            import ehrseq.data.summary
        else:
            import ehrseq.training.fit  # noqa: F401
