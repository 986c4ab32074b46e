"""Which of several configurations can be told apart on the same held-out examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    SeveralTarget,
    Target,
    columns_of,
)
from ehrseq.errors import RunError
from ehrseq.files import atomic_folder, digest_json, read_manifest, write_manifest
from ehrseq.metrics import Estimate, evaluate_predictions, evaluate_utility, headline
from ehrseq.metrics.comparison import (
    Inference,
    compare_groups,
    correct,
    corrected_resampled_t,
    covariance_of,
    group_runs,
    letters,
    over_sets,
    telling_subjects,
)
from ehrseq.metrics.delong import Areas, delong
from ehrseq.metrics.directions import better
from ehrseq.metrics.intervals import estimate
from ehrseq.workflows import track
from ehrseq.workflows.alarms import THRESHOLD, UTILITY
from ehrseq.workflows.compare_report import to_markdown, write_report
from ehrseq.workflows.comparison import Comparison, MetricTable, Pair, Row
from ehrseq.workflows.configurations import Configuration, choose_on_tuning, group_by_configuration
from ehrseq.workflows.console import timed
from ehrseq.workflows.evaluate import bootstrap_options
from ehrseq.workflows.ledger import find_ledger
from ehrseq.workflows.matching import Unit, match
from ehrseq.workflows.runs import TRAIN, TrainedRun
from ehrseq.workflows.scored import Scored, find_runs, has_utility, read_scored

Floats = NDArray[np.float64]
REPORT = "compare"
_LEAST = 2  # configurations
_FEW = 400  # subjects in all folds, below which trainings differ by more than folds show (benchmarks/comparison.py)
_UNTESTED = "ece"  # a sum of absolute values, whose bootstrap errors are too large (docs/compare.md)


@dataclass(frozen=True)
class Compared:
    """What the command gives: the folder with the report, the comparison, and the looks at its examples."""

    folder: Path
    comparison: Comparison
    looks: str | None


def run(settings: Settings, references: Sequence[str]) -> Compared:
    """Compare finished runs, and write and track the report.

    Args:
        settings: `compare`, `evaluate`, `tracking`, `paths`, `output`.
        references: Run folders, MLflow run ids, `sweep=<id>`, `experiment=<name>`.

    Raises:
        RunError: If runs are missing or cannot be compared.
    """
    trained = find_runs(references, settings)
    with timed(f"compare: {len(trained)} runs"):
        comparison = compare(trained, settings)
    weights = [run.weights_digest for run in trained]
    ledger = find_ledger(Path(settings.paths.data), weights, comparison.split)
    looks = ledger.tell() if ledger else None
    key = {"weights": sorted(weights), "compare": settings.compare.plain(), "evaluate": settings.evaluate.plain()}
    folder = Path(settings.output or f"comparisons/{comparison.task}-{digest_json(key)[:8]}")
    with track.tracked(settings, folder) as tracker:
        with atomic_folder(folder / REPORT) as staging:
            write_report(comparison, staging, looks)
            write_manifest(staging, "compare", key)
        tracker.start()
        names = " ".join(sorted(run.folder.name for run in trained))
        tracker.tags({"mlflow.source.name": "ehrseq", "ehrseq.comparison": names[:4000]})
        tracker.artifacts({f"{REPORT}/{path.name}": path for path in sorted((folder / REPORT).iterdir())})
        tracker.describe(to_markdown(comparison, looks).partition("![")[0])
    return Compared(folder / REPORT, comparison, looks)


def compare(trained: Sequence[TrainedRun], settings: Settings) -> Comparison:
    """Compare finished runs on the examples that they were scored on.

    Args:
        trained: Two configurations or more; runs that differ by seed or fold only are one.
        settings: `compare`, and `evaluate` for the bootstrap.

    Raises:
        RunError: If they cannot be compared.
    """
    configurations = group_by_configuration([read_scored(run) for run in trained])
    if len(configurations) < _LEAST:
        name = configurations[0].name if configurations else "nothing"
        raise RunError(
            f"these {len(trained)} runs are one configuration ({name}), of several seeds or folds: name another to "
            "compare it with"
        )
    units = match(configurations, settings)
    names = [item.name for item in configurations]
    head = headline(units[0].runs[0].target)
    tables = _one_set(units[0], names, settings) if len(units) == 1 else _many_sets(units, names, settings)
    reference, why = _reference(configurations, tables.get(head), settings)
    finished = {name: _finish(table, reference, settings) for name, table in tables.items()}
    kept = {id(run.trained) for unit in units for run in unit.runs}
    pairs = len(next(iter(finished.values())).pairs)
    return Comparison(
        task=units[0].runs[0].settings.task.name,
        split=units[0].runs[0].split,
        headline=head,
        reference=reference,
        reference_by=why,
        examples=sum(unit.examples for unit in units),
        subjects=sum(unit.subjects for unit in units),
        left_out=sum(unit.left_out for unit in units),
        runs_left_out=len(trained) - len(kept),
        splits=len(units),
        level=settings.evaluate.level,
        correction=settings.compare.correction,
        comparisons=pairs,
        runs=len(kept),
        configurations=tuple(_facts(item) for item in configurations),
        metrics=finished,
    )


def _facts(item: Configuration[Scored]) -> dict[str, Any]:
    runs = [
        {"name": run.name, "seed": run.settings.seed, "weights": run.trained.weights_digest[:16]} for run in item.runs
    ]
    facts = {"name": item.name, "differs": item.differs, "monitor": item.runs[0].monitor, "tuning": item.tuning}
    return {**facts, "runs": runs}


def _reference(
    configurations: Sequence[Configuration[Scored]], table: MetricTable | None, settings: Settings
) -> tuple[str, str]:
    """The configuration that the others are compared with, and why it is that one."""
    wanted = settings.compare.reference
    if wanted == "tuning":
        chosen = configurations[choose_on_tuning(configurations)]
        return chosen.name, f"best {chosen.runs[0].monitor}"
    if wanted == "best":
        if table is None or table.better is None:
            raise RunError("compare.reference=best: the headline metric has no best; use compare.reference=tuning")
        return table.rows[0].name, "best on these very examples, which flatters it"
    for item in configurations:
        if wanted == item.name or any(wanted.rstrip("/").endswith(run.name) for run in item.runs):
            return item.name, "named"
    raise RunError(
        f"compare.reference={wanted} is none of the configurations: {', '.join(item.name for item in configurations)}"
    )


@dataclass(frozen=True)
class _Sampled:
    """A metric of all runs of one set of examples, and what the choice of its subjects does to it.

    Attributes:
        value: (K,) of each run.
        replicates: (K, R) of bootstrap samples, the same subjects for all; none where it is undefined for a run.
        covariance: (K, K) by the choice of subjects.
        method: How that was found.
    """

    value: Floats
    replicates: Floats
    covariance: Floats
    method: str


def _sample(unit: Unit, settings: Settings) -> dict[str, _Sampled]:
    """Every metric of a set of examples: paired bootstrap by subject, DeLong for AUROC."""
    estimates = [_evaluate(run, settings) for run in unit.runs]
    areas = _areas(unit)
    found = {}
    for metric in estimates[0]:
        values = np.array([_number(own[metric].value) for own in estimates])
        drawn = [row for own in estimates if (row := own[metric].replicates) is not None]
        replicates = np.stack(drawn) if len(drawn) == len(values) else np.full((len(values), 0), np.nan)
        exact = areas.get(metric)
        covariance = covariance_of(replicates) if exact is None else exact.covariance
        method = "paired bootstrap by subject" if exact is None else "DeLong"
        found[metric] = _Sampled(values, replicates, covariance, method)
    return found


def _one_set(unit: Unit, names: Sequence[str], settings: Settings) -> dict[str, MetricTable]:
    """All runs predicted the same examples."""
    level = settings.evaluate.level
    tables = {}
    for metric, found in _sample(unit, settings).items():
        if _is_constant(found.value, found.covariance):
            continue
        groups = group_runs(found.value, found.covariance, unit.group)
        weight = (unit.group == np.arange(len(names))[:, None]) / groups.seeds[:, None]
        means = [
            estimate(float(mean), row, level) for mean, row in zip(groups.mean, weight @ found.replicates, strict=True)
        ]
        rows = [
            Row(name, item.value, item.ci_low, item.ci_high, int(seeds), _plain(spread), None)
            for name, item, seeds, spread in zip(names, means, groups.seeds, groups.spread, strict=True)
        ]
        tables[metric] = _table(metric, found.method, rows, compare_groups(groups, _telling(unit), level), names)
    return tables


def _many_sets(units: Sequence[Unit], names: Sequence[str], settings: Settings) -> dict[str, MetricTable]:
    """Several sets of examples: folds and sites; or random splits, which share subjects, and few subjects."""
    level, evaluate = settings.evaluate.level, settings.evaluate
    subjects = [np.unique(unit.runs[0].subject()) for unit in units]
    total = sum(map(len, subjects))
    is_apart = len(np.unique(np.concatenate(subjects))) == total >= _FEW and evaluate.replicates > 0
    if not is_apart:
        settings = settings.model_copy(update={"evaluate": evaluate.model_copy(update={"replicates": 0})})
    ratio = float(np.mean([_test_to_train(unit.runs[0]) for unit in units]))
    sampled = [_sample(unit, settings) for unit in units]
    tables = {}
    for metric, first in sampled[0].items():
        groups = [
            group_runs(own[metric].value, own[metric].covariance, unit.group)
            for unit, own in zip(units, sampled, strict=True)
        ]
        values = np.stack([item.mean for item in groups])  # (J, C)
        if np.isnan(values).all() or (values == values[:, :1]).all():
            continue
        differences = values[:, :, None] - values[:, None]
        if is_apart:
            telling = sum(_telling(unit) for unit in units)
            shared = np.stack([item.sampling for item in groups])  # (J, C, C)
            own = np.diagonal(shared, axis1=1, axis2=2)
            value = over_sets(values, own, ratio, telling, level)
            between = np.maximum(own[:, :, None] + own[:, None] - 2 * shared, 0.0)
            difference = over_sets(differences, between, ratio, telling, level)
            method = f"{first.method} within {len(units)} sets, and what the sets differ by beyond that"
        else:
            value = corrected_resampled_t(np.moveaxis(values, 0, -1), ratio, level)
            difference = corrected_resampled_t(np.moveaxis(differences, 0, -1), ratio, level)
            method = f"corrected resampled t over {len(units)} splits"
        rows = [
            Row(name, _plain(mean), _plain(low), _plain(high), int(count), None, None)
            for name, mean, low, high, count in zip(
                names, value.estimate, value.low, value.high, groups[0].seeds, strict=True
            )
        ]
        tables[metric] = _table(metric, method, rows, difference, names)
    return tables


def _evaluate(run: Scored, settings: Settings) -> dict[str, Estimate]:
    """Every metric of a run's target, with its replicates."""
    options = bootstrap_options(settings)
    outcome, prediction, subject = run.outcome(), run.prediction(), run.subject()
    estimates = evaluate_predictions(run.target, outcome, prediction, subject, **options)
    threshold = run.metrics.get(f"{run.split}/{THRESHOLD}", {}).get("value")
    if has_utility(run.target) and threshold is not None:
        alarm = prediction[:, 0] >= threshold
        estimates[UTILITY] = evaluate_utility(subject, outcome[:, 0], alarm, **options)
    return estimates


