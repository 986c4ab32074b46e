"""The extended LSTM against the recurrences of its paper, unscaled and step by step, one history and head at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import XLSTMEncoder
from ehrseq.nn.encoders.xlstm import MLSTMBlock, SLSTMBlock, matrix_memory

D, H, T = 5, 8, 9
LENGTHS = torch.tensor([3, 9, 1, 6, 9])


def randomise(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def normalised(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def mlstm_steps(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The mLSTM as the paper's equations 19 to 27 say it: (T, d) and (T,) to (T, d)."""
    size = q.shape[1]
    matrix, normaliser = torch.zeros(size, size, dtype=q.dtype), torch.zeros(size, dtype=q.dtype)
    states = []
    for t in range(len(q)):
        forget, enter = sigmoid(f[t]), torch.exp(i[t])
        matrix = forget * matrix + enter * torch.outer(v[t], k[t])
        normaliser = forget * normaliser + enter * k[t]
        states.append(matrix @ q[t] / torch.clamp((normaliser @ q[t]).abs(), min=1.0))
    return torch.stack(states)


def slstm_steps(pressures: Tensor, mixing: Tensor) -> Tensor:
    """The sLSTM of one head without stabiliser, equations 8 to 14: (T, 4, d) and (d, 4, d) to (T, d)."""
    h = c = n = torch.zeros(pressures.shape[2], dtype=pressures.dtype)
    states = []
    for pressure in pressures:
        i, f, z, o = pressure + torch.einsum("d,dge->ge", h, mixing)
        c = sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = sigmoid(f) * n + torch.exp(i)
        h = sigmoid(o) * c / n
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 64])
def test_matrix_memory_is_the_recurrence_whatever_the_chunk(chunk: int) -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 2, 3, T, 4, dtype=torch.float64).unbind(0)
    i, f = (3 * torch.randn(2, 2, 3, T, dtype=torch.float64)).unbind(0)
    h = matrix_memory(q, k, v, i, f, chunk)
    for row in range(2):
        for head in range(3):
            expected = mlstm_steps(q[row, head], k[row, head], v[row, head], i[row, head], f[row, head])
            assert torch.allclose(h[row, head], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [3, 64])
