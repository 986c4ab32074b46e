"""Sepsis at every hour on PhysioNet 2019: five folds of the stays, the same for all models, several seeds.

    python benchmarks/physionet2019.py [--models lstm,gru,gru_d,gbm,gbm_extra,lstm+gbm] [--seeds 1,2,3] [--archive FILE]
        [--work FOLDER]

Each stay is held out once a seed. Of AUROC, AUPRC and utility of the alarms, by each fold's own threshold, which was
best on its `tuning`:

- `together`: of all held-out hours, in the mean over seeds; intervals by a bootstrap of stays.
- `folds`: the mean over folds, in which no hour is ranked against one that another network has seen; intervals count
  what trainings differ by as well (`ehrseq.metrics.comparison.over_sets`).
- `over_gbm`: both less those of the trees with the same seeds, by the same draws of stays.
- `averaged`: all of this again for the mean of the seeds' probabilities.

A name such as `lstm+gru` stands for the mean of both models' probabilities. What is trained already in the work folder
is not trained again.
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from folds import DATA, FOLDS, ROOT, TREES, keep, score, train
from numpy.typing import NDArray

from ehrseq.metrics import best_threshold, evaluate_binary, evaluate_utility
from ehrseq.metrics.comparison import over_sets, telling_subjects

RESULT = ROOT / "benchmarks" / "results" / "physionet2019.json"
METRICS = ("auroc", "auprc", "utility")
LEVEL = 0.95  # of the intervals, as everywhere
RATIO = 1 / (FOLDS - 1)  # of held-out to other stays


class Figures(NamedTuple):
    """`METRICS` of all held-out hours together, and after them of each fold's; F = 1 + `FOLDS`.

    Attributes:
        value: (F, 3).
        replicates: (F, 3, R), in bootstrap samples of the same stays for all models.
    """

    value: NDArray[np.float64]
    replicates: NDArray[np.float64]

    @classmethod
    def of(cls, table: pl.DataFrame) -> "Figures":
        """Of every held-out hour with its fold, probability and alarm."""
        parts = [table, *(table.filter(pl.col("fold") == fold) for fold in range(FOLDS))]
        value, replicates = zip(*(_measure(part, seed) for seed, part in enumerate(parts)), strict=True)
        return cls(np.stack(value), np.stack(replicates))

    @classmethod
    def mean(cls, seeds: list["Figures"]) -> "Figures":
        """The mean over seeds."""
        value, replicates = zip(*seeds, strict=True)
        return cls(np.mean(value, axis=0), np.mean(replicates, axis=0))

    def less(self, other: "Figures") -> "Figures":
        """Differences from another model on the same folds."""
        return Figures(self.value - other.value, self.replicates - other.replicates)

    def rows(self, stays: int) -> dict[str, Any]:
        """Of each metric the value and its interval; stays of the rarer kind settle how well an error is known."""
        low, high = np.quantile(self.replicates[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
        together = np.stack([self.value[0], low, high])
        folds = over_sets(self.value[1:], self.replicates[1:].var(axis=-1, ddof=1), RATIO, stays, LEVEL)
        mean = np.stack([folds.estimate, folds.low, folds.high])
        named = {"together": together, "folds": mean, "by_fold": self.value[1:]}
        return {name: dict(zip(METRICS, rows.T.tolist(), strict=True)) for name, rows in named.items()}


def _measure(table: pl.DataFrame, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`METRICS` of some hours, (3,), and their replicates, (3, R)."""
    label, subject = table["label"].to_numpy(), table["subject_id"].to_numpy()
    found = evaluate_binary(label, table["probability"].to_numpy(), subject, seed=seed)
    utility = evaluate_utility(subject, label, table["alarm"].to_numpy(), seed=seed)
    each = [found["auroc"], found["auprc"], utility]
    replicates = [one.replicates for one in each if one.replicates is not None]
    assert len(replicates) == len(METRICS), "a fold without an outcome"
    return np.array([one.value for one in each], np.float64), np.stack(replicates)


