"""Networks that an explanation must tell from the trained one, and histories that it must not."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ehrseq.data import EventBatch, TimepointBatch
from ehrseq.explain.events import EventHistories, TimepointHistories
from ehrseq.explain.grids import GridHistories
from ehrseq.explain.histories import Histories
from ehrseq.nn import AttentionPooling, MultiHeadAttentionPooling, SequenceModel
from ehrseq.nn.encoders import EventAttentionEncoder, RetainEncoder

_Events = TypeVar("_Events", EventBatch, TimepointBatch)


@torch.no_grad()
def with_random_weights(model: SequenceModel, seed: int) -> SequenceModel:
    """A copy that has learned nothing (Adebayo et al. 2018): each of its tensors has its own numbers in random order.

    Args:
        model: The trained network.
        seed: Of the order.
    """
    copied = deepcopy(model)
    _shuffle(copied.parameters(), seed)
    return copied.eval()


def learns_attention(model: SequenceModel) -> bool:
    """Whether a network learns the weights of its steps; those of the last or the mean state are what they are."""
    return bool(_weighing(model))


@torch.no_grad()
def with_even_attention(model: SequenceModel) -> SequenceModel:
    """A copy that gives the same weight to every step, and cannot learn to give others."""
    copied = deepcopy(model)
    for weight in _weighing(copied):
        weight.zero_().requires_grad_(False)
    return copied


@torch.no_grad()
def with_new_attention(model: SequenceModel, seed: int) -> SequenceModel:
    """A copy whose attention begins anew: what weighs the steps has its own numbers in random order.

    Args:
        model: The trained network.
        seed: Of the order.
    """
    copied = deepcopy(model)
    _shuffle(_weighing(copied), seed)
    return copied


def _shuffle(weights: Iterable[Tensor], seed: int) -> None:
    """Bring the numbers of each tensor into random order, where they lie."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))


def _weighing(model: SequenceModel) -> list[Tensor]:
    """The last weights on the way to those of the steps, which are even where these are 0."""
    pooling, encoder = model.pooling, model.encoder
    found: list[Tensor] = []
    if isinstance(pooling, AttentionPooling):
        found.append(pooling.score.weight)
    if isinstance(pooling, MultiHeadAttentionPooling):
        found.append(pooling.key.weight)
    if isinstance(encoder, RetainEncoder):
        found.append(encoder.step_score.weight)
    if isinstance(encoder, EventAttentionEncoder):
        found += [encoder.score.weight, encoder.recency]
    return found


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
