"""What every encoder promises: padding, company and order change nothing, and causal ones see no later step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ehrseq.nn import (
    Encoder,
    LSTMTransformerEncoder,
    MinGRUEncoder,
    MinLSTMEncoder,
    TransformerEncoder,
    XLSTMEncoder,
)

D, H, T = 5, 8, 9
LENGTHS = torch.tensor([3, 9, 1, 6, 9, 0])
ENCODERS: list[tuple[type[Encoder], dict[str, Any]]] = [
    (MinLSTMEncoder, {}),
    (MinLSTMEncoder, {"num_layers": 3, "residual": True, "layer_norm": True}),
    (MinGRUEncoder, {}),
    (MinGRUEncoder, {"num_layers": 2}),
    (TransformerEncoder, {}),
    (TransformerEncoder, {"causal": False}),
    (LSTMTransformerEncoder, {}),
    (LSTMTransformerEncoder, {"causal": False, "lstm_layers": 2, "num_layers": 2}),
    (XLSTMEncoder, {}),
    (XLSTMEncoder, {"blocks": "s", "num_heads": 1}),
    (XLSTMEncoder, {"blocks": "m", "num_heads": 2}),
]


@pytest.fixture(
    name="encoder",
    params=ENCODERS,
    ids=lambda pair: "-".join([pair[0].__name__, *(f"{name}={value}" for name, value in pair[1].items())]),
)
def built_encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    kind, arguments = request.param
    encoder: Encoder = kind(input_size=D, hidden_size=H, **arguments)
    return encoder.eval()


def random_batch() -> dict[str, Tensor]:
    """Steps and what else encoders read, in float32."""
    torch.manual_seed(1)
    gaps = torch.rand(len(LENGTHS), T) * 5 * (torch.arange(T) < LENGTHS.unsqueeze(1))
    return {"x": torch.randn(len(LENGTHS), T, D), "hours_before": gaps.flip(1).cumsum(1).flip(1)}


def run(encoder: Encoder, batch: dict[str, Tensor], lengths: Tensor) -> Tensor:
    hidden: Tensor = encoder(batch["x"], lengths, **{name: batch[name] for name in encoder.reads})
    return hidden


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-5)


def test_shapes_and_attributes_are_as_promised(encoder: Encoder) -> None:
    hidden = run(encoder, random_batch(), LENGTHS)
    assert hidden.shape == (len(LENGTHS), T, encoder.output_size)
    assert hidden.dtype == torch.float32
    assert (encoder.input_size, encoder.output_size, encoder.bidirectional) == (D, H, False)


@pytest.mark.parametrize("fill", [0.0, -1.0, 1e3])
def test_padding_gives_exact_zeros_and_changes_nothing(encoder: Encoder, fill: float) -> None:
    batch = random_batch()
    hidden = run(encoder, batch, LENGTHS)
    longer = {"x": torch.full((len(LENGTHS), T + 4, D), fill), "hours_before": torch.zeros(len(LENGTHS), T + 4)}
    for row, length in enumerate(LENGTHS.tolist()):
        assert hidden[row, length:].count_nonzero() == 0
        assert hidden[row, :length].count_nonzero() == length * H
        for name, tensor in longer.items():
            tensor[row, :length] = batch[name][row, :length]
    after = run(encoder, longer, LENGTHS)
    assert close(after[:, :T], hidden)
    assert after[:, T:].count_nonzero() == 0


def test_a_history_alone_gives_what_it_gives_in_any_batch(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = run(encoder, batch, LENGTHS)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    assert close(run(encoder, {name: x[order] for name, x in batch.items()}, LENGTHS[order]), hidden[order])
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            one = {name: x[row : row + 1, :length] for name, x in batch.items()}
            assert close(run(encoder, one, LENGTHS[row : row + 1])[0], hidden[row, :length])


def test_causal_encoders_and_only_these_never_see_later_steps(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = run(encoder, batch, LENGTHS)
    for t in range(1, T):
        x, hours = batch["x"].clone(), batch["hours_before"].clone()
        x[:, t] += torch.randn(len(LENGTHS), D)
        hours[:, :t] += 1.0  # the step comes an hour later; hours before it are counted from an hour later, too
        shift = (run(encoder, {"x": x, "hours_before": hours}, LENGTHS) - hidden).abs().amax(dim=2)
        assert shift[t < LENGTHS, t].min() > 1e-4  # the step itself is always seen
        if encoder.causal:
            assert shift[:, :t].max() <= 1e-5
        else:
            assert shift[t < LENGTHS, t - 1].min() > 1e-6


def test_every_weight_learns_and_padding_does_not_reach_its_gradient(encoder: Encoder) -> None:
    gradients = []
    for fill in (0.0, 50.0):
        batch = random_batch()
        batch["x"].masked_fill_((torch.arange(T) >= LENGTHS.unsqueeze(1)).unsqueeze(2), fill)
        encoder.zero_grad()
        torch.autograd.backward(run(encoder, batch, LENGTHS).pow(3).sum())
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None, name
        assert other is not None, name
        assert gradient.count_nonzero() > 0, name
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-5), name


def test_gradients_are_those_of_finite_differences(encoder: Encoder) -> None:
    encoder.double()
    batch = {name: x[:2, :4].double() for name, x in random_batch().items()}
    lengths = torch.tensor([3, 4])
    x = batch.pop("x").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(encoder, {"x": x, **batch}, lengths), (x,))


def test_no_steps_and_no_gradient_are_nothing_special(encoder: Encoder) -> None:
    batch = {name: x[5:, :1] for name, x in random_batch().items()}
    with torch.no_grad():
        hidden = run(encoder, batch, LENGTHS[5:])
    assert hidden.shape == (1, 1, H)
    assert hidden.count_nonzero() == 0
