"""Histories as one row of numbers each, for models that read no sequences.

A history's events of one code are the beginning of its subject's events of that code. So the events are sorted by
subject and code once, running figures are kept beside them, and a cell of the matrix is one look-up, however many
histories a subject has. A row depends on its own history only, to the last bit: running figures add the events of one
subject and code in an order of their own.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.model import SummaryConfig
from ehrseq.store.format import HOUR, Store, take_events
from ehrseq.store.search import most_frequent, numbers_between, search_within

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CHUNK = 1 << 21  # cells and events worked on at once
_STATISTICS = ("mean", "std", "min", "max", "first", "last", "slope an hour")


def summarise(store: Store, samples: Ints, config: SummaryConfig) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Summaries of histories, from their first event to prediction_time, inclusive.

    For every code: how often it occurs and the hours since it was last seen. For codes that carry numbers: mean,
    standard deviation, smallest, largest, first and last number, and slope (least squares). For each window, the last
    w hours (inclusive): how often, and the mean and last number. Then hours since the first event, the number of
    events, and the statics. NaN where nothing was seen; counts are 0 there.

    Args:
        store: Where the histories are.
        samples: (M,) sample numbers.
        config: Which windows and how many codes.

    Returns:
        The matrix (M, K), and the names of its columns.
    """
    chosen = most_frequent(store.subjects, config.max_features)
    numeric = np.array(store.numeric, bool)[chosen]
    names = _names(store, config, chosen, numeric)
    matrix = np.empty((len(samples), len(names)), np.float32)
    done = 0
    for part in _chunks(store, samples, len(chosen)):
        matrix[done : done + len(part)] = _summarise(store, part, config, chosen, numeric)
        done += len(part)
    return matrix, names


def _names(store: Store, config: SummaryConfig, chosen: Ints, numeric: NDArray[np.bool_]) -> tuple[str, ...]:
    """The columns, in the order of `_summarise`."""
    every = [store.codes[code] for code in chosen]
    with_numbers = [store.codes[code] for code in chosen[numeric]]
    names = [f"{code} (count)" for code in every] + [f"{code} (hours since)" for code in every]
    names += [f"{code} ({statistic})" for statistic in _STATISTICS for code in with_numbers]
    for hours in config.windows_hours:
        names += [f"{code} (count, last {hours:g} h)" for code in every]
        names += [f"{code} ({statistic}, last {hours:g} h)" for statistic in ("mean", "last") for code in with_numbers]
    return (*names, "hours since the first event", "events", *store.statics)


def _chunks(store: Store, samples: Ints, features: int) -> Iterator[Ints]:
    """Stretches of samples that have few enough cells and events."""
    arrays = store.arrays
    cost = np.cumsum(arrays.sample_end[samples] - arrays.sample_begin[samples] + features + 1)
    cuts = np.searchsorted(cost, np.arange(_CHUNK, cost.max(initial=0), _CHUNK)) + 1
    return (part for part in np.split(samples, cuts) if len(part))


