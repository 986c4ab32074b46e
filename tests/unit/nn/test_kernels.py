"""Compiled LSTM, GRU and GRU-D beside torch's own and beside the loop they stand in for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ehrseq.nn import GRUDEncoder, GRUEncoder, LSTMEncoder
from ehrseq.nn.encoders.gru_d import recur
from ehrseq.nn.kernels import GRU, LSTM, can_read, project, read_grud

pytestmark = pytest.mark.skipif(
    not can_read(torch.zeros(1, 1, 1), torch.zeros(64, 16)), reason="nothing was compiled for this processor"
)
NETS = {"lstm": (LSTM, nn.LSTM), "gru": (GRU, nn.GRU)}


def gradients(hidden: Tensor, of: list[Tensor]) -> list[Tensor]:
    """Of a sum that weighs each number of the hidden states differently."""
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(hidden.dtype)
    return list(torch.autograd.grad((hidden * weights).sum(), of))


def near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.detach().abs().max())))


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("size", [16, 48, 64, 80, 128])
@pytest.mark.parametrize(
    ("histories", "steps", "inputs"), [(1, 1, 1), (1, 5, 3), (2, 64, 7), (13, 2, 16), (25, 65, 9), (64, 130, 33)]
)
def test_outputs_and_gradients_are_those_of_torch(
    kind: str, size: int, histories: int, steps: int, inputs: int
) -> None:
    torch.manual_seed(0)
    own, plain = NETS[kind]
    net, reference = own(inputs, size, batch_first=True), plain(inputs, size, batch_first=True).double()
    x = torch.randn(histories, steps, inputs, requires_grad=True)
    assert can_read(x, net.weight_hh_l0)
    reference.load_state_dict({name: weight.double() for name, weight in net.state_dict().items()})
    exact = x.detach().double().requires_grad_()
    hidden, expected = net(x)[0], reference(exact)[0]
    assert near(hidden, expected)
    pairs = zip(
        gradients(hidden, [x, *net.parameters()]), gradients(expected, [exact, *reference.parameters()]), strict=True
    )
    assert all(near(found, right) for found, right in pairs)


@pytest.mark.parametrize("kind", NETS)
def test_layers_and_what_is_dropped_between_them(kind: str) -> None:
    torch.manual_seed(0)
    net, reference = (cell(5, 32, num_layers=3, dropout=0.5, batch_first=True) for cell in NETS[kind])
    reference.load_state_dict(net.state_dict())
    x = torch.randn(4, 6, 5)
    assert near(net.eval()(x)[0], reference.eval()(x)[0])
    net.train(), reference.train()
    assert not torch.equal(net(x)[0], net(x)[0])
    means = [torch.stack([one(x)[0] for _ in range(400)]).mean(0) for one in (net, reference)]
    assert float((means[0] - means[1]).detach().abs().max()) < 0.05


@pytest.mark.parametrize(("histories", "steps", "size"), [(1, 1, 16), (3, 70, 48), (25, 9, 64)])
def test_gru_d_is_the_loop_it_stands_in_for(histories: int, steps: int, size: int) -> None:
    torch.manual_seed(0)
    sizes = [(histories, steps, 11), (3 * size, 11), (3 * size, size), (3 * size,)]
    x, read, recurrent, bias = (torch.randn(*shape).mul(0.3).requires_grad_() for shape in sizes)
    gamma = torch.rand(histories, steps, size).requires_grad_()
    exact = [one.detach().double().requires_grad_() for one in (x, read, recurrent, bias, gamma)]
    sums = nn.functional.linear(exact[0].transpose(0, 1), exact[1], exact[3])
    gates, candidate = sums[..., : 2 * size].clone(), sums[..., 2 * size :].clone()
    expected = recur(gates, candidate, exact[4].transpose(0, 1).contiguous(), exact[2]).transpose(0, 1)
    found = read_grud(x, read, recurrent, bias, gamma)
    assert near(found, expected)
    pairs = zip(gradients(found, [x, read, recurrent, bias, gamma]), gradients(expected, exact), strict=True)
    assert all(near(one, right) for one, right in pairs)


@pytest.mark.parametrize("kind", [*NETS, "gru_d"])
def test_states_are_the_same_bits_where_nobody_goes_back(kind: str) -> None:
    torch.manual_seed(0)
    x, gamma = torch.randn(14, 55, 7), torch.rand(14, 55, 32)
    if kind == "gru_d":
        read, recurrent, bias = (torch.randn(*shape).requires_grad_() for shape in [(96, 7), (96, 32), (96,)])
        kept = read_grud(x, read, recurrent, bias, gamma)
        with torch.no_grad():
            passing = read_grud(x, read, recurrent, bias, gamma)
    else:
        net = NETS[kind][0](7, 32, batch_first=True)
        kept = net(x)[0]
        with torch.no_grad():
            passing = net(x)[0]
    assert kept.requires_grad
    assert torch.equal(kept, passing)


def test_a_way_back_may_be_gone_twice() -> None:
    torch.manual_seed(0)
    net, x = LSTM(5, 16, batch_first=True), torch.randn(3, 30, 5)
    loss = net(x)[0].sum()
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(net.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("histories", "steps", "wide", "size"),
    [(64, 48, (37, 37), 64), (3, 5, (1,), 16), (7, 11, (5, 40, 2), 48), (1, 1, (3,), 80), (130, 3, (450,), 32)],
)
def test_a_layer_of_parts_side_by_side(histories: int, steps: int, wide: tuple[int, ...], size: int) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(histories, steps, width) for width in wide]
    weight, bias = torch.randn(size, sum(wide), requires_grad=True), torch.randn(size, requires_grad=True)
    exact = [one.detach().double().requires_grad_() for one in (weight, bias)]
    expected = torch.relu(nn.functional.linear(torch.cat(parts, -1).double(), *exact))
    found, threads = project(parts, weight, bias), torch.get_num_threads()
    right = gradients(expected, exact)
    assert found is not None
    assert near(found, expected)
    pairs = zip(gradients(found, [weight, bias]), right, strict=True)
    assert all(near(one, other) for one, other in pairs)
    try:
        torch.set_num_threads(3)
        shared = project(parts, weight, bias)
        assert shared is not None
        assert torch.equal(found, shared)
        pairs = zip(gradients(shared, [weight, bias]), right, strict=True)
        assert all(near(one, other) for one, other in pairs)
    finally:
        torch.set_num_threads(threads)


def test_a_layer_that_passes_gradients_on_is_left_to_torch() -> None:
    x, weight, bias = torch.ones(2, 3), torch.ones(16, 3), torch.ones(16)
    assert project([x], weight, bias) is not None
    assert project([x.requires_grad_()], weight, bias) is None
    assert project([x.detach().double()], weight, bias) is None
    assert project([x.detach()], weight[:15], bias[:15]) is None


@pytest.mark.parametrize("kind", NETS)
def test_neighbours_and_threads_change_no_bit_of_a_history(kind: str) -> None:
    torch.manual_seed(0)
    net, x, threads = NETS[kind][0](7, 64, batch_first=True), torch.randn(40, 70, 7), torch.get_num_threads()
    whole = net(x)[0]
    assert torch.equal(whole[3:20], net(x[3:20])[0])
    assert torch.equal(whole[:, :30], net(x[:, :30])[0])
    try:
        for number in (1, 2, 5, 64):
            torch.set_num_threads(number)
            assert torch.equal(whole, net(x)[0])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", NETS)
def test_gradients_of_several_threads_add_up(kind: str) -> None:
    torch.manual_seed(0)
    net, x, threads = NETS[kind][0](7, 32, batch_first=True), torch.randn(30, 12, 7), torch.get_num_threads()
    alone = gradients(net(x)[0], list(net.parameters()))
    try:
        torch.set_num_threads(3)
        shared = gradients(net(x)[0], list(net.parameters()))
    finally:
        torch.set_num_threads(threads)
    assert all(near(one, other) for one, other in zip(shared, alone, strict=True))


@pytest.mark.parametrize("kind", NETS)
def test_extremes_stay_finite_and_nan_is_not_hidden(kind: str) -> None:
    net, reference = (cell(3, 16, batch_first=True) for cell in NETS[kind])
    reference.load_state_dict(net.state_dict())
    x = torch.full((2, 4, 3), 1e30)
    x[1] = -1e30
    assert near(net(x)[0], reference(x)[0])
    x[1, 2, 0] = float("nan")
    hidden = net(x)[0]
    assert hidden[0].isfinite().all()
    assert hidden[1, :2].isfinite().all()
    assert hidden[1, 2:].isnan().all()


@pytest.mark.parametrize("encoder", [LSTMEncoder(5, 32), GRUEncoder(5, 32), GRUDEncoder(5, 4, 32)])
def test_what_is_not_compiled_for_is_read_by_torch(encoder: LSTMEncoder | GRUEncoder | GRUDEncoder) -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
    batch = {}
    if isinstance(encoder, GRUDEncoder):
        batch = {"hours_since": torch.rand(3, 6, 4), "hours_before": torch.arange(6.0).flip(0).expand(3, 6)}
    found = encoder(x, lengths, **batch)
    exact = encoder.double()(x.double(), lengths, **batch)
    assert exact.dtype == torch.float64
    assert near(found, exact)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["gru", "gru_d"])
def test_mixed_precision_around_it_changes_no_bit(kind: str, half: bool) -> None:
    torch.manual_seed(0)
    net, x = GRU(5, 32, batch_first=True), torch.randn(3, 6, 5).bfloat16()
    gamma = torch.rand(3, 6, 32)
    read_by, recurrent, bias, _ = weights = list[Tensor](net.parameters())

    def read(steps: Tensor) -> Tensor:
        return net(steps)[0] if kind == "gru" else read_grud(steps, read_by, recurrent, bias, gamma)

    whole = read(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = read(x if half else x.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, whole)
    used = weights if kind == "gru" else weights[:3]
    pairs = zip(gradients(found, used), gradients(whole, used), strict=True)
    assert all(torch.equal(mixed, plain) for mixed, plain in pairs)


@pytest.mark.parametrize("kind", NETS)
def test_what_fades_on_the_way_back_is_zero_and_torch_keeps_its_small_numbers(kind: str) -> None:
    """A processor takes a hundred times as long for numbers under 1e-38, which long histories make many of."""
    torch.manual_seed(0)
    own, plain = NETS[kind]
    net, reference = own(4, 32, batch_first=True), plain(4, 32, batch_first=True)
    reference.load_state_dict(net.state_dict())
    x = torch.randn(2, 700, 4, requires_grad=True)
    ((found,), (expected,)) = (torch.autograd.grad(one(x)[0][:, -1].sum(), [x]) for one in (net, reference))
    assert near(found, expected)
    # The last product, with W, is torch's own and makes a few new ones.
    ours, theirs = (int(((x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)).sum()) for x in (found, expected))
    assert theirs > 100
    assert ours < theirs / 5
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_without_a_library_torch_reads_the_same(tmp_path: Path) -> None:
    """As on a processor that nothing was compiled for."""
    torch.manual_seed(0)
    encoder, x = LSTMEncoder(5, 32, num_layers=2), torch.randn(3, 6, 5)
    expected = encoder(x, torch.tensor([6, 2, 4]))
    torch.save((encoder.state_dict(), x, expected), tmp_path / "case.pt")
    script = (
        "import sys, torch; from ehrseq.nn import LSTMEncoder; from ehrseq.nn.kernels import can_read\n"
        "state, x, expected = torch.load(sys.argv[1], weights_only=True); encoder = LSTMEncoder(5, 32, num_layers=2)\n"
        "encoder.load_state_dict(state); assert not can_read(x, state['forward_nets.0.weight_hh_l0'])\n"
        "assert (encoder(x, torch.tensor([6, 2, 4])) - expected).abs().max() < 1e-5\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "case.pt")]
    subprocess.run(command, check=True, env={**os.environ, "ATEN_CPU_CAPABILITY": "default"})
