"""Minimal recurrent encoders: gates that depend on the input only, so that the recurrence is linear in the state."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_flag, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.masking import clear_padding
from ehrseq.nn.scan import linear_scan


class MinimalEncoder(Encoder):
    """What the minimal LSTM and GRU share (Feng et al. 2024, "Were RNNs All We Needed?").

    h_t = a_t * h_{t-1} + (1 - a_t) * c_t with a candidate c_t = W_h x_t + b_h and a share a_t that is kept.

    These are the plain equations of the paper's section 3, not the log-space form of its appendix, which needs positive
    candidates and is another model. Weights are Glorot uniform gate by gate, biases 0 but for the LSTM's forget gate.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state.
        num_layers: Number of layers.
        dropout: Dropout probability of each layer's outputs, the last layer's included.
        input_dropout: Dropout probability of the embedded steps.
        residual: Whether each layer but the first adds what it read to what it gives.
        layer_norm: Whether what each layer reads is normalised first (Ba et al. 2016).

    Raises:
        ConfigError: If an argument is out of range.
    """

    causal = True
    num_gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        residual: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.hidden_size = self.output_size = check_count("hidden_size", hidden_size)
        self.residual = check_flag("residual", residual)
        sizes = [input_size] + [hidden_size] * (check_count("num_layers", num_layers) - 1)
        with_norm = check_flag("layer_norm", layer_norm)
        self.norms = nn.ModuleList(nn.LayerNorm(size) if with_norm else nn.Identity() for size in sizes)
        self.gates = nn.ModuleList(nn.Linear(size, self.num_gates * hidden_size) for size in sizes)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.reset_parameters()

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, H), see `Encoder.forward`."""
        steps: Tensor = self.input_dropout(x.transpose(0, 1).contiguous())  # time first, as the scan runs
        for layer, (norm, gates) in enumerate(zip(self.norms, self.gates, strict=True)):
            gated = gates(norm(steps))
            # In half precision a share near 1 would be 1, or forget far too much.
            gated = gated.to(torch.promote_types(gated.dtype, torch.float32))
            *pressures, candidate = gated.chunk(self.num_gates, dim=-1)
            kept = self.kept(*pressures)
            inputs = torch.addcmul(candidate, kept, candidate, value=-1)
            states = self.dropout(linear_scan(kept.transpose(0, 1), inputs.transpose(0, 1)).transpose(0, 1))
            steps = steps + states if self.residual and layer else states
        return clear_padding(steps.transpose(0, 1), lengths)

    @abstractmethod
    def kept(self, *gates: Tensor) -> Tensor:
        """The share of the state that stays, from the gates before their sigmoid: some (T, B, H) to (T, B, H)."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the gates' weights anew, see the class for how."""
        for linear in self.gates:
            assert isinstance(linear, nn.Linear)
            for gate in linear.weight.chunk(self.num_gates):
                nn.init.xavier_uniform_(gate)
            linear.bias.zero_()


class MinLSTMEncoder(MinimalEncoder):
    """The minimal LSTM, see `MinimalEncoder` for the arguments.

    f, i = sigmoid(W x_t + b);  f', i' = f / (f + i), i / (f + i);  h_t = f' * h_{t-1} + i' * (W_h x_t + b_h).

    The forget gate's biases start at 1, so that a new net remembers.
    """

    num_gates = 3

    def kept(self, *gates: Tensor) -> Tensor:
        """f', see `MinimalEncoder.kept`."""
        forget, enter = gates
        # f / (f + i) = sigmoid(log f - log i), which never divides 0 by 0
        return torch.sigmoid(nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(enter))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the gates' weights anew and set the forget gate's bias to 1."""
        super().reset_parameters()
        for linear in self.gates:
            assert isinstance(linear, nn.Linear)
            linear.bias[: self.hidden_size] = 1.0


class MinGRUEncoder(MinimalEncoder):
    """The minimal GRU, see `MinimalEncoder` for the arguments.

    z = sigmoid(W_z x_t + b_z);  h_t = (1 - z) * h_{t-1} + z * (W_h x_t + b_h).
    """

    num_gates = 2

    def kept(self, *gates: Tensor) -> Tensor:
        """1 - z, see `MinimalEncoder.kept`."""
        return torch.sigmoid(-gates[0])
