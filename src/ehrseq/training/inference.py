"""Scoring histories with a trained network; no Lightning, so that prediction starts fast."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ehrseq.data.batch import SequenceBatch
from ehrseq.nn import Prediction, SequenceModel


@dataclass(frozen=True)
class Scores:
    """Predictions of M histories.

    Attributes:
        samples: (M,) sample numbers, ascending.
        prediction: (M, P) float64, see `ehrseq.config.targets.prediction_names`.
    """

    samples: NDArray[np.int64]
    prediction: NDArray[np.float64]


def choose_device(accelerator: str) -> torch.device:
    """The device of an accelerator's name: `auto` takes a GPU where there is one."""
    use_gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


@torch.inference_mode()
def predictions(
    model: SequenceModel, loader: DataLoader[SequenceBatch], device: torch.device
) -> Iterator[tuple[SequenceBatch, Prediction]]:
    """The network's output batch by batch, in evaluation mode."""
    model.eval().to(device)
    for batch in loader:
        moved = batch.to(device)
        yield moved, model(moved)


@torch.inference_mode()
def score(model: SequenceModel, loader: DataLoader[SequenceBatch], device: torch.device) -> Scores:
    """Score every history of a loader once.

    Args:
        model: The trained network.
        loader: Batches in any order.
        device: Where to run.
    """
    samples, predicted = [], []
    for batch, prediction in predictions(model, loader, device):
        samples.append(batch.samples.cpu().numpy())
        predicted.append(model.objective.predict(prediction.output.double()).cpu().numpy())
    all_samples = np.concatenate(samples)
    order = np.argsort(all_samples)
    return Scores(all_samples[order], np.concatenate(predicted)[order])
