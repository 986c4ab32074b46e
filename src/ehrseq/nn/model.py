"""The whole net: embedding, encoder, pooling and head in a row, and what stands beside them."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_probability
from ehrseq.nn.embedding import Embedding
from ehrseq.nn.encoders import Encoder
from ehrseq.nn.heads import Head
from ehrseq.nn.next_values import NextValues
from ehrseq.nn.objectives import Objective, SeveralObjective, Told
from ehrseq.nn.pooling import Pooling
from ehrseq.nn.summary import SummaryNetwork


class SequenceInputs(Protocol):
    """What every batch has to offer, beside what the blocks read."""

    @property
    def statics(self) -> Tensor:
        """Normalised static features, (B, S)."""

    @property
    def lengths(self) -> Tensor:
        """Number of real steps of each history, (B,), integer."""


class Prediction(NamedTuple):
    """What the net says about each history.

    Attributes:
        opinions: Outputs that each learn by themselves, (B, M, O), or (B, T, M, O) at each step; M is 1 without a
            summary network.
        attention: Weight of each step in the pooled vector, exactly 0 on padding, (B, T): the pooling's; where it gives
            none, the encoder's own; None where that gives none either.
        hidden: Hidden states, exactly 0 on padding, (B, T, H).
        auxiliary: Outputs for the auxiliary targets, (B, A') or (B, T, A'); A' is 0 without any.
    """

    opinions: Tensor
    attention: Tensor | None
    hidden: Tensor
    auxiliary: Tensor

    @property
    def output(self) -> Tensor:
        """What the objective makes predictions of, (B, O) or (B, T, O): the mean of the opinions."""
        return self.opinions.mean(-2)


class SequenceModel(nn.Module):
    """Predict from event sequences: embedding, encoder, pooling, head, objective.

    Args:
        embedding: Inputs to steps, (B, T, D).
        encoder: Steps to hidden states, (B, T, H).
        pooling: Hidden states to vectors, (B, H'), and weights, (B, T).
        head: Vectors to outputs, (B, O).
        objective: Outputs to loss and predictions.
        summary: Inputs to outputs, (B, K, O), which learn by themselves and count as much as the recurrent net's, or
            are added to it; none by default.
        next_values: What hidden states learn beside the outcome; none by default.
        hidden_dropout: Dropout probability of hidden states, one mask a history, the same at all its steps (Gal and
            Ghahramani 2016).
        auxiliary: Targets that are learned beside the outcome and never predicted, by the head's last outputs; none by
            default.

    Raises:
        ConfigError: If the blocks do not fit each other.
    """

    def __init__(
        self,
        embedding: Embedding,
        encoder: Encoder,
        pooling: Pooling,
        head: Head,
        objective: Objective,
        summary: SummaryNetwork | None = None,
        next_values: NextValues | None = None,
        hidden_dropout: float = 0.0,
        auxiliary: SeveralObjective | None = None,
    ) -> None:
        super().__init__()
        _check_fit("encoder.input_size", encoder.input_size, embedding.output_size)
        _check_fit("pooling.input_size", pooling.input_size, encoder.output_size)
        _check_fit("pooling.bidirectional", pooling.bidirectional, encoder.bidirectional)
        _check_fit("head.input_size", head.input_size, pooling.output_size)
        _check_fit("head.outputs", head.outputs, objective.outputs + (auxiliary.outputs if auxiliary else 0))
        if summary is not None:
            _check_fit("summary.outputs", summary.outputs, objective.outputs)
        if next_values is not None:
            _check_causal(encoder)
        self.embedding = embedding
        self.encoder = encoder
        self.pooling = pooling
        self.head = head
        self.objective = objective
        self.summary = summary
        self.next_values = next_values
        self.auxiliary = auxiliary
        self.hidden_dropout = nn.Dropout1d(check_probability("hidden_dropout", hidden_dropout))

    @torch.no_grad()
    def fit(
        self,
        outcomes: NDArray[np.float32],
        histories: Iterable[SequenceInputs] = (),
        steps: bool = False,
        auxiliary: NDArray[np.float32] | None = None,
    ) -> None:
        """Take what is needed from `train`, and begin with predictions that fit the mean of its outcomes.

        Args:
            outcomes: Of all samples, (M, L).
            histories: All of them, batch by batch; gone through only where something of them is needed.
            steps: Whether there is an output at every step.
            auxiliary: Outcomes of the auxiliary targets, (M, A), where there are any.
        """
        self.objective.fit(outcomes)
        initial = self.objective.initial(outcomes)
        self.head.bias[: len(initial)].copy_(initial)
        if self.auxiliary is not None and auxiliary is not None:
            self.auxiliary.fit(auxiliary)
            self.head.bias[len(initial) :].copy_(self.auxiliary.initial(auxiliary))
        if self.summary is not None:
            if not self.summary.added:
                self.summary.bias.copy_(initial)
            self.summary.fit((read_batch(inputs, self.summary.reads) for inputs in histories), steps)

    def forward(self, inputs: SequenceInputs) -> Prediction:
        """Predict for a batch.

        Args:
            inputs: B histories.

        Returns:
            Opinions (B, M, O), attention (B, T) or None, hidden states (B, T, H).
        """
        steps = self.embed(inputs)
        hidden, weights = self.encoder.encode(steps, inputs.lengths, **read_batch(inputs, self.encoder.reads))
        hidden = self._drop(hidden)
        return self.conclude(hidden, inputs, weights)

    def conclude(self, hidden: Tensor, inputs: SequenceInputs, weights: Tensor | None = None) -> Prediction:
        """What follows from hidden states.

        Args:
            hidden: (B, T, H).
            inputs: The batch, for what goes past the encoder.
            weights: The encoder's own of the steps, (B, T), if it gives any.
        """
        pooled = self.pooling(hidden, inputs.lengths)
        output, auxiliary = self._part(self.head(pooled.vector, inputs.statics))
        opinions = output.unsqueeze(-2)
        if self.summary is not None:
            summary = self.summary(**read_batch(inputs, self.summary.reads))
            opinions = _joined(opinions, summary, self.summary.added)
        return Prediction(opinions, weights if pooled.weights is None else pooled.weights, hidden, auxiliary)

    def at_steps(self, inputs: SequenceInputs, wanted: Tensor | None = None) -> Prediction:
        """What the net says at each step of what has come so far, in one pass.

        Args:
            inputs: B histories.
            wanted: The steps whose opinions are wanted, (B, T), boolean; those of others are anything. None: all.

        Returns:
            Opinions (B, T, M, O), anything on padding; no attention; hidden states (B, T, H).

        Raises:
            ConfigError: If the encoder looks ahead, or the pooling pools whole histories only.
        """
        _check_causal(self.encoder)
        steps = self.embed(inputs)
        hidden: Tensor = self.encoder(steps, inputs.lengths, **read_batch(inputs, self.encoder.reads))
        hidden = self._drop(hidden)
        statics = inputs.statics.unsqueeze(1).expand(-1, hidden.shape[1], -1)
        output, auxiliary = self._part(self.head(self.pooling.steps(hidden), statics))
        opinions = self.objective.at_steps(output, **read_batch(inputs, self.objective.reads)).unsqueeze(-2)
        if self.summary is not None:
            summary = self.summary.steps(**read_batch(inputs, self.summary.reads), wanted=wanted)
            opinions = _joined(opinions, summary, self.summary.added)
        return Prediction(opinions, None, hidden, auxiliary)

    def _drop(self, hidden: Tensor) -> Tensor:
        """Hidden states with some units dropped out, (B, T, H)."""
        if not self.hidden_dropout.p or not self.training:
            return hidden
        dropped: Tensor = self.hidden_dropout(hidden.mT).mT
        return dropped

    def _part(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the head, (..., O + A'), for the target and for the auxiliary ones."""
        own = self.objective.outputs
        return output[..., :own], output[..., own:]

    def finish(self) -> None:
        """Leave out what only learning has a use for: the auxiliary targets and their outputs."""
        if self.auxiliary is None:
            return
        self.auxiliary = None
        self.head.keep(self.objective.outputs)

    def embed(self, inputs: SequenceInputs) -> Tensor:
        """Embedded steps, (B, T, D)."""
        given = tuple(name for name in self.embedding.may_read if hasattr(inputs, name))
        steps: Tensor = self.embedding(**read_batch(inputs, self.embedding.reads + given))
        return steps

    def terms(self, opinions: Tensor, outcome: Tensor, told: Told | None = None) -> tuple[Tensor, Tensor]:
        """The loss of all opinions, in parts, and of how many outcomes each is the mean, see `Objective.terms`.

        Args:
            opinions: (N, M, O).
            outcome: (N, L), NaN where unknown.
            told: What a teacher says of them.
        """
        if (members := opinions.shape[1]) > 1:
            outcome = outcome.repeat_interleave(members, dim=0)
            told = told and told._replace(logit=told.logit.repeat_interleave(members, dim=0))
        return self.objective.terms(opinions.flatten(0, 1), outcome, told)

    def auxiliary_loss(self, outputs: Tensor, outcome: Tensor) -> Tensor:
        """The weighted sum of the losses of the auxiliary targets, a scalar; 0 where there is none.

        Args:
            outputs: For them, (N, A').
            outcome: (N, A), NaN where unknown.
        """
        return outputs.new_zeros(()) if self.auxiliary is None else self.auxiliary.loss(outputs, outcome)

    def forecast_loss(self, inputs: SequenceInputs, hidden: Tensor) -> Tensor:
        """The loss of the forecast of the next values, a scalar; 0 where there is none.

        Args:
            inputs: B histories.
            hidden: Their hidden states, (B, T, H).
        """
        if self.next_values is None:
            return hidden.new_zeros(())
        loss: Tensor = self.next_values(hidden, **read_batch(inputs, self.next_values.reads))
        return loss


def _joined(recurrent: Tensor, summary: Tensor, added: bool) -> Tensor:
    """Outputs (..., 1, O) and (..., K, O) as their sum, or as (..., 2 K, O): both sides count the same."""
    return recurrent + summary if added else torch.cat([recurrent.expand_as(summary), summary], dim=-2)


def read_batch(inputs: SequenceInputs, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Some tensors of a batch.

    Raises:
        ConfigError: If the batch is of another representation than the block was made for.
    """
    missing = [name for name in names if not hasattr(inputs, name)]
    if missing:
        raise ConfigError(
            f"model: the network reads {', '.join(missing)}, which a {type(inputs).__name__} does not hold; choose a "
            "model for this representation"
        )
    return {name: getattr(inputs, name) for name in names}


def _check_fit(name: str, value: int, needed: int) -> None:
    """Raise unless a block takes what the block before it gives."""
    if value != needed:
        raise ConfigError(f"{name} is {value!r}; allowed is {needed!r}, which the block before it gives")


def _check_causal(encoder: Encoder) -> None:
    """Raise unless each hidden state depends on what has come so far only."""
    if not encoder.causal:
        raise ConfigError(f"encoder is {type(encoder).__name__}, which sees later steps; take a causal one")
