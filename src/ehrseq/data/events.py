"""The `events` representation: one event a step."""

import numpy as np
import torch
from numpy.typing import NDArray

from ehrseq.config.representation import EventsConfig
from ehrseq.data.batch import EventBatch
from ehrseq.data.representation import Representation
from ehrseq.store.format import HOUR, Store, pack_events


class Events(Representation):
    """Cuts the last `max_steps` events of each history out of a store; an empty history has one empty step."""

    bytes_a_step = 4 * 4

    def __init__(self, store: Store, config: EventsConfig) -> None:
        super().__init__(store)
        self.max_steps = config.max_steps

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each sample's history, (M,)."""
        arrays = self.store.arrays
        lengths: NDArray[np.int64] = np.clip(
            arrays.sample_end[samples] - arrays.sample_begin[samples], 1, self.max_steps
        )
        return lengths

    def cut(self, samples: NDArray[np.int64]) -> EventBatch:
        """Make a batch.

        One slice a history is copied into a padded array of records: several times as fast as one gather over all of
        them (benchmarks/data_engine.py).

        Args:
            samples: (B,) sample numbers.
        """
        arrays = self.store.arrays
        lengths = self.lengths(samples)
        shape = (len(samples), int(lengths.max()))
        end = arrays.sample_end[samples]
        begin = np.maximum(arrays.sample_begin[samples], end - self.max_steps)
        cut = arrays.sample_time[samples]
        # Padding is at prediction_time and has no value.
        padding = pack_events(cut, np.int32(0), np.float32(np.nan))
        # Records are 16 bytes: as complex numbers, which nothing here computes with, numpy copies them in one go.
        padded = np.empty(shape, np.complex128)
        padded[:] = padding.view(np.complex128)[:, None]
        events = arrays.event.view(np.complex128)
        for row, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            padded[row, : last - first] = events[first:last]
        record = padded.view(arrays.event.dtype)
        hours = (cut[:, None] - record["time"]).astype(np.float32)
        hours *= np.float32(1 / HOUR)
        values = record["value"].copy()
        has_value = values == values  # noqa: PLR0124 - false for NaN, in half the time of isnan
        return EventBatch(
            **self._common(samples, lengths),
            hours_before=torch.from_numpy(hours),
            codes=torch.from_numpy(record["code"].copy()),
            values=torch.from_numpy(values).nan_to_num_(0.0),
            has_value=torch.from_numpy(has_value),
        )
