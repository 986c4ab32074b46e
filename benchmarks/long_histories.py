"""Training on histories of very unequal length: batches of like length beside batches in random order, padded.

    python benchmarks/long_histories.py [--demo FOLDER] [--threads 1]

Same network, same weights to begin with, same histories, same number of histories a batch; epochs in turns. Events a
second count real events only. Data: synthetic MEDS histories whose lengths are log-normal (sigma 1), with an outcome
that their last values decide, and the MIMIC-IV demo (readmission, as far as 100 patients say anything).
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from machine import machine_facts
from made_meds import make
from torch.utils.data import DataLoader

from ehrseq.config.load import load_settings
from ehrseq.data import HistoryDataset, SequenceBatch
from ehrseq.data.sampler import padding_share
from ehrseq.files import write_json
from ehrseq.metrics import auroc
from ehrseq.training import inference
from ehrseq.workflows import prepare
from ehrseq.workflows.learn import Training, set_up

RESULTS = Path(__file__).parent / "results"
BATCH = 64


class RandomBatches(torch.utils.data.Sampler[Any]):
    """Batches in random order, whatever the lengths."""

    def __init__(self, histories: int) -> None:
        self.histories = histories
        self.epoch = 0

    def __iter__(self) -> Any:
        order = np.random.default_rng([0, self.epoch]).permutation(self.histories)
        yield from (order[start : start + BATCH] for start in range(0, len(order), BATCH))


def loaders(training: Training) -> dict[str, DataLoader[SequenceBatch]]:
    """Both ways to make batches of the same dataset."""
    dataset = training.train.dataset
    assert isinstance(dataset, HistoryDataset)
    naive: DataLoader[SequenceBatch] = DataLoader(dataset, batch_size=None, sampler=RandomBatches(len(dataset)))
    return {"ehrseq": training.train, "naive": naive}


def compare(words: list[str], epochs: int, device: torch.device) -> dict[str, Any]:
    """Train both, an epoch each in turns."""
    settings = load_settings([*words, f"loader.batch_size={BATCH}", "model.next_values=null", "explain=none"])
    store = prepare.run(settings).open()
    trainings = {name: set_up(settings, store) for name in ("ehrseq", "naive")}
    optimizers = {}
    for name, training in trainings.items():
        training.module.to(device).train()
        optimizers[name] = training.module.optimizer(training.module.parameters())
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    padding = {}
    events = 0
    for epoch in range(epochs):
        for name, training in trainings.items():
            loader = loaders(training)[name]
            loader.sampler.epoch = epoch  # type: ignore[attr-defined]
            dataset = training.train.dataset
            assert isinstance(dataset, HistoryDataset)
            events = int(dataset.lengths.sum())
            padding[name] = padding_share(dataset.lengths, list(loader.sampler))
            training.module.train()
            torch.manual_seed(epoch)
            started = time.perf_counter()
            for batch in loader:
                optimizers[name].zero_grad()
                loss = training.module.training_step(batch.to(device), 0)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(training.module.parameters(), 1.0)
                optimizers[name].step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    samples = store.samples("held_out")
    outcome = store.arrays.sample_label[samples, 0]
    result: dict[str, Any] = {"events_an_epoch": events, "epochs": epochs}
    for name, training in trainings.items():
        held = HistoryDataset(training.train.dataset.representation, samples)  # type: ignore[attr-defined]
        scores = inference.score(training.module.model, held.ordered(settings.loader), device)
        # The first epoch warms up.
        quick = float(np.median(seconds[name][1:]))
        result[name] = {
            "events_a_second": events / quick,
            "padding": padding[name],
            "held_out_auroc": float(auroc(outcome, scores.prediction[:, 0])),
        }
    result["speed_ratio"] = result["ehrseq"]["events_a_second"] / result["naive"]["events_a_second"]
    return result


def made(folder: Path, subjects: int) -> list[str]:
    """Synthetic histories; the mean of their last twenty values decides the outcome."""
    make(folder, subjects * 400, 400)
    data = pl.concat([pl.read_parquet(path) for path in sorted((folder / "data").glob("*.parquet"))])
    last = data.group_by("subject_id", maintain_order=True).agg(
        pl.col("time").max().alias("prediction_time"), pl.col("numeric_value").drop_nulls().tail(20).mean()
    )
    noise = np.random.default_rng(1).normal(0, 0.1, len(last))
    labels = last.select(
        "subject_id", "prediction_time", (pl.col("numeric_value").fill_null(0) + noise > 0).alias("boolean_value")
    )
    for path in (folder / "labels" / "made").glob("*.parquet"):
        path.unlink()
    labels.write_parquet(folder / "labels" / "made" / "00000.parquet")
    return ["source=meds", f"source.path={folder}", "task.name=made", "model/pooling=last"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="the MIMIC-IV demo in MEDS")
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = {}
    with TemporaryDirectory() as scratch:
        place = [f"paths.data={scratch}/data", "representation.max_steps=65536"]  # nothing is cut off
        words = made(Path(scratch) / "made", options.subjects)
        cases["log-normal, events"] = compare([*words, "representation=events", *place], options.epochs, device)
        print(cases, flush=True)
        if options.demo:
            words = ["source=meds", f"source.path={options.demo.resolve()}", "task=readmission_30d"]
            for name in ("events", "timepoints"):
                cases[f"MIMIC-IV demo, {name}"] = compare(
                    [*words, f"representation={name}", *place], options.epochs, device
                )
                print(cases[f"MIMIC-IV demo, {name}"], flush=True)
    facts = {**machine_facts(device), "batch": BATCH}
    write_json(RESULTS / f"long_histories_{device.type}.json", {**facts, "cases": cases})


if __name__ == "__main__":
    main()
