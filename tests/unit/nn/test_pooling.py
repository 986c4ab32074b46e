"""Poolings against plain loops over histories and steps."""

from collections.abc import Callable
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor

from ehrseq.errors import ConfigError
from ehrseq.nn import (
    AttentionPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    MultiHeadAttentionPooling,
    Pooling,
    SumPooling,
)

H = 6
LENGTHS = [4, 1, 6, 2]
POOLINGS: dict[str, tuple[type[Pooling], dict[str, Any]]] = {
    "last": (LastPooling, {}),
    "last-two-directions": (LastPooling, {"bidirectional": True}),
    "mean": (MeanPooling, {}),
    "sum": (SumPooling, {}),
    "max": (MaxPooling, {}),
    "attention": (AttentionPooling, {}),
    "attention-context-only": (AttentionPooling, {"with_last": False}),
    "attention-learned": (AttentionPooling, {"query": "learned", "with_last": False, "with_max": True}),
    "attention-all": (AttentionPooling, {"with_max": True, "bidirectional": True}),
    "heads": (MultiHeadAttentionPooling, {"num_heads": 3, "head_size": 2}),
    "heads-two-directions": (MultiHeadAttentionPooling, {"num_heads": 1, "bidirectional": True}),
    "heads-learned": (MultiHeadAttentionPooling, {"query": "learned", "head_size": 5}),
}
each_pooling = pytest.mark.parametrize("name", POOLINGS)


def build(name: str, dtype: torch.dtype = torch.float64) -> Pooling:
    torch.manual_seed(0)
    kind, arguments = POOLINGS[name]
    return kind(H, **arguments).to(dtype)


def random_hidden(dtype: torch.dtype = torch.float64) -> Tensor:
    """Hidden states with zeros on padding, all below zero in history 0 so that a padding zero would be its maximum."""
    torch.manual_seed(1)
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), H, dtype=dtype)
    hidden[0] = -hidden[0].abs() - 0.1
    for row, length in enumerate(LENGTHS):
        hidden[row, length:] = 0
    return hidden


