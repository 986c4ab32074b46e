"""Parts of grid histories: cells in which something was measured."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data import Grid, GridBatch
from ehrseq.explain.histories import Histories, Leaves, Links, StaticCodes, no_links
from ehrseq.nn import step_mask
from ehrseq.store.search import numbers_between


@dataclass(frozen=True)
class GridHistories(Histories):
    """Histories as bins. A part is a cell: all events of one code in one step, or older than the first step.

    Tensors are filled from the cells as `Grid.fill` does it: what is not there is carried forward from what was before.

    Attributes:
        cell_value: (B, T + 1, F) the value in each cell, 0 where nothing was measured; step 0 is what is older.
        cell_age: (B, T + 1, F) hours from its latest event to the prediction.
        numeric: (F,) whether a code carries numbers.
        bin_hours: Width of a step.
    """

    batch: GridBatch
    cell_value: Tensor
    cell_age: Tensor
    numeric: Tensor
    bin_hours: float

    @classmethod
    def cut(cls, grid: Grid, samples: NDArray[np.int64]) -> "GridHistories":
        """Cut histories out of the store.

        Args:
            grid: The representation.
            samples: (B,) sample numbers.
        """
        cells = grid.place(samples, grid.lengths(samples))
        value, seen, age = grid.contents(cells)
        batch = grid.fill(samples, cells)
        rows, layers, features = cells.shape
        statics = StaticCodes.of(grid.store)
        width = layers * features
        nothing = torch.full((rows, len(statics.names)), torch.nan)
        step = torch.arange(-1, layers - 1).repeat_interleave(features)
        code = torch.arange(features).repeat(layers)
        own = torch.arange(features, features + len(statics.names))
        seen_parts = torch.from_numpy(seen.reshape(rows, width))
        numeric = torch.tensor([grid.store.numeric[grid.store.codes.index(name)] for name in grid.names])
        shown = torch.from_numpy(value.reshape(rows, width)).masked_fill(~numeric[code], torch.nan)
        hours = torch.from_numpy(age.reshape(rows, width))
        return cls(
            batch=batch,
            present=torch.cat([seen_parts, statics.there(batch.statics)], 1),
            code=torch.cat([code, own]).unsqueeze(0),
            step=torch.cat([step, torch.full_like(own, -1)]).unsqueeze(0),
            hours=torch.cat([hours, nothing], 1),
            value=torch.cat([shown, nothing], 1),
            statics=statics,
            links=_links(grid, samples, cells.cell, width),
            cell_value=torch.from_numpy(np.where(seen, value, 0).astype(np.float32)),
            cell_age=torch.from_numpy(age),
            numeric=numeric,
            bin_hours=grid.bin_hours,
        )

    def fill(self, present: Tensor, hidden: Tensor | None = None) -> GridBatch:
        """See `Histories.fill`."""
        cell_value = self.cell_value
        if hidden is not None:
            numeric = torch.cat([self.numeric, self.numeric.new_zeros(len(self.statics.names))])
            present = present & ~(hidden & ~numeric[self.code])
            cell_value = cell_value.masked_fill(self._cells(hidden), 0.0)
        return self.inputs(self._fill(present, cell_value))

    def leaves(self, present: Tensor) -> Leaves:
        """Values, what was observed, hours since, statics."""
        return self._fill(present, self.cell_value)

    def inputs(self, leaves: Leaves) -> GridBatch:
        """See `Histories.inputs`."""
        return replace(self.batch, **leaves)

    def collect(self, shares: Leaves, present: Tensor) -> Tensor:
        """What a position contributes is that of the cell that it was carried forward from."""
        total = torch.zeros_like(self.cell_value)
        source = self._source(present)[:, 1:]
        steps = [share for name, share in shares.items() if name != "statics"]
        if steps:
            share = torch.stack(steps).sum(0).masked_fill(source < 0, 0.0)
            total = total.scatter_add(1, source.clamp(min=0), share)
        known = self.statics.collect(shares.get("statics", torch.zeros_like(self.batch.statics)))
        return torch.cat([total.flatten(1), known], 1)

    def spread(self, weights: Tensor) -> Leaves:
        """A position gets the weight of the cell that it was carried forward from."""
        source = self._source(self.present)[:, 1:]
        carried = self._cells(weights).gather(1, source.clamp(min=0)).masked_fill(source < 0, 0.0)
        known = self.statics.spread(weights[:, self.timed :])
        return {"values": carried, "observed": carried, "hours_since": carried, "statics": known}

    def take(self, rows: Tensor) -> Self:
        """See `Histories.take`."""
        names = ("present", "hours", "value", "cell_value", "cell_age")
        chosen = {name: getattr(self, name).index_select(0, rows) for name in names}
        return replace(self, batch=self.batch.select(rows, self.batch.steps), links=no_links(), **chosen)

    def to(self, device: torch.device | str) -> Self:
        """See `Histories.to`."""
        names = ("batch", "present", "code", "step", "hours", "value", "cell_value", "cell_age", "numeric")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def _cells(self, parts: Tensor) -> Tensor:
        """(B, P) to (B, T + 1, F), without the statics."""
        return parts[:, : self.timed].reshape(self.cell_value.shape)

    def _source(self, present: Tensor) -> Tensor:
        """The step, from 0 for what is older, in which each value was last measured, -1 for never, (B, T + 1, F)."""
        layer = torch.arange(self.cell_value.shape[1], device=present.device)[:, None]
        source = torch.where(self._cells(present), layer, -1)
        if source.is_cuda:
            return source.cummax(1).values
        return torch.from_numpy(np.maximum.accumulate(source.numpy(), axis=1))  # ten times as fast as torch's

    def _fill(self, present: Tensor, cell_value: Tensor) -> Leaves:
        lengths, layers = self.batch.lengths, self.cell_value.shape[1]
        source = self._source(present)
        ever, last = source >= 0, source.clamp(min=0)
        real = step_mask(lengths, layers - 1).unsqueeze(-1)
        # Ages of the ends of steps; before anything is measured, time counts from where the first step began.
        end_age = (lengths[:, None] - torch.arange(layers, device=lengths.device)).unsqueeze(-1) * self.bin_hours
        first_age = lengths[:, None, None] * self.bin_hours
        since = torch.where(ever, self.cell_age.gather(1, last), first_age.to(self.cell_age)) - end_age
        values = torch.where(ever, cell_value.gather(1, last), 0.0)
        return {
            "values": values[:, 1:] * real,
            "observed": self._cells(present)[:, 1:].to(cell_value.dtype),
            "hours_since": since[:, 1:].clamp(min=0) * real,
            "statics": self.statics.keep(self.batch.statics, present[:, self.timed :]),
        }


def _links(grid: Grid, samples: NDArray[np.int64], cell: NDArray[np.int64], width: int) -> Links:
    """The events of the store, in the order in which `Grid.place` puts them into cells."""
    arrays = grid.store.arrays
    event = numbers_between(arrays.sample_begin[samples], arrays.sample_end[samples])
    event = event[grid.holds(arrays.code[event])]
    return Links(cell // width, cell % width, event)
