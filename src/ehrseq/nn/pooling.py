"""Poolings: the hidden states of a history to one vector, and how much each step weighs in it."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_choice, check_count, check_flag
from ehrseq.nn.masking import last_state, masked_softmax, step_mask


class Pooled(NamedTuple):
    """A pooled history.

    Attributes:
        vector: (B, H').
        weights: Share of each step, exactly 0 on padding, summing to one over the real steps, float32 or float64,
            (B, T); None where steps have no weight.
    """

    vector: Tensor
    weights: Tensor | None


class Pooling(nn.Module, ABC):
    """Hidden states to one vector; padding never counts, and a history without steps pools to zeros.

    Args:
        input_size: H, the size of a hidden state.
        bidirectional: Whether hidden states are [forward; backward], two directions of H/2 side by side. Matters where
            a last state is read: the backward net ends at the first step.

    Attributes:
        output_size: H', the size of the pooled vector.
        gives_attention: Whether `Pooled.weights` is a tensor.

    Raises:
        ConfigError: If an argument is out of range.
    """

    output_size: int
    gives_attention: bool = True

    def steps(self, hidden: Tensor) -> Tensor:  # noqa: ARG002
        """Pool at each step what has come so far: (B, T, H) to (B, T, H').

        Raises:
            ConfigError: If this pooling has no such form.
        """
        raise ConfigError(
            f"{type(self).__name__} pools whole histories only; take LastPooling, MeanPooling or MaxPooling"
        )

    def __init__(self, input_size: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        if bidirectional and input_size % 2:
            raise ConfigError(f"input_size is {input_size!r}; allowed are even numbers with bidirectional=True")
        self.output_size = input_size

    @abstractmethod
    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history.

        Args:
            hidden: Hidden states, exactly 0 on padding, (B, T, H).
            lengths: Number of real steps of each history, (B,), integer, on the device of `hidden`.

        Returns:
            The vectors (B, H') and, if `gives_attention`, the weights (B, T).
        """


class LastPooling(Pooling):
    """The last state, see `last_state`.

    The weights are 1 at the last real step; with two directions 1/2 there and 1/2 at the first step, where the
    backward half comes from.
    """

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H) and (B, T)."""
        position = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        weights = (position == lengths.unsqueeze(1) - 1).to(_weight_dtype(hidden))
        if self.bidirectional:
            first = (position == 0) & (lengths.unsqueeze(1) > 0)
            weights = (weights + first.to(weights.dtype)) / 2
        return Pooled(last_state(hidden, lengths, self.bidirectional), weights)

    def steps(self, hidden: Tensor) -> Tensor:
        """See `Pooling.steps`."""
        return hidden


class MeanPooling(Pooling):
    """The mean of the real steps; each weighs one over their number."""

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H) and (B, T)."""
        mask = step_mask(lengths, hidden.shape[1]).to(_weight_dtype(hidden))
        weights = mask / lengths.clamp(min=1).unsqueeze(1)
        return Pooled(weighted_sum(weights, hidden), weights)

    def steps(self, hidden: Tensor) -> Tensor:
        """See `Pooling.steps`."""
        return hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]


class SumPooling(Pooling):
    """The sum of the real steps, for encoders that weigh their steps themselves; no weights of its own."""

    gives_attention = False

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H) and None."""
        return Pooled(weighted_sum(step_mask(lengths, hidden.shape[1]), hidden), None)

    def steps(self, hidden: Tensor) -> Tensor:
        """See `Pooling.steps`."""
        return hidden.cumsum(1)


class MaxPooling(Pooling):
    """The largest value of each hidden unit over the real steps; no weights, as each unit has a step of its own.

    Args:
        input_size: H, the size of a hidden state.
        with_last: Whether to put the last state after the maximum.
        bidirectional: Whether hidden states are [forward; backward], see `Pooling`.
    """

    gives_attention = False

    def __init__(self, input_size: int, with_last: bool = False, bidirectional: bool = False) -> None:
        super().__init__(input_size, bidirectional)
        self.with_last = check_flag("with_last", with_last)
        self.output_size = input_size * (1 + with_last)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H') and None."""
        largest = _masked_max(hidden, lengths)
        if self.with_last:
            largest = torch.cat([largest, last_state(hidden, lengths, self.bidirectional)], dim=-1)
        return Pooled(largest, None)

    def steps(self, hidden: Tensor) -> Tensor:
        """See `Pooling.steps`."""
        largest = hidden.cummax(1).values
        return torch.cat([largest, hidden], dim=-1) if self.with_last else largest


