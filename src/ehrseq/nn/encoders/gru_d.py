"""A GRU whose memory fades while nothing is measured, with a backward pass by hand where nothing is compiled for it.

Torch's automatic gradient keeps a node for each operation of each step, and with it training takes half as long again
(48 steps, 64 histories, 64 units, two cores). Here the loop holds only what depends on the step before; all else is
done for all steps at once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ehrseq.nn.checks import check_count, check_positive, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.elapsed import hours_since_previous
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.weights import draw_input_weight, draw_recurrent_weight
from ehrseq.nn.kernels import can_read, read_grud
from ehrseq.nn.masking import clear_padding


class GRUDEncoder(Encoder):
    """GRU whose state fades while nothing is measured.

    The net of Che et al. (2018), "Recurrent Neural Networks for Multivariate Time Series with Missing Values", in two
    parts: `DecayedGridEmbedding` lets filled values fade and puts the mask beside them, this one lets the state fade
    with delta, the hours since each feature was last measured before the step:

    gamma = exp(-relu(W_gamma delta + b_gamma));  s = gamma * h_{t-1};
    r, z = sigmoid(W x_t + U s + b);  n = tanh(W_n x_t + U_n (r * s) + b_n);  h_t = (1 - z) * s + z * n.

    Weights start gate by gate as those of `GRUEncoder` do. W_gamma starts small and positive, where the ReLU has a
    gradient: one unit of time without any measurement takes about a tenth of the state.

    Args:
        input_size: D, the size of an embedded step.
        num_features: F, the number of features of the grid.
        hidden_size: H, the size of a hidden state.
        dropout: Dropout probability of the hidden states that are given back.
        input_dropout: Dropout probability of the embedded steps.
        time_unit_hours: Hours that count as 1 in delta.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("hours_since", "hours_before")
    causal = True

    def __init__(
        self,
        input_size: int,
        num_features: int,
        hidden_size: int = 64,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        time_unit_hours: float = 24.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.num_features = check_count("num_features", num_features)
        self.output_size = check_count("hidden_size", hidden_size)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.time_unit_hours = check_positive("time_unit_hours", time_unit_hours)
        # The gates in the order r, z, n.
        self.inputs = nn.Linear(input_size, 3 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.decay = nn.Linear(num_features, hidden_size)
        self.reset_parameters()

    def forward(  # type: ignore[override]
        self, x: Tensor, lengths: Tensor, hours_since: Tensor, hours_before: Tensor
    ) -> Tensor:
        """Read each history.

        Args:
            x: Embedded steps, padded on the right with anything finite, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer.
            hours_since: Hours since each feature was last seen, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).

        Returns:
            Hidden states, exactly 0 on padding, (B, T, H).
        """
        weight = self.recurrent.weight
        delta = hours_since_previous(hours_since, hours_before).to(x.dtype)
        x = self.input_dropout(x)
        if can_read(x, weight):
            states = read_grud(x, self.inputs.weight, weight, self.inputs.bias, self._fade(delta))
            return clear_padding(self.dropout(states), lengths)
        gamma, steps = self._fade(_steps_first(delta)), _steps_first(x)
        read, bias, size = self.inputs.weight, self.inputs.bias, 2 * self.output_size
        gates, candidate = (
            functional.linear(steps, read[part], bias[part]).to(weight.dtype)
            for part in (slice(None, size), slice(size, None))
        )
        states = recur(gates, candidate, gamma.to(weight.dtype), weight)
        hidden: Tensor = self.dropout(states.transpose(0, 1))
        return clear_padding(hidden, lengths)

    def _fade(self, delta: Tensor) -> Tensor:
        """Gamma, of hours; with sign and unit on the side of the weights, which are few."""
        unit = self.time_unit_hours
        return torch.exp(functional.linear(delta, self.decay.weight / -unit, -self.decay.bias).clamp(max=0.0))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, see the class for how."""
        draw_input_weight(self.inputs.weight, self.output_size)
        draw_recurrent_weight(self.recurrent.weight, self.output_size)
        nn.init.uniform_(self.decay.weight, 0.0, 0.2 / self.num_features)
        self.inputs.bias.zero_()
        self.decay.bias.zero_()


def recur(gates: Tensor, candidate: Tensor, gamma: Tensor, weight: Tensor) -> Tensor:
    """Read all steps, with the names of the docstring of `GRUDEncoder`.

    Args:
        gates: W x + b of r and z, (T, B, 2 * H), overwritten.
        candidate: W_n x + b_n, (T, B, H), overwritten.
        gamma: What is left of each state, (T, B, H).
        weight: U and U_n, one above the other, (3 * H, H).

    Returns:
        Hidden states, (T, B, H).
    """
    states: Tensor = _Recurrence.apply(gates, candidate, gamma, weight)  # type: ignore[no-untyped-call]
    return states


class _Recurrence(torch.autograd.Function):
    """`recur` and its gradient."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, candidate: Tensor, gamma: Tensor, weight: Tensor) -> Tensor:
        """Read all steps, keeping what the way back needs."""
        size = gamma.shape[2]
        # Products are added to what was read where it lies, and transposed weights side by side: a third quicker.
        to_gates, to_candidate = weight[: 2 * size].t().contiguous(), weight[2 * size :].t().contiguous()
        faded, reset, hidden = (torch.empty_like(gamma) for _ in range(3))
        before = torch.zeros_like(gamma[0])
        for g, rz, r, z, n, s, rs, h in zip(
            gamma, gates, *_views(gates, size), candidate, faded, reset, hidden, strict=True
        ):
            torch.mul(g, before, out=s)
            torch.addmm(rz, s, to_gates, out=rz).sigmoid_()
            torch.mul(r, s, out=rs)
            torch.addmm(n, rs, to_candidate, out=n).tanh_()
            torch.lerp(s, n, z, out=h)
            before = h
        ctx.save_for_backward(gamma, weight, faded, gates, reset, candidate, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients of the four arguments."""
        gamma, weight, faded, gates, reset, candidate, hidden = ctx.saved_tensors
        size = gamma.shape[2]
        from_gates, from_candidate = weight[: 2 * size], weight[2 * size :]
        r, z = _views(gates, size)
        # What a gradient is multiplied with on its way through each gate, for all steps at once: s r (1 - r) and so on.
        by_r = torch.ops.aten.sigmoid_backward(faded, r)
        by_z = torch.ops.aten.sigmoid_backward(candidate - faded, z)
        by_n = torch.ops.aten.tanh_backward(z, candidate)
        d_gates, d_candidate, d_faded = torch.empty_like(gates), torch.empty_like(gamma), torch.empty_like(gamma)
        d_reset, d_hidden, fading = torch.empty_like(gamma[0]), torch.empty_like(gamma[0]), torch.zeros_like(gamma[0])
        after = torch.zeros_like(gamma[0])  # the gradient of the faded state of the step behind, and its gamma
        each = (grad, gamma, r, z, by_r, by_z, by_n, d_gates, *_views(d_gates, size), d_candidate, d_faded)
        for dh, g, r_t, z_t, br, bz, bn, drz, dr, dz, dn, ds in zip(*(reversed(x.unbind()) for x in each), strict=True):
            torch.addcmul(dh, after, fading, out=d_hidden)
            torch.mul(d_hidden, bz, out=dz)
            torch.mul(d_hidden, bn, out=dn)
            torch.mm(dn, from_candidate, out=d_reset)
            torch.mul(d_reset, br, out=dr)
            torch.addcmul(d_hidden, d_hidden, z_t, value=-1, out=ds)
            ds.addcmul_(d_reset, r_t).addmm_(drz, from_gates)
            after, fading = ds, g
        before = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        d_weight = torch.cat([_outer(d_gates, faded), _outer(d_candidate, reset)])
        return d_gates, d_candidate, d_faded.mul_(before), d_weight


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Outer products of (T, B, L) and (T, B, R), summed over steps and histories, (L, R)."""
    return left.flatten(0, 1).t() @ right.flatten(0, 1)


def _views(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first `size` of the last dimension, and the rest."""
    return x[..., :size], x[..., size:]


def _steps_first(x: Tensor) -> Tensor:
    """(B, T, D) to (T, B, D), each step's numbers side by side."""
    return x.transpose(0, 1).contiguous()
