"""DeepLIFT of recurrent nets: what each part does to the difference between a history and nothing."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from ehrseq.explain.base import Attribution, Explainer, differentiable
from ehrseq.explain.gradients import quadrature
from ehrseq.explain.histories import Histories, Leaves
from ehrseq.nn import LSTMEncoder, SequenceModel, reverse_by_length
from ehrseq.nn.encoders import RecurrentEncoder

_CLOSE = 1e-4  # inputs of a gate that are no further apart have its slope


class DeepLift(Explainer):
    """DeepLIFT (Shrikumar et al. 2017) from nothing to the history, through the gates of an LSTM or GRU.

    Each sigmoid and tanh passes on the ratio of the differences of what it gives and reads (the rescale rule), each
    product of gate and state half of what either does (their Shapley values; Lundberg and Lee 2017). Automatic
    differentiation, and so captum, cannot look into fused recurrent kernels and takes their slopes instead. The blocks
    below and above (embedding; pooling, head and summary) pass on their mean slope between the two, so that parts and
    `rest`, the score of nothing, sum to the score.

    Args:
        model: The trained network, whose encoder is an LSTM or a GRU.
        points: Places between the two at which the slopes of the other blocks are taken.
    """

    name: ClassVar[str] = "deep_lift"

    def __init__(self, model: SequenceModel, points: int = 32) -> None:
        super().__init__(model)
        self.points = points

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        start, end = histories.leaves(torch.zeros_like(histories.present)), histories.leaves(histories.present)
        way = {name: end[name] - start[name] for name in end}
        model, lengths = self.model, histories.batch.lengths
        assert isinstance(model.encoder, RecurrentEncoder)
        with torch.no_grad():
            rest = self.score(histories.inputs(start))
            both = [model.embed(histories.inputs(leaves)) for leaves in (end, start)]
        with differentiable(model):
            embedded = torch.cat(both).requires_grad_()
            hidden = read_by_rules(model.encoder, embedded, lengths.repeat(2))
            slope, total = self._above(histories, start, way, hidden.detach())
            slope = torch.autograd.grad(hidden, embedded, torch.cat([slope, torch.zeros_like(slope)]))[0][: len(rest)]
            for name, share in self._below(histories, start, way, slope).items():
                total[name] = total.get(name, 0) + share
        return Attribution(self.name, self.signed, histories.collect(total, histories.present), rest=rest)

    def _above(self, histories: Histories, start: Leaves, way: Leaves, hidden: Tensor) -> tuple[Tensor, Leaves]:
        """The mean slope of the score by hidden states, (B, T, H), and what goes past them."""
        after, before = hidden.chunk(2)

        def score(leaves: Leaves) -> Tensor:
            batch = histories.inputs({name: leaf for name, leaf in leaves.items() if name != "hidden"})
            opinions = self.model.conclude(leaves["hidden"], batch).opinions
            return self.model.objective.score(opinions.mean(-2)).sum()

        slopes = self._mean(score, start | {"hidden": before}, way | {"hidden": after - before})
        above = slopes.pop("hidden")
        return above, {name: slope * way[name] for name, slope in slopes.items()}

    def _below(self, histories: Histories, start: Leaves, way: Leaves, slope: Tensor) -> Leaves:
        """What the leaves contribute through the embedded steps, of which the score has a slope, (B, T, D)."""
        slopes = self._mean(lambda leaves: (self.model.embed(histories.inputs(leaves)) * slope).sum(), start, way)
        return {name: found * way[name] for name, found in slopes.items()}

    def _mean(self, function: Callable[[Leaves], Tensor], start: Leaves, way: Leaves) -> Leaves:
        """The mean gradient on the way."""
        total: Leaves = {}
        for place, weight in zip(*quadrature(self.points), strict=True):
            point = {name: (start[name] + place * way[name]).detach().requires_grad_() for name in way}
            found = torch.autograd.grad(function(point), list(point.values()), allow_unused=True)
            for name, slope in zip(point, found, strict=True):
                if slope is not None:
                    total[name] = total.get(name, 0) + weight * slope
        return total


class _Rescale(torch.autograd.Function):
    """A sigmoid or tanh of two stacked halves, history and nothing, whose gradient is the ratio of differences."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigmoid: bool) -> Tensor:
        y = torch.sigmoid(x) if sigmoid else torch.tanh(x)
        ctx.save_for_backward(x, y)
        ctx.sigmoid = sigmoid
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        slope = y * (1 - y) if ctx.sigmoid else 1 - y**2
        apart, moved = (half[0] - half[1] for half in (x.chunk(2), y.chunk(2)))
        close = apart.abs() < _CLOSE
        ratio = torch.where(close, slope.chunk(2)[0], moved / torch.where(close, 1.0, apart))
        return gradients[0] * ratio.repeat(2, *[1] * (x.ndim - 1)), None


class _Product(torch.autograd.Function):
    """A product of two stacked halves, each factor of which counts by the mean of the other."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one, other)
        return one * other

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        one, other = ((half[0] + half[1]).repeat(2, 1) / 2 for half in (kept.chunk(2) for kept in ctx.saved_tensors))
        return gradients[0] * other, gradients[0] * one


def read_by_rules(encoder: RecurrentEncoder, x: Tensor, lengths: Tensor) -> Tensor:
    """What an LSTM or GRU reads of two stacked halves, (2 B, T, D) to (2 B, T, H), differentiated by the rules."""
    weights = encoder.torch_state()
    step = _lstm if isinstance(encoder, LSTMEncoder) else _gru
    for layer in range(encoder.num_layers):
        found = []
        for suffix in ("", "_reverse")[: 1 + encoder.bidirectional]:
            w, u, b, c = (
                weights[f"{name}_l{layer}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            inputs = linear(reverse_by_length(x, lengths) if suffix else x, w, b)
            state = x.new_zeros(2, len(x), encoder.hidden_size).unbind(0)
            steps = []
            for one in inputs.unbind(1):
                state = step(one, linear(state[0], u, c), *state)
                steps.append(state[0])
            hidden = torch.stack(steps, 1)
            found.append(reverse_by_length(hidden, lengths) if suffix else hidden)
        x = encoder.finish_layer(layer, x, torch.cat(found, -1))
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x * real.unsqueeze(-1)


def _lstm(inputs: Tensor, recurrent: Tensor, _: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step, see `LSTMEncoder`: the hidden state and the cell."""
    i, f, g, o = (inputs + recurrent).chunk(4, -1)
    kept = _product(_rescale(f, sigmoid=True), cell)
    cell = kept + _product(_rescale(i, sigmoid=True), _rescale(g, sigmoid=False))
    return _product(_rescale(o, sigmoid=True), _rescale(cell, sigmoid=False)), cell


def _gru(inputs: Tensor, recurrent: Tensor, hidden: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    """One step, see `GRUEncoder`: the hidden state, twice."""
    (r, z, n), (ur, uz, un) = inputs.chunk(3, -1), recurrent.chunk(3, -1)
    z = _rescale(z + uz, sigmoid=True)
    n = _rescale(n + _product(_rescale(r + ur, sigmoid=True), un), sigmoid=False)
    hidden = n + _product(z, hidden - n)
    return hidden, hidden


def _rescale(x: Tensor, sigmoid: bool) -> Tensor:
    found: Tensor = _Rescale.apply(x, sigmoid)  # type: ignore[no-untyped-call]
    return found


def _product(one: Tensor, other: Tensor) -> Tensor:
    found: Tensor = _Product.apply(one, other)  # type: ignore[no-untyped-call]
    return found
