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
from ehrseq.preprocess.fitted import signed_log
from ehrseq.preprocess.groups import Groups
from ehrseq.preprocess.histories import History

Key = tuple[bool, str]  # (static, code)
Floats = NDArray[np.float64]
# Cleans raw values: (codes, position of each value's code, values) to (values, which to keep).
Cleaner = Callable[[Sequence[str], NDArray[np.int64], Floats], tuple[Floats, NDArray[np.bool_]]]
_SAMPLE_SEED = 20_120


@dataclass(frozen=True)
class Moments:
    """Count, mean and central sums of K codes' values, each (K,) float64."""

    count: Floats
    mean: Floats
    second: Floats
    third: Floats

    @classmethod
    def of(cls, groups: Groups, value: Floats) -> "Moments":
        """Moments of values by their code.

        Args:
            groups: K codes of V values.
            value: (V,) in the order of the groups.
        """
        mean = groups.total(value) / groups.count
        deviation = value - groups.spread(mean)
        power = deviation * deviation
        second = groups.total(power)
        power *= deviation
        return cls(groups.count.astype(np.float64), mean, second, groups.total(power))

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Moments of no values."""
        return cls(*(np.zeros(size) for _ in range(4)))

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

    def taken(self, rows: NDArray[np.int64]) -> "Moments":
        """The moments at some positions."""
        return Moments(self.count[rows], self.mean[rows], self.second[rows], self.third[rows])

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
        positive: (K,) clean values above 0.
        plain: Moments of the clean values.
        log: Moments of `signed_log`; only of use where all are on one side of 0.
        rare: The subjects of each code that has fewer than `few`, for merging codes; empty where not asked for.
        sample: Clean values of each code of a seeded sample of subjects, for quantiles; empty where not asked for.
    """

    keys: tuple[Key, ...]
    events: NDArray[np.int64]
    subjects: NDArray[np.int64]
    negative: NDArray[np.int64]
    positive: NDArray[np.int64]
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
    number = history.code + codes * history.static if with_statics else history.code
    groups = Groups.of(number, codes * (1 + with_statics))
    keys: list[Key] = [(index >= codes, history.codes[index % codes]) for index in groups.number.tolist()]
    subjects, rare = _count_subjects(history, groups, few)
    value, keep = clean(history.codes, history.code, history.value.astype(np.float64))
    value = value.take(groups.order)
    useful = keep.take(groups.order)
    useful &= ~np.isnan(value)
    valued = groups.only(useful)
    if valued is not groups:
        value = value.take(np.flatnonzero(useful))
    rows = np.searchsorted(groups.number, valued.number)
    size = len(keys)
    negative, positive = np.zeros(size, np.int64), np.zeros(size, np.int64)
    negative[rows] = valued.total(value < 0, np.int64)
    positive[rows] = valued.total(value > 0, np.int64)
    logs = Moments.empty(size)
    if log:
        one_sided = valued.spread((negative[rows] == 0) | (positive[rows] == 0))
        those = valued.only(one_sided)
        logged = signed_log(value if those is valued else value.take(np.flatnonzero(one_sided)))
        logs = Moments.of(those, logged).spread(size, np.searchsorted(groups.number, those.number))
    sample: dict[Key, NDArray[np.float32]] = {}
    if sampled:
        chosen = hash_subjects(history.subject, _SAMPLE_SEED) <= np.uint64(min(int(sampled * 2**64), 2**64 - 1))
        picked = chosen.take(history.row).take(valued.order)
        for row, begin, count in zip(rows.tolist(), valued.begin.tolist(), valued.count.tolist(), strict=True):
            mine = slice(begin, begin + count)
            sample[keys[row]] = value[mine][picked[mine]].astype(np.float32)
    # By name, not by number.
    order = np.array(sorted(range(size), key=keys.__getitem__), np.int64)
    return Statistics(
        tuple(keys[index] for index in order.tolist()),
        groups.count[order],
        subjects[order],
        negative[order],
        positive[order],
        Moments.of(valued, value).spread(size, rows).taken(order),
        logs.taken(order),
        {keys[index]: members for index, members in rare.items()},
        sample,
    )


def _count_subjects(history: History, groups: Groups, few: int) -> tuple[NDArray[np.int64], dict[int, frozenset[int]]]:
    """Subjects that have each of the K codes; and who they are, by position, where they are fewer than `few`."""
    row = history.row.take(groups.order)
    first = np.ones(len(row), bool)
    np.not_equal(row[1:], row[:-1], out=first[1:])
    first[groups.begin] = True
    subjects = groups.total(first, np.int64)
    rare: dict[int, frozenset[int]] = {}
    for position in np.flatnonzero(subjects < few).tolist():
        begin = groups.begin[position]
        members = row[begin : begin + groups.count[position]]
        rare[position] = frozenset(history.subject[members].tolist())
    return subjects, rare


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of disjoint sets of subjects together; the order of `parts` decides the last bits."""
    parts = list(parts)
    keys = sorted({key for part in parts for key in part.keys})
    position = {key: index for index, key in enumerate(keys)}
    size = len(keys)
    events, subjects = np.zeros(size, np.int64), np.zeros(size, np.int64)
    negative, positive = np.zeros(size, np.int64), np.zeros(size, np.int64)
    plain = log = Moments.empty(size)
    samples: dict[Key, list[NDArray[np.float32]]] = {}
    rare: dict[Key, set[int]] = {}
    for part in parts:
        rows = np.array([position[key] for key in part.keys], np.int64)
        events[rows] += part.events
        subjects[rows] += part.subjects
        negative[rows] += part.negative
        positive[rows] += part.positive
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
        positive,
        plain,
        log,
        # A code that was rare in one part only is listed incompletely; it is not rare, so nobody asks.
        {key: frozenset(members) for key, members in rare.items()},
        {key: np.concatenate(values) for key, values in samples.items()},
    )
