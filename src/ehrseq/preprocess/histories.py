"""The events that any history may hold: statics, and what happened up to a subject's last prediction_time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.meds import schema
from ehrseq.meds.read import NO_TIME, Chunk, Shard
from ehrseq.preprocess.groups import count_kept


@dataclass(frozen=True)
class Subjects:
    """The labelled subjects and their last prediction times, by ascending id.

    Attributes:
        subject: (N,) ids.
        last: (N,) microseconds since 1970.
    """

    subject: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, labels: pl.DataFrame) -> "Subjects":
        """The subjects of labels in the MEDS label schema."""
        table = labels.group_by(schema.SUBJECT_ID).agg(pl.col(schema.PREDICTION_TIME).max()).sort(schema.SUBJECT_ID)
        last = table[schema.PREDICTION_TIME].cast(pl.Datetime("us")).cast(pl.Int64)
        return cls(table[schema.SUBJECT_ID].to_numpy(), last.to_numpy())

    def among(self, subject: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids that are in `subject`, too, ascending."""
        return self.subject[np.isin(self.subject, subject)]


@dataclass(frozen=True)
class History:
    """The events of some whole subjects, E of them.

    Attributes:
        subject: (U,) ids of the labelled subjects of the chunk, also of those without any event left.
        count: (U,) events of each.
        time: (E,) microseconds since 1970; anything where static.
        static: (E,) whether the event has no time.
        code: (E,) position in `codes`.
        value: (E,) float32; NaN where there is none.
        codes: Names.
    """

    subject: NDArray[np.int64]
    count: NDArray[np.int64]
    time: NDArray[np.int64]
    static: NDArray[np.bool_]
    code: NDArray[np.int64]
    value: NDArray[np.float32]
    codes: list[str]

    @property
    def row(self) -> NDArray[np.int64]:
        """(E,) position of each event's subject in `subject`, ascending."""
        return np.repeat(np.arange(len(self.subject)), self.count)

    def only(self, subject: NDArray[np.int64]) -> "History":
        """The events of those who are in `subject`, which is sorted."""
        chosen = _among(self.subject, subject) >= 0
        if chosen.all():
            return self
        kept = np.flatnonzero(np.repeat(chosen, self.count))  # a take by position is faster than one by flags
        return History(
            self.subject[chosen],
            self.count[chosen],
            self.time.take(kept),
            self.static.take(kept),
            self.code.take(kept),
            self.value.take(kept),
            self.codes,
        )


def _among(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of `wanted` stands in `known`, which is sorted; -1 where it is not."""
    if not len(known):
        return np.full(len(wanted), -1)
    place = np.searchsorted(known, wanted)
    place[place == len(known)] = 0
    return np.where(known[place] == wanted, place, -1)


@dataclass
class HistoryReader:
    """Reads what shards hold of the labelled subjects, chunk by chunk.

    Attributes:
        subjects: All labelled subjects.
        text_values: See `Shard`.
        remembers: Whether what was read once is held in memory.
        infinite_values: Infinite values that were taken for missing, by shard, once it is read.
    """

    subjects: Subjects
    text_values: bool
    remembers: bool = False
    infinite_values: dict[Path, int] = field(default_factory=dict)
    _held: dict[Path, list[History]] = field(default_factory=dict)

    def read(self, path: Path) -> Iterator[History]:
        """The histories of one shard.

        Raises:
            DataError: If it is not MEDS.
        """
        if path in self._held:
            yield from self._held[path]
            return
        shard = Shard(path, self.text_values)
        found = []
        for history in histories(shard.chunks(), self.subjects):
            if self.remembers:
                found.append(history)
            yield history
        self.infinite_values[path] = shard.infinite_values
        if self.remembers:
            self._held[path] = found


def histories(chunks: Iterator[Chunk], subjects: Subjects) -> Iterator[History]:
    """Leave out who is not labelled and whatever comes after the last prediction_time.

    Args:
        chunks: From `Shard.chunks`.
        subjects: The labelled subjects, perhaps only those of one split.
    """
    for chunk in chunks:
        place = _among(chunk.subject, subjects.subject)
        labelled = place >= 0
        if not labelled.any():
            continue
        count = np.diff(chunk.begin)
        time, code, value = chunk.time, chunk.code, chunk.value
        # Inclusive: an event at prediction_time is known when the prediction is made. NO_TIME is below any time.
        keep = time <= np.repeat(subjects.last[place], count)
        if not labelled.all():
            keep &= np.repeat(labelled, count)
        if not keep.all():
            count = count_kept(keep, count)
            kept = np.flatnonzero(keep)
            time, code, value = time.take(kept), code.take(kept), value.take(kept)
        yield History(chunk.subject[labelled], count[labelled], time, time == NO_TIME, code, value, chunk.codes)
