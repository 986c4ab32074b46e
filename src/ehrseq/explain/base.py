"""What every explainer offers, and what an explanation is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.explain.histories import Histories
from ehrseq.nn import SequenceModel


@dataclass(frozen=True)
class Attribution:
    """What each part of B histories has to do with their scores.

    Attributes:
        explainer: Name of the explainer.
        signed: Whether parts speak for (positive) or against (negative); else they only weigh more or less.
        parts: (B, P), 0 where there is no part.
        steps: (B, T) where the explainer speaks of whole steps, 0 on padding; None elsewhere.
        rest: (B,) what belongs to no part, where parts (or steps) and rest sum to the score; None elsewhere.
    """

    explainer: str
    signed: bool
    parts: Tensor
    steps: Tensor | None = None
    rest: Tensor | None = None


class Explainer(ABC):
    """Explains the score of a network: `Objective.score`, for a binary target the logit.

    Attributes:
        name: In configurations, tables and figures.
        signed: See `Attribution`.

    Args:
        model: The trained network; evaluated as it is in prediction.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = True

    def __init__(self, model: SequenceModel) -> None:
        self.model = model.eval()

    @abstractmethod
    def attribute(self, histories: Histories) -> Attribution:
        """Explain B histories; each by itself, whatever the others are."""

    def score(self, batch: SequenceBatch) -> Tensor:
        """What is explained, (B,)."""
        return score_of(self.model, batch)

    def _of_steps(self, histories: Histories, steps: Tensor, rest: Tensor | None = None) -> Attribution:
        """An explanation by steps: each part gets what its step gets."""
        step = histories.step.expand(len(histories), -1)
        parts = steps.gather(1, step.clamp(min=0)).masked_fill((step < 0) | ~histories.present, 0.0)
        return Attribution(self.name, self.signed, parts, steps, rest)


def score_of(model: SequenceModel, batch: SequenceBatch) -> Tensor:
    """The scores of a batch, (B,)."""
    return model.objective.score(model(batch).output)


@contextmanager
def differentiable(model: SequenceModel) -> Iterator[None]:
    """Follow gradients to what the network reads, and not to its weights.

    cuDNN differentiates no recurrent net in evaluation mode; torch's own kernels do.
    """
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
            yield
    finally:
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
