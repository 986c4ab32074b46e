"""PyHealth's LSTM and its trainer, in an environment of its own; arguments and output as those of `pypots_grud.py`."""

import json
import logging
import sys
import time

import numpy as np
import torch
from pyhealth.datasets import SampleEHRDataset, get_dataloader
from pyhealth.models import RNN
from pyhealth.trainer import Trainer

logging.disable(logging.CRITICAL)
Seconds = np.ndarray[tuple[int], np.dtype[np.float64]]
arrays = np.load(sys.argv[1])
epochs, hidden, batch = map(int, sys.argv[2:5])
torch.set_num_threads(int(sys.argv[5]))


def samples(name: str) -> list[dict[str, object]]:
    """Filled values and masks side by side."""
    return [
        {"patient_id": f"{name}{number}", "visit_id": f"{name}{number}", "x": rows.tolist(), "label": int(label)}
        for number, (rows, label) in enumerate(zip(arrays[f"{name}_filled"], arrays[f"{name}_y"], strict=True))
    ]


parts = {name: samples(name) for name in ("train", "tuning", "held_out")}
whole = SampleEHRDataset(samples=[*parts["train"], *parts["tuning"], *parts["held_out"]], dataset_name="set-a")


def part(name: str) -> "torch.utils.data.Subset[object]":
    """One split of the whole dataset."""
    before = {"train": 0, "tuning": len(parts["train"]), "held_out": len(parts["train"]) + len(parts["tuning"])}[name]
    return torch.utils.data.Subset(whole, range(before, before + len(parts[name])))


def now() -> Seconds:
    """By the clock, and by processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def fit(count: int) -> tuple[Trainer, Seconds]:
    """Train so many epochs, validation and all."""
    torch.manual_seed(1)
    model = RNN(dataset=whole, feature_keys=["x"], label_key="label", mode="binary", embedding_dim=hidden,
                hidden_dim=hidden, rnn_type="LSTM")  # fmt: skip
    trainer = Trainer(model=model, device="cpu", enable_logging=False, metrics=["roc_auc"])
    loaders = get_dataloader(part("train"), batch, shuffle=True), get_dataloader(part("tuning"), batch)
    started = now()
    trainer.train(*loaders, epochs=count, monitor="roc_auc")
    return trainer, now() - started


_, short = fit(1)
trainer, long = fit(1 + epochs)
_, probability, _ = trainer.inference(get_dataloader(part("held_out"), batch))
epoch = dict(zip(("wall", "cpu"), ((long - short) / epochs).tolist(), strict=True))
print(json.dumps({**epoch, "probability": probability.ravel().tolist()}))
