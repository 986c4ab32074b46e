"""The `timepoints` representation: what happened at one time is one step."""

import numpy as np
import torch
from numpy.typing import NDArray

from ehrseq.config.representation import TimepointsConfig
from ehrseq.data.batch import TimepointBatch
from ehrseq.data.representation import Representation
from ehrseq.store.format import HOUR, Store
from ehrseq.store.search import search_within


class Timepoints(Representation):
    """Cuts the last `max_steps` times of each history out of a store; an empty history has one empty step."""

    def __init__(self, store: Store, config: TimepointsConfig) -> None:
        super().__init__(store)
        self.max_steps = config.max_steps

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each sample's history, (M,)."""
        arrays = self.store.arrays
        begin, end = arrays.sample_begin[samples], arrays.sample_end[samples]
        steps = np.ones(len(samples), np.int64)
        filled = np.flatnonzero(end > begin)
        # Numbers of timepoints count from 0 within a subject.
        steps[filled] = arrays.timepoint[end[filled] - 1].astype(np.int64) + 1
        return np.minimum(steps, self.max_steps)

    def cut(self, samples: NDArray[np.int64]) -> TimepointBatch:
        """Make a batch.

        Args:
            samples: (B,) sample numbers.
        """
        arrays = self.store.arrays
        lengths = self.lengths(samples)
        rows, steps = len(samples), int(lengths.max())
        end = arrays.sample_end[samples]
        begin = self._first_kept(arrays.sample_begin[samples], end, lengths)
        counts = end - begin
        slices = [slice(first, last) for first, last in zip(begin.tolist(), end.tolist(), strict=True)]
        event = np.concatenate([arrays.event[part] for part in slices])
        point = np.concatenate([arrays.timepoint[part] for part in slices])
        value = event["value"]
        last = np.zeros(rows, np.int64)
        filled = np.flatnonzero(counts)
        last[filled] = arrays.timepoint[end[filled] - 1]
        step = point + np.repeat(np.arange(rows) * steps - (last - lengths + 1), counts)
        events = np.bincount(step, minlength=rows * steps)
        before = np.zeros(rows * steps, np.float32)
        before[step] = (np.repeat(arrays.sample_time[samples], counts) - event["time"]) / HOUR
        has_value = value == value  # noqa: PLR0124 - false for NaN
        return TimepointBatch(
            **self._common(samples, lengths),
            hours_before=torch.from_numpy(before.reshape(rows, steps)),
            first_event=torch.from_numpy((np.cumsum(events) - events).reshape(rows, steps)),
            codes=torch.from_numpy(event["code"].copy()),
            values=torch.from_numpy(value).nan_to_num(0.0),
            has_value=torch.from_numpy(has_value),
        )

    def _first_kept(
        self, begin: NDArray[np.int64], end: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The first event of the kept steps."""
        point = self.store.arrays.timepoint
        left_out = np.full(len(begin), -1, np.int64)
        filled = np.flatnonzero(end > begin)
        left_out[filled] = point[end[filled] - 1] - lengths[filled]
        return search_within(point, begin, end, left_out)
