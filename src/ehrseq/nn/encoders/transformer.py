"""Encoders with self-attention, alone or after an LSTM; positions are times, in hours."""

import math

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_count, check_flag, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.recurrent import LSTMEncoder
from ehrseq.nn.masking import clear_padding, step_mask

# The slowest wave's length, in units of the fastest one's, as in the paper.
SLOWEST = 10_000.0


def encode_hours(hours: Tensor, size: int) -> Tensor:
    """Hours as waves: entry 2k is sin(w_k t) and 2k + 1 is cos(w_k t), w_k = 10000^(-2k / size).

    The wavelengths grow from 6 hours to 7 years.

    Args:
        hours: t, any shape (...).
        size: Even.

    Returns:
        (..., size).
    """
    even = torch.arange(0, size, 2, dtype=hours.dtype, device=hours.device)
    angles = hours.unsqueeze(-1) * torch.exp(even * (-math.log(SLOWEST) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward net, each residual and normalised before (Xiong et al. 2020).

    y = x + W_o [softmax(q k^T / sqrt(d)) v of each head] with q, k, v = W norm(x);  y + W_2 relu(W_1 norm(y)).

    Args:
        size: H.
        num_heads: Number of heads.
        expansion: Size of the feed-forward net's hidden layer, in H.
        dropout: Dropout probability of what each residual part adds.
        causal: Whether no step sees a later one.
    """

    def __init__(self, size: int, num_heads: int, expansion: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.norm = nn.LayerNorm(size)
        self.project = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        inner = expansion * size
        self.feed = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, inner), nn.ReLU(), nn.Linear(inner, size))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Attend and add: (B, T, H) and (B,) to (B, T, H)."""
        parts = self.project(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, d) each
        # Padding is on the right: a real step that sees no later one sees no padding. Otherwise it is masked, but for
        # the first step of a history without any, since a softmax over nothing is not defined.
        real = None if self.causal else step_mask(lengths.clamp(min=1), x.shape[1])[:, None, None, :]
        heads = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=real, is_causal=self.causal)
        x = x + self.dropout(self.out(heads.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.feed(x))
        return x + added


class TransformerEncoder(Encoder):
    """Transformer (Vaswani et al. 2017), normalised before each part, that knows when a step was, not its number.

    A linear map to H, plus the hours since the history's first step as waves, see `encode_hours`; layers; a layer norm.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state, even.
        num_layers: Number of layers.
        num_heads: Number of heads of each layer; divides `hidden_size`.
        expansion: Size of the hidden layer of each feed-forward net, in H.
        causal: Whether no step sees a later one.
        dropout: Dropout probability of what each part of a layer adds.
        input_dropout: Dropout probability of the embedded steps.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("hours_before",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        expansion: int = 4,
        causal: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.output_size = check_count("hidden_size", hidden_size)
        if hidden_size % 2:
            raise ConfigError(f"hidden_size is {hidden_size!r}; allowed are even numbers")
        if hidden_size % check_count("num_heads", num_heads):
            raise ConfigError(f"num_heads is {num_heads!r}; allowed are divisors of hidden_size, {hidden_size}")
        check_count("expansion", expansion)
        self.causal = check_flag("causal", causal)
        check_probability("dropout", dropout)
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.linear = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(
            TransformerLayer(hidden_size, num_heads, expansion, dropout, causal)
            for _ in range(check_count("num_layers", num_layers))
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, lengths: Tensor, hours_before: Tensor) -> Tensor:  # type: ignore[override]
        """Read each history, see `Encoder.forward`.

        Args:
            x: Embedded steps, (B, T, D).
            lengths: Number of real steps of each history, (B,).
            hours_before: Hours from each step to the prediction, (B, T).

        Returns:
            (B, T, H).
        """
        x = self.linear(self.input_dropout(x))
        x = x + encode_hours(hours_before[:, :1] - hours_before, self.output_size).to(x.dtype)
        for layer in self.layers:
            x = layer(x, lengths)
        hidden: Tensor = self.norm(x)
        return clear_padding(hidden, lengths)


class LSTMTransformerEncoder(Encoder):
    """An LSTM, and what a transformer makes of its states added to them.

    The LSTM hands on order and what lies near, attention reaches back to any step at once.

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state, even.
        lstm_layers: Number of layers of the `LSTMEncoder`.
        num_layers: Number of layers of the `TransformerEncoder`.
        num_heads: Number of heads of each layer; divides `hidden_size`.
        expansion: Size of the hidden layer of each feed-forward net, in H.
        causal: Whether no step sees a later one; the LSTM never does.
        dropout: Dropout probability of the LSTM's states and of what each part of a transformer layer adds.
        input_dropout: Dropout probability of the embedded steps.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("hours_before",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        lstm_layers: int = 1,
        num_layers: int = 1,
        num_heads: int = 4,
        expansion: int = 4,
        causal: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.output_size = check_count("hidden_size", hidden_size)
        self.causal = check_flag("causal", causal)
        layers = check_count("lstm_layers", lstm_layers)
        self.lstm = LSTMEncoder(input_size, hidden_size, layers, dropout=dropout, input_dropout=input_dropout)
        self.transformer = TransformerEncoder(
            hidden_size, hidden_size, num_layers, num_heads, expansion, causal, dropout
        )

    def forward(self, x: Tensor, lengths: Tensor, hours_before: Tensor) -> Tensor:  # type: ignore[override]
        """Read each history, see `TransformerEncoder.forward`."""
        states: Tensor = self.lstm(x, lengths)
        added: Tensor = self.transformer(states, lengths, hours_before)
        return states + added
