"""One history a subject, whose steps are to foretell the values of the next: no labels are needed."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data.batch import StepBatch
from ehrseq.data.grid import Cells, Grid
from ehrseq.data.representation import Representation
from ehrseq.data.trajectories import since_first


class Forecasts(Representation):
    """Histories up to each subject's last prediction, with the values of the next H steps as outcomes of each step.

    Only numbers are foretold: an event without one has nothing to be wrong about, and its cell stays unknown. Steps
    are numbered through the whole store, history after history: step s of sample m is `first_step[m] + s`.

    A step's time is told from the first step on, as in `Trajectories`.

    Attributes:
        horizon: H.
        first_step: (M,) number of the first step of each sample's history.
    """

    def __init__(self, grid: Grid, horizon: int) -> None:
        super().__init__(grid.store)
        self.grid = grid
        self.horizon = horizon
        self.names = grid.names
        lengths = self.lengths(np.arange(len(grid.store.arrays.sample_time)))
        self.first_step: NDArray[np.int64] = np.cumsum(lengths) - lengths
        numeric = dict(zip(grid.store.codes, grid.store.numeric, strict=True))
        self._numeric = np.array([numeric[name] for name in self.names], bool)

    @property
    def bin_hours(self) -> float:
        """Width of a step."""
        return self.grid.bin_hours

    def units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last sample of each subject among `samples`."""
        subject = self.store.arrays.sample_subject[samples]
        return samples[np.flatnonzero(np.diff(subject, append=-1))]

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each sample's history, (M,)."""
        return self.grid.lengths(samples)

    def cut(self, samples: NDArray[np.int64]) -> StepBatch:
        """Make a batch; targets are (B, T, H F), horizon after horizon, NaN where nothing was measured.

        Args:
            samples: (B,) sample numbers.
        """
        cells = self.grid.place(samples, self.lengths(samples))
        batch = self.grid.fill(samples, cells)
        known = (batch.observed > 0) & torch.from_numpy(self._with_number(cells))
        values = torch.where(known, batch.values, torch.nan)
        step = torch.arange(batch.steps)
        numbers = torch.from_numpy(self.first_step[samples])[:, None] + step
        return StepBatch(
            **{name: getattr(batch, name) for name in ("values", "observed", "hours_since", "statics", "lengths")},
            hours_before=since_first(batch),
            targets=torch.cat([_ahead(values, count) for count in range(1, self.horizon + 1)], dim=-1),
            auxiliary=values[..., :0],
            samples=torch.where(step < batch.lengths[:, None], numbers, -1),
        )

    def _with_number(self, cells: Cells) -> NDArray[np.bool_]:
        """Cells of numeric features that hold no event without a number, (B, T, F)."""
        whole = np.broadcast_to(self._numeric, cells.shape).copy()
        whole.ravel()[cells.cell[np.isnan(cells.value)]] = False
        return whole[:, 1:]

    def locate(self, steps: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sample of each step (N,), and when the step ends, (N,) microseconds since 1970.

        Args:
            steps: (N,) step numbers.
        """
        sample: NDArray[np.int64] = np.searchsorted(self.first_step, steps, side="right") - 1
        to_come = self.first_step[sample] + self.lengths(sample) - 1 - steps
        return sample, self.store.arrays.sample_time[sample] - to_come * self.grid.width


def _ahead(values: Tensor, count: int) -> Tensor:
    """What each step finds so many steps later, (B, T, F); NaN past the end."""
    moved = torch.full_like(values, torch.nan)
    later = values[:, count:]
    moved[:, : later.shape[1]] = later
    return moved
