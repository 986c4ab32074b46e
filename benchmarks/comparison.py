"""Whether the intervals and tests of `ehrseq compare` are right: coverage and p-values in simulated experiments.

Each scenario makes many experiments whose true difference is known, and counts how often the 95% interval holds it, and
how often p falls below 0.05 where two models are equal. Figures go to `results/comparison.json`.

    python benchmarks/comparison.py [--experiments 2000] [--asah asah.csv]

`--asah`: the columns outcome (Good, Poor), wfns, s100b, ndka of the data set of that name in the R package pROC
(Debian: r-cran-proc), whose published DeLong statistics are then compared with ours.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ehrseq.metrics import evaluate_binary
from ehrseq.metrics.comparison import (
    compare_groups,
    corrected_resampled_t,
    covariance_of,
    group_runs,
    over_sets,
    telling_subjects,
)
from ehrseq.metrics.delong import delong
from ehrseq.metrics.intervals import METRICS, bootstrap

Floats = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "comparison.json"
REPLICATES = 400
BINARY = [name for name in METRICS if name != "prevalence"]


class Cohort(NamedTuple):
    """Held-out predictions: labels (N,), risks of each run (K, N), subjects (N,)."""

    label: Floats
    risk: Floats
    subject: NDArray[np.int64]


def cohort(
    rng: np.random.Generator, subjects: int, strength: Floats, each: int = 1, prevalence: float = 0.15
) -> Cohort:
    """Subjects with an outcome and the risks that K runs give, well calibrated.

    Args:
        rng: Chance.
        subjects: How many.
        strength: (K,) how far apart each run sees positives and negatives, in standard deviations.
        each: Most predictions of one subject; they share much of what makes them easy or hard.
        prevalence: Of the outcome.
    """
    count = rng.integers(1, each + 1, subjects)
    subject = np.repeat(np.arange(subjects), count)
    person = rng.random(subjects) < prevalence
    label = (person[subject] if each == 1 else person[subject] ^ (rng.random(len(subject)) < 0.1)).astype(np.float64)
    rate = prevalence if each == 1 else 0.9 * prevalence + 0.1 * (1 - prevalence)
    shared = np.sqrt(0.5) * rng.normal(size=subjects)[subject] + np.sqrt(0.5) * rng.normal(size=len(subject))
    noise = np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=(len(strength), len(subject)))
    score = strength[:, None] * label + noise
    # The true risk given the score: binormal with equal variances.
    logit = strength[:, None] * score - strength[:, None] ** 2 / 2 + np.log(rate / (1 - rate))
    return Cohort(label, 1 / (1 + np.exp(-logit)), subject)


def strength_of(auroc: float) -> float:
    """How far apart positives and negatives are at this AUROC."""
    return float(np.sqrt(2) * stats.norm.ppf(auroc))


def replicated(data: Cohort, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """Values (K,) and replicates (K, R) of each metric."""
    found: dict[str, tuple[list[float], list[Floats]]] = {name: ([], []) for name in BINARY}
    for risk in data.risk:
        drawn = bootstrap(data.label, risk, data.subject, REPLICATES, seed)
        points = point_values(data.label, risk)
        for name in BINARY:
            found[name][0].append(points[name])
            found[name][1].append(drawn[name])
    return {name: (np.array(values), np.stack(rows)) for name, (values, rows) in found.items()}


def point_values(label: Floats, risk: Floats) -> dict[str, float]:
    """All metrics of one run."""
    estimates = evaluate_binary(label, risk, np.arange(len(label)), replicates=0)
    return {name: float(estimates[name].value or 0.0) for name in BINARY}


def truth_of(strength: Floats, each: int) -> dict[str, float]:
    """The true differences of the first two runs, from many subjects; those of equal runs are 0."""
    if strength[0] == strength[1]:
        return dict.fromkeys(BINARY, 0.0)
    parts = []
    for seed in range(8):
        data = cohort(np.random.default_rng(10_000 + seed), 250_000, strength, each)
        first, second = (point_values(data.label, risk) for risk in data.risk)
        parts.append([first[name] - second[name] for name in BINARY])
    return dict(zip(BINARY, np.mean(parts, axis=0).tolist(), strict=True))


class Tally:
    """Counts of one method in one scenario."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.p: list[float] = []
        self.width: list[float] = []

    def add(self, low: float, high: float, p: float, truth: float) -> None:
        """One experiment."""
        self.held.append(bool(low <= truth <= high))
        self.p.append(float(p))
        self.width.append(float(high - low))

    def figures(self, equal: bool) -> dict[str, Any]:
        """What is kept."""
        result: dict[str, Any] = {"experiments": len(self.held), "coverage": round(float(np.mean(self.held)), 4)}
        result["mean_width"] = round(float(np.mean(self.width)), 5)
        if equal:
            p = np.array(self.p)
            result["p_below"] = {str(cut): round(float((p < cut).mean()), 4) for cut in (0.01, 0.05, 0.1, 0.5)}
            result["uniform_ks_p"] = round(float(stats.kstest(p, "uniform").pvalue), 4)
        return result


