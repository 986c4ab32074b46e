"""An LSTM that knows how much time passes between steps."""

from math import e

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_positive, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.elapsed import elapsed_hours
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.weights import draw_input_weight, draw_recurrent_weight
from ehrseq.nn.masking import clear_padding


class TLSTMEncoder(Encoder):
    """Time-aware LSTM (Baytas et al. 2017, "Patient Subtyping via Time-Aware LSTM Networks").

    A part of the cell state, the short-term memory s, fades with the time dt since the step before; the rest stays.

    s = tanh(W_d c_{t-1} + b_d);  c* = c_{t-1} - s + s / log(e + dt);
    i, f, o = sigmoid(W x_t + U h_{t-1} + b);  g = tanh(W_g x_t + U_g h_{t-1} + b_g);
    c_t = f * c* + i * g;  h_t = o * tanh(c_t).

    Weights start as those of `LSTMEncoder` do, the forget gate's bias at 1; W_d starts as a matrix of the input does.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state.
        dropout: Dropout probability of the hidden states that are given back.
        input_dropout: Dropout probability of the embedded steps.
        time_unit_hours: Hours that count as dt = 1: the larger, the slower the short-term memory fades.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("hours_before",)
    causal = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        time_unit_hours: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.output_size = check_count("hidden_size", hidden_size)
        self.time_unit_hours = check_positive("time_unit_hours", time_unit_hours)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        # The gates in the order i, f, o, g: one sigmoid does the first three.
        self.inputs = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.short_term = nn.Linear(hidden_size, hidden_size)
        self.reset_parameters()

    def forward(self, x: Tensor, lengths: Tensor, hours_before: Tensor) -> Tensor:  # type: ignore[override]
        """Read each history.

        Args:
            x: Embedded steps, padded on the right with anything finite, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer.
            hours_before: Hours from each step to the prediction, (B, T).

        Returns:
            Hidden states, exactly 0 on padding, (B, T, H).
        """
        elapsed = elapsed_hours(hours_before) / self.time_unit_hours
        faded = (1 / torch.log(e + elapsed) - 1).to(x.dtype)  # c* = c + s * faded
        hidden: Tensor = self.dropout(self._loop(self.inputs(self.input_dropout(x)), faded))
        return clear_padding(hidden, lengths)

    def _loop(self, inputs: Tensor, faded: Tensor) -> Tensor:
        """The recurrence: W x + b of all gates, (B, T, 4 * H), and 1 / log(e + dt) - 1, (B, T), to (B, T, H)."""
        size = self.output_size
        transposed = self.recurrent.weight.t()
        h = c = inputs.new_zeros(len(inputs), size)
        states = []
        for read, share in zip(inputs.unbind(dim=1), faded.unsqueeze(-1).unbind(dim=1), strict=True):
            c = torch.addcmul(c, torch.tanh(self.short_term(c)), share)
            gates = torch.addmm(read, h, transposed)
            i, f, o = torch.sigmoid(gates[:, : 3 * size]).chunk(3, dim=-1)
            c = torch.addcmul(f * c, i, torch.tanh(gates[:, 3 * size :]))
            h = o * torch.tanh(c)
            states.append(h)
        return torch.stack(states, dim=1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, see the class for how."""
        size = self.output_size
        draw_input_weight(self.inputs.weight, size)
        draw_recurrent_weight(self.recurrent.weight, size)
        draw_input_weight(self.short_term.weight, size)
        self.short_term.bias.zero_()
        self.inputs.bias.zero_()
        self.inputs.bias[size : 2 * size] = 1.0
