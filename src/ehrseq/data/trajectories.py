"""One history a subject, with an outcome at many of its steps: what early warning learns from."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.config.representation import GridConfig
from ehrseq.data.batch import GridBatch, StepBatch
from ehrseq.data.grid import Grid
from ehrseq.data.representation import Representation
from ehrseq.errors import ConfigError
from ehrseq.store.format import Store
from ehrseq.store.search import numbers_between


class Trajectories(Representation):
    """Histories up to each subject's last prediction, which hold all its earlier ones.

    A net that never looks ahead says at each step what it would say of the history that ends there, so that one pass
    over T steps takes the place of T passes. The predictions of a subject must lie whole bins apart; each is then the
    end of a step.

    A step's time is told from the first step on: hours before the last prediction would give away how much is to come.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid.store)
        self.grid = grid
        self.names = grid.names
        subject = grid.store.arrays.sample_subject
        # Samples stand subject by subject, in the order of time.
        begin = np.flatnonzero(np.diff(subject, prepend=-1))
        self._first = np.repeat(begin, np.diff(begin, append=len(subject)))

    @property
    def bin_hours(self) -> float:
        """Width of a step."""
        return self.grid.bin_hours

    def units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last sample of each subject among `samples`."""
        subject = self.store.arrays.sample_subject[samples]
        return samples[np.flatnonzero(np.diff(subject, append=-1))]

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each trajectory, (M,): from its first event or prediction on."""
        return np.maximum(self.grid.lengths(samples), self._span(samples) + 1)

    def _span(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bins between the first and the last prediction, (M,)."""
        time = self.store.arrays.sample_time
        span: NDArray[np.int64] = (time[samples] - time[self._first[samples]]) // self.grid.width
        if (longest := int(span.max(initial=0)) + 1) > self.grid.max_steps:
            raise ConfigError(
                f"outputs=steps: representation.max_steps={self.grid.max_steps} cuts predictions off; {longest} or "
                "more keeps them all"
            )
        return span

    def cut(self, samples: NDArray[np.int64]) -> StepBatch:
        """Make a batch, see `StepBatch`.

        Args:
            samples: (B,) last samples of subjects, from `units`.

        Raises:
            ConfigError: If predictions are not whole bins apart, or reach back before the first kept step.
        """
        lengths = self.lengths(samples)
        batch = self.grid.cut(samples, lengths)
        arrays = self.store.arrays
        first = self._first[samples]
        row = np.repeat(np.arange(len(samples)), samples + 1 - first)
        number = numbers_between(first, samples + 1)
        age = arrays.sample_time[samples][row] - arrays.sample_time[number]
        if (age % self.grid.width).any():
            raise ConfigError(
                f"outputs=steps: predictions of a subject are not whole bins apart; representation.bin_hours="
                f"{self.bin_hours:g} must divide the hours between them"
            )
        step = lengths[row] - 1 - age // self.grid.width
        shape = (len(samples), batch.steps)
        sample = np.full(shape, -1, np.int64)
        sample[row, step] = number

        def along(known: NDArray[np.float32]) -> Tensor:
            outcome = np.full((*shape, known.shape[1]), np.nan, np.float32)
            outcome[row, step] = known[number]
            return torch.from_numpy(outcome)

        return StepBatch(
            **{name: getattr(batch, name) for name in ("values", "observed", "hours_since", "statics", "lengths")},
            hours_before=since_first(batch),
            targets=along(arrays.sample_label),
            auxiliary=along(arrays.sample_auxiliary),
            samples=torch.from_numpy(sample),
        )


class StepHistories(Grid):
    """The history of each prediction, as a net with an output at every step has read it by then.

    It begins where the trajectory of its subject does, and ends at the step of the prediction: cut and predicted alone
    it gives what the trajectory gives there.
    """

    def __init__(self, store: Store, config: GridConfig) -> None:
        super().__init__(store, config)
        self._trajectories = Trajectories(Grid(store, config))
        subject = store.arrays.sample_subject
        end = np.flatnonzero(np.diff(subject, append=-1))
        self._last = np.repeat(end, np.diff(end, prepend=-1))

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each history, (M,)."""
        last, time = self._last[samples], self.store.arrays.sample_time
        return self._trajectories.lengths(last) - (time[last] - time[samples]) // self.width


def nth_of_subject(store: Store, samples: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """One sample of each subject.

    Args:
        store: Where they are.
        samples: (M,) ascending.
        number: Which of a subject's, from 0 for the first, or from -1 for the last backwards; subjects who have none
            are left out.
    """
    subject = store.arrays.sample_subject[samples]
    begin = np.flatnonzero(np.diff(subject, prepend=-1))
    end = np.append(begin[1:], len(samples))
    place = begin + number if number >= 0 else end + number
    return samples[place[(begin <= place) & (place < end)]]


def since_first(batch: GridBatch) -> Tensor:
    """Minus the hours since the first step; 0 on padding."""
    real = torch.arange(batch.steps) < batch.lengths[:, None]
    return (batch.hours_before - batch.hours_before[:, :1]) * real