def _telling(unit: Unit) -> int:
    """How many subjects settle how well errors are known: of a yes or no, those of the rarer class."""
    run = unit.runs[0]
    if isinstance(run.target, BinaryTarget):
        return telling_subjects(run.outcome()[:, 0].astype(np.float64), run.subject())
    return unit.subjects


def _areas(unit: Unit) -> dict[str, Areas]:
    """DeLong's covariance of every AUROC among the metrics."""
    first = unit.runs[0]
    subject = first.subject()
    outcome = first.outcome()
    predictions = np.stack([run.prediction() for run in unit.runs])
    found = {}
    for name, label, score in _yes_or_no(first.target, outcome, predictions):
        known = ~(np.isnan(label) | np.isnan(score).any(axis=0))
        found[name] = delong(label[known], score[:, known], subject[known])
    return found


def _yes_or_no(target: Target, outcome: NDArray[np.float32], predictions: Floats) -> list[tuple[str, Floats, Floats]]:
    """Each AUROC of a target: its name, labels (N,) and scores (K, N)."""
    truth = outcome.astype(np.float64)
    match target:
        case BinaryTarget():
            return [("auroc", truth[:, 0], predictions[:, :, 0])]
        case ForecastTarget():
            return [("anomaly_auroc", truth[:, 0], predictions[:, :, 0])]
        case MultilabelTarget(labels=names):
            return [(f"auroc_{name}", truth[:, k], predictions[:, :, k]) for k, name in enumerate(names)]
        case MulticlassTarget(classes=names):
            given = truth[:, 0]
            own = [np.where(np.isnan(given), np.nan, given == k) for k in range(len(names))]
            return [(f"auroc_{name}", own[k], predictions[:, :, k]) for k, name in enumerate(names)]
        case SeveralTarget():
            return [
                (f"{part.name}_{name}", label, score)
                for part in columns_of(target.parts)
                for name, label, score in _yes_or_no(
                    part.target, outcome[:, part.outcomes], predictions[:, :, part.predictions]
                )
            ]
        case _:
            return []


