"""Several targets at once, and the objective of any target."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ehrseq.config.fit import PLAIN_LOSS, unused_by
from ehrseq.config.schema import Loss
from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    Part,
    RegressionTarget,
    SeveralTarget,
    SingleTarget,
    SurvivalTarget,
    Target,
    columns_of,
)
from ehrseq.errors import ConfigError
from ehrseq.nn.objectives.base import Objective, Told
from ehrseq.nn.objectives.categories import BinaryObjective, MulticlassObjective, OrdinalObjective
from ehrseq.nn.objectives.numbers import ForecastObjective, RegressionObjective
from ehrseq.nn.objectives.survival import SurvivalObjective


class SeveralObjective(Objective):
    """Several targets at once: a weighted sum of their losses, each the mean over the outcomes that are known to it.

    Args:
        together: The parts by name, with their classes and labels.
        loss: How errors count; what a part has no use for is not for it.
    """

    def __init__(self, together: Mapping[str, Part], loss: Loss) -> None:
        super().__init__()
        self.columns = columns_of(together)
        self.weights = [part.weight for part in together.values()]
        own = [
            (part.target, {name: PLAIN_LOSS[name] for name in unused_by(part.target.kind, loss)})
            for part in self.columns
        ]
        self.parts = nn.ModuleList(_single(part, loss.model_copy(update=plain)) for part, plain in own)
        self.sizes = [part.outputs for part in self._objectives()]
        self.outputs = sum(self.sizes)

    def _objectives(self) -> list[Objective]:
        return [part for part in self.parts if isinstance(part, Objective)]

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Each part from its own columns."""
        for part, columns in zip(self._objectives(), self.columns, strict=True):
            part.fit(outcomes[:, columns.outcomes])

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:
        """Those of all parts; see `Objective.initial`."""
        own = zip(self._objectives(), self.columns, strict=True)
        return torch.cat([part.initial(outcomes[:, columns.outcomes]) for part, columns in own])

    def terms(self, output: Tensor, outcome: Tensor, told: Told | None = None) -> tuple[Tensor, Tensor]:
        """One of each part, of which a teacher speaks of the first; see `Objective.terms`."""
        own = zip(self._objectives(), self.columns, torch.split(output, self.sizes, dim=1), strict=True)
        parts = [
            part.terms(mine, outcome[:, columns.outcomes], None if number else told)
            for number, (part, columns, mine) in enumerate(own)
        ]
        losses, counts = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        return losses * losses.new_tensor(self.weights), counts

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        return self.terms(output, outcome)[0].sum()

    def predict(self, output: Tensor) -> Tensor:
        """The predictions of all parts, (B, P), part after part."""
        own = zip(self._objectives(), torch.split(output, self.sizes, dim=1), strict=True)
        return torch.cat([part.predict(mine) for part, mine in own], dim=1)

    def risk(self, output: Tensor) -> Tensor:
        """That of the first part, (B,)."""
        return self._objectives()[0].risk(output[:, : self.sizes[0]])

    def score(self, output: Tensor) -> Tensor:
        """That of the first part, (B,)."""
        return self._objectives()[0].score(output[:, : self.sizes[0]])


def make_objective(target: Target, loss: Loss, features: int = 0) -> Objective:
    """The objective of a target.

    Args:
        target: With its classes or labels.
        loss: How errors count.
        features: F, of the representation; what a forecast foretells.

    Raises:
        ConfigError: If the loss has options that a single target has no use for.
    """
    if isinstance(target, SeveralTarget):
        return SeveralObjective(target.parts, loss)
    if unused := unused_by(target.kind, loss):
        if target.kind == "multiclass":
            raise ConfigError("loss.class_weight is a number; with several classes it is none or balanced")
        raise ConfigError(f"loss.{unused[0]} is for binary, multiclass and multilabel targets; this is {target.kind}")
    if isinstance(target, ForecastTarget):
        return ForecastObjective(features, target.horizon)
    return _single(target, loss)


def _single(target: SingleTarget, loss: Loss) -> Objective:
    match target:
        case BinaryTarget():
            return BinaryObjective(1, loss)
        case MulticlassTarget():
            return MulticlassObjective(len(target.classes), loss)
        case MultilabelTarget():
            return BinaryObjective(len(target.labels), loss)
        case RegressionTarget():
            return RegressionObjective(target.log)
        case OrdinalTarget():
            return OrdinalObjective(len(target.edges) + 1)
        case SurvivalTarget():
            return SurvivalObjective(target.edges, len(target.causes))
