"""Explanations by gradients: they follow a network from a history of which nothing is there to the one that is.

Nothing there means: statics at the train centre and no event. A position that holds a value carried forward
contributes for the event that it comes from; the network's paths beside the recurrent one (a summary of the history)
are followed as well, since they read the same tensors.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ehrseq.explain.base import Attribution, Explainer, differentiable
from ehrseq.explain.histories import Histories, Leaves
from ehrseq.nn import SequenceModel


class GradientXInput(Explainer):
    """Gradient times input (Shrikumar et al. 2016): the slope at the history, times the way from nothing to it."""

    name: ClassVar[str] = "gradient_x_input"

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        nothing = torch.zeros_like(histories.present)
        start, end = histories.leaves(nothing), histories.leaves(histories.present)
        with differentiable(self.model):
            slopes = self._slopes(histories, end)
        shares = {name: slope * (end[name] - start[name]) for name, slope in slopes.items()}
        return Attribution(self.name, self.signed, histories.collect(shares, histories.present))

    def _slopes(self, histories: Histories, leaves: Leaves) -> Leaves:
        """The gradient of the scores, of what the network reads."""
        points = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        score = self.score(histories.inputs(points)).sum()
        found = torch.autograd.grad(score, list(points.values()), allow_unused=True)
        return {name: slope for name, slope in zip(points, found, strict=True) if slope is not None}


class IntegratedGradients(GradientXInput):
    """Integrated gradients (Sundararajan et al. 2017) from nothing to the history, by Gauss-Legendre quadrature.

    Parts and `rest`, the score of nothing, sum to the score, but for the error of the quadrature.

    Args:
        model: The trained network.
        steps: Points on the way at which the gradient is taken.
    """

    name: ClassVar[str] = "integrated_gradients"

    def __init__(self, model: SequenceModel, steps: int = 32) -> None:
        super().__init__(model)
        self.steps = steps

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        nothing = torch.zeros_like(histories.present)
        with torch.no_grad():
            rest = self.score(histories.inputs(histories.leaves(nothing)))
        parts = self._along(histories, nothing, histories.present, self.steps)
        return Attribution(self.name, self.signed, parts, rest=rest)

    def _along(self, histories: Histories, before: Tensor, after: Tensor, points: int) -> Tensor:
        """What parts contribute on the straight way from some of them to more of them, (B, P)."""
        start, end = histories.leaves(before), histories.leaves(after)
        way = {name: end[name] - start[name] for name in end}
        total: Leaves = {}
        with differentiable(self.model):
            for place, weight in zip(*quadrature(points), strict=True):
                slopes = self._slopes(histories, {name: start[name] + place * way[name] for name in way})
                for name, slope in slopes.items():
                    total[name] = total.get(name, 0) + weight * slope
        return histories.collect({name: slope * way[name] for name, slope in total.items()}, after)


class TemporalIntegratedGradients(IntegratedGradients):
    """Integrated gradients in the order of time: each window of a history is faded in after those before it.

    So a value is judged by what was known when it came, and not in a history that is half there (the idea of the
    temporal integrated gradients of Enguehard 2023, "Time Interpret"). Statics come first. Parts and `rest` sum to the
    score.

    Args:
        model: The trained network.
        windows: Into how many windows of equal numbers of steps the histories of a batch are divided.
        steps: Points on the way through each of them.
    """

    name: ClassVar[str] = "temporal_integrated_gradients"

    def __init__(self, model: SequenceModel, windows: int = 8, steps: int = 4) -> None:
        super().__init__(model, steps)
        self.windows = windows

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        before = torch.zeros_like(histories.present)
        with torch.no_grad():
            rest = self.score(histories.inputs(histories.leaves(before)))
        step = histories.step.expand(len(histories), -1)
        # Counted by each history's own length, so that its company changes nothing.
        edges = [(histories.batch.lengths * number // self.windows)[:, None] for number in range(1, self.windows + 1)]
        total = torch.zeros_like(histories.present, dtype=torch.float32)
        for last in [torch.zeros_like(edges[0]), *edges]:
            after = histories.present & (step < last)
            total = total + self._along(histories, before, after, self.steps)
            before = after
        return Attribution(self.name, self.signed, total, rest=rest)


def quadrature(points: int) -> tuple[list[float], list[float]]:
    """Places between 0 and 1, and their weights, which sum to 1 (Gauss and Legendre)."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()
