"""GRU-D against its published equations, its backward pass by hand, and what every encoder promises."""

from itertools import pairwise
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import DecayedGridEmbedding, GRUDEncoder
from ehrseq.nn.elapsed import hours_since_previous
from ehrseq.nn.encoders.gru_d import recur

F, S, H, T = 3, 2, 4, 7
LENGTHS = torch.tensor([3, 7, 1, 7, 0])


def random_batch() -> dict[str, Tensor]:
    """Histories as the grid makes them, of bins of unequal width, with measurements at their very ends."""
    torch.manual_seed(1)
    shape = (len(LENGTHS), T, F)
    widths = torch.rand(len(LENGTHS), T, dtype=torch.float64) * 12
    ends = widths.cumsum(1)
    measured = torch.randn(shape, dtype=torch.float64)
    observed = (torch.rand(shape) < 0.4).double()
    values, hours_since = torch.zeros_like(measured), torch.zeros_like(measured)
    for b in range(len(LENGTHS)):
        for f in range(F):
            last, when = 0.0, 0.0
            for t in range(T):
                if observed[b, t, f]:
                    last, when = measured[b, t, f].item(), ends[b, t].item()
                values[b, t, f], hours_since[b, t, f] = last, ends[b, t].item() - when
    return {
        "values": values,
        "observed": observed,
        "hours_since": hours_since,
        "hours_before": ends[:, -1:] - ends,
        "statics": torch.randn(len(LENGTHS), S, dtype=torch.float64),
    }


def build(**options: Any) -> tuple[DecayedGridEmbedding, GRUDEncoder]:
    torch.manual_seed(0)
    embedding = DecayedGridEmbedding(F, S).double()
    encoder = GRUDEncoder(embedding.output_size, F, H, **options).double()
    for parameter in [*embedding.parameters(), *encoder.parameters()]:
        nn.init.normal_(parameter, std=0.5)
    return embedding, encoder


def run(embedding: DecayedGridEmbedding, encoder: GRUDEncoder, batch: dict[str, Tensor], lengths: Tensor) -> Tensor:
    steps = embedding(**batch)
    hidden: Tensor = encoder(steps, lengths, hours_since=batch["hours_since"], hours_before=batch["hours_before"])
    return hidden


def repad(batch: dict[str, Tensor], steps: int, fill: float) -> dict[str, Tensor]:
    """The same histories with other padding: `steps` in all, holding `fill`."""
    padded = {"statics": batch["statics"]}
    for name in ("values", "observed", "hours_since", "hours_before"):
        old = batch[name]
        padded[name] = torch.full((len(old), steps, *old.shape[2:]), fill, dtype=old.dtype)
        for row, length in enumerate(LENGTHS.tolist()):
            padded[name][row, :length] = old[row, :length]
    return padded


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def delta_by_the_book(observed: list[float], ends: list[float], first: float) -> list[float]:
    """The paper's delta for one feature; as the batch, it counts from the beginning of the `first` hours of step 0."""
    delta = [0.0]
    for t in range(1, len(ends)):
        gap = ends[t] - ends[t - 1]
        before = first if t == 1 else delta[t - 1]
        delta.append(gap if observed[t - 1] else gap + before)
    return delta


def by_the_book(
    embedding: DecayedGridEmbedding, encoder: GRUDEncoder, batch: dict[str, Tensor], row: int, length: int
) -> list[Tensor]:
    """Equations (10) to (16) of the paper for one history, one gate at a time; W reads values, V masks."""
    ends = [-hours / 24 for hours in batch["hours_before"][row, :length].tolist()]
    observed, first = batch["observed"][row], (batch["hours_since"][row, 0] / 24).tolist()
    deltas = [delta_by_the_book(observed[:length, f].tolist(), ends, first[f]) for f in range(F)]
    w, v, s = encoder.inputs.weight.split_with_sizes([F, F, S], dim=1)
    w_r, w_z, w_n = w.chunk(3)
    v_r, v_z, v_n = v.chunk(3)
    b_r, b_z, b_n = (encoder.inputs.bias + s @ batch["statics"][row]).chunk(3)  # statics are constant, as a bias is
    u_r, u_z, u_n = encoder.recurrent.weight.chunk(3)
    h, last = torch.zeros(H, dtype=torch.float64), [0.0] * F
    states = []
    for t in range(length):
        filled = []
        for f in range(F):
            gamma = exp(-max(0.0, embedding.weight[f].item() * deltas[f][t] + embedding.bias[f].item()))
            m, value = observed[t, f].item(), batch["values"][row, t, f].item()
            filled.append(m * value + (1 - m) * (gamma * last[f] + (1 - gamma) * 0.0))
            last[f] = value if m else last[f]
        x, m_t = torch.tensor(filled, dtype=torch.float64), observed[t]
        delta = torch.tensor([deltas[f][t] for f in range(F)], dtype=torch.float64)
        h = torch.exp(-(encoder.decay.weight @ delta + encoder.decay.bias).clamp(min=0)) * h
        r = sigmoid(w_r @ x + u_r @ h + v_r @ m_t + b_r)
        z = sigmoid(w_z @ x + u_z @ h + v_z @ m_t + b_z)
        candidate = torch.tanh(w_n @ x + u_n @ (r * h) + v_n @ m_t + b_n)
        h = (1 - z) * h + z * candidate
        states.append(h)
    return states


