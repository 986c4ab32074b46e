"""Recurrent encoders: embedded steps to hidden states, the same for a history alone or padded in any batch.

Packed sequences are not used: they leave cuDNN's persistent kernels and are many times slower (PyTorch issue 149194).
Padding is on the right, so a forward net never meets it before a real step; for the backward direction each history is
reversed by its own length, read forward, and its outputs are reversed back.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_count, check_flag, check_probability
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.masking import reverse_by_length, step_mask


class RecurrentEncoder(Encoder):
    """What the plain net, the LSTM and the GRU share: stacking, directions, dropout, initialisation and state dicts.

    In a bidirectional stack each layer reads both directions of the layer below, as in `torch.nn.LSTM`. Weights are
    initialised gate by gate: Glorot uniform from the input (Glorot and Bengio 2010), orthogonal from the state before
    (Saxe et al. 2014), biases 0 but for the LSTM's forget gate.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: Size of the hidden state of one direction.
        num_layers: Number of layers.
        bidirectional: Whether to read each history backward, too; H is then twice `hidden_size`.
        dropout: Dropout probability of each layer's outputs, the last layer's included (Zaremba et al. 2014), so that
            it does something with one layer, too; `torch.nn.LSTM` leaves the last layer out.
        input_dropout: Dropout probability of the embedded steps.

    Raises:
        ConfigError: If an argument is out of range.
    """

    cell: ClassVar[type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.hidden_size = check_count("hidden_size", hidden_size)
        self.num_layers = check_count("num_layers", num_layers)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.causal = not bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        self.dropout = nn.Dropout(check_probability("dropout", dropout))
        self.input_dropout = nn.Dropout(check_probability("input_dropout", input_dropout))
        if bidirectional:
            sizes = [input_size] + [self.output_size] * (num_layers - 1)
            self.forward_nets = nn.ModuleList(self.cell(size, hidden_size, batch_first=True) for size in sizes)
            self.backward_nets = nn.ModuleList(self.cell(size, hidden_size, batch_first=True) for size in sizes)
        else:  # one module for the whole stack: cuDNN then runs its layers side by side
            between = float(dropout) if num_layers > 1 else 0.0
            net = self.cell(input_size, hidden_size, num_layers, batch_first=True, dropout=between)
            self.forward_nets = nn.ModuleList([net])
            self.backward_nets = nn.ModuleList()
        self.reset_parameters()

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, H), see `Encoder.forward`."""
        x = self.input_dropout(x)
        if self.bidirectional:
            for forward_net, backward_net in zip(self.forward_nets, self.backward_nets, strict=True):
                onward: Tensor = forward_net(x)[0]
                backward: Tensor = backward_net(reverse_by_length(x, lengths))[0]
                x = self.dropout(torch.cat([onward, reverse_by_length(backward, lengths)], dim=-1))
        else:
            x = self.dropout(self.forward_nets[0](x)[0])
        return x.masked_fill(~step_mask(lengths, x.shape[1]).unsqueeze(-1), 0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, see the class for how."""
        for name, parameter in self._torch_parameters():
            if name.startswith("bias"):
                parameter.zero_()
                continue
            for gate in parameter.chunk(parameter.shape[0] // self.hidden_size):
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                else:
                    nn.init.xavier_uniform_(gate)

    def torch_state(self) -> dict[str, Tensor]:
        """Copy the weights under the names of `torch.nn.RNN`, `LSTM` or `GRU` (`weight_ih_l0_reverse`).

        Returns:
            A state dict for the torch module of the same sizes, stacking and directions.
        """
        return {name: parameter.detach().clone() for name, parameter in self._torch_parameters()}

    @torch.no_grad()
    def load_torch_state(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take over the weights of a `torch.nn.RNN`, `LSTM` or `GRU` of the same sizes.

        Args:
            state_dict: What `state_dict()` of the torch module gives.

        Raises:
            ConfigError: If a weight is missing, unknown or of another shape; nothing is loaded then.
        """
        own = dict(self._torch_parameters())
        if wrong := sorted(own.keys() ^ state_dict.keys()):
            what = "lacks" if wrong[0] in own else "has an unknown"
            raise ConfigError(f"state_dict {what} {wrong[0]!r}; allowed are exactly {', '.join(own)}")
        for name, parameter in own.items():
            if state_dict[name].shape != parameter.shape:
                found, needed = tuple(state_dict[name].shape), tuple(parameter.shape)
                raise ConfigError(f"state_dict has {name!r} of shape {found}; allowed is {needed}")
        for name, parameter in own.items():
            parameter.copy_(state_dict[name])

    def _torch_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights with their names in `torch.nn.LSTM`, in its order."""
        if not self.bidirectional:
            yield from self.forward_nets[0].named_parameters()
            return
        for layer, nets in enumerate(zip(self.forward_nets, self.backward_nets, strict=True)):
            for net, suffix in zip(nets, ("", "_reverse"), strict=True):
                for name, parameter in net.named_parameters():
                    yield name.replace("_l0", f"_l{layer}{suffix}"), parameter


class RNNEncoder(RecurrentEncoder):
    """Plain recurrent net (Elman 1990), see `RecurrentEncoder` for arguments.

    h_t = tanh(W x_t + U h_{t-1} + b).

    Without gates it forgets within few steps: a baseline that shows what the gates are for.
    """

    cell = nn.RNN


class LSTMEncoder(RecurrentEncoder):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000), see `RecurrentEncoder` for arguments.

    i, f, o = sigmoid(W x_t + U h_{t-1} + b);  g = tanh(W_g x_t + U_g h_{t-1} + b_g);
    c_t = f * c_{t-1} + i * g;  h_t = o * tanh(c_t).

    The forget gate's biases start at a sum of 1, so that a new net remembers (Jozefowicz et al. 2015).
    """

    cell = nn.LSTM

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew and set the forget gate's bias to 1."""
        super().reset_parameters()
        for name, parameter in self._torch_parameters():
            if name.startswith("bias_ih"):  # torch adds bias_ih and bias_hh, so only one of them is 1
                parameter[self.hidden_size : 2 * self.hidden_size] = 1.0


class GRUEncoder(RecurrentEncoder):
    """Gated recurrent unit (Cho et al. 2014), in the form of `torch.nn.GRU`, see `RecurrentEncoder` for arguments.

    r, z = sigmoid(W x_t + U h_{t-1} + b);  n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n));
    h_t = (1 - z) * n + z * h_{t-1}.
    """

    cell = nn.GRU
