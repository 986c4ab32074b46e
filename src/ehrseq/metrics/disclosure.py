"""Keeping small groups from being seen, or worked out from what is shown.

The rule of the US Centers for Medicare and Medicaid Services: no cell of 1 to 10 is shown, nor one that the others give
away. The smallest cell shown is `minimum`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def hide_small(cells: NDArray[np.int64], minimum: int) -> NDArray[np.bool_]:
    """Which of G groups, which add up to a total that is known, have to be hidden, (G,).

    Hidden are those with a cell of 1 to `minimum` - 1; and, while the total less what is shown would give one away or
    make a small cell, the smallest of the others.

    Args:
        cells: (G, C) counts of each group; the first column is its size.
        minimum: The smallest count that is shown; 0 or 1 hides nothing.
    """
    hidden: NDArray[np.bool_] = np.any((cells > 0) & (cells < minimum), axis=1)
    while hidden.any():
        together = cells[hidden].sum(axis=0)
        enough = (cells[hidden, 0] > 0).sum() > 1 and not ((together > 0) & (together < minimum)).any()
        others = np.flatnonzero(~hidden & (cells[:, 0] > 0))
        if enough or not len(others):
            break
        hidden[others[np.argmin(cells[others, 0])]] = True
    return hidden


def visible_steps(counts: Sequence[int], minimum: int) -> list[bool]:
    """Which counts of a flow may be shown: none that differs from the next one shown by 1 to `minimum` - 1.

    The last count is always shown: it is the size of what is reported on.
    """
    shown = [False] * len(counts)
    later: int | None = None
    for place in range(len(counts) - 1, -1, -1):
        difference = abs(counts[place] - later) if later is not None else 0
        if difference == 0 or difference >= minimum:
            shown[place], later = True, counts[place]
    return shown