def test_outputs_follow_the_published_equations() -> None:
    (embedding, encoder), batch = build(), random_batch()
    hidden = run(embedding, encoder, batch, LENGTHS)
    assert hidden.shape == (len(LENGTHS), T, H)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = by_the_book(embedding, encoder, batch, row, length)
        for t in range(length):
            assert torch.allclose(hidden[row, t], expected[t], rtol=0, atol=1e-10)
        assert hidden[row, length:].count_nonzero() == 0


def test_delta_is_the_age_of_what_a_measurement_replaces() -> None:
    batch = random_batch()
    delta = hours_since_previous(batch["hours_since"], batch["hours_before"])
    for row in range(len(LENGTHS)):
        ends = (-batch["hours_before"][row]).tolist()
        for f in range(F):
            observed, first = batch["observed"][row, :, f].tolist(), batch["hours_since"][row, 0, f].item()
            expected = delta_by_the_book(observed, ends, first)
            assert delta[row, :, f].tolist() == pytest.approx(expected, abs=1e-9)


def test_a_value_fades_until_it_is_measured_again() -> None:
    embedding = DecayedGridEmbedding(1, 0)
    observed = torch.tensor([1.0, 0, 0, 1, 0]).view(1, -1, 1)
    hours_since = torch.tensor([0.0, 24, 48, 0, 24]).view(1, -1, 1)
    hours_before = torch.tensor([[96.0, 72, 48, 24, 0]])
    values = torch.full((1, 5, 1), 2.0)
    steps = embedding(values, observed, hours_since, hours_before, torch.zeros(1, 0))
    assert steps.shape == (1, 5, embedding.output_size)
    assert steps[0, :, 0].tolist() == pytest.approx([2.0, 2 * exp(-0.1), 2 * exp(-0.2), 2.0, 2 * exp(-0.1)])
    assert torch.equal(steps[..., 1:], observed)
    assert torch.equal(embedding(values, observed.bool(), hours_since, hours_before, torch.zeros(1, 0)), steps)


def test_statics_stand_at_every_step_or_nowhere() -> None:
    batch = {name: part.float() for name, part in random_batch().items()}
    with_statics, without = DecayedGridEmbedding(F, S), DecayedGridEmbedding(F, S, statics="none")
    steps = with_statics(**batch)
    assert torch.equal(steps[..., -S:], batch["statics"].unsqueeze(1).expand(-1, T, -1))
    assert torch.equal(without(**batch), steps[..., :-S])
    assert (with_statics.output_size, without.output_size) == (2 * F + S, 2 * F)


