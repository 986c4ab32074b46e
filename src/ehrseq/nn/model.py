"""The whole net: embedding, encoder, pooling and head in a row."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.embedding import Embedding
from ehrseq.nn.encoders import Encoder
from ehrseq.nn.heads import Head
from ehrseq.nn.objectives import Objective
from ehrseq.nn.pooling import Pooling
from ehrseq.nn.shortcut import SummaryShortcut


class SequenceInputs(Protocol):
    """What every batch has to offer, beside what the embedding and the shortcut read."""

    @property
    def statics(self) -> Tensor:
        """Normalised static features, (B, S)."""

    @property
    def lengths(self) -> Tensor:
        """Number of real steps of each history, (B,), integer."""


class Prediction(NamedTuple):
    """What the net says about each history.

    Attributes:
        output: What the objective makes predictions of, (B, O).
        attention: Weight of each step in the pooled vector, exactly 0 on padding, (B, T): the pooling's; where it gives
            none, the encoder's own; None where that gives none either.
        hidden: Hidden states, exactly 0 on padding, (B, T, H).
    """

    output: Tensor
    attention: Tensor | None
    hidden: Tensor


class SequenceModel(nn.Module):
    """Predict from event sequences: embedding, encoder, pooling, head, objective.

    Args:
        embedding: Inputs to steps, (B, T, D).
        encoder: Steps to hidden states, (B, T, H).
        pooling: Hidden states to vectors, (B, H'), and weights, (B, T).
        head: Vectors to outputs, (B, O).
        objective: Outputs to loss and predictions.
        shortcut: Inputs to outputs that are added, (B, O); none by default.

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
        shortcut: SummaryShortcut | None = None,
    ) -> None:
        super().__init__()
        _check_fit("encoder.input_size", encoder.input_size, embedding.output_size)
        _check_fit("pooling.input_size", pooling.input_size, encoder.output_size)
        _check_fit("pooling.bidirectional", pooling.bidirectional, encoder.bidirectional)
        _check_fit("head.input_size", head.input_size, pooling.output_size)
        _check_fit("head.outputs", head.outputs, objective.outputs)
        self.embedding = embedding
        self.encoder = encoder
        self.pooling = pooling
        self.head = head
        self.objective = objective
        self.shortcut = shortcut

    def forward(self, inputs: SequenceInputs) -> Prediction:
        """Predict for a batch.

        Args:
            inputs: B histories.

        Returns:
            Outputs (B, O), attention (B, T) or None, hidden states (B, T, H).
        """
        steps = self.embedding(**_read(inputs, self.embedding.reads))
        hidden, weights = self.encoder.encode(steps, inputs.lengths, **_read(inputs, self.encoder.reads))
        pooled = self.pooling(hidden, inputs.lengths)
        output: Tensor = self.head(pooled.vector, inputs.statics)
        if self.shortcut is not None:
            output = output + self.shortcut(**_read(inputs, self.shortcut.reads))
        return Prediction(output, weights if pooled.weights is None else pooled.weights, hidden)

    def at_steps(self, inputs: SequenceInputs) -> Tensor:
        """What the net says at each step of what has come so far, in one pass.

        Args:
            inputs: B histories.

        Returns:
            Outputs (B, T, O); anything on padding.

        Raises:
            ConfigError: If the encoder looks ahead, or the pooling pools whole histories only.
        """
        if not self.encoder.causal:
            raise ConfigError(f"encoder is {type(self.encoder).__name__}, which sees later steps; take a causal one")
        steps = self.embedding(**_read(inputs, self.embedding.reads))
        hidden: Tensor = self.encoder(steps, inputs.lengths, **_read(inputs, self.encoder.reads))
        statics = inputs.statics.unsqueeze(1).expand(-1, hidden.shape[1], -1)
        output: Tensor = self.head(self.pooling.steps(hidden), statics)
        if self.shortcut is not None:
            output = output + self.shortcut.steps(**_read(inputs, self.shortcut.reads))
        return self.objective.at_steps(output, **_read(inputs, self.objective.reads))


def _read(inputs: SequenceInputs, names: tuple[str, ...]) -> dict[str, Tensor]:
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
