"""Minimal recurrent encoders against the plain equations of their paper, step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import MinGRUEncoder, MinLSTMEncoder
from ehrseq.nn.encoders.minimal import MinimalEncoder

D, H, T = 5, 4, 9
LENGTHS = torch.tensor([3, 9, 1, 6, 9])

each_encoder = pytest.mark.parametrize("kind", [MinLSTMEncoder, MinGRUEncoder])


def random_steps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), T, D, dtype=torch.float64)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def lstm_step(gates: Tensor, h: Tensor) -> Tensor:
    f, i, candidate = sigmoid(gates[:H]), sigmoid(gates[H : 2 * H]), gates[2 * H :]
    return f / (f + i) * h + i / (f + i) * candidate


def gru_step(gates: Tensor, h: Tensor) -> Tensor:
    z, candidate = sigmoid(gates[:H]), gates[H:]
    return (1 - z) * h + z * candidate


def normalised(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


@each_encoder
@pytest.mark.parametrize(("residual", "layer_norm"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_outputs_follow_the_written_equations(
    kind: type[MinimalEncoder], num_layers: int, residual: bool, layer_norm: bool
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, residual=residual, layer_norm=layer_norm).double()
    for parameter in encoder.gates.parameters():
        nn.init.normal_(parameter)
    weights = encoder.state_dict()
    step = lstm_step if kind is MinLSTMEncoder else gru_step
    x = random_steps()
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = list(x[row, :length])
        for layer in range(num_layers):
            weight, bias = weights[f"gates.{layer}.weight"], weights[f"gates.{layer}.bias"]
            h = torch.zeros(H, dtype=torch.float64)
            outputs = []
            for vector in steps:
                read = normalised(vector) if layer_norm else vector
                h = step(weight @ read + bias, h)
                outputs.append(vector + h if residual and layer else h)
            steps = outputs
        assert torch.allclose(hidden[row, :length], torch.stack(steps), rtol=0, atol=1e-10)


def test_extreme_gates_stay_finite() -> None:
    encoder = MinLSTMEncoder(1, 2).double()
    nn.init.constant_(next(encoder.gates.parameters()), 1.0)
    for value in (-1e4, 1e4):
        x = torch.full((1, 4, 1), value, dtype=torch.float64, requires_grad=True)
        hidden = encoder(x, torch.tensor([4]))
        hidden.sum().backward()
        assert hidden.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@each_encoder
def test_shares_are_not_rounded_to_half_precision(kind: type[MinimalEncoder]) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H)
    enter = slice(H, 2 * H) if kind is MinLSTMEncoder else slice(H)
    nn.init.constant_(encoder.gates.get_parameter("0.bias")[enter], -8.0)  # hardly anything enters
    x = random_steps().float()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = encoder(x, LENGTHS)
    assert hidden.dtype == torch.float32
    assert torch.allclose(hidden, encoder(x, LENGTHS), rtol=0.1, atol=1e-4)


@each_encoder
def test_new_weights_are_glorot_and_remember(kind: type[MinimalEncoder]) -> None:
    torch.manual_seed(0)
    weights = kind(D, H).state_dict()
    limit = (6 / (H + D)) ** 0.5
    for gate in weights["gates.0.weight"].chunk(kind.num_gates):
        assert 0.6 * limit < gate.abs().max() <= limit
    remembered = 1.0 if kind is MinLSTMEncoder else 0.0
    assert weights["gates.0.bias"].tolist() == [remembered] * H + [0.0] * (kind.num_gates - 1) * H


@each_encoder
def test_dropout_acts_in_training_only(kind: type[MinimalEncoder]) -> None:
    torch.manual_seed(0)
    x, lengths = random_steps().float(), torch.full((len(LENGTHS),), T)
    encoder = kind(D, 32, dropout=0.5)
    dropped, kept = encoder(x, lengths), encoder.eval()(x, lengths)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(dropped[dropped != 0], 2 * kept[dropped != 0])
    wet = kind(D, H, input_dropout=0.5)
    assert not torch.allclose(wet(x, LENGTHS), wet(x, LENGTHS))


@each_encoder
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"hidden_size": 8.0}, "hidden_size is 8.0; allowed are whole numbers from 1 up"),
        ({"num_layers": 0}, "num_layers is 0; allowed are whole numbers from 1 up"),
        ({"residual": "false"}, "residual is 'false'; allowed are true and false"),
        ({"layer_norm": 1}, "layer_norm is 1; allowed are true and false"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
        ({"input_dropout": -0.1}, "input_dropout is -0.1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(kind: type[MinimalEncoder], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**({"input_size": D} | arguments))
    assert str(caught.value) == message
