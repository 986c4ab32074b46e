"""The channel-wise LSTM against the written equations, one variable and one step after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.config.load import load_settings
from ehrseq.errors import ConfigError
from ehrseq.nn import ChannelwiseLSTMEncoder
from ehrseq.nn.embedding import scale_hours
from ehrseq.workflows.build import build_model

F, D, H, C = 3, 5, 4, 2
LENGTHS = torch.tensor([3, 7, 1, 6])
each_direction = pytest.mark.parametrize("bidirectional", [False, True])


def random_batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    shape = (len(LENGTHS), 7, F)
    return {
        "x": torch.randn(len(LENGTHS), 7, D, dtype=torch.float64),
        "lengths": LENGTHS,
        "values": torch.randn(shape, dtype=torch.float64),
        "observed": (torch.rand(shape) < 0.5).double(),
        "hours_since": torch.rand(shape, dtype=torch.float64) * 48,
    }


def lstm_states(steps: list[Tensor], from_input: Tensor, from_state: Tensor, bias: Tensor, order: str) -> list[Tensor]:
    """The states of an LSTM after each step; `order` says which gate comes when in the weights."""
    size = len(bias) // 4
    h = c = torch.zeros(size, dtype=torch.float64)
    states = []
    for x in steps:
        parts = torch.chunk(from_input @ x + from_state @ h + bias, 4)
        gate = {name: parts[order.index(name)] for name in order}
        c = torch.sigmoid(gate["f"]) * c + torch.sigmoid(gate["i"]) * torch.tanh(gate["g"])
        h = torch.sigmoid(gate["o"]) * torch.tanh(c)
        states.append(h)
    return states


@each_direction
@pytest.mark.parametrize("hours_since", [False, True])
def test_states_follow_the_written_equations(bidirectional: bool, hours_since: bool) -> None:
    torch.manual_seed(0)
    encoder = ChannelwiseLSTMEncoder(D, F, C, bidirectional, hours_since, hidden_size=H).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    batch = random_batch()
    hidden = encoder(**batch)
    own, main = encoder.channels, encoder.main.torch_state()
    for row, length in enumerate(LENGTHS.tolist()):
        outputs = []
        for channel in range(2 * F if bidirectional else F):
            names = ["values", "observed"] + ["hours_since"] * hours_since
            read = {name: batch[name][row, :length, channel % F] for name in names}
            if hours_since:
                read["hours_since"] = scale_hours(read["hours_since"])
            steps = list(torch.stack(list(read.values()), dim=1))
            back = -1 if channel >= F else 1
            weights = (own.weight_ih[channel], own.weight_hh[channel], own.bias[channel, :, 0])
            outputs.append(lstm_states(steps[::back], *weights, order="ifog")[::back])
        steps = [torch.cat([*(states[t] for states in outputs), batch["x"][row, t]]) for t in range(length)]
        weights = (main["weight_ih_l0"], main["weight_hh_l0"], main["bias_ih_l0"] + main["bias_hh_l0"])
        for t, state in enumerate(lstm_states(steps, *weights, order="ifgo")):
            assert torch.allclose(hidden[row, t], state, rtol=0, atol=1e-10)


@each_direction
def test_only_channels_that_go_one_way_are_causal(bidirectional: bool) -> None:
    encoder = ChannelwiseLSTMEncoder(D, F, C, bidirectional)
    assert encoder.causal is not bidirectional
    assert encoder.bidirectional is False  # a hidden state is the main LSTM's, which goes one way


def test_no_channel_reads_another() -> None:
    torch.manual_seed(0)
    encoder = ChannelwiseLSTMEncoder(D, F, C, hidden_size=H).double()
    batch = random_batch()
    inputs = torch.stack([batch["values"], batch["observed"]], dim=-1)
    changed = inputs.clone()
    changed[:, :, 1] += 1.0
    moved = [encoder._run_channels(x, LENGTHS).view(len(LENGTHS), 7, 2 * F, C) for x in (inputs, changed)]
    assert ((moved[0] - moved[1]).abs().amax(dim=(0, 1, 3)) > 0).tolist() == [False, True, False] * 2


@each_direction
def test_new_weights_are_orthogonal_glorot_and_remember(bidirectional: bool) -> None:
    torch.manual_seed(0)
    channels = ChannelwiseLSTMEncoder(D, F, 8, bidirectional).channels
    limit = (6 / (8 + 2)) ** 0.5
    for weight_ih, weight_hh, bias in zip(channels.weight_ih, channels.weight_hh, channels.bias, strict=True):
        for gate in weight_hh.chunk(4):
            assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
        assert 0.8 * limit < weight_ih.abs().max() <= limit
        assert bias.flatten().tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    encoder = ChannelwiseLSTMEncoder(2, 2, 2, hidden_size=2).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    rest = torch.ones(2, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, v: encoder(x, torch.tensor([3, 2]), v, rest, rest), (x, values))


def test_sizes_come_from_the_data() -> None:
    settings = load_settings(["model=channelwise_lstm"])
    encoder = build_model(settings.model, settings.task.target, settings.loss, num_features=7, num_statics=3).encoder
    assert isinstance(encoder, ChannelwiseLSTMEncoder)
    assert encoder.num_features == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features is 0; allowed are whole numbers from 1 up"),
        ({"channel_size": 0}, "channel_size is 0; allowed are whole numbers from 1 up"),
        ({"bidirectional_channels": "no"}, "bidirectional_channels is 'no'; allowed are true and false"),
        ({"hours_since": 1}, "hours_since is 1; allowed are true and false"),
        ({"hidden_size": 0}, "hidden_size is 0; allowed are whole numbers from 1 up"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ChannelwiseLSTMEncoder(**({"input_size": D, "num_features": F} | arguments))
    assert str(caught.value) == message
