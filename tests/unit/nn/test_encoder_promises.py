"""What every encoder promises, with each of its options: padding, company, order and the future change nothing.

In float64, and of the encoders alone; `tests/integration/test_promises.py` holds whole nets to it, as configured.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from ehrseq.nn import (
    ChannelwiseLSTMEncoder,
    ConvLSTMEncoder,
    Encoder,
    LSTMTransformerEncoder,
    MinGRUEncoder,
    MinLSTMEncoder,
    RetainEncoder,
    TransformerEncoder,
    XLSTMEncoder,
)

F, D, H, T = 3, 5, 8, 9
LENGTHS = torch.tensor([3, 9, 1, 6, 9, 0])
CHANNELS: dict[str, Any] = {"num_features": F, "channel_size": 2, "hours_since": True}
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
    (RetainEncoder, {}),
    (ChannelwiseLSTMEncoder, CHANNELS),
    (ChannelwiseLSTMEncoder, {**CHANNELS, "bidirectional_channels": False}),
    (ConvLSTMEncoder, {"channels": 6, "num_conv_layers": 3}),
    (ConvLSTMEncoder, {"channels": D, "kernel_size": 2, "num_layers": 2}),
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
    return encoder.double().eval()


def random_batch() -> dict[str, Tensor]:
    """Embedded steps and all that an encoder may read beside them."""
    torch.manual_seed(1)
    rows, double = len(LENGTHS), torch.float64
    gaps = torch.rand(rows, T, dtype=double) * 5 * (torch.arange(T) < LENGTHS.unsqueeze(1))
    return {
        "x": torch.randn(rows, T, D, dtype=double),
        "hours_before": gaps.flip(1).cumsum(1).flip(1),
        "values": torch.randn(rows, T, F, dtype=double),
        "observed": (torch.rand(rows, T, F) < 0.5).double(),
        "hours_since": torch.rand(rows, T, F, dtype=double) * 48,
    }


def encode(encoder: Encoder, batch: dict[str, Tensor], lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor | None]:
    return encoder.encode(batch["x"], lengths, **{name: batch[name] for name in encoder.reads})


def assert_same(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> None:
    steps = min(one[0].shape[1], other[0].shape[1])
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine[:, :steps], theirs[:, :steps], rtol=0, atol=1e-12)


def test_shapes_and_attributes_are_as_promised(encoder: Encoder) -> None:
    batch = random_batch()
    hidden, weights = encode(encoder, batch)
    assert hidden.shape == (len(LENGTHS), T, encoder.output_size)
    assert torch.equal(hidden, encoder(batch["x"], LENGTHS, **{name: batch[name] for name in encoder.reads}))
    assert encoder.input_size == D
    assert not encoder.bidirectional
    assert (weights is not None) == encoder.gives_attention
    if weights is not None:
        torch.testing.assert_close(weights.sum(1), (LENGTHS > 0).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fill", [0.0, -1.0, 1e3])
def test_padding_gives_exact_zeros_and_changes_nothing(encoder: Encoder, fill: float) -> None:
    batch = random_batch()
    found = encode(encoder, batch)
    longer = {name: torch.cat([x, torch.zeros_like(x[:, :4])], dim=1) for name, x in batch.items()}
    for row, length in enumerate(LENGTHS.tolist()):
        assert found[0][row, length:].count_nonzero() == 0
        assert found[1] is None or found[1][row, length:].count_nonzero() == 0
        assert found[0][row, :length].any(dim=1).all()
        for x in longer.values():
            x[row, length:] = fill
    other = encode(encoder, longer)
    assert other[0][:, T:].count_nonzero() == 0
    assert_same(found, other)


def test_company_and_order_in_the_batch_change_nothing(encoder: Encoder) -> None:
    batch = random_batch()
    hidden, weights = encode(encoder, batch)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    other = encode(encoder, {name: x[order] for name, x in batch.items()}, LENGTHS[order])
    assert_same(other, (hidden[order], None if weights is None else weights[order]))
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            one = slice(row, row + 1)
            alone = encode(encoder, {name: x[one, :length] for name, x in batch.items()}, LENGTHS[one])
            assert_same(alone, (hidden[one], None if weights is None else weights[one]))


def test_causal_encoders_and_only_these_never_see_later_steps(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = encode(encoder, batch)[0]
    for t in range(1, T):
        changed = {name: x.clone() for name, x in batch.items()}
        for name, x in changed.items():
            if name == "hours_before":
                x[:, :t] += 1.0  # the step comes an hour later: hours before it are counted from an hour later, too
            else:
                x[:, t] += torch.rand_like(x[:, t])
        shift = (encode(encoder, changed)[0] - hidden).abs().amax(dim=2)
        assert shift[t < LENGTHS, t].min() > 1e-6  # the step itself is always seen
        if encoder.causal:
            assert shift[:, :t].max() <= 1e-12
        else:
            assert shift[t < LENGTHS, t - 1].min() > 1e-7


def test_everything_that_is_read_reaches_the_states(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = encode(encoder, batch)[0]
    for name in ("x", *encoder.reads):
        changed = batch | {name: batch[name] * 2 + 1}
        assert not torch.allclose(encode(encoder, changed)[0][1], hidden[1]), name


def test_every_weight_learns_and_padding_does_not_reach_its_gradient(encoder: Encoder) -> None:
    gradients = []
    for fill in (0.0, 50.0):
        batch = random_batch()
        for row, length in enumerate(LENGTHS.tolist()):
            for x in batch.values():
                x[row, length:] = fill
        encoder.zero_grad()
        torch.autograd.backward(encode(encoder, batch)[0].pow(3).sum())
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None, name
        assert other is not None, name
        assert gradient.count_nonzero() > 0, name
        assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-12), name


def test_gradients_are_those_of_finite_differences(encoder: Encoder) -> None:
    batch = {name: x[:2, :4] for name, x in random_batch().items()}
    lengths = torch.tensor([3, 4])
    x = batch.pop("x").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: encode(encoder, {"x": x, **batch}, lengths)[0], (x,))


def test_a_history_without_steps_has_zero_states_and_finite_gradients(encoder: Encoder) -> None:
    batch = {name: x[:2] for name, x in random_batch().items()}
    hidden, weights = encode(encoder, batch, torch.tensor([0, 2]))
    assert hidden[0].count_nonzero() == 0
    assert weights is None or weights[0].count_nonzero() == 0
    torch.autograd.backward(hidden.square().sum())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    with torch.no_grad():
        alone = encode(encoder, {name: x[5:, :1] for name, x in random_batch().items()}, LENGTHS[5:])[0]
    assert alone.shape == (1, 1, encoder.output_size)
    assert alone.count_nonzero() == 0
