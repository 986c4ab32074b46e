"""Explanations by a learned mask: the fewest parts that keep the score, and whose absence takes it away."""

from typing import ClassVar

import torch
from torch import Tensor

from ehrseq.explain.base import Attribution, Explainer, differentiable
from ehrseq.explain.histories import Histories, Leaves
from ehrseq.nn import SequenceModel

_LEAST = 1e-3  # of the way from nothing to the history, in units of the score
_NOISE = 0.1  # of the price of a part: smaller gradients count for little


class ExtremalMask(Explainer):
    """A mask over the parts, between 0 (gone) and 1 (kept), learned for each history by itself.

    The extremal perturbations of Fong et al. (2019), over time as in Crabbe and van der Schaar (2021, "Dynamask"), with
    the terms and the optimiser of Enguehard (2023, "Learning Perturbations to Explain Time Series Predictions"), whose
    two games are played at once: what the mask keeps keeps the score (preservation), and what it leaves has none of it
    (deletion). What is masked fades to nothing, as in integrated gradients; so histories do not depend on each other.

    Args:
        model: The trained network.
        iterations: Steps of the optimiser, Adam.
        size: Price of the mean of the mask, over that of the two squared errors, which are counted in parts of the way
            from the score of nothing to that of the history. The smaller, the more parts are kept; a network that has
            learned needs a larger one than a function of a few parts.
        rate: Length of a step.
    """

    name: ClassVar[str] = "extremal_mask"
    signed: ClassVar[bool] = False

    def __init__(self, model: SequenceModel, iterations: int = 100, size: float = 3.0, rate: float = 0.1) -> None:
        super().__init__(model)
        self.iterations, self.size, self.rate = iterations, size, rate

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        present = histories.present
        start, end = histories.leaves(torch.zeros_like(present)), histories.leaves(present)
        way = {name: end[name] - start[name] for name in end}
        with torch.no_grad():
            whole, none = self.score(histories.inputs(end)), self.score(histories.inputs(start))
        unit = (whole - none).abs().clamp(min=_LEAST)
        # By the price of a part, so that every history learns at the same pace.
        unit = unit * (self.size / present.sum(1).clamp(min=1)).sqrt()
        mask = 0.5 * present.to(whole.dtype)
        optimiser = torch.optim.Adam([mask], lr=self.rate, eps=_NOISE)
        with differentiable(self.model):
            mask.requires_grad_()
            for _ in range(self.iterations):
                kept = histories.spread(mask)
                left = {name: 1 - share for name, share in kept.items()}
                errors = (self._along(histories, start, way, kept) - whole) / unit
                errors_left = (self._along(histories, start, way, left) - none) / unit
                loss = (errors**2 + errors_left**2 + mask.sum(1)).sum()
                # Where nothing at all is left of a code, a network may have no gradient.
                mask.grad = torch.autograd.grad(loss, mask)[0].nan_to_num(0.0, 0.0, 0.0)
                optimiser.step()
                with torch.no_grad():
                    mask.clamp_(0.0, 1.0)
        return Attribution(self.name, self.signed, mask.detach() * present)

    def _along(self, histories: Histories, start: Leaves, way: Leaves, share: Leaves) -> Tensor:
        """The score of a history of which there is a share of each part."""
        return self.score(histories.inputs({name: start[name] + share[name] * way[name] for name in way}))
