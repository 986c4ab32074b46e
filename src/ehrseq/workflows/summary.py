"""The commands in full: settings in, a workflow run, and its result told on standard output."""

from collections.abc import Sequence
from pathlib import Path

from ehrseq.config.load import load_settings, overlay
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, RunError
from ehrseq.workflows import evaluate, experiment, explain, predict, prepare, track
from ehrseq.workflows.evaluate import Metrics
from ehrseq.workflows.runs import TRAIN, TrainedRun, find_run, open_run, run_folder

# What may differ from the run's own settings when a finished run is named.
_FREE = ("evaluate", "explain", "loader", "trainer", "tracking", "paths", "run", "output", "force")


def table(metrics: Metrics) -> str:
    """Metrics as aligned lines: name, value, interval."""
    width = max(len(name) for name in metrics)
    rows = [
        f"{name:<{width}}  {track.number(item['value']):>9}  {track.interval(item)}" for name, item in metrics.items()
    ]
    return "\n".join(row.rstrip() for row in rows)


def train_and_tell(settings: Settings) -> None:
    """Run the whole experiment and print where it is and how well it does."""
    result = experiment.run(settings)
    print(table(result.metrics))
    print(f"run folder:  {result.folder}")
    if settings.tracking.enabled and result.run_id:
        print(f"MLflow run:  {result.run_id} in {settings.tracking.uri} (look at it with `ehrseq ui`)")


def evaluate_and_tell(overrides: Sequence[str], extra: Path | None) -> None:
    """Evaluate a trained run."""
    settings, prepared, trained = _trained(overrides, extra)
    with track.tracked(settings, trained.folder) as tracker:
        tracker.start()
        result = evaluate.run(settings, prepared, trained, tracker)
        track.log_evaluation(tracker, result, settings)
    print(table(result.metrics))
    print(f"evaluation:  {result.folder}")


def explain_and_tell(overrides: Sequence[str], extra: Path | None) -> None:
    """Explain a trained run."""
    settings, prepared, trained = _trained(overrides, extra)
    with track.tracked(settings, trained.folder) as tracker:
        tracker.start()
        result = explain.run(settings, prepared, trained)
        track.log_explanation(tracker, result, settings)
    print(result.sentence)
    print(f"explanation: {result.folder}")


def predict_and_tell(overrides: Sequence[str], extra: Path | None) -> None:
    """Score new subjects."""
    settings = load_settings(overrides, extra)
    if settings.run is None:
        raise ConfigError("predict needs the trained run: run=<run folder or MLflow run id>")
    trained = find_run(settings.run, settings)
    settings = overlay(trained.settings, overrides, extra, (*_FREE, "source"))
    result = predict.run(settings, trained, Path(settings.output or "predictions.parquet"))
    print(f"predictions: {result.path} ({result.histories:,} histories)")


def _trained(overrides: Sequence[str], extra: Path | None) -> tuple[Settings, prepare.Prepared, TrainedRun]:
    """The run that a command is about, its settings with the command's changes, and its data."""
    settings = load_settings(overrides, extra)
    if settings.run is not None:
        trained = find_run(settings.run, settings)
        settings = overlay(trained.settings, overrides, extra, _FREE)
        return settings, prepare.run(_unforced(settings)), trained
    prepared = prepare.run(_unforced(settings))
    folder = run_folder(settings, prepared)
    if not (folder / TRAIN).is_dir():
        raise RunError(
            f"these settings have not been trained ({folder} is missing); train them first, or name a run with run="
        )
    return settings, prepared, open_run(folder)


def _unforced(settings: Settings) -> Settings:
    return settings.model_copy(update={"force": False})
