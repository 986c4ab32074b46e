"""Whether what an explainer names is what the network uses: its parts are taken away, or kept alone, in its order.

Comprehensiveness and sufficiency as in DeYoung et al. (2020, "ERASER"), insertion and deletion as in Petsiuk et al.
(2018), the area over the perturbation curve as in Samek et al. (2017). All on the scale of `Objective.score`, in the
direction of the prediction: towards the outcome where it is above the mean of the cohort, away from it where below. An
explainer with signs names first what speaks for the prediction.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.explain.base import score_of
from ehrseq.explain.histories import Histories, Replacement
from ehrseq.nn import SequenceModel

TOP = (0.01, 0.05, 0.10, 0.20)  # of the parts, named first
FRACTIONS = (*TOP, 0.50)  # of which the curves are drawn, beside none and all
Figures = dict[str, NDArray[np.float64]]


def order(weight: Tensor, present: Tensor) -> Tensor:
    """The place of each part, (B, P), from 0 for the largest weight; those that are not there come last.

    Equal weights stand in an order that has nothing to do with time or code.
    """
    parts = weight.shape[1]
    shuffled = torch.randperm(parts, generator=torch.Generator().manual_seed(parts)).to(weight.device)
    sunk = weight.masked_fill(~present, -torch.inf)[:, shuffled]
    place = torch.empty_like(sunk, dtype=torch.int64)
    ranked = sunk.argsort(dim=1, descending=True, stable=True)
    place.scatter_(1, ranked, torch.arange(parts, device=weight.device).expand_as(ranked))
    return torch.empty_like(place).index_copy_(1, shuffled, place)


@torch.no_grad()
def removal(
    model: SequenceModel,
    histories: Histories,
    place: Tensor,
    direction: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    replacement: Replacement = "carry",
) -> tuple[Tensor, Tensor]:
    """How far the score falls without the first parts, and with the first parts alone.

    Args:
        model: The trained network.
        histories: B of them.
        place: (B, P) from `order`.
        direction: (B,) 1 or -1: which way the prediction goes.
        fractions: K shares of the parts that are taken away or kept, rounded up.
        replacement: What stands in the place of what is gone.

    Returns:
        Score less the score without them, and less the score of them alone, (B, K) each.
    """
    number = histories.present.sum(1, keepdim=True)
    whole = score_of(model, histories.batch)
    without, alone = [], []
    for fraction in fractions:
        first = place < (number * fraction).ceil()
        without.append(direction * (whole - score_of(model, histories.without(first, replacement))))
        alone.append(direction * (whole - score_of(model, histories.without(~first, replacement))))
    return torch.stack(without, 1), torch.stack(alone, 1)


def faithfulness(model: SequenceModel, histories: Histories, weight: Tensor, direction: Tensor) -> Figures:
    """Figures of one explainer, (B,) each.

    Args:
        model: The trained network.
        histories: B of them.
        weight: (B, P), the larger the sooner a part is named.
        direction: (B,) see `removal`.

    Returns:
        `comprehensiveness_<percent>` (the more the better) and `sufficiency_<percent>` (the less the better), and
        without a number their mean over `TOP`, the area over the perturbation curve; the same of masked values as
        `masked_comprehensiveness`, `masked_sufficiency`; `deletion` and `insertion`, areas under the curves of what is
        lost and what is won back (the more the better), from no part to all.
    """
    place = order(weight, histories.present)
    without, alone = removal(model, histories, place, direction)
    masked_without, masked_alone = removal(model, histories, place, direction, TOP, "mask")
    with torch.no_grad():
        nothing = score_of(model, histories.fill(torch.zeros_like(histories.present)))
        lost = direction * (score_of(model, histories.batch) - nothing)
    figures = {}
    for number, fraction in enumerate(TOP):
        figures[f"comprehensiveness_{fraction * 100:.0f}"] = without[:, number]
        figures[f"sufficiency_{fraction * 100:.0f}"] = alone[:, number]
    kept = len(TOP)
    figures["comprehensiveness"] = without[:, :kept].mean(1)
    figures["sufficiency"] = alone[:, :kept].mean(1)
    figures["masked_comprehensiveness"] = masked_without.mean(1)
    figures["masked_sufficiency"] = masked_alone.mean(1)
    ends = torch.zeros_like(lost)
    at = torch.tensor([0.0, *FRACTIONS, 1.0], device=lost.device)
    figures["deletion"] = torch.trapezoid(torch.cat([ends[:, None], without, lost[:, None]], 1), at)
    won = lost[:, None] - torch.cat([lost[:, None], alone, ends[:, None]], 1)
    figures["insertion"] = torch.trapezoid(won, at)
    for number, fraction in enumerate(FRACTIONS):
        figures[f"lost_{fraction * 100:.0f}"] = without[:, number]
        figures[f"won_{fraction * 100:.0f}"] = won[:, number + 1]
    figures["lost_100"] = lost
    return {name: value.double().cpu().numpy() for name, value in figures.items()}
