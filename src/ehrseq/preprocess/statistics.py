"""What fitting needs to know of each code, gathered shard by shard and merged in a fixed order.

Moments are merged exactly as they would have been computed in one piece, up to rounding in float64 (Chan et al. 1979;
Pebay 2008, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
moments"). Because shards and their merging have a fixed order, the same data give the same bits however many processes
gathered them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehrseq.meds.splits import hash_subjects
from ehrseq.preprocess.groups import grouped
from ehrseq.preprocess.histories import History

Key = tuple[bool, str]  # (static, code)
Floats = NDArray[np.float64]
# Cleans raw values: (codes, position of each value's code, values) to (values, which to keep).
Cleaner = Callable[[Sequence[str], NDArray[np.int32], Floats], tuple[Floats, NDArray[np.bool_]]]
_SAMPLE_SEED = 20_120
_FLAGS_AN_EVENT = 64


@dataclass(frozen=True)
class Moments:
    """Count, mean and central sums of K codes' values, each (K,) float64."""

    count: Floats
    mean: Floats
    second: Floats
    third: Floats

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """The moments of no values, of K = `size` codes."""
        return cls(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, number: NDArray[np.int64], value: Floats, size: int) -> "Moments":
        """Moments of values by their code.

        Args:
            number: (V,) code of each value, below `size`.
            value: (V,) values.
            size: K.
        """
        count = np.bincount(number, minlength=size).astype(np.float64)
        mean = np.bincount(number, value, size) / np.maximum(count, 1)
        deviation = value - mean[number]
        power = deviation * deviation
        second: Floats = np.bincount(number, power, size).astype(np.float64, copy=False)
        power *= deviation
        return cls(count, mean, second, np.bincount(number, power, size).astype(np.float64, copy=False))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both groups of values together, code by code."""
        count = self.count + other.count
        divisor = np.maximum(count, 1)
        delta = other.mean - self.mean
        share = self.count * other.count / divisor
        mean = self.mean + delta * other.count / divisor
        second = self.second + other.second + delta**2 * share
        third = self.third + other.third + delta**3 * share * (self.count - other.count) / divisor
        third += 3 * delta * (self.count * other.second - other.count * self.second) / divisor
        return Moments(count, mean, second, third)

    def spread(self, size: int, rows: NDArray[np.int64]) -> "Moments":
        """The same moments at positions `rows` of `size` codes; others are empty."""
        columns = []
        for column in (self.count, self.mean, self.second, self.third):
            wide = np.zeros(size)
            wide[rows] = column
            columns.append(wide)
        return Moments(*columns)

    @property
    def deviation(self) -> Floats:
        """(K,) standard deviations; 0 for empty groups."""
        return np.sqrt(self.second / np.maximum(self.count, 1))

    @property
    def skewness(self) -> Floats:
        """(K,) third standardised moments; 0 where nothing varies."""
        deviation = self.deviation
        cube = np.where(deviation > 0, deviation, 1) ** 3
        return np.where(deviation > 0, self.third / np.maximum(self.count, 1) / cube, 0)


@dataclass(frozen=True)
class Statistics:
    """What is known of K codes.

    Attributes:
        keys: (static, code), sorted.
        events: (K,) events.
        subjects: (K,) subjects that have at least one.
        negative: (K,) clean values below 0.
        plain: Moments of the clean values.
        log: Moments of log(1 + value); only of use where none is negative.
        rare: The subjects of each code that has fewer than `few`, for merging codes; empty where not asked for.
        sample: Clean values of each code of a seeded sample of subjects, for quantiles; empty where not asked for.
    """

    keys: tuple[Key, ...]
    events: NDArray[np.int64]
    subjects: NDArray[np.int64]
    negative: NDArray[np.int64]
    plain: Moments
    log: Moments
    rare: dict[Key, frozenset[int]]
    sample: dict[Key, NDArray[np.float32]]


def gather(history: History, clean: Cleaner, few: int = 0, sampled: float = 0.0, log: bool = True) -> Statistics:
    """Statistics of one part of the histories.

    Args:
        history: Whole subjects.
        clean: Mends and limits raw values.
        few: Subjects of codes that have fewer than this are listed; 0: never.
        sampled: Share of subjects whose values are kept for quantiles; 0: none.
        log: Whether moments of logarithms are wanted.
    """
    # Static and timed events of one code are different things: number them apart, statics after the timed ones.
    codes = len(history.codes)
    with_statics = bool(history.static.any())
    size = codes * (1 + with_statics)
    number = history.code.astype(np.int64)
    if with_statics:
        number += codes * history.static
    counted = np.bincount(number, minlength=size)
    subjects, rare = _count_subjects(history, number, counted, few)
    valued = np.flatnonzero(~np.isnan(history.value))
    numbers = number[valued]
    value, keep = clean(history.codes, history.code[valued], history.value[valued].astype(np.float64))
    if not keep.all():
        valued, numbers, value = valued[keep], numbers[keep], value[keep]
    plain = Moments.of(numbers, value, size)
    negative = np.bincount(numbers[value < 0], minlength=size)
    logs = Moments.empty(size)
    if log:
        useful = np.flatnonzero((negative == 0)[numbers])
        logs = Moments.of(numbers[useful], np.log1p(value[useful]), size)
    sample: dict[int, NDArray[np.float32]] = {}
    if sampled:
        chosen = hash_subjects(history.subject, _SAMPLE_SEED) <= np.uint64(min(int(sampled * 2**64), 2**64 - 1))
        picked = np.flatnonzero(chosen[history.row[valued]])
        sample = {index: value[picked[part]].astype(np.float32) for index, part in grouped(numbers[picked])}
    keys: dict[int, Key] = {
        int(index): (bool(index >= codes), history.codes[index % codes]) for index in np.flatnonzero(counted)
    }
    order = np.array(sorted(keys, key=keys.__getitem__), np.int64)
    return Statistics(
        tuple(keys[index] for index in order.tolist()),
        counted[order],
        subjects[order],
        negative[order],
        _taken(plain, order),
        _taken(logs, order),
        {keys[index]: members for index, members in rare.items()},
        {keys[index]: values for index, values in sample.items()},
    )


def _count_subjects(
    history: History, number: NDArray[np.int64], counted: NDArray[np.int64], few: int
) -> tuple[NDArray[np.int64], dict[int, frozenset[int]]]:
    """Subjects that have each code; and who they are, where they are fewer than `few`.

    A table of flags, a row a subject, counts fastest; where most of it would be empty, the pairs are sorted.
    """
    size, rows = len(counted), len(history.subject)
    if rows * size <= _FLAGS_AN_EVENT * max(len(number), 1):
        flags = np.zeros((rows, size), bool)
        flags[history.row, number] = True
        subject, code = np.nonzero(flags) if few else (None, None)
        subjects = np.count_nonzero(flags, axis=0)
    else:
        pairs = np.unique(number * rows + history.row)
        code, subject = pairs // rows, pairs % rows
        subjects = np.bincount(code, minlength=size)
    rare: dict[int, frozenset[int]] = {}
    if few and code is not None and subject is not None:
        listed = np.flatnonzero((subjects < few)[code])
        for index, part in grouped(code[listed]):
            rare[index] = frozenset(history.subject[subject[listed[part]]].tolist())
    return subjects, rare


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of disjoint sets of subjects together; the order of `parts` decides the last bits."""
    parts = list(parts)
    keys = sorted({key for part in parts for key in part.keys})
    position = {key: index for index, key in enumerate(keys)}
    size = len(keys)
    events, subjects = np.zeros(size, np.int64), np.zeros(size, np.int64)
    negative = np.zeros(size, np.int64)
    plain = log = Moments.empty(size)
    samples: dict[Key, list[NDArray[np.float32]]] = {}
    rare: dict[Key, set[int]] = {}
    for part in parts:
        rows = np.array([position[key] for key in part.keys], np.int64)
        events[rows] += part.events
        subjects[rows] += part.subjects
        negative[rows] += part.negative
        plain = plain.merged(part.plain.spread(size, rows))
        log = log.merged(part.log.spread(size, rows))
        for key, values in part.sample.items():
            samples.setdefault(key, []).append(values)
        for key, members in part.rare.items():
            rare.setdefault(key, set()).update(members)
    return Statistics(
        tuple(keys),
        events,
        subjects,
        negative,
        plain,
        log,
        # A code that was rare in one part only is listed incompletely; it is not rare, so nobody asks.
        {key: frozenset(members) for key, members in rare.items()},
        {key: np.concatenate(values) for key, values in samples.items()},
    )


def _taken(moments: Moments, rows: NDArray[np.int64]) -> Moments:
    return Moments(moments.count[rows], moments.mean[rows], moments.second[rows], moments.third[rows])