def paired(experiments: int, subjects: int, aurocs: tuple[float, float], each: int, prevalence: float = 0.15) -> Any:
    """Two trained networks on the same subjects."""
    strength = np.array([strength_of(value) for value in aurocs])
    truth = truth_of(strength, each)
    tallies = {name: Tally() for name in ["auroc_delong", *BINARY]}
    for number in range(experiments):
        data = cohort(np.random.default_rng(number), subjects, strength, each, prevalence)
        areas = delong(data.label, data.risk, data.subject)
        tables = {name: (values, covariance_of(rows)) for name, (values, rows) in replicated(data, number).items()}
        for name, tally in tallies.items():
            values, covariance = areas if name == "auroc_delong" else tables[name]
            groups = group_runs(values, covariance, np.arange(2))
            found = compare_groups(groups, telling_subjects(data.label, data.subject), 0.95)
            tally.add(found.low[0, 1], found.high[0, 1], found.p[0, 1], truth[name.removesuffix("_delong")])
    return {name: tally.figures(aurocs[0] == aurocs[1]) for name, tally in tallies.items()}


def seeded(experiments: int, subjects: int, seeds: int, spread: float) -> Any:
    """Two equal configurations of several seeds each, whose true AUROC differ by the seed (sd `spread`)."""
    tallies = {"with_seeds": Tally(), "sampling_alone": Tally()}
    group = np.repeat(np.arange(2), seeds)
    spreads = []
    for number in range(experiments):
        rng = np.random.default_rng(number)
        strength = np.array([strength_of(value) for value in 0.85 + spread * rng.normal(size=2 * seeds)])
        data = cohort(rng, subjects, strength)
        groups = group_runs(*delong(data.label, data.risk, data.subject), group)
        spreads.append(groups.spread)
        for name, tally in tallies.items():
            own = groups if name == "with_seeds" else groups._replace(spread=np.full(2, np.nan))
            found = compare_groups(own, telling_subjects(data.label, data.subject), 0.95)
            tally.add(found.low[0, 1], found.high[0, 1], found.p[0, 1], 0.0)
    result: Any = {name: tally.figures(True) for name, tally in tallies.items()}
    result["true_spread"] = spread
    result["estimated_spread"] = round(float(np.sqrt(np.mean(np.square(spreads)))), 5)
    return result


