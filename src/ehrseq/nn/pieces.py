"""Numbers as pieces: what a linear layer needs to bend with a value."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of normalised values: train mean 0 and standard deviation 1, so that each piece has something to say.
KNOTS = (-2.0, -1.0, -0.4, 0.4, 1.0, 2.0)
# Of hours since the first step. How long a stay has lasted can matter sharply: of PhysioNet 2019's hours, one in a
# hundred is septic before hour 48 and one in ten after hour 60.
HOUR_KNOTS = (*range(0, 8, 2), *range(8, 24, 4), *range(24, 72, 6), 72, 96, 120, 168, 240, 336, 504, 720)


def pieces(x: Tensor, knots: Sequence[float] = KNOTS) -> Tensor:
    """Piecewise-linear encoding (Gorishniy et al. 2022, "On Embeddings for Numerical Features", equation 1).

    Piece k of x says how far x has come from knot k to knot k + 1: 0 below the piece, 1 above it. A linear layer on
    the pieces is a function of x that bends at each knot: both too low and too high a value can be bad.

    >>> pieces(torch.tensor([-3.0, 0.7]))
    tensor([[0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
            [1.0000, 1.0000, 1.0000, 0.5000, 0.0000]])

    Args:
        x: Numbers, (..., D).
        knots: K rising numbers.

    Returns:
        (..., D (K - 1)): the pieces of each number side by side.
    """
    edges = torch.tensor(knots, dtype=x.dtype, device=x.device)
    low, high = edges[:-1], edges[1:]
    slope = 1 / (high - low)
    return torch.addcmul(-low * slope, x.unsqueeze(-1), slope).clamp(0, 1).flatten(-2)