def _summarise(
    store: Store, samples: Ints, config: SummaryConfig, chosen: Ints, numeric: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """One chunk's rows."""
    arrays = store.arrays
    begin, end, cut = arrays.sample_begin[samples], arrays.sample_end[samples], arrays.sample_time[samples]
    sorted_ = _Sorted(store, begin, end, chosen)
    shape = (len(samples), len(chosen))
    row, feature = (part.ravel() for part in np.indices(shape))
    past = sorted_.past(row, feature, end)
    filled = np.flatnonzero(past > sorted_.first(row, feature))
    row, feature, last = row[filled], feature[filled], past[filled] - 1
    first = sorted_.first(row, feature)

    def column(value: NDArray[np.generic], missing: float = np.nan) -> NDArray[np.float32]:
        """Values of the filled cells as (M, F)."""
        full = np.full(shape, missing, np.float32)
        full.ravel()[filled] = value
        return full

    figures = sorted_.running
    columns = [column(last + 1 - first, 0.0), column((cut[row] - sorted_.time[last]) / HOUR)]
    columns += [column(value)[:, numeric] for value in figures.at(last)]
    for hours in config.windows_hours:
        # The first event of age w or less; one microsecond, since `search_within` goes past what is equal.
        start = search_within(arrays.time, begin, end, cut - round(hours * HOUR) - 1)
        # One before the window, among the events of subject and code; `first - 1` where there is none.
        before = sorted_.past(row, feature, start) - 1
        columns.append(column(last - before, 0.0))
        columns += [column(value)[:, numeric] for value in figures.between(before, last, first)]
    length = end - begin
    age = np.full(len(samples), np.nan)
    seen = length > 0
    age[seen] = (cut[seen] - arrays.time[begin[seen]]) / HOUR
    own = np.column_stack([age, length]).astype(np.float32)
    return np.concatenate([*columns, own, arrays.static[arrays.sample_subject[samples]]], axis=1)


class _Sorted:
    """The events of some histories, by subject, code and time.

    Attributes:
        time: (E,) microseconds.
        running: Their running figures.
    """

    def __init__(self, store: Store, begin: Ints, end: Ints, chosen: Ints) -> None:
        arrays = store.arrays
        # Histories that begin at the same event are of one subject.
        self._begin, self._stream = np.unique(begin, return_inverse=True)
        last = np.zeros(len(self._begin), np.int64)
        np.maximum.at(last, self._stream, end)
        number = numbers_between(self._begin, last)
        stream = np.repeat(np.arange(len(last)), last - self._begin)
        feature = np.full(len(store.codes), -1, np.int64)
        feature[chosen] = np.arange(len(chosen))
        event = take_events(arrays.event, number)
        self._features = len(chosen)
        group = stream * self._features + feature[event["code"]]
        kept = np.flatnonzero(feature[event["code"]] >= 0)
        order = kept[np.argsort(group[kept], kind="stable")]
        group = group[order]
        self._bounds = np.searchsorted(group, np.arange(len(last) * self._features + 1))
        # One sorted number that holds group and place in the history.
        self._room = int((last - self._begin).max(initial=0)) + 1
        self._place = group * self._room + (number - self._begin[stream])[order]
        event = take_events(event, order)
        self.time = event["time"].copy()
        self.running = _Running(self._bounds[group], self.time, event["value"].astype(np.float64))

    def first(self, row: Ints, feature: Ints) -> Ints:
        """Where the events of these histories' subjects and features begin, (C,)."""
        begin: Ints = self._bounds[self._stream[row] * self._features + feature]
        return begin

    def past(self, row: Ints, feature: Ints, end: Ints) -> Ints:
        """One past the last event of each of these features before position `end` (M,) of the store, (C,)."""
        stream = self._stream[row]
        group = stream * self._features + feature
        return np.searchsorted(self._place, group * self._room + end[row] - self._begin[stream])


class _Figures(NamedTuple):
    """Statistics of some cells, in the order of `_STATISTICS`."""

    mean: Floats
    std: Floats
    smallest: Floats
    largest: Floats
    first: Floats
    last: Floats
    slope: Floats


class _Running:
    """Figures of the numbers from the beginning of each group up to each event.

    Sums are of what is left after subtracting the group's first number and time, so that nothing cancels out.

    Args:
        begin: (E,) where the group of each event begins.
        time: (E,) microseconds, ascending in each group.
        value: (E,) NaN where an event has no number.
    """

    def __init__(self, begin: Ints, time: Ints, value: Floats) -> None:
        known = ~np.isnan(value)
        place = np.arange(len(value))
        self._value = value
        self._count = _scan(known.astype(np.float64), begin, np.add)
        # The group's first number, and the last up to each event.
        following = np.minimum.accumulate(np.where(known, place, len(value))[::-1])[::-1]
        self._first = following[begin] if len(value) else place
        self._last = np.maximum.accumulate(np.where(known, place, -1))
        self._smallest = _scan(np.where(known, value, np.inf), begin, np.minimum)
        self._largest = _scan(np.where(known, value, -np.inf), begin, np.maximum)
        origin = np.minimum(self._first, len(value) - 1)
        moved = np.where(known, value - value[origin], 0.0)
        hours = np.where(known, (time - time[origin]) / HOUR, 0.0)
        self._sum = _scan(moved, begin, np.add)
        self._squares = _scan(moved**2, begin, np.add)
        self._hours = _scan(hours, begin, np.add)
        self._hours_squares = _scan(hours**2, begin, np.add)
        self._products = _scan(moved * hours, begin, np.add)

    def at(self, last: Ints) -> _Figures:
        """Statistics (C,) of the numbers up to and including these events; NaN where there are none."""
        count = self._count[last]
        known = count > 0
        first = np.where(known, self._value[np.where(known, self._first[last], 0)], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            total, hours = self._sum[last], self._hours[last]
            spread = np.maximum(self._squares[last] - total**2 / count, 0)
            hours_spread = np.maximum(self._hours_squares[last] - hours**2 / count, 0)
            slope = (self._products[last] - total * hours / count) / hours_spread
            return _Figures(
                mean=first + total / count,
                std=np.sqrt(spread / count),
                smallest=np.where(known, self._smallest[last], np.nan),
                largest=np.where(known, self._largest[last], np.nan),
                first=first,
                last=np.where(known, self._value[np.where(known, self._last[last], 0)], np.nan),
                slope=np.where(hours_spread > 0, slope, np.nan),
            )

    def between(self, before: Ints, last: Ints, begin: Ints) -> tuple[Floats, Floats]:
        """Mean and last number (C,) of the events after `before`, up to `last`; NaN where there are none.

        Args:
            before: One before the first event, in the same group; `begin - 1` for all of them.
            last: The last event.
            begin: Where the group begins.
        """
        inside = before >= begin
        earlier = np.maximum(before, 0)
        count = self._count[last] - np.where(inside, self._count[earlier], 0)
        known = count > 0
        total = self._sum[last] - np.where(inside, self._sum[earlier], 0)
        first = self._value[np.where(known, self._first[last], 0)]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, first + total / count, np.nan)
        return mean, np.where(known, self._value[np.where(known, self._last[last], 0)], np.nan)


def _scan(value: Floats, begin: Ints, combine: np.ufunc) -> Floats:
    """Running sums (or minima, maxima) from the beginning of each group, (E,).

    By doubling (Hillis and Steele 1986): what is combined with what depends on the place in the group alone, and
    rounding errors grow with the logarithm of its length.

    Args:
        value: (E,).
        begin: (E,) where the group of each value begins.
        combine: An associative function.
    """
    result = value.copy()
    place = np.arange(len(value)) - begin
    step = 1
    reached = np.flatnonzero(place >= step)
    while len(reached):
        result[reached] = combine(result[reached], result[reached - step])
        step *= 2
        reached = reached[place[reached] >= step]
    return result