class AttentionPooling(Pooling):
    """Additive attention (Bahdanau et al. 2015), masked, over the hidden states.

    score_t = v . tanh(W h_t + U h_last + b);  a = softmax(score) over real steps;  context = sum_t a_t h_t.

    With `query="learned"` there is no U h_last: b and v alone ask the question, the same of every history (Yang et al.
    2016, "Hierarchical Attention Networks").

    The weights say how much of each h_t is in the context; with `with_last` and `with_max` the vector has parts beside
    it that they do not describe.

    Args:
        input_size: H, the size of a hidden state.
        attention_size: Size of v.
        query: "last" asks with the last state, "learned" with a parameter.
        with_last: Whether to put the last state after the context.
        with_max: Whether to put the maximum over steps after these.
        bidirectional: Whether hidden states are [forward; backward], see `Pooling`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        attention_size: int = 32,
        query: Literal["learned", "last"] = "last",
        with_last: bool = True,
        with_max: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, bidirectional)
        check_count("attention_size", attention_size)
        check_choice("query", query, ("learned", "last"))
        self.with_last = check_flag("with_last", with_last)
        self.with_max = check_flag("with_max", with_max)
        self.key = nn.Linear(input_size, attention_size)
        self.query = nn.Linear(input_size, attention_size, bias=False) if query == "last" else None
        self.score = nn.Linear(attention_size, 1, bias=False)
        self.output_size = input_size * (1 + with_last + with_max)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H') and (B, T)."""
        last = last_state(hidden, lengths, self.bidirectional)
        keys: Tensor = self.key(hidden)
        if self.query is not None:
            keys = keys + self.query(last).unsqueeze(1)
        scores: Tensor = self.score(torch.tanh(keys)).squeeze(-1)
        weights = masked_softmax(scores, step_mask(lengths, hidden.shape[1]), dim=1)
        parts = [weighted_sum(weights, hidden)]
        if self.with_last:
            parts.append(last)
        if self.with_max:
            parts.append(_masked_max(hidden, lengths))
        return Pooled(torch.cat(parts, dim=-1), weights)


class MultiHeadAttentionPooling(Pooling):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, "Attention Is All You Need"), masked.

    a^n = softmax_t(q^n . K^n h_t / sqrt(d)) over real steps;  context = O [sum_t a^n_t V^n h_t, all n in a row].

    q^n is Q^n h_last or, with `query="learned"`, a parameter. The vector is the context alone, of size H. The weights
    are the mean over heads; `head_weights` gives each head's own.

    Args:
        input_size: H, the size of a hidden state.
        num_heads: N, the number of heads.
        head_size: d, the size of a head's query, keys and values.
        query: "last" asks with the last state, "learned" with a parameter.
        bidirectional: Whether hidden states are [forward; backward], see `Pooling`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        num_heads: int = 4,
        head_size: int = 16,
        query: Literal["learned", "last"] = "last",
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, bidirectional)
        self.num_heads = check_count("num_heads", num_heads)
        self.head_size = check_count("head_size", head_size)
        check_choice("query", query, ("learned", "last"))
        size = num_heads * head_size
        self.key = nn.Linear(input_size, size, bias=False)
        self.value = nn.Linear(input_size, size, bias=False)
        self.output = nn.Linear(size, input_size, bias=False)
        self.query = nn.Linear(input_size, size, bias=False) if query == "last" else None
        if query == "learned":
            self.question = nn.Parameter(torch.randn(size))

    def head_weights(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """How much each head attends to each step.

        Args:
            hidden: Hidden states, (B, T, H).
            lengths: Number of real steps of each history, (B,), integer.

        Returns:
            Weights that sum to one over the real steps of each head, exactly 0 on padding, float32 or float64,
            (B, N, T).
        """
        keys = self._split(self.key(hidden))
        if self.query is None:
            query = self.question.expand(len(hidden), 1, -1)
        else:
            query = self.query(last_state(hidden, lengths, self.bidirectional)).unsqueeze(1)
        scores = self._split(query.to(keys.dtype)) @ keys.transpose(2, 3) / self.head_size**0.5
        mask = step_mask(lengths, hidden.shape[1])[:, None, None]
        return masked_softmax(scores, mask).squeeze(2)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Pooled:
        """Pool each history: (B, T, H) and (B,) to (B, H) and (B, T)."""
        weights = self.head_weights(hidden, lengths)
        values = self._split(self.value(hidden))
        contexts = weights.to(values.dtype).unsqueeze(2) @ values
        return Pooled(self.output(contexts.flatten(1)), weights.mean(1))

    def _split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, N d) to (B, N, T, d)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)


def _weight_dtype(hidden: Tensor) -> torch.dtype:
    """Weights are never in half precision, where they would not sum to one."""
    return torch.promote_types(hidden.dtype, torch.float32)


def weighted_sum(weights: Tensor, hidden: Tensor) -> Tensor:
    """Sum the steps by their weights: (B, T) and (B, T, H) to (B, H)."""
    return torch.bmm(weights.to(hidden.dtype).unsqueeze(1), hidden).squeeze(1)


def _masked_max(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The maximum over real steps, 0 for a history without any: (B, T, H) and (B,) to (B, H)."""
    mask = step_mask(lengths, hidden.shape[1]).unsqueeze(-1)
    largest = hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min).amax(dim=1)
    return largest.masked_fill((lengths < 1).unsqueeze(1), 0.0)
