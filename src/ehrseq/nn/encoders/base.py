"""What every encoder offers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Steps to hidden states.

    Attributes:
        reads: Further tensors of the batch that `forward` takes beside the embedded steps, by name.
        input_size: D, the size of an embedded step.
        output_size: H, the size of a hidden state.
        causal: Whether the hidden state of a step depends on this and earlier steps only.
        bidirectional: Whether a hidden state is [forward; backward], two directions of H/2 side by side.
        gives_attention: Whether the encoder weighs the steps itself, see `encode`.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    input_size: int
    output_size: int
    causal: bool
    bidirectional: bool = False
    gives_attention: bool = False

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor, **batch: Tensor) -> Tensor:
        """Read each history.

        Args:
            x: Embedded steps, padded on the right with anything finite, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer, on the device of `x`.
            **batch: What `reads` names.

        Returns:
            Hidden states, exactly 0 on padding, (B, T, H).
        """

    def encode(self, x: Tensor, lengths: Tensor, **batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read each history, and tell how the encoder weighed its steps on the way.

        Args:
            x: As for `forward`.
            lengths: As for `forward`.
            **batch: As for `forward`.

        Returns:
            What `forward` gives, (B, T, H), and, if `gives_attention`, weights that are exactly 0 on padding and sum to
            one over the real steps, (B, T).
        """
        return self(x, lengths, **batch), None
