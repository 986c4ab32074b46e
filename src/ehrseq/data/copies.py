"""Changed copies of the histories of `train`: more that a teacher can tell of, whose outcomes nobody knows."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.model import Copies
from ehrseq.store.format import SPLIT_CODES, Arrays, Store, take_events
from ehrseq.store.search import numbers_between, search_within, timepoints

Ints = NDArray[np.int64]


def add_copies(store: Store, config: Copies, seed: int) -> Store:
    """The store with changed copies of all subjects of `train` beside them, in memory.

    As in Bucila, Caruana and Niculescu-Mizil (2006, "Model Compression"), where a network learns from an ensemble of
    trees: what is common stays common, since all that a copy holds has been seen in some subject of `train`.

    In each copy every subject is given partners at random. A share of the series (all events of one code) and of the
    static features comes from them, in equal parts: at the same time after the first event, as far as the subject's own
    last event. Then up to a share of the events, another one for each subject, is left out, and noise is added to the
    numbers.

    Args:
        store: The data.
        config: How many copies, and how they are changed.
        seed: Of what is changed.

    Returns:
        The store: behind all samples, copy by copy, those of `train` once more in their order, with NaN as outcomes.
        Subjects of copies have ids of their own, below all others.
    """
    if not config.number:
        return store
    arrays, train = store.arrays, store.samples("train")
    rows, subject = np.unique(arrays.sample_subject[train], return_inverse=True)
    own = _Subjects.of(arrays, rows)
    parts = [arrays]
    events, subjects = len(arrays.event), len(arrays.begin)
    least = int(arrays.subject_id.min(initial=0))
    begin, end = arrays.sample_begin[train], arrays.sample_end[train]
    cut = arrays.sample_time[train]
    # When a history begins; of an empty one, after it has ended.
    start = np.where(begin < end, arrays.time[np.minimum(begin, events - 1)], cut + 1)
    for number in range(config.number):
        copy = own.changed(config, len(store.codes), np.random.default_rng([seed, number]))
        count = np.bincount(copy.owner, minlength=len(rows))
        last = np.cumsum(count)
        first = last - count
        bounds = first[subject], last[subject]
        part = Arrays(
            subject_id=least - 1 - np.arange(number * len(rows), (number + 1) * len(rows)),
            begin=first + events,
            end=last + events,
            event=copy.event,
            timepoint=timepoints(count, copy.event["time"]),
            static=copy.static,
            sample_subject=subject + subjects,
            sample_time=cut,
            sample_begin=search_within(copy.event["time"], *bounds, start - 1) + events,
            sample_end=search_within(copy.event["time"], *bounds, cut) + events,
            sample_label=np.full_like(arrays.sample_label[train], np.nan),
            sample_auxiliary=np.full_like(arrays.sample_auxiliary[train], np.nan),
            sample_split=np.full(len(train), SPLIT_CODES["train"], np.int8),
        )
        parts.append(part)
        events, subjects = events + len(copy.event), subjects + len(rows)
    together: dict[str, NDArray[Any]] = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Arrays)
    }
    return replace(store, arrays=Arrays(**together))


@dataclass(frozen=True)
class _Subjects:
    """N subjects with their events and statics.

    Attributes:
        owner: Whose each event is, (E,), ascending but in between.
        event: (E,) by subject and time, likewise.
        static: (N, S).
    """

    owner: Ints
    event: NDArray[np.void]
    static: NDArray[np.float32]

    @classmethod
    def of(cls, arrays: Arrays, rows: Ints) -> "_Subjects":
        """Those of some rows."""
        begin, end = arrays.begin[rows], arrays.end[rows]
        event = take_events(np.asarray(arrays.event), numbers_between(begin, end))
        return cls(np.repeat(np.arange(len(rows)), end - begin), event, arrays.static[rows])

    def changed(self, config: Copies, codes: int, rng: np.random.Generator) -> "_Subjects":
        """One copy of all of them."""
        number, span = len(self.static), self._span()
        copy = self
        for _ in range(config.partners):
            copy = copy._exchanged(config.exchanged / config.partners, codes, span, rng)
        left_out = rng.random(number) * config.left_out
        kept = np.flatnonzero(rng.random(len(copy.owner)) >= left_out[copy.owner])
        kept = kept[np.lexsort((copy.event["time"][kept], copy.owner[kept]))]
        event = take_events(copy.event, kept)
        event["value"] += rng.standard_normal(len(event), np.float32) * config.noise
        return _Subjects(copy.owner[kept], event, copy.static)

    def _span(self) -> tuple[Ints, Ints]:
        """First and last time of each subject, (N,) both; without events, what lets nothing in."""
        number = len(self.static)
        first, last = np.zeros(number, np.int64), np.full(number, np.iinfo(np.int64).min)
        begins = np.flatnonzero(np.diff(self.owner, prepend=-1))
        ends = np.flatnonzero(np.diff(self.owner, append=-1))
        first[self.owner[begins]] = self.event["time"][begins]
        last[self.owner[ends]] = self.event["time"][ends]
        return first, last

    def _exchanged(self, share: float, codes: int, span: tuple[Ints, Ints], rng: np.random.Generator) -> "_Subjects":
        """With a share of the series and statics of one partner each, everybody being the partner of one.

        Returns:
            The subjects, with their events in no order.
        """
        partner = rng.permutation(len(self.static))
        receiver = np.argsort(partner)
        own = self.owner * codes + self.event["code"]
        given = receiver[self.owner] * codes + self.event["code"]
        series = np.union1d(own, given)
        theirs = series[rng.random(len(series)) < share]
        stays, moves = np.flatnonzero(~np.isin(own, theirs)), np.flatnonzero(np.isin(given, theirs))
        first, last = span
        to = receiver[self.owner[moves]]
        moved = take_events(self.event, moves)
        moved["time"] += first[to] - first[self.owner[moves]]
        soon = np.flatnonzero(moved["time"] <= last[to])
        event = np.concatenate([take_events(self.event, stays), take_events(moved, soon)])
        static = np.where(rng.random(self.static.shape) < share, self.static[partner], self.static)
        return _Subjects(np.concatenate([self.owner[stays], to[soon]]), event, static)
