"""What encoders made of several nets promise: padding, company and order change nothing, nor does the future."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ehrseq.nn import ChannelwiseLSTMEncoder, ConvLSTMEncoder, Encoder, RetainEncoder

F, D, H, T = 3, 5, 4, 9
LENGTHS = torch.tensor([3, 9, 1, 6, 9])
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "retain": lambda: RetainEncoder(D, H),
    "channelwise": lambda: ChannelwiseLSTMEncoder(D, F, 2, hours_since=True, hidden_size=H),
    "channelwise-causal": lambda: ChannelwiseLSTMEncoder(D, F, 2, False, hours_since=True, hidden_size=H),
    "conv": lambda: ConvLSTMEncoder(D, 6, num_conv_layers=3, hidden_size=H),
    "conv-of-the-input-size": lambda: ConvLSTMEncoder(D, D, kernel_size=2, hidden_size=H, num_layers=2),
}


@pytest.fixture(name="encoder", params=ENCODERS)
def built_encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[request.param]().double().eval()


def random_batch() -> dict[str, Tensor]:
    """Embedded steps and all that an encoder may read beside them."""
    torch.manual_seed(1)
    shape = (len(LENGTHS), T, F)
    return {
        "x": torch.randn(len(LENGTHS), T, D, dtype=torch.float64),
        "values": torch.randn(shape, dtype=torch.float64),
        "observed": (torch.rand(shape) < 0.5).double(),
        "hours_since": torch.rand(shape, dtype=torch.float64) * 48,
    }


def encode(encoder: Encoder, batch: dict[str, Tensor], lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor | None]:
    return encoder.encode(batch["x"], lengths, **{name: batch[name] for name in encoder.reads})


def assert_same(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> None:
    steps = min(one[0].shape[1], other[0].shape[1])
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.allclose(mine[:, :steps], theirs[:, :steps], rtol=0, atol=1e-12)


def test_shapes_and_attention_are_as_promised(encoder: Encoder) -> None:
    batch = random_batch()
    hidden, weights = encode(encoder, batch)
    assert hidden.shape == (len(LENGTHS), T, encoder.output_size)
    assert torch.equal(hidden, encoder(batch["x"], LENGTHS, **{name: batch[name] for name in encoder.reads}))
    assert (weights is not None) == encoder.gives_attention
    if weights is not None:
        assert torch.allclose(weights.sum(1), torch.ones(len(LENGTHS), dtype=weights.dtype), rtol=0, atol=1e-12)


def test_padding_gives_exact_zeros_and_changes_nothing(encoder: Encoder) -> None:
    batch = random_batch()
    found = encode(encoder, batch)
    longer = {name: torch.cat([x, torch.full_like(x[:, :4], 1e3)], dim=1) for name, x in batch.items()}
    for row, length in enumerate(LENGTHS.tolist()):
        assert found[0][row, length:].count_nonzero() == 0
        assert found[1] is None or found[1][row, length:].count_nonzero() == 0
        assert found[0][row, :length].any(dim=1).all()
        for x in longer.values():
            x[row, length:] = 1e3
    other = encode(encoder, longer)
    assert other[0][:, T:].count_nonzero() == 0
    assert_same(found, other)


def test_company_and_order_in_the_batch_change_nothing(encoder: Encoder) -> None:
    batch = random_batch()
    hidden, weights = encode(encoder, batch)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        alone = encode(encoder, {name: x[one, :length] for name, x in batch.items()}, LENGTHS[one])
        assert_same(alone, (hidden[one], None if weights is None else weights[one]))
    order = torch.tensor([4, 2, 0, 1, 3])
    other = encode(encoder, {name: x[order] for name, x in batch.items()}, LENGTHS[order])
    assert_same(other, (hidden[order], None if weights is None else weights[order]))


def test_causal_encoders_and_only_these_never_see_later_steps(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = encode(encoder, batch)[0]
    for t in range(1, T):
        changed = {name: x.clone() for name, x in batch.items()}
        for x in changed.values():
            x[:, t] += 1.0
        shift = (encode(encoder, changed)[0] - hidden).abs().amax(dim=2)
        assert shift[t < LENGTHS, t].min() > 1e-6  # the step itself is always seen
        if encoder.causal:
            assert shift[:, :t].max() <= 1e-12
        else:
            assert shift[t < LENGTHS, t - 1].min() > 1e-7


def test_everything_that_is_read_reaches_the_last_state(encoder: Encoder) -> None:
    batch = random_batch()
    hidden = encode(encoder, batch)[0]
    for name in ("x", *encoder.reads):
        changed = batch | {name: batch[name] + 1.0}
        assert not torch.allclose(encode(encoder, changed)[0][:, 0], hidden[:, 0]), name


def test_every_weight_learns_and_padding_does_not_reach_its_gradient(encoder: Encoder) -> None:
    gradients = []
    for fill in (0.0, 50.0):
        batch = random_batch()
        for row, length in enumerate(LENGTHS.tolist()):
            for x in batch.values():
                x[row, length:] = fill
        encoder.zero_grad()
        torch.autograd.backward(encode(encoder, batch)[0].square().sum())
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None, name
        assert other is not None, name
        assert gradient.count_nonzero() > 0, name
        assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-12), name


def test_a_history_without_steps_has_zero_states_and_finite_gradients(encoder: Encoder) -> None:
    batch = {name: x[:2] for name, x in random_batch().items()}
    hidden, weights = encode(encoder, batch, torch.tensor([0, 2]))
    assert hidden[0].count_nonzero() == 0
    assert weights is None or weights[0].count_nonzero() == 0
    torch.autograd.backward(hidden.square().sum())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
