"""Parts of histories of events: the events themselves, a step each or several a step."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data import EventBatch, Events, TimepointBatch, Timepoints
from ehrseq.explain.histories import Histories, Leaves, Links, StaticCodes, no_links
from ehrseq.nn import step_mask


@dataclass(frozen=True)
class FadedEvents(EventBatch):
    """Events of which there is more or less.

    Attributes:
        presence: (B, T), 0 to 1.
    """

    presence: Tensor


@dataclass(frozen=True)
class FadedTimepoints(TimepointBatch):
    """Events of which there is more or less.

    Attributes:
        presence: (E,), 0 to 1.
    """

    presence: Tensor


@dataclass(frozen=True)
class EventHistories(Histories):
    """Histories of which each event is a step, and each step a part."""

    batch: EventBatch

    @classmethod
    def cut(cls, events: Events, samples: NDArray[np.int64]) -> "EventHistories":
        """Cut histories out of the store.

        Args:
            events: The representation.
            samples: (B,) sample numbers.
        """
        batch = events.cut(samples)
        arrays = events.store.arrays
        begin, end = arrays.sample_begin[samples], arrays.sample_end[samples]
        first = np.maximum(begin, end - events.max_steps)
        length = torch.from_numpy(end - first)
        there = step_mask(length, batch.steps)
        row, step = torch.nonzero(there, as_tuple=True)
        statics = StaticCodes.of(events.store)
        parts = torch.arange(batch.steps)
        shown = batch.values.masked_fill(~batch.has_value, torch.nan)
        links = Links(row.numpy(), step.numpy(), first[row.numpy()] + step.numpy())
        return cls(
            **_describe(batch, there, batch.codes, shown, batch.hours_before, parts[None], statics, events, links)
        )

    def fill(self, present: Tensor, hidden: Tensor | None = None) -> EventBatch:
        """See `Histories.fill`; what is left moves together."""
        batch = self.batch
        kept, values = present[:, : self.timed], batch.values
        if hidden is not None:
            covered = hidden[:, : self.timed]
            kept = kept & ~(covered & ~batch.has_value)
            values = values.masked_fill(covered, 0.0)
            present = present & ~torch.cat([torch.zeros_like(kept), hidden[:, self.timed :]], 1)
        order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)
        moved = kept.gather(1, order)
        return replace(
            batch,
            lengths=kept.sum(1).clamp(min=1),
            hours_before=batch.hours_before.gather(1, order) * moved,
            codes=batch.codes.gather(1, order) * moved,
            values=values.gather(1, order) * moved,
            has_value=batch.has_value.gather(1, order) & moved,
            statics=self.statics.keep(batch.statics, present[:, self.timed :]),
        )

    def leaves(self, present: Tensor) -> Leaves:
        """How much there is of each event, and the statics."""
        kept = self.statics.keep(self.batch.statics, present[:, self.timed :])
        return {"presence": present[:, : self.timed].to(self.batch.values.dtype), "statics": kept}

    def inputs(self, leaves: Leaves) -> FadedEvents:
        """See `Histories.inputs`."""
        return FadedEvents(**{**vars(self.batch), **leaves})

    def collect(self, shares: Leaves, present: Tensor) -> Tensor:  # noqa: ARG002
        """See `Histories.collect`."""
        known = self.statics.collect(shares.get("statics", torch.zeros_like(self.batch.statics)))
        return torch.cat([shares.get("presence", torch.zeros_like(self.batch.values)), known], 1)

    def spread(self, weights: Tensor) -> Leaves:
        """See `Histories.spread`."""
        return {"presence": weights[:, : self.timed], "statics": self.statics.spread(weights[:, self.timed :])}

    def take(self, rows: Tensor) -> Self:
        """See `Histories.take`."""
        return replace(self, batch=self.batch.select(rows, self.batch.steps), links=no_links(), **_rows(self, rows))

    def to(self, device: torch.device | str) -> Self:
        """See `Histories.to`."""
        return replace(self, **_moved(self, device))


@dataclass(frozen=True)
class TimepointHistories(Histories):
    """Histories of times at which several events happen; each event is a part.

    Attributes:
        place: (E,) the part that each flat event is, as a position among all B P of them.
    """

    batch: TimepointBatch
    place: Tensor

    @classmethod
    def cut(cls, timepoints: Timepoints, samples: NDArray[np.int64]) -> "TimepointHistories":
        """Cut histories out of the store.

        Args:
            timepoints: The representation.
            samples: (B,) sample numbers.
        """
        batch = timepoints.cut(samples)
        end = timepoints.store.arrays.sample_end[samples]
        step = _flat_steps(batch)
        row = step // batch.steps
        count = torch.bincount(row, minlength=len(batch))
        number = torch.arange(len(row)) - torch.repeat_interleave(count.cumsum(0) - count, count)
        width = max(int(count.max()), 1)
        statics = StaticCodes.of(timepoints.store)
        place = row * width + number

        def spread(flat: Tensor, empty: float) -> Tensor:
            whole = flat.new_full((len(batch) * width,), empty)
            return whole.index_copy(0, place, flat).reshape(len(batch), width)

        hours = batch.hours_before.flatten()[step]
        there = step_mask(count, width)
        event = end[row.numpy()] - count.numpy()[row.numpy()] + number.numpy()
        links = Links(row.numpy(), number.numpy(), event)
        shown = spread(batch.values.masked_fill(~batch.has_value, torch.nan), torch.nan)
        steps, codes = spread(step % batch.steps, -1), spread(batch.codes, -1)
        described = _describe(batch, there, codes, shown, spread(hours, 0), steps, statics, timepoints, links)
        return cls(**described, place=place)

    def fill(self, present: Tensor, hidden: Tensor | None = None) -> TimepointBatch:
        """See `Histories.fill`; times at which nothing is left are left out."""
        batch = self.batch
        kept, values = self._flat(present), batch.values
        if hidden is not None:
            covered = self._flat(hidden)
            kept = kept & ~(covered & ~batch.has_value)
            values = values.masked_fill(covered, 0.0)
            none = torch.zeros_like(hidden[:, : self.timed])
            present = present & ~torch.cat([none, hidden[:, self.timed :]], 1)
        shape = batch.hours_before.shape
        count = torch.bincount(_flat_steps(batch)[kept], minlength=shape.numel()).reshape(shape)
        order = torch.argsort((count == 0).to(torch.uint8), dim=1, stable=True)
        moved = count.gather(1, order)
        flat = moved.flatten()
        return replace(
            batch,
            lengths=(count > 0).sum(1).clamp(min=1),
            hours_before=batch.hours_before.gather(1, order) * (moved > 0),
            first_event=(flat.cumsum(0) - flat).reshape(shape),
            codes=batch.codes[kept],
            values=values[kept],
            has_value=batch.has_value[kept],
            statics=self.statics.keep(batch.statics, present[:, self.timed :]),
        )

    def leaves(self, present: Tensor) -> Leaves:
        """How much there is of each event, and the statics."""
        kept = self.statics.keep(self.batch.statics, present[:, self.timed :])
        return {"presence": self._flat(present).to(self.batch.values.dtype), "statics": kept}

    def inputs(self, leaves: Leaves) -> FadedTimepoints:
        """See `Histories.inputs`."""
        return FadedTimepoints(**{**vars(self.batch), **leaves})

    def collect(self, shares: Leaves, present: Tensor) -> Tensor:
        """See `Histories.collect`."""
        total = self.batch.values.new_zeros(len(present) * self.timed)
        if "presence" in shares:
            total = total.index_copy(0, self.place, shares["presence"])
        known = self.statics.collect(shares.get("statics", torch.zeros_like(self.batch.statics)))
        return torch.cat([total.reshape(len(present), self.timed), known], 1)

    def spread(self, weights: Tensor) -> Leaves:
        """See `Histories.spread`."""
        return {"presence": self._flat(weights), "statics": self.statics.spread(weights[:, self.timed :])}

    def take(self, rows: Tensor) -> Self:
        """See `Histories.take`."""
        batch, device = self.batch, rows.device
        count = torch.bincount(self.place // self.timed, minlength=len(self))
        first, chosen = count.cumsum(0) - count, count[rows]
        number = torch.arange(int(chosen.sum()), device=device)
        number = number - torch.repeat_interleave(chosen.cumsum(0) - chosen, chosen)
        flat = torch.repeat_interleave(first[rows], chosen) + number
        # Where the events of each step begin, within its history and then among all that were taken.
        within = batch.first_event[rows] - first[rows, None]
        own = ("hours_before", "statics", "lengths", "targets", "auxiliary", "samples")
        moved = {name: getattr(batch, name)[rows] for name in own}
        events = {name: getattr(batch, name)[flat] for name in ("codes", "values", "has_value")}
        taken = replace(batch, **moved, **events, first_event=within + (chosen.cumsum(0) - chosen)[:, None])
        place = torch.repeat_interleave(torch.arange(len(rows), device=device), chosen) * self.timed + number
        return replace(self, batch=taken, links=no_links(), place=place, **_rows(self, rows))

    def to(self, device: torch.device | str) -> Self:
        """See `Histories.to`."""
        return replace(self, **_moved(self, device), place=self.place.to(device))

    def _flat(self, parts: Tensor) -> Tensor:
        """Of (B, P), those of the E events."""
        return parts[:, : self.timed].flatten()[self.place]


def _describe(
    batch: EventBatch | TimepointBatch,
    there: Tensor,
    codes: Tensor,
    value: Tensor,
    hours: Tensor,
    step: Tensor,
    statics: StaticCodes,
    representation: Events | Timepoints,
    links: Links,
) -> dict[str, Any]:
    """What all histories of events say of their parts, the statics put after the events."""
    rows, count = len(batch), len(statics.names)
    nothing = torch.full((rows, count), torch.nan)
    own = torch.arange(len(representation.names), len(representation.names) + count).expand(rows, -1)
    step = step.expand(rows, -1)
    return {
        "batch": batch,
        "present": torch.cat([there, statics.there(batch.statics)], 1),
        "code": torch.cat([codes.to(torch.int64), own], 1),
        "step": torch.cat([step, torch.full((rows, count), -1)], 1),
        "hours": torch.cat([hours, nothing], 1),
        "value": torch.cat([value, nothing], 1),
        "statics": statics,
        "links": links,
    }


def _flat_steps(batch: TimepointBatch) -> Tensor:
    """The step of each flat event, as a position among all B T of them, (E,)."""
    first = batch.first_event.flatten()
    count = torch.diff(first, append=first.new_tensor([len(batch.codes)]))
    return torch.repeat_interleave(torch.arange(len(first), device=first.device), count)


def _rows(histories: Histories, rows: Tensor) -> dict[str, Any]:
    names = ("present", "code", "step", "hours", "value")
    return {name: getattr(histories, name).index_select(0, rows) for name in names}


def _moved(histories: Histories, device: torch.device | str) -> dict[str, Any]:
    names = ("batch", "present", "code", "step", "hours", "value")
    return {name: getattr(histories, name).to(device) for name in names}