class Told(NamedTuple):
    """What a model says of the hours of all folds: `fold`, `subject_id`, `prediction_time`, `label`, `probability`.

    Attributes:
        held_out: Every hour once.
        tuning: Those that each fold's threshold is chosen on.
        seconds: Of each training, where one model was trained.
    """

    held_out: pl.DataFrame
    tuning: pl.DataFrame
    seconds: tuple[float, ...] = ()

    @classmethod
    def by(cls, model: str, seed: int, archive: Path, work: Path) -> "Told":
        """One model, trained on all folds."""
        # Trees summarise each hour's history by themselves; networks pass over a stay once.
        if model in TREES:
            words = ["source=physionet2019", "task=sepsis", *TREES[model]]
        else:
            words = ["experiment=physionet2019", f"model={model}"]
        words += ["~model.embedding.features", "~model.embedding.input_dropout"] if model == "gru_d" else []
        words += [f"source.path={archive}", f"seed={seed}", f"split.folds={FOLDS}"]
        held_out, tuning, seconds = [], [], []
        for fold in range(FOLDS):
            own = [*words, f"split.fold={fold}"]
            folder, took = train(own, work)
            told = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
            held_out.append(told.with_columns(fold=fold))
            tuning.append(score(own, "tuning", work).with_columns(fold=fold))
            seconds += [] if took is None else [took]
        order = "fold", "subject_id", "prediction_time"
        return cls(pl.concat(held_out).sort(order), pl.concat(tuning).sort(order), tuple(seconds))

    @classmethod
    def mean(cls, parts: list["Told"]) -> "Told":
        """The mean of several models' probabilities."""
        if len(parts) == 1:
            return parts[0]
        held_out, tuning = (
            tables[0].with_columns(probability=np.mean([table["probability"].to_numpy() for table in tables], axis=0))
            for tables in ([part.held_out for part in parts], [part.tuning for part in parts])
        )
        return cls(held_out, tuning)

    def alarms(self) -> pl.DataFrame:
        """The held-out hours with `alarm`, by the threshold that is best on the fold's `tuning`."""
        tables = []
        for fold in range(FOLDS):
            own, watched = (table.filter(pl.col("fold") == fold) for table in (self.held_out, self.tuning))
            best = best_threshold(*(watched[name].to_numpy() for name in ("subject_id", "label", "probability")))
            tables.append(own.with_columns(alarm=pl.col("probability") >= best.threshold))
        return pl.concat(tables)


class Measured(NamedTuple):
    """One model, or several averaged.

    Attributes:
        seeds: The figures of each seed.
        averaged: Those of the mean of the seeds' probabilities; None where there is one seed.
        stays: Of the rarer kind, those with sepsis.
        seconds: Of each training, where one model is measured.
    """

    seeds: list[Figures]
    averaged: Figures | None
    stays: int
    seconds: list[float]


@cache
def measure(models: str, seeds: tuple[int, ...], archive: Path, work: Path) -> Measured:
    """One model over all folds and seeds, or several averaged, `lstm+gru`."""
    told = [Told.mean([Told.by(name, seed, archive, work) for name in models.split("+")]) for seed in seeds]
    label, subject = (told[0].held_out[name].to_numpy() for name in ("label", "subject_id"))
    averaged = Figures.of(Told.mean(told).alarms()) if len(seeds) > 1 else None
    each = [Figures.of(one.alarms()) for one in told]
    return Measured(each, averaged, telling_subjects(label, subject), [took for one in told for took in one.seconds])


def describe(own: Measured, trees: Measured) -> dict[str, Any]:
    """What is kept of a model: its figures, and how far they are from those of the trees."""
    seeds = [one.rows(own.stays)["together"] for one in own.seeds]
    kept: dict[str, Any] = {"seeds": seeds, "seconds_median": float(np.median(own.seconds)) if own.seconds else None}
    pairs = {"mean": (Figures.mean(own.seeds), Figures.mean(trees.seeds))}
    if own.averaged is not None and trees.averaged is not None:
        pairs["averaged"] = (own.averaged, trees.averaged)
    for name, (one, other) in pairs.items():
        apart = {} if own is trees else {"over_gbm": one.less(other).rows(own.stays)}
        kept[name] = {**one.rows(own.stays), **apart}
    return kept


def main() -> None:
    """Run, print, keep the figures of every model that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=DATA / "physionet2019" / "training_setB-first5000.tar.gz")
    parser.add_argument("--models", default="gbm,lstm,gru,gru_d,lstm+gru+gru_d,lstm+gbm,gru+gbm,gru_d+gbm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "physionet2019")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    asked = tuple(int(seed) for seed in options.seeds.split(",")), options.archive.resolve(), work
    for model in options.models.split(","):
        found = describe(measure(model, *asked), measure("gbm", *asked))
        print(model, json.dumps(found), flush=True)
        keep(RESULT, work, model, found)


if __name__ == "__main__":
    main()
