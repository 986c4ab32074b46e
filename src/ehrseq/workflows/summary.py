"""The commands in full: settings in, a workflow run, and its result told on standard output."""

from collections.abc import Sequence
from pathlib import Path

from ehrseq.config.load import load_settings, overlay
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, RunError
from ehrseq.workflows import evaluate, experiment, explain, predict, prepare, track
from ehrseq.workflows.console import is_first
from ehrseq.workflows.evaluate import Metrics
from ehrseq.workflows.runs import TRAIN, TrainedRun, find_run, open_run, run_folder

# What may differ from the run's own settings when a finished run is named.
_FREE = ("evaluate", "explain", "loader", "trainer", "tracking", "paths", "run", "output", "force")
_REPEATED = ("tracking", "paths", "output", "force", "reproduce")
_COMPARED = ("compare", "evaluate", "tracking", "paths", "output")


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
    if not is_first():
        return
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
    print(f"explanation: {result.folder}")


def compare_and_tell(words: Sequence[str], extra: Path | None) -> None:
    """Compare finished runs."""
    from ehrseq.workflows import compare
    from ehrseq.workflows.compare_report import print_table

    references, settings = _references(words, extra)
    result = compare.run(settings, references)
    print_table(result.comparison, result.looks)
    print(f"comparison:  {result.folder}")


def choose_and_tell(words: Sequence[str], extra: Path | None) -> None:
    """Choose on `tuning`, score on `held_out`."""
    from ehrseq.workflows import choose

    references, settings = _references(words, extra)
    result = choose.run(settings, references)
    for choice in result.choices:
        where = f"{choice.where}: " if choice.where else ""
        print(f"{where}{choice.name}, best of {choice.candidates} by {choice.monitor} ({choice.tuning:.4f})")
        if len(result.choices) == 1:
            print("\n".join(f"{name}  {value:.4f}" for name, value in choice.metrics.items()))
        else:
            print(f"  {result.headline}  {choice.metrics[result.headline]:.4f}")
        print("".join(f"run folder:  {folder}\n" for folder in choice.runs) + choice.looks)
    if result.ci_low is not None and result.ci_high is not None:
        ends = f"{result.ci_low:.4f} to {result.ci_high:.4f}"
        print(f"{result.headline} over {len(result.choices)} splits: {result.value:.4f} ({ends})")


def _references(words: Sequence[str], extra: Path | None) -> tuple[list[str], Settings]:
    """The runs that a command names, and its settings."""
    # `experiment` is a group of recipes elsewhere; here it is MLflow's.
    references = [word for word in words if "=" not in word or word.startswith(("sweep=", "experiment="))]
    settings = load_settings(_only(set(words) - set(references), _COMPARED, words), extra)
    if not references:
        raise ConfigError("name runs: folders, MLflow run ids, sweep=<id> or experiment=<MLflow experiment>")
    return references, settings


def reproduce_and_tell(words: Sequence[str], extra: Path | None) -> int:
    """Make a run again; returns the exit code."""
    from ehrseq.workflows import reproduce

    references = [word for word in words if "=" not in word]
    own = [word for word in words if word.partition("=")[0].split(".")[0] in _REPEATED]
    if len(references) != 1:
        raise ConfigError(f"reproduce needs one run, a run folder or an MLflow run id; {len(references)} given")
    rest = [word for word in words if word not in references and word not in own]
    result = reproduce.run(load_settings(own, extra), references[0], rest)
    for line in (*(str(item) for item in result.differences), *result.results):
        print(line)
    print(f"{result.verdict.upper()}: {result.folder}")
    return reproduce.EXIT_CODES[result.verdict]


def _only(chosen: set[str], free: Sequence[str], words: Sequence[str]) -> list[str]:
    """The overrides among the words, in their order.

    Raises:
        ConfigError: If one is of a section that does not matter here.
    """
    overrides = [word for word in words if word in chosen]
    for word in overrides:
        section = word.lstrip("+~").split("=")[0].split(".")[0]
        if section not in free:
            raise ConfigError(f"{word}: only {', '.join(free)} may be given here; the runs have fixed all else")
    return overrides


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
