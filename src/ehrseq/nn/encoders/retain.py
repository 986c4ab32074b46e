"""RETAIN: attention over steps and over their dimensions, made by two nets that read backward in time."""

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.recurrent import GRUEncoder
from ehrseq.nn.masking import clear_padding, masked_softmax, reverse_by_length, step_mask


class RetainEncoder(Encoder):
    """Reverse time attention (Choi et al. 2016, "RETAIN: An Interpretable Predictive Model for Healthcare").

    Two GRUs read the embedded steps v from the last to the first; g and h are their states.
    alpha = softmax(w . g_t) over real steps;  beta_t = tanh(W h_t + b);  hidden_t = alpha_t beta_t * v_t.

    The paper's bias beside w . g_t is left out: the softmax cancels it. Summed by `SumPooling`, the hidden states are
    the paper's context vector, and a linear head makes each step's part of the logit known, see `contributions`.

    Args:
        input_size: D, the size of an embedded step and of a hidden state.
        hidden_size: Size of the states of each GRU.
        dropout: Dropout probability of the GRUs' outputs.

    Raises:
        ConfigError: If an argument is out of range.
    """

    gives_attention = True
    causal = False

    def __init__(self, input_size: int, hidden_size: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.input_size = self.output_size = check_count("input_size", input_size)
        self.step_net = GRUEncoder(input_size, hidden_size, dropout=dropout)
        self.unit_net = GRUEncoder(input_size, hidden_size, dropout=dropout)
        self.step_score = nn.Linear(hidden_size, 1, bias=False)
        self.unit_score = nn.Linear(hidden_size, input_size)
        nn.init.xavier_uniform_(self.step_score.weight)
        nn.init.xavier_uniform_(self.unit_score.weight)
        nn.init.zeros_(self.unit_score.bias)

    def attention(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the steps and their dimensions.

        Args:
            x: Embedded steps, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer.

        Returns:
            alpha, exactly 0 on padding, float32 or float64, (B, T), and beta, of no meaning on padding, (B, T, D).
        """
        backward = reverse_by_length(x, lengths)
        g = reverse_by_length(self.step_net(backward, lengths), lengths)
        h = reverse_by_length(self.unit_net(backward, lengths), lengths)
        scores: Tensor = self.step_score(g).squeeze(-1)
        return masked_softmax(scores, step_mask(lengths, x.shape[1]), dim=1), torch.tanh(self.unit_score(h))

    def encode(self, x: Tensor, lengths: Tensor, **_: Tensor) -> tuple[Tensor, Tensor]:
        """Read each history: (B, T, D) and (B,) to hidden states (B, T, D) and alpha (B, T)."""
        alpha, beta = self.attention(x, lengths)
        hidden = alpha.to(x.dtype).unsqueeze(-1) * beta * x
        return clear_padding(hidden, lengths), alpha

    def forward(self, x: Tensor, lengths: Tensor, **batch: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, D), see `Encoder.forward`."""
        return self.encode(x, lengths, **batch)[0]
