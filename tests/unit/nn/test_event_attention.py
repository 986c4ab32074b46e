"""Event attention against its equations, event by event, and what encoders promise."""

from math import log, sinh
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.config.load import load_settings
from ehrseq.errors import ConfigError
from ehrseq.nn import EventAttentionEncoder, SumPooling
from ehrseq.nn.pieces import pieces
from ehrseq.workflows.build import build_model

D, F, H, E, T = 5, 3, 4, 6, 7
LENGTHS = torch.tensor([3, 7, 1, 5, 0])


def random_batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    rows, double = len(LENGTHS), torch.float64
    real = (torch.arange(T) < LENGTHS[:, None]).double()
    values = torch.randn(rows, T, F, dtype=double)
    values[0, 0, 0] = 0.0  # never seen
    observed = (torch.rand(rows, T, F) < 0.5).double() * real.unsqueeze(-1)
    observed[0, 0] = torch.tensor([0.0, 0.0, 1.0])
    return {
        "x": torch.randn(rows, T, D, dtype=double),
        "values": values * real.unsqueeze(-1),
        "observed": observed,
        "hours_since": torch.rand(rows, T, F, dtype=double),
        "hours_before": (LENGTHS[:, None] - 1 - torch.arange(T)).clamp(min=0).double(),
    }


def encoder_of(**arguments: Any) -> EventAttentionEncoder:
    torch.manual_seed(0)
    encoder = EventAttentionEncoder(D, F, **({"hidden_size": H, "vector_size": E, "attention_size": 4} | arguments))
    with torch.no_grad():
        encoder.recency.add_(torch.randn(F) * 0.2)
    return encoder.double().eval()


def read(encoder: EventAttentionEncoder, batch: dict[str, Tensor], lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor]:
    return encoder.encode(batch["x"], lengths, **{name: batch[name] for name in encoder.reads})


