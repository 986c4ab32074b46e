"""Time that passes between steps, from the hours that batches hold."""

import torch
from torch import Tensor


def elapsed_hours(hours_before: Tensor) -> Tensor:
    """Hours from the step before to each step, 0 for the first and never negative.

    >>> elapsed_hours(torch.tensor([[9.0, 7.0, 6.5]]))
    tensor([[0.0000, 2.0000, 0.5000]])

    Args:
        hours_before: Hours from each step to the prediction, (B, T).

    Returns:
        (B, T).
    """
    elapsed = torch.zeros_like(hours_before)
    elapsed[:, 1:] = (hours_before[:, :-1] - hours_before[:, 1:]).clamp(min=0.0)
    return elapsed