def last_by_loop(steps: list[list[float]], bidirectional: bool) -> list[float]:
    return steps[-1][: H // 2] + (steps[0] if bidirectional else steps[-1])[H // 2 :]


def attend_by_loop(pooling: AttentionPooling, steps: list[list[float]]) -> list[float]:
    """The attention weights of one history, by the written equation."""
    last = torch.tensor(last_by_loop(steps, pooling.bidirectional), dtype=torch.float64)
    scores = []
    for step in steps:
        inside = pooling.key.weight @ torch.tensor(step, dtype=torch.float64) + pooling.key.bias
        if pooling.query is not None:
            inside = inside + pooling.query.weight @ last
        scores.append((pooling.score.weight[0] @ torch.tanh(inside)).item())
    total = sum(exp(score) for score in scores)
    return [exp(score) / total for score in scores]


def heads_by_loop(
    pooling: MultiHeadAttentionPooling, steps: list[list[float]]
) -> tuple[list[float], list[list[float]]]:
    """The context of one history and the weights of each head, by the written equation."""
    d = pooling.head_size
    states = [torch.tensor(step, dtype=torch.float64) for step in steps]
    last = torch.tensor(last_by_loop(steps, pooling.bidirectional), dtype=torch.float64)
    contexts, weights = [], []
    for head in range(pooling.num_heads):
        own = slice(head * d, (head + 1) * d)
        query = pooling.question[own] if pooling.query is None else pooling.query.weight[own] @ last
        large = [exp((query @ (pooling.key.weight[own] @ state)).item() / d**0.5) for state in states]
        weights.append([number / sum(large) for number in large])
        values = [pooling.value.weight[own] @ state for state in states]
        contexts.append(torch.stack([w * value for w, value in zip(weights[-1], values, strict=True)]).sum(0))
    vector: list[float] = (pooling.output.weight @ torch.cat(contexts)).tolist()
    return vector, weights


def pool_by_loop(pooling: Pooling, steps: list[list[float]]) -> tuple[list[float], list[float] | None]:
    """What a pooling should give for the real steps of one history."""
    last = last_by_loop(steps, pooling.bidirectional)
    largest = [max(step[unit] for step in steps) for unit in range(H)]
    if isinstance(pooling, LastPooling):
        weights = [0.0] * len(steps)
        for index in (0, -1) if pooling.bidirectional else (-1, -1):
            weights[index] += 0.5
        return last, weights
    if isinstance(pooling, MaxPooling):
        return largest, None
    if isinstance(pooling, SumPooling):
        return [sum(step[unit] for step in steps) for unit in range(H)], None
    if isinstance(pooling, MultiHeadAttentionPooling):
        vector, heads = heads_by_loop(pooling, steps)
        return vector, [sum(weights) / len(heads) for weights in zip(*heads, strict=True)]
    weights = [1 / len(steps)] * len(steps)
    if isinstance(pooling, AttentionPooling):
        weights = attend_by_loop(pooling, steps)
    vector = [sum(weight * step[unit] for weight, step in zip(weights, steps, strict=True)) for unit in range(H)]
    if isinstance(pooling, AttentionPooling):
        vector += last if pooling.with_last else []
        vector += largest if pooling.with_max else []
    return vector, weights


@each_pooling
def test_poolings_equal_plain_loops(name: str) -> None:
    pooling, hidden = build(name), random_hidden()
    vector, weights = pooling(hidden, torch.tensor(LENGTHS))
    assert vector.shape == (len(LENGTHS), pooling.output_size)
    assert (weights is not None) == pooling.gives_attention
    for row, length in enumerate(LENGTHS):
        expected_vector, expected_weights = pool_by_loop(pooling, hidden[row, :length].tolist())
        assert vector[row].tolist() == pytest.approx(expected_vector, abs=1e-12)
        if expected_weights is not None:
            assert weights[row].tolist() == pytest.approx(expected_weights + [0.0] * (6 - length), abs=1e-12)


@pytest.mark.parametrize("name", [name for name, (kind, _) in POOLINGS.items() if kind.gives_attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_sum_to_one_and_are_exactly_zero_on_padding(name: str, dtype: torch.dtype) -> None:
    pooling = build(name, dtype)
    vector, weights = pooling(random_hidden(dtype), torch.tensor(LENGTHS))
    assert vector.dtype == dtype
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(weights.sum(1), torch.ones(len(LENGTHS), dtype=weights.dtype), rtol=0, atol=1e-6)
    for row, length in enumerate(LENGTHS):
        assert weights[row, length:].count_nonzero() == 0


@each_pooling
def test_values_and_number_of_padding_steps_change_nothing(name: str) -> None:
    pooling, hidden = build(name), random_hidden()
    vector, weights = pooling(hidden, torch.tensor(LENGTHS))
    padded = torch.full((len(LENGTHS), 9, H), 1e3, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        padded[row, :length] = hidden[row, :length]
    vector_padded, weights_padded = pooling(padded, torch.tensor(LENGTHS))
    assert torch.allclose(vector_padded, vector, rtol=0, atol=1e-12)
    if weights is not None:
        assert torch.allclose(weights_padded[:, :6], weights, rtol=0, atol=1e-12)
        assert weights_padded[:, 6:].count_nonzero() == 0


@pytest.mark.parametrize("name", ["heads", "heads-learned"])
def test_each_head_has_weights_of_its_own(name: str) -> None:
    pooling, hidden = build(name), random_hidden()
    assert isinstance(pooling, MultiHeadAttentionPooling)
    weights = pooling.head_weights(hidden, torch.tensor(LENGTHS))
    assert weights.shape == (len(LENGTHS), pooling.num_heads, 6)
    for row, length in enumerate(LENGTHS):
        for head, expected in enumerate(heads_by_loop(pooling, hidden[row, :length].tolist())[1]):
            assert weights[row, head].tolist() == pytest.approx(expected + [0.0] * (6 - length), abs=1e-12)


@each_pooling
def test_one_step_has_all_the_weight_and_is_all_of_the_vector(name: str) -> None:
    pooling, hidden = build(name), random_hidden()[:, :1]
    vector, weights = pooling(hidden, torch.ones(len(LENGTHS), dtype=torch.int64))
    expected = hidden[:, 0].repeat(1, pooling.output_size // H)
    if isinstance(pooling, MultiHeadAttentionPooling):
        expected = pooling.output(pooling.value(expected))
    assert torch.allclose(vector, expected, rtol=0, atol=1e-15)
    if weights is not None:
        assert weights.tolist() == [[1.0]] * len(LENGTHS)


@each_pooling
def test_a_history_without_steps_pools_to_zeros_with_finite_gradients(name: str) -> None:
    pooling = build(name)
    hidden = random_hidden()
    hidden[1] = 0
    hidden.requires_grad_()
    vector, weights = pooling(hidden, torch.tensor([4, 0, 6, 2]))
    assert vector[1].tolist() == [0.0] * pooling.output_size
    assert weights is None or weights[1].tolist() == [0.0] * 6
    vector.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in pooling.parameters())


@each_pooling
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    pooling = build(name)
    hidden = random_hidden()[:, :4].clone().requires_grad_()
    lengths = torch.tensor(LENGTHS).clamp(max=4)

    def pool(hidden: Tensor) -> tuple[Tensor, ...]:
        vector, weights = pooling(hidden, lengths)
        return (vector, weights) if weights is not None and weights.requires_grad else (vector,)

    assert torch.autograd.gradcheck(pool, (hidden,))


@pytest.mark.parametrize("kind", [AttentionPooling, MultiHeadAttentionPooling])
def test_the_last_state_as_query_moves_the_attention_and_a_learned_query_does_not(
    kind: Callable[..., Pooling],
) -> None:
    """Only the last state differs; the ratio of the other steps' weights depends on the query alone."""
    hidden, lengths = random_hidden()[2:3], torch.tensor([6])
    other = hidden.clone()
    other[0, 5] += 1.0
    for query, moves in (("last", True), ("learned", False)):
        torch.manual_seed(0)
        one_head = {"num_heads": 1} if kind is MultiHeadAttentionPooling else {}  # a mean of several has no such ratio
        pooling = kind(H, query=query, **one_head).double()
        ratios = [weights[0, 0] / weights[0, 1] for _, weights in (pooling(hidden, lengths), pooling(other, lengths))]
        assert ((ratios[0] - ratios[1]).abs().item() > 1e-6) == moves


@pytest.mark.parametrize("name", ["attention", "heads", "heads-learned"])
def test_attention_under_mixed_precision_sums_to_one(name: str) -> None:
    pooling = build(name, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, weights = pooling(random_hidden(torch.bfloat16), torch.tensor(LENGTHS))
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(1), torch.ones(len(LENGTHS)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LastPooling, {"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        (MeanPooling, {"input_size": 2.5}, "input_size is 2.5; allowed are whole numbers from 1 up"),
        (MaxPooling, {"bidirectional": "yes"}, "bidirectional is 'yes'; allowed are true and false"),
        (
            LastPooling,
            {"input_size": 5, "bidirectional": True},
            "input_size is 5; allowed are even numbers with bidirectional=True",
        ),
        (AttentionPooling, {"attention_size": 0}, "attention_size is 0; allowed are whole numbers from 1 up"),
        (
            AttentionPooling,
            {"query": "lastt"},
            "query is 'lastt'; allowed are 'learned', 'last' (did you mean 'last'?)",
        ),
        (AttentionPooling, {"with_last": 1}, "with_last is 1; allowed are true and false"),
        (AttentionPooling, {"with_max": "no"}, "with_max is 'no'; allowed are true and false"),
        (MultiHeadAttentionPooling, {"num_heads": 0}, "num_heads is 0; allowed are whole numbers from 1 up"),
        (MultiHeadAttentionPooling, {"head_size": 1.5}, "head_size is 1.5; allowed are whole numbers from 1 up"),
        (
            MultiHeadAttentionPooling,
            {"query": "lern"},
            "query is 'lern'; allowed are 'learned', 'last' (did you mean 'learned'?)",
        ),
    ],
)
def test_bad_arguments_are_named(kind: type[Pooling], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**({"input_size": H} | arguments))
    assert str(caught.value) == message
