"""Every model on PhysioNet 2012, set A: five folds, the same for all, several seeds, default settings.

    python benchmarks/physionet2012.py [--models lstm,gru,...] [--seeds 1,2,3] [--taught | --ensemble]
        [--members 5] [--archive FILE] [--work FOLDER]

Each stay is held out once a seed. Figures are those of all 4,000 held-out predictions of a seed together, with a
bootstrap of stays; `mean` is the mean of the seeds' figures, `ensemble` averages the probabilities of all seeds first.
All risks are recalibrated on `tuning` (Platt). Without further words a model is what
`ehrseq train source=physionet2012 model=<model>` trains.

`over_gbm` and `over_gbm_extra` are the figures less those of the trees (with thresholds drawn by chance), by the same
draws of stays: in the mean of the same seeds, and for the mean of a model's seeds less that of five seeds of trees.

With `--taught` it is that of `experiment=physionet2012`, taught by trees, kept as `<model>_taught`; with `--ensemble`
that of `experiment=physionet2012_ensemble`, kept as `<model>_ensemble`. With `--members` each model is an ensemble over
folds of what is not held out (`members_by=folds`), kept as `..._5`; one seed of it is as many trainings. Every model's
own file lies in the work folder, as do the runs: what is trained already is not trained again, so that an interrupted
benchmark goes on, and several processes may each take some of the models. The result holds all models that are done.
"""

import argparse
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from folds import DATA, FOLDS, ROOT, TREES, keep, train
from numpy.typing import NDArray

from ehrseq.metrics import Estimate, evaluate_binary, precision_recall_curve
from ehrseq.metrics.intervals import estimate

RESULT = ROOT / "benchmarks" / "results" / "physionet2012.json"
MODELS = (
    "gbm,gbm_extra,lstm,gru,rnn,gru_d,min_lstm,min_gru,attention_lstm,t_lstm,retain,conv_lstm,event_attention,transformer,"
    "lstm_transformer,xlstm,channelwise_lstm"
)

METRICS = ("auroc", "auprc", "brier")
TREE_SEEDS = [1, 2, 3, 4, 5]


def challenge_score(label: NDArray[Any], probability: NDArray[Any]) -> float:
    """The Challenge's first score: min(sensitivity, positive predictive value) at the best threshold."""
    curve = precision_recall_curve(label, probability)
    return float(np.minimum(curve.x, curve.y).max())


class Seed(NamedTuple):
    """What one seed says of every stay, each held out once.

    Attributes:
        label: Of every stay, (M,).
        subject: (M,).
        told: (M,).
        found: Its metrics.
        epochs: Of each training; of the first member, where it is an ensemble.
        seconds: Likewise.
    """

    label: NDArray[Any]
    subject: NDArray[Any]
    told: NDArray[Any]
    found: dict[str, Estimate]
    epochs: list[int]
    seconds: list[float]


@cache
def measure(words: tuple[str, ...], seed: int, archive: Path, work: Path) -> Seed:
    """What some words train on all folds; trees are asked for again and again, by every model beside them."""
    parts, epochs, seconds = [], [], []
    for fold in range(FOLDS):
        common = ["source=physionet2012", f"source.path={archive}", f"seed={seed}", "recalibration=platt"]
        folder, took = train([*common, f"split.folds={FOLDS}", f"split.fold={fold}", *words], work)
        parts.append(pl.read_parquet(folder / "evaluate" / "predictions.parquet"))
        epochs.append(pl.read_csv(folder / "train" / "history.csv").height)
        seconds += [] if took is None else [took]
    table = pl.concat(parts).sort("subject_id")
    label, subject, told = (table[name].to_numpy() for name in ("label", "subject_id", "probability"))
    return Seed(label, subject, told, _evaluate(label, told, subject), epochs, seconds)


def _evaluate(label: NDArray[Any], told: NDArray[Any], subject: NDArray[Any]) -> dict[str, Estimate]:
    """Metrics with intervals; the same draws of stays for all models."""
    found = evaluate_binary(label, told, subject)
    return {name: found[name] for name in METRICS}


