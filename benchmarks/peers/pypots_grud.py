"""PyPOTS' GRU-D, in an environment of its own: `python pypots_grud.py arrays.npz epochs hidden batch` prints JSON."""

import json
import sys
import time

import numpy as np
import torch
from pypots.classification import GRUD
from pypots.optim import Adam

arrays = np.load(sys.argv[1])
epochs, hidden, batch = map(int, sys.argv[2:5])
torch.set_num_threads(int(sys.argv[5]))
parts = {name: {"X": arrays[f"{name}_x"], "y": arrays[f"{name}_y"]} for name in ("train", "tuning", "held_out")}
_, steps, features = parts["train"]["X"].shape


def fit(count: int) -> tuple[GRUD, float]:
    """Train so many epochs, validation and all."""
    model = GRUD(steps, features, 2, hidden, batch_size=batch, epochs=count, optimizer=Adam(lr=1e-3), device="cpu")
    started = time.perf_counter()
    model.fit(parts["train"], parts["tuning"])
    return model, time.perf_counter() - started


_, short = fit(1)
model, long = fit(1 + epochs)
probability = np.asarray(model.predict(parts["held_out"])["classification_proba"])[:, 1]
# What starting takes is in both.
print(json.dumps({"epoch_seconds": (long - short) / epochs, "probability": probability.tolist()}))
