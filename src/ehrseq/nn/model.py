"""The whole net: embedding, encoder, pooling and head in a row."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.embedding import GridEmbedding
from ehrseq.nn.encoders import Encoder
from ehrseq.nn.heads import BinaryHead
from ehrseq.nn.pooling import Pooling
from ehrseq.nn.shortcut import SummaryShortcut


class SequenceInputs(Protocol):
    """What a batch has to offer: B histories, padded on the right to T steps, of F features, and S statics."""

    @property
    def values(self) -> Tensor:
        """Normalised values with the gaps filled, (B, T, F)."""

    @property
    def observed(self) -> Tensor:
        """1 where the value was measured in this step, (B, T, F)."""

    @property
    def hours_since(self) -> Tensor:
        """Hours since the feature was last seen, (B, T, F)."""

    @property
    def statics(self) -> Tensor:
        """Normalised static features, (B, S)."""

    @property
    def lengths(self) -> Tensor:
        """Number of real steps of each history, (B,), integer."""


class Prediction(NamedTuple):
    """What the net says about each history.

    Attributes:
        logits: Logits of the positive class, (B,).
        attention: Weight of each step in the pooled vector, exactly 0 on padding, (B, T); None where the pooling gives
            none.
        hidden: Hidden states, exactly 0 on padding, (B, T, H).
    """

    logits: Tensor
    attention: Tensor | None
    hidden: Tensor


class SequenceModel(nn.Module):
    """Predict from event sequences: embedding, encoder, pooling, head.

    Args:
        embedding: Inputs to steps, (B, T, D).
        encoder: Steps to hidden states, (B, T, H).
        pooling: Hidden states to vectors, (B, H'), and weights, (B, T).
        head: Vectors to logits, (B,).
        shortcut: Inputs to a logit that is added, (B,); none by default.

    Raises:
        ConfigError: If the blocks do not fit each other.
    """

    def __init__(
        self,
        embedding: GridEmbedding,
        encoder: Encoder,
        pooling: Pooling,
        head: BinaryHead,
        shortcut: SummaryShortcut | None = None,
    ) -> None:
        super().__init__()
        _check_fit("encoder.input_size", getattr(encoder, "input_size", None), embedding.output_size)
        _check_fit("pooling.input_size", pooling.input_size, encoder.output_size)
        _check_fit("pooling.bidirectional", pooling.bidirectional, encoder.bidirectional)
        _check_fit("head.input_size", head.input_size, pooling.output_size)
        self.embedding = embedding
        self.encoder = encoder
        self.pooling = pooling
        self.head = head
        self.shortcut = shortcut

    def forward(self, inputs: SequenceInputs) -> Prediction:
        """Predict for a batch.

        Args:
            inputs: B histories.

        Returns:
            Logits (B,), attention (B, T) or None, hidden states (B, T, H).
        """
        steps = self.embedding(inputs.values, inputs.observed, inputs.hours_since, inputs.statics)
        hidden: Tensor = self.encoder(steps, inputs.lengths)
        pooled = self.pooling(hidden, inputs.lengths)
        logits: Tensor = self.head(pooled.vector, inputs.statics)
        if self.shortcut is not None:
            logits = logits + self.shortcut(inputs.values, inputs.observed, inputs.statics, inputs.lengths)
        return Prediction(logits, pooled.weights, hidden)


def _check_fit(name: str, value: int | None, needed: int) -> None:
    """Raise unless a block takes what the block before it gives; a block without the attribute is trusted."""
    if value is not None and value != needed:
        raise ConfigError(f"{name} is {value!r}; allowed is {needed!r}, which the block before it gives")
