"""Networks without context, whose steps another network's attention weighs: what that attention is worth by itself."""

from typing import Literal

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_count
from ehrseq.nn.encoders import Encoder
from ehrseq.nn.heads import Head
from ehrseq.nn.masking import clear_padding
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel
from ehrseq.nn.pooling import AttentionPooling, MeanPooling, weighted_sum

_HIDDEN = 64


class StepwiseEncoder(Encoder):
    """One affine layer and a tanh of each step by itself: hidden_t = tanh(W x_t + b).

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state.
    """

    causal = True

    def __init__(self, input_size: int, hidden_size: int = _HIDDEN) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.output_size = check_count("hidden_size", hidden_size)
        self.layer = nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """See each step: (B, T, D) and (B,) to (B, T, H)."""
        return clear_padding(torch.tanh(self.layer(x)), lengths)


class GuidedModel(SequenceModel):
    """Pools its steps by the attention of another network, which does not learn.

    Args:
        model: Blocks; its pooling is not used.
        guide: The other network.
    """

    def __init__(self, model: SequenceModel, guide: SequenceModel) -> None:
        super().__init__(model.embedding, model.encoder, model.pooling, model.head, model.objective)
        # In a tuple it is none of this network's blocks: neither trained, nor saved, nor switched to training.
        self._guide = (guide.eval(),)

    def forward(self, inputs: SequenceInputs) -> Prediction:
        """Predict for a batch, see `SequenceModel.forward`."""
        with torch.no_grad():
            weights = self._guide[0].to(inputs.lengths.device)(inputs).attention
        if weights is None:
            raise ConfigError("a network without attention cannot guide another")
        hidden: Tensor = self.encoder(self.embed(inputs), inputs.lengths)
        context = weighted_sum(weights, hidden)
        opinions: Tensor = self.head(context, inputs.statics).unsqueeze(-2)
        return Prediction(opinions, weights, hidden, context[:, :0])


def without_context(model: SequenceModel, weights: SequenceModel | Literal["learned", "even"]) -> SequenceModel:
    """A new network that sees each step by itself: the diagnostic of Wiegreffe and Pinter (2019, section 4).

    The encoder gives way to a `StepwiseEncoder`, the head to a linear one; a summary of the history, which would be
    context, is left out. On a grid a step holds what was last seen, so that a little context stays.

    Args:
        model: A new network, whose embedding is taken over.
        weights: Of the steps: those of another network, frozen; learned, by additive attention of a learned query; or
            even.
    """
    encoder = StepwiseEncoder(model.embedding.output_size)
    size = encoder.output_size
    pooling = AttentionPooling(size, query="learned", with_last=False) if weights == "learned" else MeanPooling(size)
    head = Head(size, model.objective.outputs, model.head.num_statics)
    with torch.no_grad():
        head.bias.copy_(model.head.bias[: head.outputs])
    plain = SequenceModel(model.embedding, encoder, pooling, head, model.objective)
    return GuidedModel(plain, weights) if isinstance(weights, SequenceModel) else plain
