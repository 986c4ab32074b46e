"""The events that any history may hold: statics, and what happened up to a subject's last prediction_time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.meds import schema
from ehrseq.meds.read import NO_TIME, Chunk


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

    def only(self, subject: NDArray[np.int64]) -> "Subjects":
        """Those of them that are in `subject`."""
        keep = np.isin(self.subject, subject)
        return Subjects(self.subject[keep], self.last[keep])


@dataclass(frozen=True)
class History:
    """The events of some whole subjects, E of them.

    Attributes:
        subject: (U,) ids of the labelled subjects of the chunk, also of those without any event left.
        row: (E,) position in `subject`, ascending.
        time: (E,) microseconds since 1970; anything where static.
        static: (E,) whether the event has no time.
        code: (E,) position in `codes`.
        value: (E,) float32; NaN where there is none.
        codes: Names.
    """

    subject: NDArray[np.int64]
    row: NDArray[np.int64]
    time: NDArray[np.int64]
    static: NDArray[np.bool_]
    code: NDArray[np.int32]
    value: NDArray[np.float32]
    codes: list[str]

    def only(self, subject: NDArray[np.int64]) -> "History":
        """The events of those who are in `subject`, which is sorted."""
        place = np.searchsorted(subject, self.subject)
        place[place == len(subject)] = 0
        chosen = subject[place] == self.subject if len(subject) else np.zeros(len(self.subject), bool)
        if chosen.all():
            return self
        kept = np.flatnonzero(chosen.take(self.row))  # takes by position are several times as fast as by flags
        return History(
            self.subject[chosen],
            (np.cumsum(chosen) - 1).take(self.row.take(kept)),
            self.time.take(kept),
            self.static.take(kept),
            self.code.take(kept),
            self.value.take(kept),
            self.codes,
        )


def histories(chunks: Iterator[Chunk], subjects: Subjects) -> Iterator[History]:
    """Leave out who is not labelled and whatever comes after the last prediction_time.

    Args:
        chunks: From `Shard.chunks`.
        subjects: The labelled subjects, perhaps only those of one split.
    """
    for chunk in chunks:
        place = np.searchsorted(subjects.subject, chunk.subject)
        place[place == len(subjects.subject)] = 0
        labelled = (
            subjects.subject[place] == chunk.subject if len(subjects.subject) else np.zeros(len(chunk.subject), bool)
        )
        if not labelled.any():
            continue
        last = np.where(labelled, subjects.last[place], NO_TIME) if len(subjects.subject) else NO_TIME
        count = np.diff(chunk.begin)
        # Inclusive: an event at prediction_time is known when the prediction is made. NO_TIME is below any time.
        keep = chunk.time <= np.repeat(last, count)
        new_row = np.cumsum(labelled) - 1
        row = np.repeat(new_row, count)
        if not labelled.all():
            keep &= np.repeat(labelled, count)
        if keep.all():
            time, code, value = chunk.time, chunk.code, chunk.value
        else:
            kept = np.flatnonzero(keep)
            row, time = row.take(kept), chunk.time.take(kept)
            code, value = chunk.code.take(kept), chunk.value.take(kept)
        yield History(chunk.subject[labelled], row, time, time == NO_TIME, code, value, chunk.codes)
