"""What all objectives share."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Told(NamedTuple):
    """What a teacher says of N histories, and how much it counts.

    Attributes:
        logit: Of the outcome, (N, 1); NaN where nothing is said.
        weight: Its share of the loss; the outcome has the rest.
        scale: What half a squared distance between logits counts, see `BinaryObjective`; None: its risks are learned.
    """

    logit: Tensor
    weight: float
    scale: float | None


class Objective(nn.Module, ABC):
    """Loss and predictions of one kind of target.

    Attributes:
        outputs: O, how many outputs the head has.
        reads: The batch's tensors that `at_steps` takes, by name.
    """

    outputs: int
    reads: ClassVar[tuple[str, ...]] = ()

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Take what is needed from the outcomes of `train`, (M, L)."""

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:  # noqa: ARG002
        """Outputs that are best for all histories alike, (O,), where learning begins; 0 where that is as good.

        Args:
            outcomes: (M, L) of `train`, which `fit` has seen.
        """
        return torch.zeros(self.outputs)

    def at_steps(self, output: Tensor, **inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Outputs at every step, (B, T, O), in view of what the steps hold; by default as they are."""
        return output

    def terms(self, output: Tensor, outcome: Tensor, told: Told | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The K parts of which the loss is the sum, and of how many known outcomes each is the mean, (K,) both.

        By them the loss of several batches is that of all their histories together.

        Args:
            output: (B, O).
            outcome: (B, L), NaN where unknown.
            told: What a teacher says of a binary outcome; nothing is said of others.
        """
        return self.loss(output, outcome)[None], (~outcome.isnan()).sum()[None]

    @abstractmethod
    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """The mean loss of the known outcomes, a scalar; 0 where none is known.

        Args:
            output: (B, O).
            outcome: (B, L), NaN where unknown.
        """

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor:
        """Predictions of outputs (B, O), (B, P)."""

    def distance(self, output: Tensor, other: Tensor, spread: Tensor) -> Tensor:
        """How far the predictions of two networks are apart, a mean over columns, (B,).

        Args:
            output: (B, O).
            other: (B, O) of the other network.
            spread: (P,) the unit of each column, such as the standard deviation of the other network's predictions.
        """
        apart: Tensor = ((self.predict(output) - self.predict(other)).abs() / spread).mean(-1)
        return apart

    def risk(self, output: Tensor) -> Tensor:
        """One number a history, (B,), by which they can be ranked: the last prediction."""
        return self.predict(output)[:, -1]

    def score(self, output: Tensor) -> Tensor:
        """One number a history, (B,), on the scale on which explanations add up; by default the risk."""
        return self.risk(output)


def counts_of_known(outcomes: NDArray[np.float32], minlength: int) -> NDArray[np.int64]:
    """How often each number is among the known outcomes, (M, 1)."""
    known = outcomes[~np.isnan(outcomes)]
    return np.bincount(known.astype(np.int64), minlength=minlength)


def mean_of_known(losses: Tensor, known: Tensor) -> Tensor:
    """The mean of the losses whose outcomes are known, a scalar; 0 where none is."""
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
