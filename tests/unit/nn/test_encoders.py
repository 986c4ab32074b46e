"""Encoders against torch's packed sequences, against the written equations, and against their own promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ehrseq.errors import ConfigError
from ehrseq.nn import GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder

D, H = 5, 4
LENGTHS = torch.tensor([3, 9, 1, 6, 9])
TORCH: dict[type[RecurrentEncoder], type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    RNNEncoder: nn.RNN,
    LSTMEncoder: nn.LSTM,
    GRUEncoder: nn.GRU,
}

each_encoder = pytest.mark.parametrize("kind", list(TORCH))
each_depth = pytest.mark.parametrize("num_layers", [1, 2, 3])
each_direction = pytest.mark.parametrize("bidirectional", [False, True])


def random_steps(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), 9, D, dtype=dtype)


def pair(kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool) -> tuple[RecurrentEncoder, nn.RNNBase]:
    """An encoder and torch's module with the same weights, in float64."""
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, bidirectional).double()
    reference = TORCH[kind](D, H, num_layers, batch_first=True, bidirectional=bidirectional).double()
    encoder.load_torch_state(reference.state_dict())
    return encoder, reference


def run_packed(reference: nn.RNNBase, x: Tensor, lengths: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output: Tensor = pad_packed_sequence(reference(packed)[0], batch_first=True, total_length=x.shape[1])[0]
    return output


@each_encoder
@each_depth
@each_direction
def test_outputs_and_gradients_equal_those_of_packed_sequences(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool
) -> None:
    encoder, reference = pair(kind, num_layers, bidirectional)
    mine, theirs = random_steps().requires_grad_(), random_steps().requires_grad_()
    hidden, expected = encoder(mine, LENGTHS), run_packed(reference, theirs, LENGTHS)
    assert hidden.shape == (len(LENGTHS), 9, encoder.output_size)
    assert torch.allclose(hidden, expected, rtol=0, atol=1e-10)

    weight = torch.randn_like(expected)  # not zero on padding: what padding is worth must not matter
    torch.autograd.backward([(hidden * weight).sum(), (expected * weight).sum()])
    assert mine.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(mine.grad, theirs.grad, rtol=0, atol=1e-10)
    # The gradient step goes through the name mapping, so it also shows that every weight is where its name says.
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *reference.parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 1e-6
            parameter.copy_(parameter.grad)
    gradients = encoder.torch_state()
    assert gradients.keys() == reference.state_dict().keys()
    for name, gradient in reference.state_dict().items():
        assert torch.allclose(gradients[name], gradient, rtol=0, atol=1e-10), name


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def rnn_step(x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    a = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
    return (torch.exp(a) - torch.exp(-a)) / (torch.exp(a) + torch.exp(-a)), c


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    gates = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
    i, f, g, o = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
    c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
    return sigmoid(o) * torch.tanh(c), c


def gru_step(x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    a, b = w["weight_ih_l0"] @ x + w["bias_ih_l0"], w["weight_hh_l0"] @ h + w["bias_hh_l0"]
    r, z = sigmoid(a[:H] + b[:H]), sigmoid(a[H : 2 * H] + b[H : 2 * H])
    n = torch.tanh(a[2 * H :] + r * b[2 * H :])
    return (1 - z) * n + z * h, c


@pytest.mark.parametrize(("kind", "step"), [(RNNEncoder, rnn_step), (LSTMEncoder, lstm_step), (GRUEncoder, gru_step)])
def test_outputs_follow_the_written_equations(
    kind: type[RecurrentEncoder], step: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    weights, x = encoder.torch_state(), random_steps()
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        h = c = torch.zeros(H, dtype=torch.float64)
        for t in range(length):
            h, c = step(x[row, t], h, c, weights)
            assert torch.allclose(hidden[row, t], h, rtol=0, atol=1e-12)


@each_encoder
@each_depth
@each_direction
def test_padding_gives_exact_zeros_and_changes_nothing(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, bidirectional).eval()
    x = random_steps(torch.float32)
    hidden = encoder(x, LENGTHS)
    other = x.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        assert hidden[row, length:].count_nonzero() == 0
        assert hidden[row, :length].count_nonzero() == length * encoder.output_size
        other[row, length:] = 1e3
    assert torch.allclose(encoder(other, LENGTHS), hidden, rtol=0, atol=1e-6)
    longer = torch.cat([x, torch.full((len(x), 4, D), -7.0)], dim=1)
    assert torch.allclose(encoder(longer, LENGTHS)[:, :9], hidden, rtol=0, atol=1e-6)


@each_encoder
@each_depth
@each_direction
def test_a_history_alone_gives_what_it_gives_in_a_batch(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, bidirectional).eval()
    x = random_steps(torch.float32)
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encoder(x[row : row + 1, :length], LENGTHS[row : row + 1])
        assert torch.allclose(alone[0], hidden[row, :length], rtol=0, atol=1e-6)


@each_encoder
@each_depth
@each_direction
def test_causal_encoders_and_only_these_never_see_later_steps(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, bidirectional).eval()
    x = random_steps(torch.float32)
    hidden = encoder(x, LENGTHS)
    for t in range(1, 9):
        changed = x.clone()
        changed[:, t] += 1.0
        after = encoder(changed, LENGTHS)
        shift = (after - hidden).abs().amax(dim=2)
        assert shift[t < LENGTHS, t].min() > 1e-4  # the step itself is always seen
        if encoder.causal:
            assert shift[:, :t].max() <= 1e-6
        else:
            assert shift[t < LENGTHS, t - 1].min() > 1e-5
    assert encoder.causal is not bidirectional


@each_encoder
def test_gradients_are_those_of_finite_differences(kind: type[RecurrentEncoder]) -> None:
    torch.manual_seed(0)
    encoder = kind(2, 2, num_layers=2, bidirectional=True).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoder(x, torch.tensor([3, 2])), (x,))


@each_encoder
@each_direction
def test_a_history_without_steps_has_zero_states(kind: type[RecurrentEncoder], bidirectional: bool) -> None:
    torch.manual_seed(0)
    hidden = kind(D, H, bidirectional=bidirectional)(torch.ones(2, 3, D), torch.tensor([0, 2]))
    assert hidden[0].count_nonzero() == 0
    assert hidden[1].count_nonzero() == 2 * hidden.shape[2]


@each_encoder
@each_depth
@each_direction
def test_torch_state_makes_the_round_trip(kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool) -> None:
    torch.manual_seed(0)
    first, second = (kind(D, H, num_layers, bidirectional).double() for _ in range(2))
    reference = TORCH[kind](D, H, num_layers, batch_first=True, bidirectional=bidirectional).double()
    assert list(first.torch_state()) == list(reference.state_dict())
    reference.load_state_dict(first.torch_state())
    x = random_steps()
    assert not torch.allclose(first(x, LENGTHS), second(x, LENGTHS))
    second.load_torch_state(reference.state_dict())
    assert torch.equal(first(x, LENGTHS), second(x, LENGTHS))
    assert torch.allclose(run_packed(reference, x, LENGTHS), second(x, LENGTHS), rtol=0, atol=1e-10)


def test_torch_state_is_a_copy() -> None:
    encoder = LSTMEncoder(D, H)
    for weight in encoder.torch_state().values():
        weight.fill_(9.0)
    assert all(float(weight.detach().abs().max()) < 9 for weight in encoder.parameters())


def test_a_state_dict_that_does_not_fit_is_named_and_nothing_is_loaded() -> None:
    encoder = LSTMEncoder(D, H)
    before = encoder.torch_state()
    with pytest.raises(
        ConfigError, match=r"^state_dict has an unknown 'bias_hh_l1'; allowed are exactly weight_ih_l0,"
    ):
        encoder.load_torch_state(nn.LSTM(D, H, 2).state_dict())
    with pytest.raises(ConfigError, match=r"^state_dict lacks 'bias_hh_l0_reverse'; allowed are exactly weight_ih_l0,"):
        LSTMEncoder(D, H, bidirectional=True).load_torch_state(nn.LSTM(D, H).state_dict())
    wrong = nn.LSTM(D, H).state_dict() | {"bias_hh_l0": torch.zeros(3 * H)}
    with pytest.raises(ConfigError, match=r"^state_dict has 'bias_hh_l0' of shape \(12,\); allowed is \(16,\)$"):
        encoder.load_torch_state(wrong)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.torch_state().items())


@each_encoder
@each_direction
def test_dropout_acts_with_one_layer_too_and_in_training_only(
    kind: type[RecurrentEncoder], bidirectional: bool
) -> None:
    torch.manual_seed(0)
    encoder = kind(D, 32, bidirectional=bidirectional, dropout=0.5)
    x, lengths = random_steps(torch.float32), torch.full((len(LENGTHS),), 9)
    dropped = encoder(x, lengths)
    kept = encoder.eval()(x, lengths)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(dropped[dropped != 0], 2 * kept[dropped != 0])


@each_direction
def test_dropout_acts_between_layers_and_on_the_input(bidirectional: bool) -> None:
    torch.manual_seed(0)
    x = random_steps(torch.float32)
    stack = GRUEncoder(D, H, num_layers=2, bidirectional=bidirectional, dropout=0.5)
    one, other = stack(x, LENGTHS), stack(x, LENGTHS)
    both_kept = (one != 0) & (other != 0)  # equal here if only the last layer's outputs were dropped
    assert both_kept.any()
    assert not torch.allclose(one[both_kept], other[both_kept])
    wet = GRUEncoder(D, H, bidirectional=bidirectional, input_dropout=0.5)
    assert not torch.allclose(wet(x, LENGTHS), wet(x, LENGTHS))
    wet.eval()
    assert torch.equal(wet(x, LENGTHS), wet(x, LENGTHS))


@pytest.mark.filterwarnings("error")
@each_encoder
def test_no_combination_of_arguments_makes_torch_warn(kind: type[RecurrentEncoder]) -> None:
    for bidirectional in (False, True):
        encoder = kind(D, H, num_layers=1, bidirectional=bidirectional, dropout=0.3)
        assert encoder(random_steps(torch.float32), LENGTHS).shape[2] == encoder.output_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"hidden_size": -1}, "hidden_size is -1; allowed are whole numbers from 1 up"),
        ({"hidden_size": 8.0}, "hidden_size is 8.0; allowed are whole numbers from 1 up"),
        ({"num_layers": 0}, "num_layers is 0; allowed are whole numbers from 1 up"),
        ({"num_layers": True}, "num_layers is True; allowed are whole numbers from 1 up"),
        ({"bidirectional": "false"}, "bidirectional is 'false'; allowed are true and false"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
        ({"residual": 1}, "residual is 1; allowed are true and false"),
        ({"layer_norm": "no"}, "layer_norm is 'no'; allowed are true and false"),
        (
            {"variational_dropout": 2},
            "variational_dropout is 2; allowed are numbers from 0 up to, but not including, 1",
        ),
        ({"input_dropout": -0.1}, "input_dropout is -0.1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
@each_encoder
def test_bad_arguments_are_named(kind: type[RecurrentEncoder], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**({"input_size": D} | arguments))
    assert str(caught.value) == message
