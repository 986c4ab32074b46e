"""Training aids that make attention say more: terms beside the loss, which only training asks for."""

from dataclasses import replace

import torch
from torch import Tensor

from ehrseq.data.batch import EventBatch, GridBatch, SequenceBatch, TimepointBatch
from ehrseq.errors import ConfigError
from ehrseq.nn import Prediction, SequenceModel, attention_divergence, step_mask

_LEAST = 1e-8
_NOISE = 0.05  # in spreads of the train values, as the verdict has it


class AttentionAid:
    """Terms for the attention of a network that weighs whole histories.

    Args:
        entropy: Weight of the entropy of the attention, over that of even weights: the larger, the fewer steps are
            attended to.
        gradient: Weight of the divergence of the attention from what the gradient says of the steps: of each step the
            sum of the sizes of gradient times value of what was measured in it, wherever the value is carried to.
            Gradient times input is far more faithful than free attention (docs/explanations.md); this ties the second
            to the first.
        consistency: Weight of the divergence (Jensen and Shannon, over the largest) of the attention from that under
            another dropout mask and with a little noise on the values: what R-Drop (Liang et al. 2021) asks of
            predictions, asked of attention.
    """

    def __init__(self, entropy: float = 0.0, gradient: float = 0.0, consistency: float = 0.0) -> None:
        self.entropy, self.gradient, self.consistency = entropy, gradient, consistency

    def __bool__(self) -> bool:
        """Whether there is any term."""
        return bool(self.entropy or self.gradient or self.consistency)

    def prepare(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch that the network has to read, so that its gradients can be asked for.

        Raises:
            ConfigError: If the gradient is wanted of a representation without values on a grid.
        """
        if not self.gradient:
            return batch
        if not isinstance(batch, GridBatch):
            raise ConfigError("loss.attention_gradient is for representation=grid")
        return replace(batch, values=batch.values.detach().requires_grad_())

    def loss(self, model: SequenceModel, batch: SequenceBatch, prediction: Prediction) -> Tensor:
        """The weighted sum of the terms, a scalar.

        Args:
            model: The network.
            batch: From `prepare`.
            prediction: What the network said of it.

        Raises:
            ConfigError: If the network has no attention.
        """
        attention = prediction.attention
        if attention is None:
            raise ConfigError("loss.attention_* need a model with attention")
        total = attention.new_zeros(())
        logs = attention.clamp(min=_LEAST).log()
        if self.entropy:
            most = batch.lengths.clamp(min=2).to(attention.dtype).log()
            total = total + self.entropy * (-(attention * logs).sum(1) / most).mean()
        if self.gradient:
            assert isinstance(batch, GridBatch)
            wanted = step_importance(model, batch, prediction)
            total = total + self.gradient * (wanted * (wanted.clamp(min=_LEAST).log() - logs)).sum(1).mean()
        if self.consistency:
            again = model(with_noise(batch)).attention
            assert again is not None
            total = total + self.consistency * attention_divergence(attention, again).mean()
        return total


def step_importance(model: SequenceModel, batch: GridBatch, prediction: Prediction) -> Tensor:
    """Shares of the steps in what gradient times value says of a history, exactly 0 on padding, (B, T).

    Args:
        model: The network.
        batch: Whose values a gradient can be asked of.
        prediction: What the network said of it.
    """
    score = model.objective.score(prediction.output).sum()
    slope = torch.autograd.grad(score, batch.values, retain_graph=True)[0]
    share = (slope * batch.values).detach()
    by_step = torch.zeros_like(share).scatter_add(1, _measured(batch), share).abs().sum(-1)
    by_step = (by_step + _LEAST) * step_mask(batch.lengths, batch.steps)
    shares: Tensor = by_step / by_step.sum(1, keepdim=True)
    return shares


def with_noise(batch: SequenceBatch) -> SequenceBatch:
    """The batch with a little noise on every value; a value that is carried forward keeps the same."""
    assert isinstance(batch, GridBatch | EventBatch | TimepointBatch)
    noise = _NOISE * torch.randn_like(batch.values)
    if isinstance(batch, GridBatch):
        noise = noise.gather(1, _measured(batch))
    return replace(batch, values=(batch.values + noise * (batch.values != 0)).detach())


def _measured(batch: GridBatch) -> Tensor:
    """The step in which each value was measured, (B, T, F); of what is older than all steps, the first."""
    step = torch.arange(batch.steps, device=batch.values.device)[:, None]
    return torch.where(batch.observed > 0, step, 0).cummax(1).values
