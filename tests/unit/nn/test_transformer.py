"""The transformer against its equations, one step and head at a time, and the LSTM with a transformer on it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import Encoder, LSTMTransformerEncoder, TransformerEncoder
from ehrseq.nn.encoders.transformer import encode_hours

D, H, T, HEADS = 5, 8, 9, 2
LENGTHS = torch.tensor([3, 9, 1, 6, 9])

each_encoder = pytest.mark.parametrize("kind", [TransformerEncoder, LSTMTransformerEncoder])
each_direction = pytest.mark.parametrize("causal", [True, False])


def random_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    gaps = torch.rand(len(LENGTHS), T, dtype=torch.float64) * 20 * (torch.arange(T) < LENGTHS.unsqueeze(1))
    return torch.randn(len(LENGTHS), T, D, dtype=torch.float64), gaps.flip(1).cumsum(1).flip(1)


def randomise(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def waves(hours: float) -> Tensor:
    entries = []
    for k in range(H // 2):
        angle = torch.tensor(hours / 10000 ** (2 * k / H), dtype=torch.float64)
        entries += [torch.sin(angle), torch.cos(angle)]
    return torch.stack(entries)


def transform(w: dict[str, Tensor], x: Tensor, hours: Tensor, num_layers: int, causal: bool) -> Tensor:
    """One history without padding: (T, D) and (T,) to (T, H)."""

    def linear(name: str, vector: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ vector + w[f"{name}.bias"]

    def norm(name: str, vector: Tensor) -> Tensor:
        centred = vector - vector.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    steps = [linear("linear", vector) + waves(float(hours[0] - hour)) for vector, hour in zip(x, hours, strict=True)]
    for layer in range(num_layers):
        name = f"layers.{layer}"
        parts = torch.stack([linear(f"{name}.project", norm(f"{name}.norm", vector)) for vector in steps])
        q, k, v = parts.view(len(steps), 3, HEADS, H // HEADS).unbind(1)
        outputs = []
        for t, vector in enumerate(steps):
            seen = t + 1 if causal else len(steps)
            heads = []
            for head in range(HEADS):
                scores = torch.stack([q[t, head] @ k[s, head] / (H / HEADS) ** 0.5 for s in range(seen)])
                weights = torch.exp(scores) / torch.exp(scores).sum()
                heads.append(sum(weights[s] * v[s, head] for s in range(seen)))
            y = vector + linear(f"{name}.out", torch.cat(heads))  # type: ignore[arg-type]
            inner = linear(f"{name}.feed.1", norm(f"{name}.feed.0", y)).clamp(min=0)
            outputs.append(y + linear(f"{name}.feed.3", inner))
        steps = outputs
    return torch.stack([norm("norm", vector) for vector in steps])


@each_direction
@pytest.mark.parametrize("num_layers", [1, 3])
def test_outputs_follow_the_written_equations(num_layers: int, causal: bool) -> None:
    encoder = TransformerEncoder(D, H, num_layers, HEADS, causal=causal).double()
    randomise(encoder)
    x, hours = random_batch()
    hidden = encoder(x, LENGTHS, hours_before=hours)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = transform(encoder.state_dict(), x[row, :length], hours[row, :length], num_layers, causal)
        assert torch.allclose(hidden[row, :length], expected, rtol=0, atol=1e-9)


@each_direction
def test_on_an_lstm_it_adds_to_the_states(causal: bool) -> None:
    encoder = LSTMTransformerEncoder(D, H, num_heads=HEADS, causal=causal).double()
    randomise(encoder)
    lstm = nn.LSTM(D, H, batch_first=True).double()
    lstm.load_state_dict(encoder.lstm.torch_state())
    x, hours = random_batch()
    hidden = encoder(x, LENGTHS, hours_before=hours)
    for row, length in enumerate(LENGTHS.tolist()):
        states = lstm(x[row, :length])[0]
        added = transform(encoder.transformer.state_dict(), states, hours[row, :length], 1, causal)
        assert torch.allclose(hidden[row, :length], states + added, rtol=0, atol=1e-9)


@each_direction
def test_layers_are_those_of_torch(causal: bool) -> None:
    encoder = TransformerEncoder(D, H, 1, HEADS, causal=causal).double()
    layer = nn.TransformerEncoderLayer(H, HEADS, 4 * H, 0.0, batch_first=True, norm_first=True).double()
    names = {
        "project.weight": "self_attn.in_proj_weight",
        "project.bias": "self_attn.in_proj_bias",
        "out": "self_attn.out_proj",
        "norm": "norm1",
        "feed.0": "norm2",
        "feed.1": "linear1",
        "feed.3": "linear2",
    }
    randomise(encoder)
    mine = encoder.layers[0]
    state = {}
    for name, weight in mine.state_dict().items():
        stem, _, end = name.rpartition(".")
        state[names.get(name, f"{names.get(stem)}.{end}")] = weight
    layer.load_state_dict(state)
    torch.manual_seed(3)
    x = torch.randn(len(LENGTHS), T, H, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64) if causal else None
    padding = torch.zeros(len(LENGTHS), T, dtype=torch.float64).masked_fill(
        torch.arange(T) >= LENGTHS.unsqueeze(1), -torch.inf
    )
    expected = layer(x, src_mask=mask, src_key_padding_mask=padding)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.allclose(mine(x, LENGTHS)[row, :length], expected[row, :length], rtol=0, atol=1e-9)


def test_hours_are_waves_of_hours_to_years() -> None:
    hours = torch.tensor([[0.0, 0.5, 3.0], [24.0, 1000.0, 50000.0]], dtype=torch.float64)
    encoded = encode_hours(hours, H)
    assert encoded.shape == (2, 3, H)
    for row in range(2):
        for column in range(3):
            assert torch.allclose(encoded[row, column], waves(float(hours[row, column])), rtol=0, atol=1e-9)


@each_encoder
def test_when_the_history_was_does_not_matter_but_its_gaps_do(kind: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder = kind(input_size=D, hidden_size=H).double()
    x, hours = random_batch()
    hidden = encoder(x, LENGTHS, hours_before=hours)
    later = hours + 100.0 * (torch.arange(T) < LENGTHS.unsqueeze(1))
    assert torch.allclose(encoder(x, LENGTHS, hours_before=later), hidden, rtol=0, atol=1e-9)
    assert not torch.allclose(encoder(x, LENGTHS, hours_before=2 * hours), hidden, rtol=0, atol=1e-3)


@each_encoder
@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
def test_dropout_acts_in_training_only(kind: type[Encoder], name: str) -> None:
    torch.manual_seed(0)
    encoder = kind(input_size=D, hidden_size=H, **{name: 0.5}).double()
    x, hours = random_batch()
    one, other = (encoder(x, LENGTHS, hours_before=hours) for _ in range(2))
    assert not torch.allclose(one, other)
    encoder.eval()
    one, other = (encoder(x, LENGTHS, hours_before=hours) for _ in range(2))
    assert torch.equal(one, other)


@each_encoder
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"hidden_size": 7, "num_heads": 1}, "hidden_size is 7; allowed are even numbers"),
        ({"num_heads": 3}, "num_heads is 3; allowed are divisors of hidden_size, 64"),
        ({"num_layers": 0}, "num_layers is 0; allowed are whole numbers from 1 up"),
        ({"expansion": 0.5}, "expansion is 0.5; allowed are whole numbers from 1 up"),
        ({"causal": "no"}, "causal is 'no'; allowed are true and false"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(kind: type[Encoder], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**({"input_size": D} | arguments))
    assert str(caught.value) == message