def folds(experiments: int, subjects: int, count: int, width: int = 20, strength: float = 0.25) -> Any:
    """Cross-validation of two learners that are equal: the same one, on features of the same worth."""
    tallies = {name: Tally() for name in ("over_sets", "corrected_t", "plain_t")}
    for number in range(experiments):
        rng = np.random.default_rng(number)
        label = (rng.random(subjects) < 0.3).astype(np.float64)
        features = rng.normal(size=(2, subjects, width)) + strength * label[:, None]
        fold = rng.permutation(subjects) * count // subjects
        difference, sampling = np.empty(count), np.empty(count)
        for k in range(count):
            test = fold == k
            scores = []
            for own in features:
                train, truth = own[~test], label[~test]
                direction = train[truth == 1].mean(axis=0) - train[truth == 0].mean(axis=0)
                scores.append(own[test] @ direction)
            areas, covariance = delong(label[test], np.stack(scores))
            difference[k] = areas[0] - areas[1]
            sampling[k] = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        ratio = 1 / (count - 1)
        for name, found in (
            ("over_sets", over_sets(difference, sampling, ratio, telling_subjects(label, np.arange(subjects)), 0.95)),
            ("corrected_t", corrected_resampled_t(difference, ratio, 0.95)),
            ("plain_t", corrected_resampled_t(difference, 0.0, 0.95)),
        ):
            tallies[name].add(float(found.low), float(found.high), float(found.p), 0.0)
    return {name: tally.figures(True) for name, tally in tallies.items()}


def published(path: Path) -> Any:
    """Our DeLong statistics beside those that pROC's own tests hold it to (its file test-roc.test.R)."""
    expected = {
        ("wfns", "s100b"): (2.20898359144091, 0.0271757822291882, 0.0104061769564846, 0.174214419249478),
        ("wfns", "ndka"): (2.79777591868904, 0.00514557970691098, 0.0634011709339876, 0.3600405634833566),
        ("ndka", "s100b"): (-1.39077002573558, 0.164295175223054, -0.2876917446341914, 0.0488706064228094),
    }
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    label = np.array([row["outcome"] == "Poor" for row in rows], np.float64)
    result = {}
    for pair, numbers in expected.items():
        areas = delong(label, np.array([[float(row[name]) for row in rows] for name in pair]))
        difference = float(areas.auroc[0] - areas.auroc[1])
        error = float(np.sqrt(np.array([1, -1]) @ areas.covariance @ np.array([1, -1])))
        z = difference / error
        half = stats.norm.ppf(0.975) * error
        ours = (z, 2 * stats.norm.sf(abs(z)), difference - half, difference + half)
        largest = max(abs(a - b) for a, b in zip(ours, numbers, strict=True))
        result[" - ".join(pair)] = {"z": z, "p": float(ours[1]), "largest_difference_from_pROC": largest}
    return result


def scenarios(experiments: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All of them, by name."""
    n = experiments
    yield "800 subjects, AUROC 0.85 and 0.85", lambda: paired(n, 800, (0.85, 0.85), 1)
    yield "800 subjects, AUROC 0.86 and 0.83", lambda: paired(n, 800, (0.86, 0.83), 1)
    yield "300 subjects, AUROC 0.80 and 0.80", lambda: paired(n, 300, (0.80, 0.80), 1)
    yield "400 subjects of 1 to 8 predictions, AUROC 0.80 and 0.80", lambda: paired(2 * n, 400, (0.8, 0.8), 8)
    yield "800 subjects, 3 seeds, spread 0.01", lambda: seeded(5 * n, 800, 3, 0.01)
    yield "800 subjects, 5 seeds, spread 0.01", lambda: seeded(5 * n, 800, 5, 0.01)
    yield "800 subjects, 3 seeds, spread 0.003", lambda: seeded(5 * n, 800, 3, 0.003)
    yield "2000 subjects, 5 folds", lambda: folds(n, 2000, 5, strength=0.35)
    yield "1000 subjects, 5 folds", lambda: folds(2 * n, 1000, 5)
    yield "1000 subjects, 10 folds", lambda: folds(2 * n, 1000, 10)
    yield "400 subjects, 5 folds", lambda: folds(2 * n, 400, 5)
    yield "300 subjects, 5 folds, 40 weak features", lambda: folds(2 * n, 300, 5, 40, 0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--asah", type=Path)
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    figures = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    if options.asah:
        figures["DeLong, aSAH"] = published(options.asah)
    for name, work in scenarios(options.experiments):
        if options.only not in name:
            continue
        figures[name] = work()
        print(name, json.dumps(figures[name]), flush=True)
        options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
