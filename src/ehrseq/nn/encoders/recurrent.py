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
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.kernels import GRU, LSTM
from ehrseq.nn.masking import clear_padding, reverse_by_length


class RecurrentEncoder(Encoder):
    """What the plain net, the LSTM and the GRU share: stacking, directions, dropout and state dicts.

    In a bidirectional stack each layer reads both directions of the layer below, as in `torch.nn.LSTM`. Weights begin
    as torch draws them: small. With a few thousand histories larger ones (Glorot, orthogonal) overfit sooner.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: Size of the hidden state of one direction.
        num_layers: Number of layers.
        bidirectional: Whether to read each history backward, too; H is then twice `hidden_size`.
        dropout: Dropout probability of each layer's outputs, the last layer's included (Zaremba et al. 2014), so that
            it does something with one layer, too; `torch.nn.LSTM` leaves the last layer out.
        input_dropout: Dropout probability of the embedded steps.
        residual: Whether each layer from the second on, where sizes agree, adds what it reads to what it gives.
        layer_norm: Whether to normalise what each layer gives (Ba et al. 2016), before the sum with what it reads.
        variational_dropout: Dropout probability of what each layer reads with one mask a history, the same at all its
            steps (Gal and Ghahramani 2016). Their mask of the recurrent state has no place in the fused kernels of
            torch and cuDNN and is left out.

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
        residual: bool = False,
        layer_norm: bool = False,
        variational_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.hidden_size = check_count("hidden_size", hidden_size)
        self.num_layers = check_count("num_layers", num_layers)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.causal = not bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.residual = check_flag("residual", residual)
        self.layer_norm = check_flag("layer_norm", layer_norm)
        # Drops channels of (B, C, L): with steps last, one mask a history.
        self.variational_dropout = nn.Dropout1d(check_probability("variational_dropout", variational_dropout))
        if self.fused:
            between = float(dropout) if num_layers > 1 else 0.0
            net = self.cell(input_size, hidden_size, num_layers, batch_first=True, dropout=between)
            self.forward_nets = nn.ModuleList([net])
            self.backward_nets = nn.ModuleList()
        else:
            sizes = [input_size] + [self.output_size] * (num_layers - 1)
            self.forward_nets = self._one_net_each(sizes)
            self.backward_nets = self._one_net_each(sizes if bidirectional else [])
        self.norms = nn.ModuleList(nn.LayerNorm(self.output_size) for _ in range(num_layers if layer_norm else 0))

    def _one_net_each(self, sizes: list[int]) -> nn.ModuleList:
        """A net of one layer and direction for each size of what it reads."""
        return nn.ModuleList(self.cell(size, self.hidden_size, batch_first=True) for size in sizes)

    @property
    def fused(self) -> bool:
        """Whether nothing happens between layers but dropout, so that one module holds them all.

        cuDNN then runs the layers side by side.
        """
        return not (self.bidirectional or self.residual or self.layer_norm or self.variational_dropout.p)

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, H), see `Encoder.forward`."""
        x = self.input_dropout(x)
        if self.fused:
            x = self.dropout(self.forward_nets[0](x)[0])
        else:
            for layer in range(self.num_layers):
                x = self.finish_layer(layer, x, self._run_layer(layer, x, lengths))
        return clear_padding(x, lengths)

    def _run_layer(self, layer: int, x: Tensor, lengths: Tensor) -> Tensor:
        """The hidden states of one layer, both directions side by side, (B, T, H)."""
        x = self.variational_dropout(x.mT).mT
        onward: Tensor = self.forward_nets[layer](x)[0]
        if not self.bidirectional:
            return onward
        backward: Tensor = self.backward_nets[layer](reverse_by_length(x, lengths))[0]
        return torch.cat([onward, reverse_by_length(backward, lengths)], dim=-1)

    def finish_layer(self, layer: int, x: Tensor, hidden: Tensor) -> Tensor:
        """What a layer gives to the next: its hidden states normalised, dropped out, added to what it read.

        Args:
            layer: Its number, from 0.
            x: What it read, (B, T, D) for the first and (B, T, H) for all others.
            hidden: Its hidden states, both directions side by side, (B, T, H).

        Returns:
            (B, T, H).
        """
        if self.layer_norm:
            hidden = self.norms[layer](hidden)
        hidden = self.dropout(hidden)
        return x + hidden if self.residual and layer > 0 else hidden

    def torch_state(self) -> dict[str, Tensor]:
        """Copy the weights under the names of `torch.nn.RNN`, `LSTM` or `GRU` (`weight_ih_l0_reverse`).

        Those of normalisation have no name there and are left out.

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
        if self.fused:
            yield from self.forward_nets[0].named_parameters()
            return
        directions = [("", self.forward_nets), ("_reverse", self.backward_nets)]
        for layer in range(self.num_layers):
            for suffix, nets in directions[: 1 + self.bidirectional]:
                for name, parameter in nets[layer].named_parameters():
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
    """

    cell = LSTM


class GRUEncoder(RecurrentEncoder):
    """Gated recurrent unit (Cho et al. 2014), in the form of `torch.nn.GRU`, see `RecurrentEncoder` for arguments.

    r, z = sigmoid(W x_t + U h_{t-1} + b);  n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n));
    h_t = (1 - z) * n + z * h_{t-1}.
    """

    cell = GRU
