"""Whether quite other attention weights would have given the same score."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.explain.base import differentiable
from ehrseq.nn import AttentionPooling, SequenceModel, attention_divergence, masked_softmax, step_mask

TOLERANCE = 0.1  # of the score: so much a probability of 0.5 moves by 0.025
_ITERATIONS = 50


def adversarial_divergence(model: SequenceModel, batch: SequenceBatch, seed: int) -> NDArray[np.float64] | None:
    """How far attention weights can be from the network's own while the score moves by no more than 0.1.

    Jain and Wallace (2019, "Attention is not Explanation") search such weights for every history by itself, as here;
    Wiegreffe and Pinter (2019) train one network that gives them: `ehrseq.training.rival`. Hidden states stay as they
    are. Where the attended context is one of several things that are read, or hidden states are alike, other weights
    are found easily.

    Args:
        model: The trained network.
        batch: B histories.
        seed: Of where the search begins.

    Returns:
        (B,) Jensen-Shannon divergence over the largest there is, log 2: 0 if no other weights were found, 1 if wholly
        others do as well. None where the network's pooling is not an `AttentionPooling`.
    """
    pooling = model.pooling
    if not isinstance(pooling, AttentionPooling):
        return None
    with torch.no_grad():
        hidden = model(batch).hidden
        vector, own = pooling(hidden, batch.lengths)
        rest = vector[:, hidden.shape[-1] :]
        whole = _side_score(model, vector, batch)
    mask = step_mask(batch.lengths, batch.steps)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(own.shape, generator=generator).to(own.device)
    best: NDArray[np.float64] = np.zeros(len(own))
    free = (own.clamp(min=1e-6).log() + noise).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.3)
    with differentiable(model):
        for _ in range(_ITERATIONS):
            weights = masked_softmax(free, mask, dim=1)
            context = torch.bmm(weights.to(hidden.dtype).unsqueeze(1), hidden).squeeze(1)
            moved = (_side_score(model, torch.cat([context, rest], -1), batch) - whole).abs()
            apart = attention_divergence(weights.detach().double(), own.double()).cpu().numpy()
            better = (moved.detach().cpu().numpy() <= TOLERANCE) & (apart > best)
            best = np.where(better, apart, best)
            # The less of the network's own weights, the further apart; beyond the tolerance the score counts.
            alike = (weights * own).sum(1) / own.square().sum(1)
            loss = (alike + 10 * (moved - TOLERANCE / 2).clamp(min=0)).sum()
            free.grad = torch.autograd.grad(loss, free)[0]
            optimiser.step()
    return best


def _side_score(model: SequenceModel, vector: Tensor, batch: SequenceBatch) -> Tensor:
    """The score by what the recurrent side says of pooled vectors, (B,)."""
    return model.objective.score(model.head(vector, batch.statics))
