"""Convolutions before an LSTM against the written equations, one step after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import ConvLSTMEncoder

D, C, H = 5, 6, 4
LENGTHS = torch.tensor([3, 9, 1, 6])


def random_steps(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), 9, D, dtype=dtype)


def kernels(encoder: ConvLSTMEncoder) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution."""
    parameters = list(encoder.convolutions.parameters())
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def lstm_states(encoder: ConvLSTMEncoder, steps: list[Tensor]) -> list[Tensor]:
    """The states of the encoder's LSTM after each step."""
    w = encoder.lstm.torch_state()
    h = c = torch.zeros(H, dtype=torch.float64)
    states = []
    for x in steps:
        gates = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return states


@pytest.mark.parametrize("channels", [C, D])
@pytest.mark.parametrize(("kernel_size", "num_conv_layers"), [(1, 1), (3, 1), (2, 2), (4, 3)])
def test_states_follow_the_written_equations(channels: int, kernel_size: int, num_conv_layers: int) -> None:
    torch.manual_seed(0)
    encoder = ConvLSTMEncoder(D, channels, kernel_size, num_conv_layers, H).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    assert (encoder.projection is None) == (channels == D)
    x = random_steps()
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = list(x[row, :length])
        for layer, (weight, bias) in enumerate(kernels(encoder)):
            read = steps
            kept = [encoder.projection.weight @ v for v in read] if layer == 0 and encoder.projection else read
            steps = []
            for t in range(length):
                found = bias
                for k in range(min(kernel_size, t + 1)):
                    found = found + weight[:, :, kernel_size - 1 - k] @ read[t - k]
                steps.append(kept[t] + found.clamp(min=0))
        for t, state in enumerate(lstm_states(encoder, steps)):
            assert torch.allclose(hidden[row, t], state, rtol=0, atol=1e-10)


def test_new_weights_suit_relu() -> None:
    torch.manual_seed(0)
    encoder = ConvLSTMEncoder(D, 32, kernel_size=4)
    for (weight, bias), size in zip(kernels(encoder), (D, 32), strict=True):
        limit = (6 / (4 * size)) ** 0.5
        assert 0.9 * limit < weight.abs().max() <= limit
        assert bias.count_nonzero() == 0


def test_dropout_leaves_the_way_around_a_convolution_open_and_acts_in_training_only() -> None:
    torch.manual_seed(0)
    encoder, x = ConvLSTMEncoder(D, C, hidden_size=H, conv_dropout=0.5).double(), random_steps()
    assert not torch.allclose(encoder(x, LENGTHS), encoder(x, LENGTHS))
    encoder.eval()
    assert torch.equal(encoder(x, LENGTHS), encoder(x, LENGTHS))
    encoder.train()
    encoder.conv_dropout.p = 1.0
    assert encoder.projection is not None
    assert torch.allclose(encoder(x, LENGTHS), encoder.lstm(encoder.projection(x), LENGTHS), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    encoder = ConvLSTMEncoder(2, 3, kernel_size=2, hidden_size=2).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoder(x, torch.tensor([3, 2])), (x,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"channels": 0}, "channels is 0; allowed are whole numbers from 1 up"),
        ({"kernel_size": 2.0}, "kernel_size is 2.0; allowed are whole numbers from 1 up"),
        ({"num_conv_layers": 0}, "num_conv_layers is 0; allowed are whole numbers from 1 up"),
        ({"num_layers": 0}, "num_layers is 0; allowed are whole numbers from 1 up"),
        ({"conv_dropout": 1}, "conv_dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConvLSTMEncoder(**({"input_size": D} | arguments))
    assert str(caught.value) == message
