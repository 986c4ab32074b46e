"""The time-aware LSTM against its published equations and against what every encoder promises."""

from math import e, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import LSTMEncoder, TLSTMEncoder
from ehrseq.nn.elapsed import elapsed_hours

D, H, T = 5, 4, 7
LENGTHS = torch.tensor([3, 7, 1, 7, 0])


def build(**options: Any) -> TLSTMEncoder:
    torch.manual_seed(0)
    encoder = TLSTMEncoder(D, H, **options).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    return encoder


def random_inputs() -> tuple[Tensor, Tensor]:
    """Steps and the hours before the prediction, falling, with some steps at the same time and long gaps."""
    torch.manual_seed(1)
    gaps = torch.rand(len(LENGTHS), T, dtype=torch.float64) ** 4 * 500
    gaps[:, 2] = 0.0
    hours_before = gaps.flip(1).cumsum(1).flip(1) - gaps[:, -1:]
    return torch.randn(len(LENGTHS), T, D, dtype=torch.float64), hours_before


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def by_the_book(encoder: TLSTMEncoder, x: Tensor, hours_before: list[float], unit: float) -> list[Tensor]:
    """The paper's equations for one history, (T, D), one gate at a time."""
    w_i, w_f, w_o, w_c = encoder.inputs.weight.chunk(4)
    b_i, b_f, b_o, b_c = encoder.inputs.bias.chunk(4)
    u_i, u_f, u_o, u_c = encoder.recurrent.weight.chunk(4)
    w_d, b_d = encoder.short_term.weight, encoder.short_term.bias
    h = c = torch.zeros(H, dtype=torch.float64)
    states = []
    for t in range(len(x)):
        elapsed = 0.0 if t == 0 else (hours_before[t - 1] - hours_before[t]) / unit
        short = torch.tanh(w_d @ c + b_d)
        discounted = short * (1 / log(e + elapsed))
        adjusted = (c - short) + discounted
        f = sigmoid(w_f @ x[t] + u_f @ h + b_f)
        i = sigmoid(w_i @ x[t] + u_i @ h + b_i)
        o = sigmoid(w_o @ x[t] + u_o @ h + b_o)
        candidate = torch.tanh(w_c @ x[t] + u_c @ h + b_c)
        c = f * adjusted + i * candidate
        h = o * torch.tanh(c)
        states.append(h)
    return states


@pytest.mark.parametrize("unit", [1.0, 24.0])
def test_outputs_follow_the_written_equations(unit: float) -> None:
    encoder = build(time_unit_hours=unit)
    x, hours_before = random_inputs()
    hidden = encoder(x, LENGTHS, hours_before=hours_before)
    assert hidden.shape == (len(LENGTHS), T, H)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = by_the_book(encoder, x[row, :length], hours_before[row].tolist(), unit)
        for t in range(length):
            assert torch.allclose(hidden[row, t], expected[t], rtol=0, atol=1e-10)
        assert hidden[row, length:].count_nonzero() == 0


def test_without_time_between_steps_it_is_an_lstm() -> None:
    encoder, (x, _) = build(), random_inputs()
    reference = LSTMEncoder(D, H).double()
    order = [0, 1, 3, 2]  # ours is i, f, o, g, torch's i, f, g, o

    def torch_order(weight: Tensor) -> Tensor:
        gates = weight.chunk(4)
        return torch.cat([gates[k] for k in order])

    reference.load_torch_state(
        {
            "weight_ih_l0": torch_order(encoder.inputs.weight),
            "weight_hh_l0": torch_order(encoder.recurrent.weight),
            "bias_ih_l0": torch_order(encoder.inputs.bias),
            "bias_hh_l0": torch.zeros(4 * H),
        }
    )
    still = torch.full(x.shape[:2], 5.0, dtype=torch.float64)
    assert torch.allclose(encoder(x, LENGTHS, hours_before=still), reference(x, LENGTHS), rtol=0, atol=1e-10)


@pytest.mark.parametrize("fill", [-1.0, 0.0, 1e4])
def test_padding_and_company_change_nothing(fill: float) -> None:
    encoder, (x, hours_before) = build(), random_inputs()
    hidden = encoder(x, LENGTHS, hours_before=hours_before)
    longer, later = torch.full((len(x), T + 4, D), fill).double(), torch.full((len(x), T + 4), fill).double()
    for row, length in enumerate(LENGTHS.tolist()):
        longer[row, :length], later[row, :length] = x[row, :length], hours_before[row, :length]
        one = slice(row, row + 1)
        alone = encoder(x[one, : max(length, 1)], LENGTHS[one], hours_before=hours_before[one, : max(length, 1)])
        assert torch.allclose(alone[0, :length], hidden[row, :length], rtol=0, atol=1e-12)
    padded = encoder(longer, LENGTHS, hours_before=later)
    assert torch.allclose(padded[:, :T], hidden, rtol=0, atol=1e-12)
    padded.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_later_steps_never_reach_earlier_states() -> None:
    encoder, (x, hours_before) = build(), random_inputs()
    x.requires_grad_()
    hours_before.requires_grad_()
    encoder(x, LENGTHS, hours_before=hours_before)[:, 3].sum().backward()
    assert encoder.causal
    for read in (x, hours_before):
        assert read.grad is not None
        assert read.grad[:, 4:].count_nonzero() == 0
        assert read.grad[1].count_nonzero() > 0


def test_elapsed_hours_are_zero_first_and_never_negative() -> None:
    hours = torch.tensor([[9.0, 7.0, 7.0, 0.5], [3.0, 0.0, 5.0, 0.0]])
    assert elapsed_hours(hours).tolist() == [[0.0, 2.0, 0.0, 6.5], [0.0, 3.0, 0.0, 5.0]]


def test_new_weights_are_orthogonal_glorot_and_remember() -> None:
    encoder = TLSTMEncoder(D, H)
    for gate in encoder.recurrent.weight.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(H), atol=1e-5)
    assert encoder.inputs.weight.abs().max() <= (6 / (H + D)) ** 0.5
    assert encoder.inputs.bias.tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H
    assert encoder.short_term.bias.count_nonzero() == 0


def test_dropout_acts_in_training_only() -> None:
    x, hours_before = random_inputs()
    for options in ({"dropout": 0.5}, {"input_dropout": 0.5}):
        encoder = build(**options)
        one, other = (encoder(x, LENGTHS, hours_before=hours_before) for _ in range(2))
        assert not torch.equal(one, other)
        kept = encoder.eval()(x, LENGTHS, hours_before=hours_before)
        assert torch.equal(kept, build()(x, LENGTHS, hours_before=hours_before))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"hidden_size": 8.0}, "hidden_size is 8.0; allowed are whole numbers from 1 up"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
        ({"input_dropout": -1}, "input_dropout is -1; allowed are numbers from 0 up to, but not including, 1"),
        ({"time_unit_hours": 0}, "time_unit_hours is 0; allowed are numbers above 0"),
        ({"time_unit_hours": float("inf")}, "time_unit_hours is inf; allowed are numbers above 0"),
        ({"time_unit_hours": True}, "time_unit_hours is True; allowed are numbers above 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TLSTMEncoder(**({"input_size": D} | arguments))
    assert str(caught.value) == message
