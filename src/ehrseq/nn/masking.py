"""Real steps and padding: masks, softmax and reversal that know each history's length.

Batches are padded on the right: of the T steps of history b, the first `lengths[b]` are real.
"""

from typing import Any

import torch
from torch import Tensor


def clear_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Set padding to exactly 0; a product, which costs a fifth of `masked_fill`.

    Args:
        x: Finite, (B, T, ...).
        lengths: Number of real steps of each history, (B,), integer.

    Returns:
        The same shape.
    """
    # Elsewhere it would have to be waited for.
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and bool((lengths >= x.shape[1]).all()):
        return x
    mask = step_mask(lengths, x.shape[1])
    return x * mask.view(*mask.shape, *[1] * (x.ndim - 2))


def step_mask(lengths: Tensor, steps: int) -> Tensor:
    """Tell real steps from padding.

    >>> step_mask(torch.tensor([1, 3]), 3)
    tensor([[ True, False, False],
            [ True,  True,  True]])

    Args:
        lengths: Number of real steps of each history, (B,), integer.
        steps: T, the padded number of steps.

    Returns:
        True on real steps, (B, T), bool, on the device of `lengths`.
    """
    return torch.arange(steps, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the entries where `mask` is true; all others get exactly 0.

    Half-precision scores are computed, and given back, in float32: in float16 or bfloat16 the weights of a long
    history would no longer sum to one. Where nothing is real along `dim`, all weights are 0, and so is the gradient.

    >>> masked_softmax(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])

    Args:
        scores: Any shape (...), floating point.
        mask: True on real entries, broadcastable to the shape of `scores`, bool.
        dim: The dimension that sums to one.

    Returns:
        Weights of the shape of `scores`; float32, or float64 for float64 scores.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    # The lowest finite number instead of -inf: without real steps no NaN arises, not even on the way back.
    covered = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(covered, dim=dim).masked_fill(~mask, 0.0)


def reverse_by_length(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the real steps of each history; its padding stays where it is.

    Applied twice it gives `x` back, so it is its own inverse and the gradient is the reversed gradient.

    >>> reverse_by_length(torch.tensor([[1, 2, 3], [1, 2, 0]]), torch.tensor([3, 2]))
    tensor([[3, 2, 1],
            [2, 1, 0]])

    Args:
        x: Steps, (B, T, ...).
        lengths: Number of real steps of each history, (B,), integer.

    Returns:
        The reversed steps, (B, T, ...).
    """
    batch, steps = x.shape[:2]
    position = torch.arange(steps, device=x.device).unsqueeze(0)
    source = torch.where(step_mask(lengths, steps), lengths.unsqueeze(1) - 1 - position, position)
    rows = source + steps * torch.arange(batch, device=x.device).unsqueeze(1)
    reversed_: Tensor = _Reversal.apply(x, rows.flatten())  # type: ignore[no-untyped-call]
    return reversed_


class _Reversal(torch.autograd.Function):
    """Copies whole rows of the flattened (B * T, ...), there and back; torch would add them up on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        """Rows in their new order."""
        ctx.save_for_backward(rows)
        return x.flatten(0, 1).index_select(0, rows).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The order is its own inverse."""
        (rows,) = ctx.saved_tensors
        return _Reversal.apply(grad, rows), None  # type: ignore[no-untyped-call]


def last_state(hidden: Tensor, lengths: Tensor, bidirectional: bool = False) -> Tensor:
    """The state a recurrent net ends with: that of the last real step.

    With two directions side by side, [forward; backward], each ends elsewhere: the forward half is read at the last
    real step, the backward half at the first. (At the last step the backward net has seen that one step only.)

    Args:
        hidden: Hidden states, (B, T, H).
        lengths: Number of real steps of each history, (B,), integer; a history of none is read at its first step.
        bidirectional: Whether `hidden` holds two directions of H/2 each.

    Returns:
        The last states, (B, H).
    """
    size = hidden.shape[2]
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1)
    if not bidirectional:
        return hidden.gather(1, index.expand(-1, 1, size)).squeeze(1)
    half = size // 2
    forward = hidden[..., :half].gather(1, index.expand(-1, 1, half)).squeeze(1)
    return torch.cat([forward, hidden[:, 0, half:]], dim=-1)
