"""What a store holds: names, types and meaning of its arrays.

N subjects, E timed events, S static features, M samples (one history, its L outcomes and A auxiliary ones each).
Events are grouped by subject and sorted by time; `begin` and `end` say where each subject's lie. Everything is keyed by
subject, never by position in the source, so that subjects without timed events take no part in anybody else's. Subjects
stand in the order of the source's shards, those without any event last.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

META = "meta.json"
HOUR = 3_600_000_000  # microseconds, the unit of all times
# Types on disk, pinned: another platform reads the same bytes.
DTYPES: dict[str, str | list[tuple[str, str]]] = {
    "subject_id": "<i8",
    "begin": "<i8",
    "end": "<i8",
    "event": [("time", "<i8"), ("code", "<i4"), ("value", "<f4")],
    "timepoint": "<i4",
    "static": "<f4",
    "sample_subject": "<i8",
    "sample_time": "<i8",
    "sample_begin": "<i8",
    "sample_end": "<i8",
    "sample_label": "<f4",
    "sample_auxiliary": "<f4",
    "sample_split": "|i1",
}
# What there is one of an event; each shard of the source writes its own stretch.
EVENT_ARRAYS = ("event", "timepoint")
SPLIT_CODES = {"train": 0, "tuning": 1, "held_out": 2}
NO_SPLIT = -1


@dataclass(frozen=True)
class Arrays:
    """The arrays of a store.

    Attributes:
        subject_id: (N,) ids.
        begin: (N,) first event of each subject.
        end: (N,) one past the last event of each. Between subjects there may be room that belongs to nobody.
        event: (E,) records of `time` (microseconds since 1970), `code` (position in the vocabulary) and `value`
            (normalised; NaN where the event has none). What belongs together lies together: a history is one copy.
        timepoint: (E,) number of the event's time among the subject's different times, from 0.
        static: (N, S) static features.
        sample_subject: (M,) row of the sample's subject in `subject_id`.
        sample_time: (M,) prediction_time in microseconds since 1970.
        sample_begin: (M,) first event of the history.
        sample_end: (M,) one past the last event with time <= prediction_time.
        sample_label: (M, L) outcomes, see `ehrseq.tasks.Outcomes`; no columns where there are none.
        sample_auxiliary: (M, A) outcomes of the auxiliary targets, NaN where unknown.
        sample_split: (M,) see `SPLIT_CODES`; -1 for none.
    """

    subject_id: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    event: NDArray[np.void]
    timepoint: NDArray[np.int32]
    static: NDArray[np.float32]
    sample_subject: NDArray[np.int64]
    sample_time: NDArray[np.int64]
    sample_begin: NDArray[np.int64]
    sample_end: NDArray[np.int64]
    sample_label: NDArray[np.float32]
    sample_auxiliary: NDArray[np.float32]
    sample_split: NDArray[np.int8]

    @property
    def time(self) -> NDArray[np.int64]:
        """The times of all events, (E,), a view."""
        return self.event["time"]

    @property
    def code(self) -> NDArray[np.int32]:
        """The codes of all events, (E,), a view."""
        return self.event["code"]

    @property
    def value(self) -> NDArray[np.float32]:
        """The values of all events, (E,), a view."""
        return self.event["value"]


def pack_events(
    time: NDArray[np.int64], code: NDArray[np.integer[Any]] | np.int32, value: NDArray[np.float32] | np.float32
) -> NDArray[np.void]:
    """The records of `Arrays.event`, (E,); one code or value may stand for all."""
    event = np.empty(len(time), DTYPES["event"])
    event["time"], event["code"], event["value"] = time, code, value
    return event


def take_events(event: NDArray[np.void], rows: NDArray[np.int64]) -> NDArray[np.void]:
    """Some records, (E',)."""
    # Records are 16 bytes: as complex numbers, which nothing here computes with, numpy copies them in one go.
    taken: NDArray[np.void] = event.view(np.complex128).take(rows).view(event.dtype)
    return taken


ARRAY_NAMES = tuple(item.name for item in fields(Arrays))


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        folder: Where it lies.
        arrays: Memory maps.
        codes: Names of the F timed codes; `Arrays.code` counts in them.
        statics: Names of the S static features.
        numeric: Whether each code carries numbers, F.
        subjects: Train subjects that have each code, F.
        meta: The rest of `meta.json`: `target`, the kind of target that the outcomes are of, with its classes, and
            `auxiliary`, the auxiliary targets by name, with theirs.
    """

    folder: Path
    arrays: Arrays
    codes: tuple[str, ...]
    statics: tuple[str, ...]
    numeric: tuple[bool, ...]
    subjects: tuple[int, ...]
    meta: dict[str, Any]

    def samples(self, split: str) -> NDArray[np.int64]:
        """Sample numbers of one split, ascending."""
        return np.flatnonzero(self.arrays.sample_split == SPLIT_CODES[split])

    def subjects_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Subject ids of some samples."""
        ids: NDArray[np.int64] = self.arrays.subject_id[self.arrays.sample_subject[samples]]
        return ids