def test_gradients_by_hand_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    steps, histories, size = 4, 3, 2
    gates = torch.randn(steps, histories, 2 * size, dtype=torch.float64, requires_grad=True)
    candidate = torch.randn(steps, histories, size, dtype=torch.float64, requires_grad=True)
    gamma = torch.rand(steps, histories, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3 * size, size, dtype=torch.float64, requires_grad=True)

    def spared(gates: torch.Tensor, candidate: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return recur(gates.clone(), candidate.clone(), *rest)

    assert torch.autograd.gradcheck(spared, (gates, candidate, gamma, weight))


def test_gradients_reach_every_weight_as_finite_differences_say() -> None:
    (embedding, encoder), batch = build(), random_batch()
    names = [*dict(embedding.named_parameters()), *dict(encoder.named_parameters())]
    weights = [*embedding.parameters(), *encoder.parameters()]
    split = len(list(embedding.parameters()))

    def hidden(*given: Tensor) -> Tensor:
        named = list(zip(names, given, strict=True))
        steps = torch.func.functional_call(embedding, dict(named[:split]), kwargs=batch)
        kept = {name: batch[name] for name in ("hours_since", "hours_before")}
        found: Tensor = torch.func.functional_call(encoder, dict(named[split:]), (steps, LENGTHS), kept)
        return found

    assert torch.autograd.gradcheck(hidden, tuple(weights))
    torch.autograd.backward(hidden(*weights).sum())
    for name, weight in zip(names, weights, strict=True):
        assert weight.grad is not None
        assert weight.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("fill", [-1.0, 0.0, 1e4])
def test_padding_and_company_change_nothing(fill: float) -> None:
    (embedding, encoder), batch = build(), random_batch()
    hidden = run(embedding, encoder, batch, LENGTHS)
    padded = run(embedding, encoder, repad(batch, T + 4, fill), LENGTHS)
    assert torch.allclose(padded[:, :T], hidden, rtol=0, atol=1e-12)
    torch.autograd.backward(padded.square().sum())
    found = [parameter.grad for parameter in [*embedding.parameters(), *encoder.parameters()]]
    embedding.zero_grad()
    encoder.zero_grad()
    torch.autograd.backward(hidden.square().sum())
    for one, parameter in zip(found, [*embedding.parameters(), *encoder.parameters()], strict=True):
        assert one is not None
        assert parameter.grad is not None
        assert torch.allclose(one, parameter.grad, rtol=0, atol=1e-10)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = max(length, 1)
        alone = {name: part[row : row + 1, :steps] for name, part in batch.items() if name != "statics"}
        alone["statics"] = batch["statics"][row : row + 1]
        found_alone = run(embedding, encoder, alone, LENGTHS[row : row + 1])
        assert torch.allclose(found_alone[0, :length], hidden[row, :length], rtol=0, atol=1e-12)


def test_later_steps_never_reach_earlier_states() -> None:
    (embedding, encoder), batch = build(), random_batch()
    read = {name: part.requires_grad_() for name, part in batch.items() if name != "statics"}
    torch.autograd.backward(run(embedding, encoder, batch, LENGTHS)[:, 3].sum())
    assert encoder.causal
    for name, part in read.items():
        assert part.grad is not None, name
        assert part.grad[:, 4:].count_nonzero() == 0, name
        assert part.grad[1, :4].count_nonzero() > 0, name


def test_a_state_fades_while_nothing_is_measured() -> None:
    torch.manual_seed(0)
    encoder = GRUDEncoder(2, F, H)
    with torch.no_grad():
        encoder.inputs.bias[H : 2 * H] = -50.0  # z = 0: the state is only ever what is left of it
        encoder.inputs.weight[H : 2 * H, 0] = 100.0  # but z = 1 where the first input is 1
    x = torch.zeros(1, 6, 2)
    x[0, 0] = 1.0
    hours = torch.arange(6.0) * 12
    given = {"hours_since": hours.view(1, -1, 1).expand(1, 6, F), "hours_before": (60 - hours).view(1, -1)}
    size = encoder(x, torch.tensor([6]), **given).detach().norm(dim=2).flatten().tolist()
    assert all(after < before for before, after in pairwise(size))


def test_new_weights_are_orthogonal_glorot_and_fade_slowly() -> None:
    encoder = GRUDEncoder(5, F, H)
    for gate in encoder.recurrent.weight.chunk(3):
        assert torch.allclose(gate @ gate.T, torch.eye(H), atol=1e-5)
    assert encoder.inputs.weight.abs().max() <= (6 / (H + 5)) ** 0.5
    assert encoder.inputs.bias.count_nonzero() == encoder.decay.bias.count_nonzero() == 0
    assert encoder.decay.weight.min() >= 0
    assert encoder.decay.weight.sum(dim=1).max() <= 0.2


def test_dropout_acts_in_training_only() -> None:
    batch = random_batch()
    for options in ({"dropout": 0.5}, {"input_dropout": 0.5}):
        embedding, encoder = build(**options)
        assert not torch.equal(run(embedding, encoder, batch, LENGTHS), run(embedding, encoder, batch, LENGTHS))
        assert torch.equal(run(embedding, encoder.eval(), batch, LENGTHS), run(*build(), batch, LENGTHS))
    embedding = DecayedGridEmbedding(F, S, dropout=0.5).double()
    dropped, kept = embedding(**batch), embedding.eval()(**batch)
    assert 0.2 < (dropped[kept != 0] == 0).double().mean() < 0.8
    assert torch.allclose(dropped[dropped != 0], 2 * kept[dropped != 0])


def test_half_precision_around_it_leaves_the_recurrence_whole() -> None:
    embedding, encoder = build()
    embedding, encoder = embedding.float(), encoder.float()
    batch = {name: part.float() for name, part in random_batch().items()}
    whole = run(embedding, encoder, batch, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(embedding, encoder, batch, LENGTHS)
    assert half.dtype is torch.float32
    assert torch.allclose(half, whole, rtol=0, atol=0.05)
    torch.autograd.backward(half.sum())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("kind", [GRUDEncoder, DecayedGridEmbedding])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features is 0; allowed are whole numbers from 1 up"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
        ({"time_unit_hours": 0.0}, "time_unit_hours is 0.0; allowed are numbers above 0"),
    ],
)
def test_bad_arguments_are_named(kind: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    sizes = {"input_size": 5} if kind is GRUDEncoder else {"num_statics": 0}
    with pytest.raises(ConfigError) as caught:
        kind(**(sizes | {"num_features": F} | arguments))
    assert str(caught.value) == message
