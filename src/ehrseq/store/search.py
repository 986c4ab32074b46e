"""Searching the arrays of a store."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def search_within(
    value: NDArray[np.integer[Any]], begin: NDArray[np.int64], end: NDArray[np.int64], limit: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The first position past all values <= limit in each sorted stretch; all stretches are searched at once.

    Args:
        value: (E,) sorted within each stretch.
        begin: (M,) first positions.
        end: (M,) positions past the last.
        limit: (M,) limits.
    """
    low, high = begin.copy(), end.copy()
    open_ = np.flatnonzero(low < high)
    while len(open_):
        middle = (low[open_] + high[open_]) // 2
        right = value[middle] <= limit[open_]
        low[open_[right]] = middle[right] + 1
        high[open_[~right]] = middle[~right]
        open_ = open_[low[open_] < high[open_]]
    return low
