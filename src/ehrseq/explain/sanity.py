"""Networks that an explanation must tell from the trained one, and histories that it must not."""

from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch

from ehrseq.data import EventBatch, TimepointBatch
from ehrseq.explain.events import EventHistories, TimepointHistories
from ehrseq.explain.grids import GridHistories
from ehrseq.explain.histories import Histories
from ehrseq.nn import AttentionPooling, MultiHeadAttentionPooling, SequenceModel
from ehrseq.nn.encoders import RetainEncoder

_Events = TypeVar("_Events", EventBatch, TimepointBatch)


@torch.no_grad()
def with_random_weights(model: SequenceModel, seed: int) -> SequenceModel:
    """A copy that has learned nothing (Adebayo et al. 2018): each of its tensors has its own numbers in random order.

    Args:
        model: The trained network.
        seed: Of the order.
    """
    copied = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in copied.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copied.eval()


@torch.no_grad()
def with_even_attention(model: SequenceModel) -> SequenceModel:
    """A copy that gives the same weight to every step (the first test of Wiegreffe and Pinter 2019)."""
    copied = deepcopy(model)
    pooling, encoder = copied.pooling, copied.encoder
    if isinstance(pooling, AttentionPooling):
        pooling.score.weight.zero_()
    if isinstance(pooling, MultiHeadAttentionPooling):
        pooling.key.weight.zero_()
    if isinstance(encoder, RetainEncoder):
        encoder.step_score.weight.zero_()
    return copied.eval()


def shaken(histories: Histories, spread: float, seed: int) -> Histories:
    """The histories with noise on every value: what a measurement could have been as well.

    Args:
        histories: B of them.
        spread: Standard deviation of the noise, in spreads of the train values.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(histories, GridHistories):
        noise = spread * torch.randn(histories.cell_value.shape, generator=generator).to(histories.cell_value)
        moved = histories.cell_value + noise * histories.numeric * (histories.cell_value != 0)
        changed = replace(histories, cell_value=moved)
        return replace(changed, batch=changed.fill(histories.present))
    if isinstance(histories, EventHistories):
        return replace(histories, batch=_shaken(histories.batch, spread, generator))
    assert isinstance(histories, TimepointHistories)
    return replace(histories, batch=_shaken(histories.batch, spread, generator))


def _shaken(batch: _Events, spread: float, generator: torch.Generator) -> _Events:
    noise = spread * torch.randn(batch.values.shape, generator=generator).to(batch.values)
    return replace(batch, values=batch.values + noise * batch.has_value)
