"""The linear scan against a plain loop over numbers, and its gradient against finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ehrseq.nn import scan
from ehrseq.nn.scan import linear_scan, scan_by_doubling, scan_in_loop

LENGTHS = [1, 2, 3, 5, 8, 13, 64, 100]


def random_scan(steps: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(steps)
    return torch.rand(3, steps, 4, dtype=dtype), torch.randn(3, steps, 4, dtype=dtype)


def plain_loop(decay: Tensor, inputs: Tensor) -> Tensor:
    state = torch.zeros_like(inputs[:, 0])
    states = []
    for t in range(inputs.shape[1]):
        state = decay[:, t] * state + inputs[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


@pytest.fixture(name="by_doubling", params=[False, True], ids=["loop", "doubling"])
def chosen_scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways on the CPU; the second is what other devices run."""
    monkeypatch.setattr(scan, "runs_in_loop", lambda _: not request.param)
    return bool(request.param)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("way", [scan_in_loop, scan_by_doubling])
def test_each_way_gives_the_states_of_the_plain_loop(way: Callable[[Tensor, Tensor], Tensor], steps: int) -> None:
    decay, inputs = random_scan(steps)
    states = way(decay.transpose(0, 1), inputs.transpose(0, 1).clone()).transpose(0, 1)
    assert torch.allclose(states, plain_loop(decay, inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.usefixtures("by_doubling")
def test_states_and_gradients_are_those_of_the_plain_loop(steps: int) -> None:
    decay, inputs = (x.requires_grad_() for x in random_scan(steps))
    states, expected = linear_scan(decay, inputs), plain_loop(decay, inputs)
    assert torch.allclose(states, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    mine = torch.autograd.grad((states * weight).sum(), (decay, inputs))
    theirs = torch.autograd.grad((expected * weight).sum(), (decay, inputs))
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("by_doubling")
def test_gradients_are_those_of_finite_differences() -> None:
    decay, inputs = (x.requires_grad_() for x in random_scan(7))
    assert torch.autograd.gradcheck(linear_scan, (decay, inputs))


@pytest.mark.usefixtures("by_doubling")
def test_nothing_given_is_overwritten() -> None:
    decay, inputs = (x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in random_scan(6))
    before = [x.detach().clone() for x in (decay, inputs)]
    states = linear_scan(decay, inputs)
    gradient = torch.ones(6, 3, 4, dtype=torch.float64).transpose(0, 1)
    torch.autograd.backward(states, gradient)
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert all(torch.equal(old, new) for old, new in zip(before, (decay, inputs), strict=True))


def test_half_precision_is_computed_in_single() -> None:
    decay, inputs = random_scan(50, torch.bfloat16)
    states = linear_scan(decay, inputs)
    assert states.dtype == torch.float32
    assert torch.allclose(states, plain_loop(decay.float(), inputs.float()), rtol=0, atol=1e-5)
