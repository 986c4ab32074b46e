"""Finding one's way in the arrays of a store."""

from collections.abc import Sequence
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


def numbers_between(begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers of several ranges, one range after the other."""
    counts = end - begin
    numbers: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)
    return numbers


def most_frequent(subjects: Sequence[int], count: int | None) -> NDArray[np.int64]:
    """The codes that most train subjects have, in the order of the store.

    Args:
        subjects: How many have each code, (F,); `Store.subjects`.
        count: How many codes; None: all.
    """
    everything = np.arange(len(subjects))
    if count is None or count >= len(subjects):
        return everything
    return np.sort(np.argsort(-np.array(subjects, np.int64), kind="stable")[:count])


def timepoints(count: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number of each event's time among the different times of its subject."""
    if not len(time):
        return np.zeros(0, np.int32)
    filled = count[count > 0]
    begin = np.cumsum(filled) - filled
    later = np.empty(len(time), bool)
    np.not_equal(time[1:], time[:-1], out=later[1:])
    later[begin] = False
    number = np.cumsum(later, dtype=np.int32)
    number -= np.repeat(number[begin], filled)
    return number
