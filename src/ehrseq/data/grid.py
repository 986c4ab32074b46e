"""The `grid` representation: fixed-width bins that end at prediction_time, cut for a whole batch at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ehrseq.config.representation import GridConfig
from ehrseq.data.batch import GridBatch
from ehrseq.data.representation import Representation
from ehrseq.store.format import HOUR, Store
from ehrseq.store.search import most_frequent, numbers_between


@dataclass(frozen=True)
class Cells:
    """Where the E events of B histories go in the grid, in the order of time.

    Attributes:
        lengths: (B,) steps of each history.
        shape: (B, T + 1, F); step 0 is what happened before the first kept step.
        cell: (E,) flat position of each event in an array of this shape.
        feature: (E,) its feature.
        age: (E,) microseconds from it to prediction_time.
        value: (E,) normalised; NaN where the event has none.
    """

    lengths: NDArray[np.int64]
    shape: tuple[int, int, int]
    cell: NDArray[np.int64]
    feature: NDArray[np.int64]
    age: NDArray[np.int64]
    value: NDArray[np.float32]


class Grid(Representation):
    """Cuts histories out of a store and bins them.

    With bins of w hours, step T - 1 - k of a history holds the events whose age at prediction_time lies in
    [k w, (k + 1) w): a step is closed at its end, as the history is at prediction_time. A history has as many steps as
    its first event is old, at least 1 and at most `max_steps`. What happened before the first kept step still counts
    as last seen.

    Attributes:
        names: The F features; all codes of the store, or those that most train subjects have.
    """

    def __init__(self, store: Store, config: GridConfig) -> None:
        super().__init__(store)
        self.max_steps = config.max_steps
        self.mean = config.aggregate == "mean"
        self.width = max(round(config.bin_hours * HOUR), 1)
        self._bin_hours = config.bin_hours
        chosen = most_frequent(store.subjects, config.max_features)
        self.names = tuple(store.codes[number] for number in chosen)
        self.features = len(chosen)
        self.bytes_a_step = 3 * 4 * self.features
        # Where each code of the store goes; -1: nowhere.
        self._feature = np.full(len(store.codes), -1, np.int64)
        self._feature[chosen] = np.arange(len(chosen))
        self._all = len(chosen) == len(store.codes)
        # What a cell holds where the event has no number: 1 says that it happened; of a code that is measured, the
        # train centre.
        self._without_number = np.where(np.array(store.numeric, bool)[chosen], 0.0, 1.0).astype(np.float32)

    @property
    def bin_hours(self) -> float:
        """Width of a bin."""
        return self._bin_hours

    def holds(self, code: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether codes of the store are among the features, (E,)."""
        held: NDArray[np.bool_] = self._feature[code] >= 0
        return held

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each sample's history, (M,)."""
        arrays = self.store.arrays
        begin, end = arrays.sample_begin[samples], arrays.sample_end[samples]
        filled = end > begin
        age = np.zeros(len(samples), np.int64)
        age[filled] = arrays.sample_time[samples][filled] - arrays.time[begin[filled]]
        return np.minimum(self._bin(age) + 1, self.max_steps)

    def _bin(self, age: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bins counted back from prediction_time."""
        return age // self.width

    def cut(self, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None) -> GridBatch:
        """Make a batch.

        Args:
            samples: (B,) sample numbers.
            lengths: (B,) steps of each; by default as many as `lengths` says.
        """
        return self.fill(samples, self.place(samples, self.lengths(samples) if lengths is None else lengths))

    def place(self, samples: NDArray[np.int64], lengths: NDArray[np.int64]) -> Cells:
        """Find the cell of each event.

        Args:
            samples: (B,) sample numbers.
            lengths: (B,) steps of each.
        """
        arrays = self.store.arrays
        rows, steps, features = len(samples), int(lengths.max()), self.features
        begin, end = arrays.sample_begin[samples], arrays.sample_end[samples]
        row = np.repeat(np.arange(rows), end - begin)
        event = arrays.event[numbers_between(begin, end)]
        feature = self._feature[event["code"]]
        if not self._all:
            kept = np.flatnonzero(feature >= 0)
            row, event, feature = row[kept], event[kept], feature[kept]
        age = arrays.sample_time[samples][row] - event["time"]
        step = np.maximum(lengths[row] - self._bin(age), 0)
        cell = (row * (steps + 1) + step) * features + feature
        return Cells(lengths, (rows, steps + 1, features), cell, feature, age, event["value"])

    def fill(self, samples: NDArray[np.int64], cells: Cells) -> GridBatch:
        """Make a batch of what lies in the cells.

        Args:
            samples: (B,) sample numbers.
            cells: Their events.
        """
        lengths, steps = cells.lengths, cells.shape[1] - 1
        values, seen, last_age = self.contents(cells)
        # The last step up to here in which each feature was seen.
        source = np.where(seen, np.arange(steps + 1, dtype=np.int64)[None, :, None], -1)
        np.maximum.accumulate(source, axis=1, out=source)
        ever = source >= 0
        np.maximum(source, 0, out=source)
        values = np.where(ever, np.take_along_axis(values, source, 1), 0)
        end_age = ((lengths[:, None] - np.arange(steps + 1)) * self.bin_hours).astype(np.float32)[:, :, None]
        first_age = (lengths * self.bin_hours).astype(np.float32)[:, None, None]
        since = np.where(ever, np.take_along_axis(last_age, source, 1), first_age) - end_age
        real = (np.arange(steps) < lengths[:, None])[:, :, None]
        before = np.where(real[:, :, 0], end_age[:, 1:, 0], 0)
        return GridBatch(
            **self._common(samples, lengths),
            hours_before=torch.from_numpy(before.astype(np.float32, copy=False)),
            values=torch.from_numpy(np.where(real, values[:, 1:], 0).astype(np.float32, copy=False)),
            observed=torch.from_numpy(seen[:, 1:].astype(np.float32)),
            hours_since=torch.from_numpy(np.where(real, np.maximum(since[:, 1:], 0), 0).astype(np.float32, copy=False)),
        )

    def contents(self, cells: Cells) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """What lies in the cells themselves, before anything is carried forward, (B, T + 1, F) each.

        Returns:
            The value of each cell, whether it has any event, and the age of its latest one in hours.
        """
        value = np.where(np.isnan(cells.value), self._without_number[cells.feature], cells.value)
        values, seen = self._aggregate(cells.cell, value, cells.shape)
        last_age = np.zeros(cells.shape, np.float32)
        # Where a cell is hit several times the last assignment, the latest event, stays.
        last_age.ravel()[cells.cell] = cells.age / HOUR
        return values, seen, last_age

    def _aggregate(
        self, cell: NDArray[np.int64], value: NDArray[np.float32], shape: tuple[int, int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One value a cell from its events (in the order of time), and which cells have any."""
        size = int(np.prod(shape))
        seen = np.zeros(size, bool)
        seen[cell] = True
        if self.mean:
            total = np.bincount(cell, weights=value, minlength=size)
            values = (total / np.maximum(np.bincount(cell, minlength=size), 1)).astype(np.float32)
        else:
            values = np.zeros(size, np.float32)
            values[cell] = value
        return values.reshape(shape), seen.reshape(shape)
