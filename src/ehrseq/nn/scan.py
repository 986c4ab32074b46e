"""First-order linear recurrences over time, forward and backward."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def linear_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """All h_t = decay_t * h_{t-1} + inputs_t, from h_0 = 0.

    On a CPU a loop over steps, on other devices a parallel scan of log2(T) rounds (Hillis and Steele 1986). Tensors
    whose memory runs time first, views of (T, B, H), are not copied. Half precision is computed in float32.

    >>> linear_scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1)).flatten()
    tensor([1.0000, 1.5000, 1.7500])

    Args:
        decay: What is kept of the state before, (B, T, H); at the first step it does not matter.
        inputs: What is added to it, (B, T, H).

    Returns:
        The states, (B, T, H), time first in memory.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    states: Tensor = _LinearScan.apply(  # type: ignore[no-untyped-call]
        _time_first(decay.to(dtype)), _time_first(inputs.to(dtype))
    )
    return states.transpose(0, 1)


def runs_in_loop(x: Tensor) -> bool:
    """Whether a loop over steps is the faster way: on a CPU, where there is nothing to gain from rounds."""
    return x.device.type == "cpu"


def scan_in_loop(decay: Tensor, states: Tensor) -> Tensor:
    """The scan step by step, in place: `states` hold the inputs and become the states, both (T, ...)."""
    rows = states.unbind(0)
    for factor, before, row in zip(decay.unbind(0)[1:], rows[:-1], rows[1:], strict=True):
        row.addcmul_(factor, before)
    return states


def scan_by_doubling(decay: Tensor, inputs: Tensor) -> Tensor:
    """The scan in log2(T) rounds: after each round a state sums up twice as many steps; both (T, ...)."""
    states, reach = inputs, 1
    while reach < len(states):
        states = torch.cat([states[:reach], torch.addcmul(states[reach:], decay[reach:], states[:-reach])])
        decay = torch.cat([decay[:reach], decay[reach:] * decay[:-reach]])
        reach *= 2
    return states


class _LinearScan(torch.autograd.Function):
    """The scan over (T, B, H) with its gradient, which is a scan from the last step to the first."""

    @staticmethod
    def forward(ctx: FunctionCtx, decay: Tensor, inputs: Tensor) -> Tensor:
        states = scan_in_loop(decay, inputs.clone()) if runs_in_loop(inputs) else scan_by_doubling(decay, inputs)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = ctx.saved_tensors  # type: ignore[attr-defined]
        if runs_in_loop(gradient):
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            rows = gradient.unbind(0)
            for factor, row, after in zip(decay.unbind(0)[:0:-1], rows[-2::-1], rows[:0:-1], strict=True):
                row.addcmul_(factor, after)
        else:  # each step with the decay of the step after it; the last step comes first, where decay does not matter
            gradient = scan_by_doubling(decay.roll(-1, 0).flip(0), gradient.flip(0)).flip(0)
        by_decay = torch.zeros_like(decay)
        torch.mul(gradient[1:], states[:-1], out=by_decay[1:])
        return by_decay, gradient


def _time_first(x: Tensor) -> Tensor:
    """(B, T, H) to (T, B, H), without a copy where memory already runs so."""
    return x.transpose(0, 1).contiguous()