def _test_to_train(run: Scored) -> float:
    """Held-out to learned-from examples, where `tuning` counts as learned from."""
    counts = (read_manifest(run.trained.folder / TRAIN) or {}).get("splits")
    if counts:
        tested = counts[run.split]["samples"]
        return float(tested / (sum(part["samples"] for part in counts.values()) - tested))
    split = run.settings.split
    return 1 / (split.folds - 1) if split.folds else split.held_out / (1 - split.held_out)


def _table(metric: str, method: str, rows: Sequence[Row], found: Inference, names: Sequence[str]) -> MetricTable:
    """A table of all pairs, configurations best first; not corrected yet."""
    if metric.endswith(_UNTESTED):
        nothing = np.full_like(found.p, np.nan)
        found = found._replace(low=nothing, high=nothing, p=nothing)
        method = "not tested: bins look the worse the fewer examples there are; compare Brier scores or log losses"
    direction = better(metric)
    sign = {"higher": -1, "lower": 1, None: 0}[direction]
    order = sorted(range(len(rows)), key=lambda k: (rows[k].value is None, sign * (rows[k].value or 0.0)))
    pairs = []
    for position, one in enumerate(order):
        for other in order[position + 1 :]:
            parts = (found.estimate, found.low, found.high, found.p)
            difference, low, high, p = (_plain(part[one, other]) for part in parts)
            pairs.append(Pair(names[one], names[other], difference, low, high, p, p_corrected=None, apart=False))
    return MetricTable(direction, method, tuple(rows[k] for k in order), tuple(pairs))