@pytest.mark.parametrize(("with_pieces", "constant"), [(True, True), (False, False), (True, False)])
def test_weights_and_states_follow_the_written_equations(with_pieces: bool, constant: bool) -> None:
    encoder, batch = encoder_of(pieces=with_pieces, constant=constant, half_life_hours=3.0), random_batch()
    hidden, weights = read(encoder, batch)
    states = encoder.net(batch["x"], LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores, vectors, steps = [], [], []
        for t in range(length):
            for v in range(F):
                value, measured = batch["values"][row, t, v], bool(batch["observed"][row, t, v])
                older = not measured and t == 0 and value != 0
                if not (measured or older):
                    continue
                rate = log(2) / 3.0 * torch.sinh(6 * encoder.recency[v]) / sinh(3)
                age = batch["hours_before"][row, t] + batch["hours_since"][row, t, v]
                asked = torch.tanh(encoder.key(states[row, t]) + encoder.feature[v])
                scores.append(encoder.score.weight[0] @ asked - rate * age)
                numbers = [value.view(1)]
                if with_pieces:
                    numbers.append(pieces(value.view(1)) * measured)
                if constant:
                    numbers.append(torch.full((1,), measured, dtype=torch.float64))
                vectors.append(torch.cat(numbers) @ encoder.meaning[v])
                steps.append(t)
        expected = torch.zeros(T, E, dtype=torch.float64)
        held = torch.zeros(T, dtype=torch.float64)
        for share, vector, t in zip(torch.stack(scores).softmax(0) if scores else [], vectors, steps, strict=True):
            expected[t] += share * vector
            held[t] += share
        torch.testing.assert_close(hidden[row], expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(weights[row], held, rtol=0, atol=1e-10)


def test_weights_sum_to_one_and_are_nothing_where_nothing_was_measured() -> None:
    encoder, batch = encoder_of(), random_batch()
    found, _ = encoder.events(batch["x"], LENGTHS, **{name: batch[name] for name in encoder.reads})
    assert found.shape == (len(LENGTHS), T + 1, F)
    torch.testing.assert_close(found.sum((1, 2)), (LENGTHS > 0).double(), rtol=0, atol=1e-12)
    assert (found[:, 1:][batch["observed"] == 0] == 0).all()
    assert (found[:, 1:][batch["observed"] > 0] > 0).all()
    assert found[0, 0, 0] == 0  # never seen
    assert found[0, 0, 1] > 0  # seen before the first step
    assert found[0, 0, 2] == 0  # measured again in the first step
    nothing = batch | {"values": batch["values"] * 0, "observed": batch["observed"] * 0}
    hidden, weights = read(encoder, nothing)
    assert hidden.count_nonzero() == 0
    assert weights.count_nonzero() == 0


def test_padding_company_and_order_change_nothing() -> None:
    encoder, batch = encoder_of(), random_batch()
    hidden, weights = read(encoder, batch)
    longer = {name: torch.cat([x, torch.zeros_like(x[:, :3])], 1) for name, x in batch.items()}
    for row, length in enumerate(LENGTHS.tolist()):
        for x in longer.values():
            x[row, length:] = 9.0
        assert hidden[row, length:].count_nonzero() == 0
        assert weights[row, length:].count_nonzero() == 0
    padded = read(encoder, longer)
    torch.testing.assert_close(padded[0][:, :T], hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(padded[1][:, :T], weights, rtol=0, atol=1e-12)
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = read(encoder, {name: x[order] for name, x in batch.items()}, LENGTHS[order])
    torch.testing.assert_close(mixed[0], hidden[order], rtol=0, atol=1e-12)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            part = {name: x[row : row + 1, :length] for name, x in batch.items()}
            torch.testing.assert_close(read(encoder, part, LENGTHS[row : row + 1])[0][0], hidden[row, :length])


def test_gradients_are_those_of_finite_differences_and_every_weight_learns() -> None:
    encoder, batch = encoder_of(), random_batch()
    torch.autograd.backward(read(encoder, batch)[0].pow(3).sum())
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name
    small = {name: x[[1, 3], :4] for name, x in batch.items()}
    measured = small["observed"] > 0

    def states(x: Tensor, values: Tensor, shares: Tensor) -> Tensor:
        observed = torch.zeros_like(small["observed"]).masked_scatter(measured, shares)
        leaves = {"x": x, "values": values, "observed": observed}
        return read(encoder, small | leaves, torch.tensor([4, 4]))[0]

    # Events that are there in part, as explanations have them.
    shares = torch.full((int(measured.sum()),), 0.7, dtype=torch.float64)
    given = [leaf.clone().requires_grad_() for leaf in (small["x"], small["values"], shares)]
    assert torch.autograd.gradcheck(states, given)


def test_without_recency_and_scores_all_events_weigh_the_same() -> None:
    encoder, batch = encoder_of(), random_batch()
    nn.init.zeros_(encoder.recency)
    nn.init.zeros_(encoder.score.weight)
    found, _ = encoder.events(batch["x"], LENGTHS, **{name: batch[name] for name in encoder.reads})
    for row in found[LENGTHS > 0]:
        torch.testing.assert_close(row[row > 0], torch.full_like(row[row > 0], 1 / int((row > 0).sum())))


def test_an_event_counts_half_after_a_half_life() -> None:
    encoder = EventAttentionEncoder(D, F, half_life_hours=5.0)
    torch.testing.assert_close(torch.exp(-5.0 * encoder.forgetting()), torch.full((F,), 0.5))


def test_the_configured_model_sums_its_events() -> None:
    settings = load_settings(["model=event_attention"])
    model = build_model(settings.model, settings.task.target, settings.loss, num_features=7, num_statics=3)
    assert isinstance(model.encoder, EventAttentionEncoder)
    assert isinstance(model.pooling, SumPooling)
    assert model.head.linear is not None
    assert model.summary is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector_size": 0}, "vector_size is 0; allowed are whole numbers from 1 up"),
        ({"half_life_hours": 0.0}, "half_life_hours is 0.0; allowed are"),
        ({"pieces": 1}, "pieces is 1; allowed are"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EventAttentionEncoder(D, F, **arguments)
    assert str(caught.value).startswith(message)
