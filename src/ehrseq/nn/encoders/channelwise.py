"""A small LSTM for each variable, all run at once, before a main LSTM that reads them together."""

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_flag
from ehrseq.nn.embedding import scale_hours
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.recurrent import LSTMEncoder
from ehrseq.nn.masking import reverse_by_length


class ChannelLSTMs(nn.Module):
    """C independent LSTMs of the same sizes, run side by side; equations and initialisation as in `LSTMEncoder`.

    Each step is one batched product for all channels; state, input and a 1 for the bias lie in a row for it. Histories
    are the last dimension, so that each gate lies in one piece. One bias a gate replaces torch's two, which are only
    ever added.

    Args:
        num_channels: C.
        input_size: I, the size of a channel's input.
        hidden_size: h, the size of a channel's state.
    """

    def __init__(self, num_channels: int, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(num_channels, 4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(num_channels, 4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(num_channels, 4 * hidden_size, 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, gate by gate; gates are in the order input, forget, output, candidate."""
        for weight_ih, weight_hh in zip(self.weight_ih, self.weight_hh, strict=True):
            for gate in weight_ih.chunk(4):
                nn.init.xavier_uniform_(gate)
            for gate in weight_hh.chunk(4):
                nn.init.orthogonal_(gate)
        self.bias.zero_()
        self.bias[:, self.hidden_size : 2 * self.hidden_size] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Read each channel from the first step to the last.

        Args:
            x: (C, I, T, B).

        Returns:
            States after each step, (T, C, h, B).
        """
        size, (channels, _, _, batch) = self.hidden_size, x.shape
        weight = torch.cat([self.weight_hh, self.weight_ih, self.bias], dim=2)
        read = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).permute(2, 0, 1, 3).contiguous()
        h = c = x.new_zeros(channels, size, batch)
        states = []
        for now in read:
            gates = torch.bmm(weight, torch.cat([h, now], dim=1))
            squashed, candidate = torch.split(gates, [3 * size, size], dim=1)
            i, f, o = torch.sigmoid(squashed).chunk(3, dim=1)
            c = f * c + i * torch.tanh(candidate)
            h = o * torch.tanh(c)
            states.append(h)
        return torch.stack(states)


class ChannelwiseLSTMEncoder(Encoder):
    """Channel-wise LSTM.

    By Harutyunyan et al. (2019), "Multitask learning and benchmarking with clinical time series data". Each variable,
    with its mask, goes through a small LSTM of its own, so that its course is read before it meets the others; the main
    LSTM reads the states of all of them. Unlike in the paper it reads the embedded steps, too, which hold the statics
    and whatever else the embedding shows.

    Args:
        input_size: D, the size of an embedded step.
        num_features: F, the number of features of the grid.
        channel_size: Size of a channel's state in one direction.
        bidirectional_channels: Whether each channel is read backward, too, as in the paper; the encoder is then not
            causal.
        hours_since: Whether a channel also reads how old its value is, see `scale_hours`.
        hidden_size: H, the size of the main LSTM's state.
        num_layers: Number of layers of the main LSTM.
        dropout: Dropout probability of the outputs of each layer of the main LSTM.
        input_dropout: Dropout probability of what the main LSTM reads, the states of the channels included.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since")

    def __init__(
        self,
        input_size: int,
        num_features: int,
        channel_size: int = 8,
        bidirectional_channels: bool = True,
        hours_since: bool = False,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.num_features = check_count("num_features", num_features)
        self.with_hours_since = check_flag("hours_since", hours_since)
        self.bidirectional_channels = check_flag("bidirectional_channels", bidirectional_channels)
        self.causal = not bidirectional_channels
        num_channels = num_features * (2 if bidirectional_channels else 1)  # backward ones after all forward ones
        self.channels = ChannelLSTMs(num_channels, 2 + hours_since, check_count("channel_size", channel_size))
        self.main = LSTMEncoder(
            num_channels * channel_size + input_size, hidden_size, num_layers, False, dropout, input_dropout
        )
        self.output_size = self.main.output_size

    def forward(  # type: ignore[override]
        self, x: Tensor, lengths: Tensor, values: Tensor, observed: Tensor, hours_since: Tensor
    ) -> Tensor:
        """Read each history.

        Args:
            x: Embedded steps, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer.
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            hours_since: Hours since the feature was last seen, (B, T, F).

        Returns:
            Hidden states, exactly 0 on padding, (B, T, H).
        """
        parts = [values, observed.to(values.dtype)]
        if self.with_hours_since:
            parts.append(scale_hours(hours_since).to(values.dtype))
        states = self._run_channels(torch.stack(parts, dim=-1), lengths)
        hidden: Tensor = self.main(torch.cat([states, x], dim=-1), lengths)
        return hidden

    def _run_channels(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The states of all channels: (B, T, F, I) and (B,) to (B, T, C h)."""
        if self.bidirectional_channels:
            inputs = torch.cat([inputs, reverse_by_length(inputs, lengths)], dim=2)
        states: Tensor = self.channels(inputs.permute(2, 3, 1, 0)).permute(3, 0, 1, 2)
        if not self.bidirectional_channels:
            return states.flatten(2)
        onward, backward = states.chunk(2, dim=2)
        return torch.cat([onward, reverse_by_length(backward, lengths)], dim=2).flatten(2)
