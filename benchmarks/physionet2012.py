"""Every model on PhysioNet 2012, set A: five folds, the same for all, several seeds, default settings.

    python benchmarks/physionet2012.py [--models lstm,gru,...] [--seeds 1,2,3] [--taught] [--members 5] [--blend]
        [--archive FILE] [--work FOLDER]

Each stay is held out once a seed. Figures are those of all 4,000 held-out predictions of a seed together, with a
bootstrap of stays; `ensemble` averages the probabilities of all seeds first. All risks are recalibrated on `tuning`
(Platt). Without further words a model is what `ehrseq train source=physionet2012 model=<model>` trains.

With `--taught` it is that of `experiment=physionet2012`, taught by trees, kept as `<model>_taught`. With `--members`
each model is an ensemble over folds of what is not held out (`members_by=folds`), kept as `..._5`; one seed of it is as
many trainings. With `--blend` each network is averaged with trees (`blend=trees`), kept as `..._blend`. Every model's
own file lies in the work folder, as do the runs: what is trained already is not trained again, so that an interrupted
benchmark goes on, and several processes may each take some of the models. The result holds all models that are done.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from folds import DATA, FOLDS, ROOT, keep, train
from numpy.typing import NDArray

from ehrseq.metrics import Estimate, evaluate_binary, precision_recall_curve

RESULT = ROOT / "benchmarks" / "results" / "physionet2012.json"
MODELS = (
    "gbm,lstm,gru,rnn,gru_d,min_lstm,min_gru,attention_lstm,t_lstm,retain,conv_lstm,event_attention,transformer,"
    "lstm_transformer,xlstm,channelwise_lstm"
)


def challenge_score(label: NDArray[Any], probability: NDArray[Any]) -> float:
    """The Challenge's first score: min(sensitivity, positive predictive value) at the best threshold."""
    curve = precision_recall_curve(label, probability)
    return float(np.minimum(curve.x, curve.y).max())


def figures(label: NDArray[Any], probability: NDArray[Any], subject: NDArray[Any]) -> dict[str, Any]:
    """Metrics with intervals."""
    found: dict[str, Estimate] = evaluate_binary(label, probability, subject)
    named = {name: [found[name].value, found[name].ci_low, found[name].ci_high] for name in ("auroc", "auprc", "brier")}
    return {**named, "min_se_ppv": challenge_score(label, probability)}


def measure(model: str, seeds: list[int], kind: list[str], archive: Path, work: Path) -> dict[str, Any]:
    """One model over all folds and seeds; `kind` are the words that make it taught, an ensemble or a blend."""
    tables, epochs, seconds = [], [], []
    for seed in seeds:
        parts = []
        for fold in range(FOLDS):
            words = ["source=physionet2012", f"source.path={archive}", f"model={model}", f"seed={seed}"]
            words += ["recalibration=platt", f"split.folds={FOLDS}", f"split.fold={fold}"]
            folder, took = train([*words, *kind], work)
            parts.append(pl.read_parquet(folder / "evaluate" / "predictions.parquet"))
            epochs.append(pl.read_csv(folder / "train" / "history.csv").height)  # of the first member
            seconds += [] if took is None else [took]
        tables.append(pl.concat(parts).sort("subject_id"))
        print(model, seed, figures(*_columns(tables[-1])), flush=True)
    label, _, subject = _columns(tables[0])
    each = [figures(*_columns(table)) for table in tables]
    mean = np.mean([table["probability"].to_numpy() for table in tables], axis=0)
    return {
        "seeds": each,
        "auroc_mean": float(np.mean([one["auroc"][0] for one in each])),
        "auroc_sd": float(np.std([one["auroc"][0] for one in each])),
        "auprc_mean": float(np.mean([one["auprc"][0] for one in each])),
        "ensemble": figures(label, mean, subject),
        "epochs_mean": float(np.mean(epochs)),
        "seconds_median": float(np.median(seconds)) if seconds else None,
    }


def _columns(table: pl.DataFrame) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return table["label"].to_numpy(), table["probability"].to_numpy(), table["subject_id"].to_numpy()


def main() -> None:
    """Run, print, keep the figures of every model that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=DATA / "physionet2012" / "set-a.tar.gz")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--taught", action="store_true")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--blend", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "physionet2012")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    kinds = {
        "taught": (options.taught, ["experiment=physionet2012"]),
        str(options.members): (options.members > 1, [f"members={options.members}", "members_by=folds"]),
        "blend": (options.blend, ["blend=trees"]),
    }
    suffix = "".join(f"_{name}" for name, (asked, _) in kinds.items() if asked)
    kind = [word for asked, words in kinds.values() if asked for word in words]
    for model in options.models.split(","):
        keep(RESULT, work, f"{model}{suffix}", measure(model, seeds, kind, options.archive.resolve(), work))


if __name__ == "__main__":
    main()