class Measured:
    """One model over all folds and seeds.

    Args:
        seeds: Of the same stays.
    """

    def __init__(self, seeds: list[Seed]) -> None:
        self.seeds = seeds
        self.each = [one.found for one in seeds]
        self.label = seeds[0].label

    @cached_property
    def told(self) -> NDArray[Any]:
        """The mean of all seeds' probabilities, (M,)."""
        mean: NDArray[Any] = np.mean([one.told for one in self.seeds], axis=0)
        return mean

    @cached_property
    def averaged(self) -> dict[str, Estimate]:
        """Metrics of the mean of all seeds' probabilities."""
        return _evaluate(self.label, self.told, self.seeds[0].subject)


def _figures(label: NDArray[Any], told: NDArray[Any], found: dict[str, Estimate]) -> dict[str, Any]:
    """What is kept of some probabilities and their metrics."""
    kept: dict[str, Any] = {name: _row(value) for name, value in found.items()}
    return {**kept, "min_se_ppv": challenge_score(label, told)}


def _over(own: list[dict[str, Estimate]], other: list[dict[str, Estimate]]) -> dict[str, list[float]]:
    """Metrics in the mean of some, less those in the mean of others, with intervals."""
    return {name: _row(_mean(own, name), _mean(other, name)) for name in METRICS}


def _mean(found: list[dict[str, Estimate]], name: str) -> Estimate:
    value, drawn = (np.mean([getattr(one[name], part) for one in found], axis=0) for part in ("value", "replicates"))
    return estimate(float(value), drawn, 0.95)


def _row(found: Estimate, less: Estimate | None = None) -> list[float]:
    """Value and interval."""
    if less is not None:
        found = estimate(found.value - less.value, found.replicates - less.replicates, 0.95)  # type: ignore[operator]
    return [found.value, found.ci_low, found.ci_high]  # type: ignore[list-item]


def describe(own: Measured, trees: dict[str, tuple[Measured, Measured]]) -> dict[str, Any]:
    """What is kept of a model: its figures, and how far they are from those of trees of the same seeds, and of five."""
    each = [_figures(one.label, one.told, one.found) for one in own.seeds]
    seconds = [took for one in own.seeds for took in one.seconds]
    kept: dict[str, Any] = {
        "seeds": each,
        "mean": {
            **{name: _row(_mean(own.each, name)) for name in METRICS},
            "min_se_ppv": float(np.mean([one["min_se_ppv"] for one in each])),
        },
        "auroc_sd": float(np.std([one["auroc"][0] for one in each])),
        "ensemble": _figures(own.label, own.told, own.averaged),
        "epochs_mean": float(np.mean([count for one in own.seeds for count in one.epochs])),
        "seconds_median": float(np.median(seconds)) if seconds else None,
    }
    for name, (same, five) in trees.items():
        averaged = _over([own.averaged], [five.averaged])
        kept[f"over_{name}"] = {"mean": _over(own.each, same.each), "averaged": averaged}
    return kept


def main() -> None:
    """Run, print, keep the figures of every model that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=DATA / "physionet2012" / "set-a.tar.gz")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seeds", default="1,2,3")
    experiment = parser.add_mutually_exclusive_group()
    experiment.add_argument("--taught", action="store_true")
    experiment.add_argument("--ensemble", action="store_true")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "physionet2012")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    kinds = {
        "taught": (options.taught, ["experiment=physionet2012"]),
        "ensemble": (options.ensemble, ["experiment=physionet2012_ensemble"]),
        str(options.members): (options.members > 1, [f"members={options.members}", "members_by=folds"]),
    }
    suffix = "".join(f"_{name}" for name, (asked, _) in kinds.items() if asked)
    kind = [word for asked, words in kinds.values() if asked for word in words]
    archive = options.archive.resolve()

    def measured(words: list[str], seeds: list[int]) -> Measured:
        return Measured([measure(tuple(words), seed, archive, work) for seed in seeds])

    trees = {name: (measured(words, seeds), measured(words, TREE_SEEDS)) for name, words in TREES.items()}
    for model in options.models.split(","):
        words = TREES.get(model, [f"model={model}"])
        others = {name: two for name, two in trees.items() if name != model}
        found = describe(measured([*words, *kind], seeds), others)
        print(f"{model}{suffix}", json.dumps(found), flush=True)
        keep(RESULT, work, f"{model}{suffix}", found)


if __name__ == "__main__":
    main()
