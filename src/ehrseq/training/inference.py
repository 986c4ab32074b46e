"""Scoring histories with a trained network; no Lightning, so that prediction starts fast."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ehrseq.data.batch import SequenceBatch, StepBatch
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


def here(batch: SequenceBatch, values: Tensor) -> Tensor:
    """What belongs to the samples of a batch, (N, ...): of histories (B, ...), or of their steps (B, T, ...)."""
    return values[batch.samples >= 0] if isinstance(batch, StepBatch) else values


def outputs_of(batch: SequenceBatch, prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
    """What the network says of each sample of a batch, at the end of its history or at the step where it ends.

    Returns:
        Opinions (N, M, O), outcomes (N, L), sample numbers (N,).
    """
    return here(batch, prediction.opinions), here(batch, batch.targets), here(batch, batch.samples)


def auxiliary_of(batch: SequenceBatch, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """What the network says, where `outputs_of` looks, for the auxiliary targets.

    Returns:
        Outputs (N, A'), outcomes (N, A).
    """
    return here(batch, prediction.auxiliary), here(batch, batch.auxiliary)


def told_to(batch: SequenceBatch) -> Tensor:
    """The last of the auxiliary outcomes where `outputs_of` looks, (N, 1): what a teacher says, where there is one."""
    return here(batch, batch.auxiliary[..., -1:])


def look(model: SequenceModel, batch: SequenceBatch) -> Prediction:
    """One pass: at each step of a `StepBatch` that has a prediction, else at the ends of the histories."""
    if isinstance(batch, StepBatch):
        return model.at_steps(batch, batch.samples >= 0)
    prediction: Prediction = model(batch)
    return prediction


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
    """Score every sample of a loader once.

    Args:
        model: The trained network.
        loader: Batches in any order.
        device: Where to run.
    """
    samples, predicted = [], []
    model.eval().to(device)
    for batch in loader:
        moved = batch.to(device)
        opinions, _, numbers = outputs_of(moved, look(model, moved))
        samples.append(numbers.cpu().numpy())
        predicted.append(model.objective.predict(opinions.double().mean(1)).cpu().numpy())
    all_samples = np.concatenate(samples)
    order = np.argsort(all_samples)
    return Scores(all_samples[order], np.concatenate(predicted)[order])
