"""Sepsis at every hour on PhysioNet 2019: five folds of the stays, the same for all models, default settings.

    python benchmarks/physionet2019.py [--models lstm,gru,gru_d,gbm,lstm+gbm] [--seed 1] [--archive FILE]
        [--work FOLDER]

Each stay is held out once. AUROC and AUPRC are those of all held-out hours together, the utility that of the alarms,
by each fold's own threshold, which was best on its `tuning`; `auprc_folds` is the mean of the folds' own AUPRC, in
which no hour is ranked against one that another network has seen. Intervals by a bootstrap of stays; `over_gbm` are the
differences from the trees, by the same draws. A name such as `lstm+gru` stands for the mean of both, with the threshold
that is best on the other folds. What is trained already in the work folder is not trained again.
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from folds import DATA, FOLDS, ROOT, keep, train

from ehrseq.metrics import Estimate, best_threshold, evaluate_binary, evaluate_utility
from ehrseq.metrics.intervals import estimate

RESULT = ROOT / "benchmarks" / "results" / "physionet2019.json"
LEVEL = 0.95  # of the intervals, as everywhere


def train_folds(model: str, seed: int, archive: Path, work: Path) -> tuple[pl.DataFrame, list[float]]:
    """Every held-out hour with its fold, probability and alarm, by fold's own threshold; seconds of each training."""
    # Trees summarise each hour's history by themselves; networks pass over a stay once.
    words = ["source=physionet2019", "task=sepsis"] if model == "gbm" else ["experiment=physionet2019"]
    words += ["~model.embedding.features"] if model == "gru_d" else []
    words += [f"model={model}", f"source.path={archive}", f"seed={seed}", f"split.folds={FOLDS}"]
    tables, seconds = [], []
    for fold in range(FOLDS):
        folder, took = train([*words, f"split.fold={fold}"], work)
        metrics = json.loads((folder / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
        threshold = metrics["held_out/utility_threshold"]["value"]
        table = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
        alarm = pl.col("probability") >= (np.inf if threshold is None else threshold)
        tables.append(table.with_columns(fold=fold, alarm=alarm))
        seconds += [] if took is None else [took]
    return pl.concat(tables).sort("subject_id", "prediction_time"), seconds


def average(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """The mean of several models' probabilities; a fold's threshold is that which is best on the other folds."""
    probability = np.mean([table["probability"].to_numpy() for table in tables], axis=0)
    table = tables[0].with_columns(probability=probability)
    alarms = []
    for fold in range(FOLDS):
        rest = table.filter(pl.col("fold") != fold)
        best = best_threshold(*(rest[name].to_numpy() for name in ("subject_id", "label", "probability")))
        own = table.filter(pl.col("fold") == fold)
        alarms.append(own.with_columns(alarm=pl.col("probability") >= best.threshold))
    return pl.concat(alarms).sort("subject_id", "prediction_time")


def measure(models: str, seed: int, archive: Path, work: Path) -> dict[str, Any]:
    """One model over all folds, or several averaged, `lstm+gru`."""
    found = [train_folds(model, seed, archive, work) for model in models.split("+")]
    tables, seconds = [table for table, _ in found], [took for _, took in found]
    table = average(tables) if len(tables) > 1 else tables[0]
    own, each = estimates(table)
    alone = len(tables) == 1 and seconds[0]
    figures: dict[str, Any] = {name: _row(one) for name, one in own.items()}
    figures["folds"] = [{name: one.value for name, one in part.items()} for part in each]
    if models != "gbm":
        trees = estimates_of_trees(seed, archive, work)
        figures["over_gbm"] = {name: _row(_weighted([one, trees[name]], [1, -1])) for name, one in own.items()}
    return {**figures, "seconds_median": float(np.median(seconds[0])) if alone else None}


@cache
def estimates_of_trees(seed: int, archive: Path, work: Path) -> dict[str, Estimate]:
    """Of the trees, which every network is compared with."""
    return estimates(train_folds("gbm", seed, archive, work)[0])[0]


def estimates(table: pl.DataFrame) -> tuple[dict[str, Estimate], list[dict[str, Estimate]]]:
    """AUROC, AUPRC and utility, and the mean of the folds' AUPRC; the former by fold."""
    each = [_estimates(table.filter(pl.col("fold") == fold), seed=fold) for fold in range(FOLDS)]
    mean = _weighted([one["auprc"] for one in each], [1 / FOLDS] * FOLDS)
    return {**_estimates(table, seed=0), "auprc_folds": mean}, each


def _estimates(table: pl.DataFrame, seed: int) -> dict[str, Estimate]:
    label, subject = table["label"].to_numpy(), table["subject_id"].to_numpy()
    found = evaluate_binary(label, table["probability"].to_numpy(), subject, seed=seed)
    utility = evaluate_utility(subject, label, table["alarm"].to_numpy(), seed=seed)
    return {"auroc": found["auroc"], "auprc": found["auprc"], "utility": utility}


def _weighted(parts: list[Estimate], weights: list[float]) -> Estimate:
    """A weighted sum of figures, replicate by replicate."""
    found = [(one.value, one.replicates) for one in parts if one.value is not None and one.replicates is not None]
    assert len(found) == len(parts), "a fold without an outcome"
    factors = np.array(weights)
    return estimate(float(factors @ [one for one, _ in found]), factors @ np.stack([one for _, one in found]), LEVEL)


def _row(one: Estimate) -> list[float | None]:
    return [one.value, one.ci_low, one.ci_high]


def main() -> None:
    """Run, print, keep the figures of every model that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=DATA / "physionet2019" / "training_setB-first5000.tar.gz")
    parser.add_argument("--models", default="lstm,gru,gru_d,gbm,lstm+gru+gru_d,lstm+gbm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "physionet2019")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for model in options.models.split(","):
        figures = measure(model, options.seed, options.archive.resolve(), work)
        print(model, {name: value for name, value in figures.items() if name != "folds"}, flush=True)
        keep(RESULT, work, model, figures)


if __name__ == "__main__":
    main()