def _finish(table: MetricTable, reference: str, settings: Settings) -> MetricTable:
    """Correct for how many pairs there are, and say who is told apart."""
    options, alpha = settings.compare, 1 - settings.evaluate.level
    wanted = [pair for pair in table.pairs if options.pairs == "all" or reference in (pair.one, pair.other)]
    p = correct(np.array([_number(pair.p) for pair in wanted]), options.correction)
    pairs = tuple(
        replace(pair, p_corrected=_plain(value), apart=bool(value < alpha))
        for pair, value in zip(wanted, p, strict=True)
    )
    rows = table.rows
    if options.pairs == "all":
        place = {row.name: number for number, row in enumerate(rows)}
        apart = np.zeros((len(rows), len(rows)), dtype=bool)
        for pair in pairs:
            one, other = place[pair.one], place[pair.other]
            apart[one, other] = apart[other, one] = pair.apart
        rows = tuple(replace(row, letters=own) for row, own in zip(rows, letters(apart), strict=True))
    return MetricTable(table.better, table.method, rows, pairs)


def _is_constant(values: Floats, covariance: Floats) -> bool:
    """Whether a figure is the same for all runs in every sample, such as the share of positives, or undefined."""
    if np.isnan(values).all():
        return True
    contrast = covariance - covariance[:1] - covariance[:, :1] + covariance[:1, :1]
    return bool((values == values[0]).all() and (np.abs(contrast) < 1e-18).all())


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
