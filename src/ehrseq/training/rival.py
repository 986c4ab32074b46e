"""Training of a network that predicts as another does and attends elsewhere."""

from typing import Any

import torch
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import ConfigError
from ehrseq.nn import SequenceModel, attention_divergence
from ehrseq.training.module import SequenceModule

_LEAST = 1e-6


class RivalModule(SequenceModule):
    """The adversary of Wiegreffe and Pinter (2019, section 5): one network for all histories, not weights for each.

    Its loss is how far its predictions are from those of the first network, less `trade_off` times how far its
    attention is. The paper has the total variation of classes and the divergence of Kullback and Leibler; here the
    first is the mean distance over the standard deviation of the first network's predictions, so that rare outcomes
    and numbers count alike, and the second the root of that of Jensen and Shannon over the largest there is. The paper
    reports that divergence, too; it has a bound, and its root, a distance, has a slope where attention is the same.

    Args:
        *args: See `SequenceModule`.
        base: The first network; does not learn.
        spread: Standard deviation of its predictions, of each column, (P,).
        trade_off: Lambda.
        **options: See `SequenceModule`.
    """

    def __init__(self, *args: Any, base: SequenceModel, spread: Tensor, trade_off: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tuning_metrics = None
        self.trade_off = trade_off
        # In a tuple, so that neither is trained nor saved.
        self._base = (base.eval(), spread)

    def training_step(self, batch: SequenceBatch, _: int) -> Tensor:
        """One step."""
        loss = self._distance(batch)
        self._add("train/loss", loss.detach()[None], loss.new_tensor([len(batch)]))
        return loss

    def validation_step(self, batch: SequenceBatch, _: int) -> None:
        """Scores a tuning batch."""
        loss = self._distance(batch)
        self._add("tuning/loss", loss[None], loss.new_tensor([len(batch)]))

    def _distance(self, batch: SequenceBatch) -> Tensor:
        """The loss, a scalar."""
        base, spread = self._base
        with torch.no_grad():
            wanted = base.to(self.device)(batch)
        found = self.model(batch)
        if found.attention is None or wanted.attention is None:
            raise ConfigError("a network without attention has no rival that attends elsewhere")
        moved = self.model.objective.distance(found.output, wanted.output, spread.to(self.device))
        apart = (attention_divergence(found.attention, wanted.attention) + _LEAST).sqrt()
        loss: Tensor = (moved - self.trade_off * apart).mean()
        return loss
