"""Attention over single events, whose weights are all that stands between an event and the prediction."""

from math import log, sinh

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_flag, check_positive
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.recurrent import LSTMEncoder
from ehrseq.nn.masking import clear_padding, masked_softmax, step_mask
from ehrseq.nn.pieces import KNOTS, pieces

_BEND, _FIRST = 6.0, 0.5  # of how weights that are learned become rates of forgetting


class EventAttentionEncoder(Encoder):
    """Event attention: an LSTM decides how much each event counts; what it counts for is its own value alone.

    An event is what was measured of one feature v in one step t of a grid, or last before the first step. With h_t the
    states of an LSTM that reads the embedded steps, and a the hours from the event to the prediction,

    score_{t,v} = u . tanh(W h_t + k_v) - lambda_v a_{t,v};  alpha = softmax(score) over all events of the history;
    hidden_t = sum over v of alpha_{t,v} S_v phi(x_{t,v}).

    phi is the normalised value and, where asked for, its pieces (see `pieces`) and a 1, which are 0 of what is older
    than the first step. RETAIN (Choi et al. 2016) weighs whole steps and their dimensions, and its second weights,
    beta, carry what the first do not say. Here alpha is all that depends on the rest of the history, so that summed by
    `SumPooling` and read by a linear head each event's part of the logit is known: alpha times a function of its value.
    That weights fade with time, faster of some features than of others, is of Bai et al. (2018), "Interpretable
    Representation Learning for Healthcare via Capturing Disease Progression through Time"; here
    lambda_v = log 2 / half-life * sinh(6 d_v) / sinh(3), d_v learned from 0.5 on: from hours to years in few updates,
    and none at all for d_v = 0.

    Args:
        input_size: D, the size of an embedded step.
        num_features: F, the number of features of the grid.
        hidden_size: Size of the LSTM's state.
        vector_size: E, the size of what events are turned into, which is what hidden states have.
        attention_size: Size of u.
        pieces: Whether an event's value is also read in pieces.
        constant: Whether that an event happened counts beside its value. The less there is but values, the less the
            weights can be used to say something else with.
        half_life_hours: After so many hours an event counts half, at first.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since", "hours_before")
    gives_attention = True
    causal = False

    def __init__(
        self,
        input_size: int,
        num_features: int,
        hidden_size: int = 64,
        vector_size: int = 32,
        attention_size: int = 32,
        pieces: bool = True,
        constant: bool = True,
        half_life_hours: float = 6.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.num_features = check_count("num_features", num_features)
        self.output_size = check_count("vector_size", vector_size)
        check_count("attention_size", attention_size)
        self.pieces = check_flag("pieces", pieces)
        self.constant = check_flag("constant", constant)
        self.half_life_hours = check_positive("half_life_hours", half_life_hours)
        self.net = LSTMEncoder(input_size, hidden_size)
        self.key = nn.Linear(hidden_size, attention_size)
        self.feature = nn.Parameter(torch.randn(num_features, attention_size) * 0.3)
        self.score = nn.Linear(attention_size, 1, bias=False)
        self.recency = nn.Parameter(torch.full((num_features,), _FIRST))
        numbers = 1 + self.pieces * (len(KNOTS) - 1) + self.constant
        self.meaning = nn.Parameter(torch.randn(num_features, numbers, vector_size) * 0.3)

    def events(
        self,
        x: Tensor,
        lengths: Tensor,
        values: Tensor,
        observed: Tensor,
        hours_since: Tensor,
        hours_before: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Weigh all events; those of the row 0 are older than the first step.

        Args:
            x: Embedded steps, (B, T, D).
            lengths: Number of real steps of each history, (B,), integer.
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F); what lies between 0 and 1 is for
                explanations.
            hours_since: Hours since the feature was last seen, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).

        Returns:
            alpha, exactly 0 where there is no event, summing to one over a history that has any, float32 or float64,
            (B, T + 1, F), and phi, (B, T + 1, F, P).
        """
        observed = observed.to(values.dtype)
        real = step_mask(lengths, values.shape[1]).unsqueeze(-1)
        # What the first step holds without having measured it is older.
        older = (values[:, :1] != 0) & (observed[:, :1] == 0) & real[:, :1]
        there = torch.cat([older.to(values.dtype), observed * real], 1)
        shown = _with_older(values) * (there > 0)
        # Of what is older the batch tells the value alone, which fades to 0 where explanations take events away.
        measured = torch.cat([torch.zeros_like(values[:, :1]), observed * real], 1).unsqueeze(-1)
        parts = [shown.unsqueeze(-1)]
        if self.pieces:
            parts.append(pieces(shown).view(*shown.shape, -1) * measured)
        if self.constant:
            parts.append(measured)
        keys = _with_older(self.key(self.net(x, lengths)))
        scores: Tensor = self.score(torch.tanh(keys.unsqueeze(2) + self.feature)).squeeze(-1)
        age = _with_older(hours_since + hours_before.unsqueeze(-1)).to(values.dtype)
        scores = scores - self.forgetting() * age
        # An event that is there in part weighs in part.
        scores = scores + there.clamp(min=torch.finfo(there.dtype).tiny).log()
        weights = masked_softmax(scores.flatten(1), there.flatten(1) > 0, dim=1)
        return weights.view(there.shape), torch.cat(parts, -1)

    def forgetting(self) -> Tensor:
        """lambda, by how much the score of each feature's events falls in an hour, (F,)."""
        return log(2) / self.half_life_hours / sinh(_BEND * _FIRST) * torch.sinh(_BEND * self.recency)

    def encode(self, x: Tensor, lengths: Tensor, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Read each history: (B, T, D) and (B,) to hidden states (B, T, E) and the weights of steps (B, T).

        What is older than the first step counts as of it.
        """
        weights, numbers = self.events(x, lengths, **batch)
        weighed = (weights.to(numbers.dtype).unsqueeze(-1) * numbers).flatten(2)
        vectors = weighed @ self.meaning.flatten(0, 1)
        return clear_padding(_of_steps(vectors), lengths), _of_steps(weights.sum(-1, keepdim=True)).squeeze(-1)

    def forward(self, x: Tensor, lengths: Tensor, **batch: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, E), see `Encoder.forward`."""
        return self.encode(x, lengths, **batch)[0]


def _with_older(x: Tensor) -> Tensor:
    """Steps (B, T, ...) with the first put before them once more, (B, T + 1, ...)."""
    return torch.cat([x[:, :1], x], 1)


def _of_steps(rows: Tensor) -> Tensor:
    """Rows (B, T + 1, ...) to steps (B, T, ...): what is older is added to the first."""
    return torch.cat([rows[:, :1] + rows[:, 1:2], rows[:, 2:]], 1)
