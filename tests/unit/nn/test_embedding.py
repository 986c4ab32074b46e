from itertools import pairwise
from math import log1p
from typing import Any

import pytest
import torch
from torch import Tensor

from ehrseq.errors import ConfigError
from ehrseq.nn import GridEmbedding
from ehrseq.nn.pieces import HOUR_KNOTS, KNOTS, pieces

B, T, F, S = 2, 3, 4, 2


@pytest.fixture(name="inputs")
def grid_inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    before = torch.tensor([[9.0, 4.0, 0.0], [50.0, 1.0, 0.0]])
    observed = (torch.rand(B, T, F) < 0.5).float()
    return torch.randn(B, T, F), observed, torch.rand(B, T, F) * 100, before, torch.randn(B, S)


def test_a_step_is_values_observed_ages_and_statics_side_by_side(inputs: tuple[Tensor, ...]) -> None:
    values, observed, hours, _, statics = inputs
    embedding = GridEmbedding(F, S)
    steps = embedding(*inputs)
    assert steps.shape == (B, T, embedding.output_size) == (B, T, 4 * F + S)
    for b in range(B):
        for t in range(T):
            ages = [log1p(h) / log1p(24) for h in hours[b, t].tolist()]
            seen = [float(any(observed[b, : t + 1, f].tolist())) for f in range(F)]
            expected = [*values[b, t].tolist(), *observed[b, t].tolist(), *seen, *ages, *statics[b].tolist()]
            assert steps[b, t].tolist() == pytest.approx(expected, abs=1e-6)


def test_ages_grow_to_a_bound() -> None:
    hours = torch.tensor([-1.0, 0.0, 1.0, 24.0, 48.0, 720.0, 1e6, float("inf")]).view(1, -1, 1)
    nothing = torch.zeros_like(hours)
    ages = GridEmbedding(1, 0, features=["hours_since"])(
        nothing, nothing, hours, hours[..., 0], torch.zeros(1, 0)
    ).flatten()
    bound = log1p(720) / log1p(24)
    assert ages.tolist() == pytest.approx(
        [0, 0, log1p(1) / log1p(24), 1, log1p(48) / log1p(24), bound, bound, bound], abs=1e-6
    )


@pytest.mark.parametrize(
    ("features", "blocks"),
    [
        (["value"], [0]),
        (["observed"], [1]),
        (["seen"], [2]),
        (["hours_since"], [3]),
        (["value", "observed"], [0, 1]),
        (["hours_since", "value"], [0, 3]),
    ],
)
def test_chosen_features_are_blocks_of_the_whole(
    inputs: tuple[Tensor, ...], features: list[str], blocks: list[int]
) -> None:
    embedding = GridEmbedding(F, S, statics="none", features=features)
    whole = GridEmbedding(F, S)(*inputs).split([F, F, F, F, S], dim=-1)
    assert embedding.output_size == F * len(blocks)
    assert torch.equal(embedding(*inputs), torch.cat([whole[block] for block in blocks], dim=-1))


def test_pieces_of_what_was_seen(inputs: tuple[Tensor, ...]) -> None:
    values, observed, *_ = inputs
    embedding = GridEmbedding(F, S, statics="none", features=["pieces"])
    steps = embedding(*inputs)
    assert steps.shape == (B, T, embedding.output_size)
    blocks = steps.unflatten(-1, (F, -1))
    for f in range(F):
        seen = observed[..., f].cummax(1).values > 0
        assert blocks[..., f, :][~seen].count_nonzero() == 0
        assert torch.equal(blocks[..., f, :][seen], pieces(values[..., f][seen].unsqueeze(-1)))


def test_hours_in_count_from_the_first_step(inputs: tuple[Tensor, ...]) -> None:
    embedding = GridEmbedding(F, S, statics="none", features=["hours_in"])
    expected = [[0, 5, 9], [0, 49, 50]]
    assert embedding.output_size == 1
    assert embedding(*inputs)[..., 0].tolist() == [
        pytest.approx([log1p(hours) / log1p(24) for hours in row], abs=1e-6) for row in expected
    ]


def test_pieces_of_the_hours_and_of_statics_bend_at_their_knots(inputs: tuple[Tensor, ...]) -> None:
    def share(number: float, low: float, high: float) -> float:
        return min(max((number - low) / (high - low), 0.0), 1.0)

    embedding = GridEmbedding(F, S, statics="none", features=["static_pieces", "hours_in_pieces"])
    steps = embedding(*inputs)
    assert steps.shape == (B, T, embedding.output_size) == (B, T, len(HOUR_KNOTS) - 1 + S * (len(KNOTS) - 1))
    for b, hours in enumerate([[0, 5, 9], [0, 49, 50]]):
        of_statics = [share(x, *ends) for x in inputs[-1][b].tolist() for ends in pairwise(KNOTS)]
        for t, hour in enumerate(hours):
            expected = [*(share(hour, *ends) for ends in pairwise(HOUR_KNOTS)), *of_statics]
            assert steps[b, t].tolist() == pytest.approx(expected, abs=1e-6)


def test_observed_may_be_boolean(inputs: tuple[Tensor, ...]) -> None:
    values, observed, hours, before, statics = inputs
    embedding = GridEmbedding(F, S)
    assert torch.equal(embedding(values, observed.bool(), hours, before, statics), embedding(*inputs))


def test_projection_is_a_linear_map_with_relu_of_the_concatenation(inputs: tuple[Tensor, ...]) -> None:
    embedding = GridEmbedding(F, S, projection=5)
    assert embedding.output_size == 5
    assert embedding.linear is not None
    expected = GridEmbedding(F, S)(*inputs) @ embedding.linear.weight.T + embedding.linear.bias
    assert torch.allclose(embedding(*inputs), expected.clamp(min=0), atol=1e-6)


def test_dropout_acts_in_training_only(inputs: tuple[Tensor, ...]) -> None:
    embedding = GridEmbedding(F, S, dropout=0.5)
    whole = GridEmbedding(F, S)(*inputs)
    dropped = embedding(*inputs)
    assert (dropped[whole != 0] == 0).float().mean() > 0.2
    assert torch.allclose(dropped[dropped != 0], 2 * whole[dropped != 0])
    assert torch.equal(embedding.eval()(*inputs), whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features is 0; allowed are whole numbers from 1 up"),
        ({"num_statics": -1}, "num_statics is -1; allowed are whole numbers from 0 up"),
        ({"projection": 0}, "projection is 0; allowed are whole numbers from 1 up"),
        ({"dropout": 1.0}, "dropout is 1.0; allowed are numbers from 0 up to, but not including, 1"),
        ({"statics": "step"}, "statics is 'step'; allowed are 'steps', 'none' (did you mean 'steps'?)"),
        ({"features": []}, "features is []; allowed is a list of at least one of value, pieces, observed, seen, hours"),
        ({"features": "value"}, "features is 'value'; allowed is a list of at least one of"),
        (
            {"features": ["values"]},
            "features is 'values'; allowed are 'value', 'pieces', 'observed', 'seen', 'hours_since', 'hours_in', "
            "'hours_in_pieces', 'static_pieces' (did",
        ),
        ({"features": ["value", "value"]}, "features is ['value', 'value']; allowed is each of value, pieces, obs"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GridEmbedding(**({"num_features": F, "num_statics": S} | arguments))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
