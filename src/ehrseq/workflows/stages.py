"""The workflows as DVC stages: settings from params.yaml, outputs under fixed paths.

DVC follows `results/`; what is shared by all runs stays in the content-addressed data folder and is found, or made
again, by every stage that needs it. A stage that DVC runs in a folder of its own (`dvc exp run --queue`) uses the data
folder and the MLflow database of the repository it belongs to.
"""

import os
from pathlib import Path

import polars as pl
import yaml

from ehrseq.config.load import read_settings
from ehrseq.config.schema import Settings
from ehrseq.files import atomic_file, atomic_folder, digest_json, read_json, write_json, write_manifest
from ehrseq.tracking import RunTracker, describe_run_id
from ehrseq.workflows import audit, evaluate, experiment, explain, prepare, track, train
from ehrseq.workflows.curves import write_curves
from ehrseq.workflows.runs import EXPLAIN, TrainedRun, open_run

RESULTS = Path("results")
PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
LINK = "mlflow.json"
_SQLITE = "sqlite:///"
# Of which weights the MLflow run in `results/tracking` is; DVC may bring back others from its cache.
_OWNER = RESULTS / "tracking" / "weights.json"


def prepare_stage() -> None:
    """`results/prepare`: the digests of what was prepared, and the report."""
    prepared = prepare.run(_anchored(read_settings(PARAMS)))
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
        # The settings as they are in params.yaml: what is written must not name this folder.
        trained = train.run(read_settings(PARAMS), prepared, RESULTS, tracker)
        track.log_training(tracker, trained, prepared)
        write_json(_OWNER, trained.weights_digest)


def evaluate_stage() -> None:
    """`results/evaluate`, and the curves for `dvc plots` in `results/curves`."""
    settings, prepared = _start()
    trained = open_run(RESULTS)
    with track.tracked(settings, RESULTS) as tracker:
        _go_on(tracker, settings, prepared, trained)
        result = evaluate.run(settings, prepared, trained, tracker)
        track.log_evaluation(tracker, result, settings)
        if settings.audit.shuffled_labels:
            audit.run(settings, prepared, RESULTS, tracker)
        metrics = experiment.read_metrics(RESULTS)
        tracker.describe(track.describe(settings, prepared, RESULTS, metrics, result.ledger))
    with atomic_folder(RESULTS / "curves") as staging:
        write_curves(trained.target(), pl.read_parquet(result.folder / evaluate.PREDICTIONS), staging)


def explain_stage() -> None:
    """`results/explain`; it holds a manifest only where nothing is to be explained."""
    settings, prepared = _start()
    if not settings.explain.enabled:
        with atomic_folder(RESULTS / EXPLAIN) as staging:
            write_manifest(staging, EXPLAIN, {"enabled": False})
        return
    trained = open_run(RESULTS)
    with track.tracked(settings, RESULTS) as tracker:
        _go_on(tracker, settings, prepared, trained)
        result = explain.run(settings, prepared, trained)
        track.log_explanation(tracker, result, settings)


def link_stage() -> None:
    """`results/mlflow.json`: which MLflow run this state of `dvc.lock` is; the run gets tags that lead back.

    The tag `dvc.lock` is a digest of all other stages in `dvc.lock`, `dvc.exp` the name of the experiment.
    """
    settings = _anchored(read_settings(PARAMS))
    stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.is_file() else {}
    digest = digest_json({name: stage for name, stage in stages.items() if name != "link"})
    outputs = {
        item["path"]: item["md5"] for stage in stages.values() for item in stage.get("outs", ()) if "md5" in item
    }
    with track.tracked(settings, RESULTS) as tracker:
        tracker.start()
        names = {"dvc.exp": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
        tags = {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}
        tags |= {f"dvc.out.{path}": md5 for path, md5 in outputs.items()}
        tracker.tags({"dvc.lock": digest, **tags})
    state = describe_run_id(RESULTS) or {}
    facts = {name: state.get(name) for name in ("run_id", "experiment")}
    with atomic_file(RESULTS / LINK) as staging:
        write_json(staging, {**facts, "uri": read_settings(PARAMS).tracking.uri, "dvc_lock": digest})


def _start() -> tuple[Settings, prepare.Prepared]:
    settings = _anchored(read_settings(PARAMS))
    return settings, prepare.run(settings)


def _go_on(tracker: RunTracker, settings: Settings, prepared: prepare.Prepared, trained: TrainedRun) -> None:
    """Go on with the MLflow run of these weights; begin one where DVC took them from its cache."""
    if _OWNER.is_file() and read_json(_OWNER) == trained.weights_digest:
        tracker.start()
        return
    tracker.start(fresh=True)
    track.log_setup(tracker, settings, prepared, RESULTS)
    track.log_training(tracker, trained, prepared)
    _OWNER.parent.mkdir(parents=True, exist_ok=True)
    write_json(_OWNER, trained.weights_digest)


def _anchored(settings: Settings) -> Settings:
    """Settings whose data folder and database are those of the repository, wherever DVC runs the stage."""
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    if root == Path.cwd():
        return settings
    uri = settings.tracking.uri
    if uri.startswith(_SQLITE):
        uri = f"{_SQLITE}{root / uri.removeprefix(_SQLITE)}"
    paths = {name: str(root / value) for name, value in settings.paths.plain().items()}
    source = settings.source.model_dump(by_alias=True)
    # An absolute path stays what it is.
    source |= {name: str(root / source[name]) for name in ("path",) if source.get(name)}
    return settings.model_copy(
        update={
            "tracking": settings.tracking.model_copy(update={"uri": uri}),
            "paths": settings.paths.model_copy(update=paths),
            "source": type(settings.source).model_validate(source),
        }
    )
