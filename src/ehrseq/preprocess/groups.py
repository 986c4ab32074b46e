"""Rows that belong together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def grouped(number: NDArray[np.integer[Any]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each different number, ascending, and the positions that hold it, ascending."""
    order = np.argsort(number, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(part):
            yield int(number[part[0]]), part
