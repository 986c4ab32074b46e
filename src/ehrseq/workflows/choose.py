"""Choosing on `tuning`, and scoring what was chosen on `held_out`, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehrseq.config.schema import Settings
from ehrseq.config.targets import more_is_better
from ehrseq.files import digest_json
from ehrseq.meds.schema import HELD_OUT
from ehrseq.metrics import headline
from ehrseq.metrics.comparison import corrected_resampled_t
from ehrseq.workflows import evaluate, prepare, track
from ehrseq.workflows.configurations import choose_on_tuning, group_by_configuration
from ehrseq.workflows.console import say
from ehrseq.workflows.scored import Finished, find_runs, read_finished


@dataclass(frozen=True)
class Choice:
    """What was chosen for one set of held-out examples.

    Attributes:
        where: Which one: the fold, the site; empty where there is one.
        name: The configuration.
        monitor: By which figure.
        tuning: Its mean over seeds and inner folds.
        candidates: Among how many configurations.
        runs: The run folders of the chosen configuration.
        metrics: Its figures on `held_out`, the mean over these runs.
        looks: With how many models these examples have been looked at.
    """

    where: str
    name: str
    monitor: str
    tuning: float
    candidates: int
    runs: tuple[Path, ...]
    metrics: dict[str, float]
    looks: str


@dataclass(frozen=True)
class Chosen:
    """What `choose` gives.

    Attributes:
        choices: One for each set of held-out examples.
        headline: The metric by which the whole is judged.
        value: Its mean over the sets.
        ci_low: Lower end of its interval; None for one set.
        ci_high: Upper end.
    """

    choices: tuple[Choice, ...]
    headline: str
    value: float
    ci_low: float | None
    ci_high: float | None


def run(settings: Settings, references: Sequence[str]) -> Chosen:
    """Choose the configuration that is best on `tuning` and score its runs on `held_out`.

    Of a nested cross-validation a configuration is chosen in each outer fold, by its inner folds alone, and what comes
    out is the performance of the whole procedure (Varma and Simon 2006, BMC Bioinformatics 7).

    Args:
        settings: `evaluate`, `tracking`, `paths`.
        references: Run folders, MLflow run ids, `sweep=<id>`, `experiment=<name>`.

    Raises:
        RunError: If runs are missing, or watched different figures.
        DataError: If the data are not those of the training.
    """
    sets: dict[str, list[Finished]] = {}
    for trained in find_runs(references, settings):
        split = trained.settings.split.plain() | {"inner_fold": None}
        sets.setdefault(digest_json(split), []).append(read_finished(trained))
    choices = tuple(_choose(runs, settings, len(sets) > 1) for runs in sets.values())
    name = f"{HELD_OUT}/{headline(next(iter(sets.values()))[0].trained.target())}"
    values = np.array([choice.metrics[name] for choice in choices])
    if len(values) == 1:
        return Chosen(choices, name, float(values[0]), None, None)
    shares = next(iter(sets.values()))[0].settings.split
    ratio = 1 / (shares.folds - 1) if shares.folds else shares.held_out / (1 - shares.held_out)
    found = corrected_resampled_t(values, ratio, settings.evaluate.level)
    return Chosen(choices, name, float(found.estimate), float(found.low), float(found.high))


def _choose(runs: Sequence[Finished], settings: Settings, several: bool) -> Choice:
    configurations = group_by_configuration(runs)
    best = configurations[choose_on_tuning(configurations)]
    monitor = best.runs[0].monitor
    word = "highest" if more_is_better(monitor) else "lowest"
    say(f"choose: {best.name}, {word} {monitor} ({best.tuning:.4f}) of {len(configurations)} configurations")
    metrics: list[dict[str, float]] = []
    looks = ""
    for finished in best.runs:
        own = _settings_of(finished, settings)
        prepared = prepare.run(own)
        with track.tracked(own, finished.trained.folder) as tracker:
            tracker.start()
            result = evaluate.run(own, prepared, finished.trained, tracker)
            track.log_evaluation(tracker, result, own)
            tracker.tags({"ehrseq.chosen": f"{word} {monitor} of {len(configurations)} configurations"})
        metrics.append({name: item["value"] for name, item in result.metrics.items() if item["value"] is not None})
        looks = result.ledger.tell()
    common = [name for name in metrics[0] if all(name in item for item in metrics)]
    return Choice(
        where=_where(best.runs[0].settings.split.plain()) if several else "",
        name=best.name,
        monitor=monitor,
        tuning=best.tuning,
        candidates=len(configurations),
        runs=tuple(finished.trained.folder for finished in best.runs),
        metrics={name: float(np.mean([item[name] for item in metrics])) for name in common},
        looks=looks,
    )


def _settings_of(finished: Finished, settings: Settings) -> Settings:
    """The run's own settings, scored on `held_out` as the command says."""
    update = {
        "evaluate": settings.evaluate.model_copy(update={"split": HELD_OUT}),
        "tracking": settings.tracking,
        "paths": settings.paths,
        "force": False,
    }
    return finished.settings.model_copy(update=update)


def _where(split: dict[str, Any]) -> str:
    if split["site"] is not None:
        return f"site {split['site']}"
    fold = f"fold {split['fold']}, " if split["folds"] else ""
    return f"{fold}split seed {split['seed']}"