def test_matrix_memory_has_the_gradient_of_the_recurrence(chunk: int) -> None:
    torch.manual_seed(1)
    given = [torch.randn(1, 1, T, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    given += [torch.randn(1, 1, T, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weight = torch.randn(T, 4, dtype=torch.float64)
    q, k, v, i, f = given
    mine = torch.autograd.grad((matrix_memory(q, k, v, i, f, chunk)[0, 0] * weight).sum(), given)
    theirs = torch.autograd.grad((mlstm_steps(*(x[0, 0] for x in given)) * weight).sum(), given)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_scalar_memory_follows_the_written_equations() -> None:
    block = SLSTMBlock(H, num_heads=2, dropout=0.0).double()
    randomise(block)
    torch.manual_seed(1)
    x = torch.randn(3, T, H, dtype=torch.float64)
    h = block.memory(x)
    weight, bias = block.gates.weight.view(2, 4, H // 2, H), block.gates.bias.view(2, 4, H // 2)
    for row in range(3):
        for head in range(2):
            pressures = torch.einsum("gdh,th->tgd", weight[head], x[row]) + bias[head]
            expected = slstm_steps(pressures, block.mixing[head].view(H // 2, 4, H // 2))
            units = slice(head * H // 2, (head + 1) * H // 2)
            assert torch.allclose(h[row, :, units], expected, rtol=0, atol=1e-10)


def test_blocks_follow_the_written_equations() -> None:
    encoder = XLSTMEncoder(D, H, blocks="ms", num_heads=2).double()
    randomise(encoder)
    w: dict[str, Tensor] = encoder.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(name: str, x: Tensor, parts: int = 1) -> Tensor:
        whole = torch.cat([normalised(part) for part in x.chunk(parts)])
        return whole * w[f"{name}.weight"] + w[f"{name}.bias"]

    torch.manual_seed(1)
    x = torch.randn(len(LENGTHS), T, D, dtype=torch.float64)
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = [linear("linear", vector) for vector in x[row, :length]]
        ups = [linear("blocks.0.up", norm("blocks.0.norm", vector)).chunk(2) for vector in steps]
        heads = []
        for head in range(2):
            q, k, v = (
                torch.stack([linear("blocks.0.project", up).view(3, 2, H)[part, head] for up, _ in ups])
                for part in range(3)
            )
            i, f = (
                torch.stack([linear("blocks.0.gates", up).view(2, 2)[part, head] for up, _ in ups]) for part in (0, 1)
            )
            heads.append(mlstm_steps(q, k / H**0.5, v, i, f))
        for t, (_, gate) in enumerate(ups):
            read = norm("blocks.0.head_norm", torch.cat([head[t] for head in heads]), 2)
            steps[t] = steps[t] + linear("blocks.0.down", read * gate * sigmoid(gate))
        second = encoder.blocks[1]
        assert isinstance(second, SLSTMBlock)
        h = second.memory(torch.stack([norm("blocks.1.norm", vector) for vector in steps]).unsqueeze(0))[0]
        for t, vector in enumerate(steps):
            y = vector + norm("blocks.1.head_norm", h[t], 2)
            gate, content = linear("blocks.1.up", norm("blocks.1.feed_norm", y)).chunk(2)
            gelu = gate * (1 + torch.erf(gate / 2**0.5)) / 2
            y = y + linear("blocks.1.down", gelu * content)
            assert torch.allclose(hidden[row, t], norm("norm", y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [SLSTMBlock, MLSTMBlock])
@pytest.mark.parametrize("pressure", [-300.0, 300.0])
def test_extreme_gates_stay_finite(kind: type[SLSTMBlock] | type[MLSTMBlock], pressure: float) -> None:
    """Without the stabiliser exp(300) and 1 / exp(-300) leave float32."""
    block = kind(H, num_heads=2, dropout=0.0)
    nn.init.constant_(block.gates.bias, pressure)
    x = torch.randn(2, 100, H, requires_grad=True)
    out = block(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_long_histories_keep_their_precision() -> None:
    torch.manual_seed(0)
    encoder = XLSTMEncoder(D, H, blocks="m")
    x, lengths = torch.randn(1, 1000, D), torch.tensor([1000])
    single = encoder(x, lengths)
    assert torch.allclose(single.double(), encoder.double()(x.double(), lengths), rtol=0, atol=1e-4)


def test_new_heads_remember_each_for_a_time_of_its_own() -> None:
    block, other = MLSTMBlock(H, 4, 0.0), SLSTMBlock(H, 4, 0.0)
    assert block.gates.bias[4:].tolist() == [3.0, 4.0, 5.0, 6.0]
    assert block.gates.weight.count_nonzero() == 0
    biases = other.gates.bias.view(4, 4, 2)
    assert biases[:, 1, 0].tolist() == biases[:, 1, 1].tolist() == [3.0, 4.0, 5.0, 6.0]
    assert biases[:, [0, 2, 3]].count_nonzero() == 0
    for gate in other.mixing.view(4, 2, 4, 2).transpose(1, 2).flatten(0, 1):
        assert torch.allclose(gate @ gate.T, torch.eye(2), atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    x = torch.randn(len(LENGTHS), T, D)
    for arguments in ({"dropout": 0.5}, {"input_dropout": 0.5}):
        encoder = XLSTMEncoder(D, H, **arguments)  # type: ignore[arg-type]
        assert not torch.allclose(encoder(x, LENGTHS), encoder(x, LENGTHS))
        encoder.eval()
        assert torch.equal(encoder(x, LENGTHS), encoder(x, LENGTHS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"num_heads": 3}, "num_heads is 3; allowed are divisors of hidden_size, 64"),
        ({"blocks": ""}, "blocks is ''; allowed are words of the letters s and m"),
        ({"blocks": "mx"}, "blocks is 'mx'; allowed are words of the letters s and m"),
        ({"dropout": 1}, "dropout is 1; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        XLSTMEncoder(**({"input_size": D} | arguments))
    assert str(caught.value) == message
