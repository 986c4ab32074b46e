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


def hours_since_previous(hours_since: Tensor, hours_before: Tensor) -> Tensor:
    """Hours from the last measurement before each step to the end of that step: the delta of Che et al. (2018).

    0 at the first step. Other than `hours_since` it does not begin anew where a feature is measured, so it says how old
    the value was that the measurement replaces. Before the first measurement it counts from where the first step began.

    >>> hours_since_previous(torch.tensor([[[1.0], [0.0], [1.0]]]), torch.tensor([[2.0, 1.0, 0.0]])).flatten()
    tensor([0., 2., 1.])

    Args:
        hours_since: Hours from the last measurement, in this step or before, to the end of the step, (B, T, F).
        hours_before: Hours from the end of each step to the prediction, (B, T).

    Returns:
        (B, T, F).
    """
    delta = torch.zeros_like(hours_since)
    delta[:, 1:] = hours_since[:, :-1] + elapsed_hours(hours_before)[:, 1:].unsqueeze(-1)
    return delta
