"""Sepsis at every hour on PhysioNet 2019: five folds of the stays, the same for all models, default settings.

    python benchmarks/physionet2019.py [--models lstm,gru,gru_d,gbm] [--seed 1] [--archive FILE] [--work FOLDER]

Each stay is held out once. AUROC and AUPRC are those of all held-out hours together, the utility that of the alarms, by
each fold's own threshold, which was best on its `tuning`; intervals by a bootstrap of stays. What is trained already in
the work folder is not trained again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from folds import DATA, FOLDS, ROOT, keep, train

from ehrseq.metrics import Estimate, evaluate_binary, evaluate_utility

RESULT = ROOT / "benchmarks" / "results" / "physionet2019.json"


def measure(model: str, seed: int, archive: Path, work: Path) -> dict[str, Any]:
    """One model over all folds."""
    # Trees summarise each hour's history by themselves; networks pass over a stay once.
    words = ["source=physionet2019", "task=sepsis"] if model == "gbm" else ["experiment=physionet2019"]
    words += ["~model.embedding.features"] if model == "gru_d" else []
    words += [f"model={model}", f"source.path={archive}", f"seed={seed}", f"split.folds={FOLDS}"]
    tables, each, seconds = [], [], []
    for fold in range(FOLDS):
        folder, took = train([*words, f"split.fold={fold}"], work)
        metrics = json.loads((folder / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
        own = {name.removeprefix("held_out/"): metric["value"] for name, metric in metrics.items()}
        each.append({name: own[name] for name in ("auroc", "auprc", "utility")})
        threshold = own["utility_threshold"]
        table = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
        tables.append(table.with_columns(alarm=pl.col("probability") >= (np.inf if threshold is None else threshold)))
        seconds += [] if took is None else [took]
        print(model, fold, each[-1], flush=True)
    table = pl.concat(tables).sort("subject_id", "prediction_time")
    label, subject = table["label"].to_numpy(), table["subject_id"].to_numpy()
    found: dict[str, Estimate] = evaluate_binary(label, table["probability"].to_numpy(), subject)
    found["utility"] = evaluate_utility(subject, label, table["alarm"].to_numpy())
    figures = {name: [found[name].value, found[name].ci_low, found[name].ci_high] for name in each[0]}
    return {**figures, "folds": each, "seconds_median": float(np.median(seconds)) if seconds else None}


def main() -> None:
    """Run, print, keep the figures of every model that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=DATA / "physionet2019" / "training_setB-first5000.tar.gz")
    parser.add_argument("--models", default="lstm,gru,gru_d,gbm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "physionet2019")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for model in options.models.split(","):
        figures = measure(model, options.seed, options.archive.resolve(), work)
        print(model, {name: figures[name] for name in ("auroc", "auprc", "utility")}, flush=True)
        keep(RESULT, work, model, figures)


if __name__ == "__main__":
    main()
