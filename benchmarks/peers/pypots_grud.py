"""PyPOTS' GRU-D, in an environment of its own: `python pypots_grud.py arrays.npz epochs hidden batch` prints JSON."""

import json
import sys
import time

import numpy as np
import torch
from pypots.classification import GRUD
from pypots.optim import Adam

Seconds = np.ndarray[tuple[int], np.dtype[np.float64]]
arrays = np.load(sys.argv[1])
epochs, hidden, batch = map(int, sys.argv[2:5])
torch.set_num_threads(int(sys.argv[5]))
parts = {name: {"X": arrays[f"{name}_x"], "y": arrays[f"{name}_y"]} for name in ("train", "tuning", "held_out")}
_, steps, features = parts["train"]["X"].shape


def now() -> Seconds:
    """By the clock, and by processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def fit(count: int) -> tuple[GRUD, Seconds]:
    """Train so many epochs, validation and all."""
    model = GRUD(steps, features, 2, hidden, batch_size=batch, epochs=count, optimizer=Adam(lr=1e-3), device="cpu")
    started = now()
    model.fit(parts["train"], parts["tuning"])
    return model, now() - started


_, short = fit(1)
model, long = fit(1 + epochs)
probability = np.asarray(model.predict(parts["held_out"])["classification_proba"])[:, 1]
# What starting takes is in both.
epoch = dict(zip(("wall", "cpu"), ((long - short) / epochs).tolist(), strict=True))
print(json.dumps({**epoch, "probability": probability.tolist()}))
