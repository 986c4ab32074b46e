"""The workflows as DVC stages: settings from params.yaml, outputs under fixed paths.

DVC follows `results/`; what is shared by all runs stays in the content-addressed data folder and is found, or made
again, by every stage that needs it.
"""

from pathlib import Path

from ehrseq.config.load import read_settings
from ehrseq.config.schema import Settings
from ehrseq.files import atomic_folder, write_manifest
from ehrseq.tracking import RunTracker
from ehrseq.workflows import audit, evaluate, experiment, explain, prepare, report, track, train
from ehrseq.workflows.runs import EVALUATE, EXPLAIN, open_run

RESULTS = Path("results")
PARAMS = Path("params.yaml")


def prepare_stage() -> None:
    """`results/prepare`: the digests of what was prepared, and the report."""
    prepared = prepare.run(read_settings(PARAMS))
    with atomic_folder(RESULTS / "prepare") as staging:
        for name in (prepare.PREPROCESSOR, prepare.REPORT, prepare.SPLITS):
            (staging / name).write_bytes((prepared.store / name).read_bytes())
        write_manifest(staging, "prepare", {"store": prepared.digest, "data": prepared.data_digest})


def train_stage() -> None:
    """`results/train`: a new MLflow run begins here, and the later stages go on with it."""
    settings, prepared = _start()
    with track.tracked(settings, RESULTS) as tracker:
        tracker.start(fresh=True)
        track.log_setup(tracker, settings, prepared, RESULTS)
        trained = train.run(settings, prepared, RESULTS, tracker)
        track.log_training(tracker, trained, prepared)


def evaluate_stage() -> None:
    """`results/evaluate`."""
    settings, prepared = _start()
    with track.tracked(settings, RESULTS) as tracker:
        tracker.start()
        result = evaluate.run(settings, prepared, open_run(RESULTS), tracker)
        track.log_evaluation(tracker, result, settings)
        if settings.audit.shuffled_labels:
            audit.run(settings, prepared, RESULTS, tracker)
        _report(settings, tracker)
        tracker.describe(track.describe(settings, prepared, RESULTS, experiment.read_metrics(RESULTS)))


def explain_stage() -> None:
    """`results/explain`; it holds a manifest only where nothing is to be explained."""
    settings, prepared = _start()
    if not settings.explain.enabled:
        with atomic_folder(RESULTS / EXPLAIN) as staging:
            write_manifest(staging, EXPLAIN, {"enabled": False})
        return
    with track.tracked(settings, RESULTS) as tracker:
        tracker.start()
        result = explain.run(settings, prepared, open_run(RESULTS))
        track.log_explanation(tracker, result, settings)
        _report(settings, tracker)


def _report(settings: Settings, tracker: RunTracker) -> None:
    """`results/report`, of what is there so far: the stages that it draws on come in any order."""
    if (RESULTS / EVALUATE).is_dir():
        track.log_report(tracker, report.run(settings, RESULTS))


def _start() -> tuple[Settings, prepare.Prepared]:
    settings = read_settings(PARAMS)
    return settings, prepare.run(settings)
