"""Training beside PyPOTS' GRU-D and PyHealth's LSTM: the same stays, steps, sizes and threads, all in one run.

    python benchmarks/peer_training.py --path set-a.tar.gz --pypots PYTHON --pyhealth PYTHON [WORDS]

PYTHON is the interpreter of an environment that holds the peer. Both sides validate once an epoch, as their trainers
do; ours also tracks in MLflow and keeps checkpoints. The peers get our normalised grid as arrays, so that reading the
files is not counted; nor is what starting takes: MLflow's database is made by a short training before. Ours and the
peer's run in turns; samples a second are those of the median epoch, by the clock and by processor time, which a busy
host does not touch. WORDS are settings of ours, such as trainer.precision=bf16-mixed.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from epochs import Span, timed_epochs
from numpy.typing import NDArray

from ehrseq.config.load import load_settings
from ehrseq.data import HistoryDataset, represent
from ehrseq.files import write_json
from ehrseq.metrics import auroc
from ehrseq.store import Store
from ehrseq.workflows import experiment, prepare

RESULT = Path(__file__).parent / "results" / "peer_training.json"
PEERS = Path(__file__).parent / "peers"
HIDDEN, BATCH = 64, 64
# The networks as the peers build them: the last state is read, and nothing learns beside it. What is dropped out
# is our own business, as the peers have theirs.
ALONE = [
    *("model.summary=null", "model.next_values=null", "model/pooling=last", "model.embedding.statics=none"),
    *("model.embedding.dropout=0", "optim.weight_averaging=null", "trainer.gradient_clip=null"),
    *("explain=none", "trainer.patience=null", "evaluate.replicates=0"),
    "evaluate.figures=false",
]
OWN = {
    "gru_d": [],
    # PyHealth projects each step on the size of the state, and learns at this rate.
    "lstm": [
        "optim.optimizer.lr=0.001",
        "model.embedding.features=[value,observed]",
        "model.embedding.input_dropout=0",
        f"model.embedding.projection={HIDDEN}",
    ],
}


def arrays(words: list[str], target: Path) -> tuple[Store, NDArray[np.float32]]:
    """Our grid as arrays: with gaps as NaN, and filled with masks beside; gives the held-out outcomes, too."""
    settings = load_settings(words)
    store = prepare.run(settings).open()
    parts = {}
    for name in ("train", "tuning", "held_out"):
        samples = store.samples(name)
        batch: Any = represent(store, settings.representation).cut(samples)
        seen = batch.observed.numpy() > 0
        parts[f"{name}_x"] = np.where(seen, batch.values.numpy(), np.nan).astype(np.float32)
        parts[f"{name}_filled"] = np.concatenate([batch.values.numpy(), batch.observed.numpy()], -1)
        parts[f"{name}_y"] = store.arrays.sample_label[samples, 0].astype(np.int64)
    np.savez(target, **parts)  # type: ignore[arg-type]
    return store, parts["held_out_y"]


def ours(words: list[str], epochs: int, folder: Path) -> tuple[Span, float]:
    """An epoch of `ehrseq train`, and the held-out AUROC."""
    database = f"tracking.uri=sqlite:///{folder.parent}/mlflow.db"
    place = [f"paths.runs={folder}", database, f"trainer.max_epochs={epochs + 1}"]
    with timed_epochs() as spans:
        result = experiment.run(load_settings([*ALONE, *words, *place]))
    score = result.metrics["held_out/auroc"]["value"]
    assert score is not None
    return Span(*(median(getattr(span, kind) for span in spans[1:]) for kind in ("wall", "cpu"))), score


def theirs(command: list[Any], outcome: NDArray[Any]) -> tuple[Span, float]:
    """The same of a peer, which runs as a process of its own."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return Span(said["wall"], said["cpu"]), float(auroc(outcome, np.array(said["probability"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--pypots", type=Path)
    parser.add_argument("--pyhealth", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = {"gru_d": (options.pypots, "pypots_grud.py"), "lstm": (options.pyhealth, "pyhealth_lstm.py")}
    rows: dict[str, Any] = {}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = ["source=physionet2012", f"source.path={options.path.resolve()}", f"paths.data={folder / 'data'}"]
        store, outcome = arrays(source, folder / "arrays.npz")
        samples = len(HistoryDataset(represent(store, load_settings(source).representation), store.samples("train")))
        for model, (python, script) in cases.items():
            if python is None:
                continue
            found: dict[str, list[tuple[Span, float]]] = {"ehrseq": [], "peer": []}
            words = [*source, f"model={model}", *OWN[model], f"model.encoder.hidden_size={HIDDEN}", *options.words]
            ours(words, 1, folder / f"{model}-start")
            for number in range(options.rounds):
                own = ours([*words, f"seed={number + 1}"], options.epochs, folder / f"{model}{number}")
                found["ehrseq"].append(own)
                command = [python, PEERS / script, folder / "arrays.npz", options.epochs, HIDDEN, BATCH]
                found["peer"].append(theirs([*command, options.threads], outcome))
            rates = {
                side: {kind: samples / median(getattr(span, kind) for span, _ in runs) for kind in ("wall", "cpu")}
                for side, runs in found.items()
            }
            rows[model] = {
                "peer": script.partition("_")[0],
                "samples_a_second": rates,
                "ratio": {kind: rates["ehrseq"][kind] / rates["peer"][kind] for kind in ("wall", "cpu")},
                "held_out_auroc": {side: [score for _, score in runs] for side, runs in found.items()},
            }
            print(model, rows[model], flush=True)
    told = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    told |= {"device": f"{platform.machine()} CPU", "hidden": HIDDEN, "batch": BATCH}
    told[" ".join([f"{options.threads} threads", *options.words])] = {"epochs": options.epochs, "models": rows}
    write_json(RESULT, told)
    print(pl.DataFrame([{"model": name, **row["ratio"]} for name, row in rows.items()]))


if __name__ == "__main__":
    main()
