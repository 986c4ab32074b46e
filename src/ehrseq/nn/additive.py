"""What each step adds to the outputs, where the net is made so that this is exact."""

from typing import NamedTuple

from torch import Tensor

from ehrseq.errors import ConfigError
from ehrseq.nn.model import SequenceInputs, SequenceModel
from ehrseq.nn.pooling import SumPooling


class Contributions(NamedTuple):
    """Parts of the outputs: output = steps.sum(1) + statics + bias.

    Attributes:
        steps: What each step adds, exactly 0 on padding, (B, T, O).
        statics: What the statics that the head reads add, 0 where it reads none, (B, O).
        bias: What the head adds to every history, (O,).
    """

    steps: Tensor
    statics: Tensor
    bias: Tensor


def contributions(model: SequenceModel, inputs: SequenceInputs) -> Contributions:
    """Split the outputs of a batch into what each step adds: W hidden_t.

    The split is exact in evaluation mode, where the head drops nothing. How far a step's part speaks of that step alone
    is up to the encoder: RETAIN's hidden state is its own step, weighed by the later ones; a recurrent net's holds all
    earlier steps.

    Args:
        model: A net with `SumPooling`, a linear head and no summary network.
        inputs: B histories.

    Returns:
        Parts of the outputs: (B, T, O), (B, O) and (O,).

    Raises:
        ConfigError: If the outputs are not such sums.
    """
    linear = model.head.linear
    if not isinstance(model.pooling, SumPooling):
        raise ConfigError(f"pooling is {type(model.pooling).__name__}; exact contributions need SumPooling")
    if linear is None:
        raise ConfigError("head.hidden_size is set; exact contributions need a linear head")
    if model.summary is not None:
        raise ConfigError("summary is set; exact contributions need all of the output to come from the steps")
    hidden = model(inputs).hidden
    weight = linear.weight.T.to(hidden.dtype)
    statics = hidden.new_zeros(len(hidden), model.head.outputs)
    if model.head.num_statics:
        statics = inputs.statics.to(hidden.dtype) @ weight[model.pooling.output_size :]
    return Contributions(hidden @ weight[: model.pooling.output_size], statics, linear.bias)
