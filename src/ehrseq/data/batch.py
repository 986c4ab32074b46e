"""Batches: frozen, documented, and checked when they are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SequenceBatch:
    """B histories, padded at the end to the T steps of the longest. What a step holds is up to the representation.

    Attributes:
        hours_before: (B, T) float32, hours from the end of each step to prediction_time; 0 on padding.
        statics: (B, S) float32.
        lengths: (B,) int64, real steps of each history, at least 1; steps from there on are padding.
        targets: (B, L) float32, outcomes, see `ehrseq.tasks.Outcomes`; NaN where unknown.
        auxiliary: (B, A) float32, outcomes of the auxiliary targets; NaN where unknown.
        samples: (B,) int64, sample numbers in the store: whose history each row is.
    """

    # What has a dimension of steps after that of histories.
    stepped: ClassVar[tuple[str, ...]] = ("hours_before",)

    hours_before: Tensor
    statics: Tensor
    lengths: Tensor
    targets: Tensor
    auxiliary: Tensor
    samples: Tensor

    def __post_init__(self) -> None:
        if self.hours_before.ndim != 2:
            raise ValueError(f"hours_before has shape {tuple(self.hours_before.shape)}, expected (B, T)")
        for name in self.stepped:
            found = tuple(getattr(self, name).shape[:2])
            if found != tuple(self.hours_before.shape):
                raise ValueError(f"{name} begins with {found}, hours_before is {tuple(self.hours_before.shape)}")
        if self.statics.ndim != 2:
            raise ValueError(f"statics has shape {tuple(self.statics.shape)}, expected (B, S)")
        for name in ("statics", "lengths", "targets", "auxiliary", "samples"):
            if len(getattr(self, name)) != len(self.hours_before):
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, hours_before {len(self.hours_before)}")

    def __len__(self) -> int:
        """The number B of histories."""
        return len(self.hours_before)

    @property
    def steps(self) -> int:
        """The number T of steps, padding included."""
        return self.hours_before.shape[1]

    def select(self, rows: Tensor, steps: int) -> Self:
        """Some histories, without padding beyond `steps`.

        Args:
            rows: (B',) positions.
            steps: The longest length among them.
        """
        chosen = {item.name: getattr(self, item.name).index_select(0, rows) for item in fields(self)}
        return type(self)(**{name: part[:, :steps] if name in self.stepped else part for name, part in chosen.items()})

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """All histories of several batches, padded to the longest."""
        steps = max(batch.steps for batch in batches)
        joined = {}
        for item in fields(cls):
            parts = [getattr(batch, item.name) for batch in batches]
            if item.name in cls.stepped:
                parts = [functional.pad(part, (0, 0) * (part.ndim - 2) + (0, steps - part.shape[1])) for part in parts]
            joined[item.name] = torch.cat(parts)
        return cls(**joined)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{item.name: function(getattr(self, item.name)) for item in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on another device, or itself where it is there; Lightning calls this."""
        if self.lengths.device == torch.device(device):
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, for asynchronous transfer to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class GridBatch(SequenceBatch):
    """Steps are bins of equal width.

    Attributes:
        values: (B, T, F) float32, normalised; the last value seen up to this step, 0 (the train centre) before the
            first.
        observed: (B, T, F) float32, 1 where the value was measured in this very step.
        hours_since: (B, T, F) float32, hours from the last measurement to the end of the step; before the first
            measurement, hours since the first step began.
    """

    stepped: ClassVar[tuple[str, ...]] = ("hours_before", "values", "observed", "hours_since")

    values: Tensor
    observed: Tensor
    hours_since: Tensor


@dataclass(frozen=True)
class StepBatch(GridBatch):
    """A grid with outcomes at many steps. Times count from the first step on, as negative `hours_before`.

    Attributes:
        targets: (B, T, L) float32, the outcomes of the prediction at the end of each step; NaN where there is none.
        auxiliary: (B, T, A) float32, likewise.
        samples: (B, T) int64, whose prediction it is: sample numbers in the store; -1 where there is none.
    """

    stepped: ClassVar[tuple[str, ...]] = (*GridBatch.stepped, "targets", "auxiliary", "samples")

    def thinned(self, share: float) -> Self:
        """The same histories with fewer predictions: each stays with this chance, by torch's random numbers."""
        gone = torch.rand(self.samples.shape, device=self.samples.device) >= share
        return replace(self, samples=self.samples.masked_fill(gone, -1))


@dataclass(frozen=True)
class EventBatch(SequenceBatch):
    """Steps are events.

    Attributes:
        codes: (B, T) int32, positions in the vocabulary; 0 on padding.
        values: (B, T) float32, normalised; 0 where there is none.
        has_value: (B, T) bool, where there is one.
    """

    stepped: ClassVar[tuple[str, ...]] = ("hours_before", "codes", "values", "has_value")

    codes: Tensor
    values: Tensor
    has_value: Tensor


@dataclass(frozen=True)
class TimepointBatch(SequenceBatch):
    """Steps are times at which something happened; the E events of all histories lie flat, step after step.

    Attributes:
        first_event: (B, T) int64, where the events of each step begin; a step without events, which is padding or the
            one step of an empty history, begins where the next one does.
        codes: (E,) int32, positions in the vocabulary.
        values: (E,) float32, normalised; 0 where there is none.
        has_value: (E,) bool, where there is one.
    """

    stepped: ClassVar[tuple[str, ...]] = ("hours_before", "first_event")

    first_event: Tensor
    codes: Tensor
    values: Tensor
    has_value: Tensor

    def select(self, rows: Tensor, steps: int) -> Self:
        """Not offered: flat events cannot be picked by row; cut the histories anew."""
        raise NotImplementedError("a TimepointBatch is cut from the store, not selected")

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """Not offered, see `select`."""
        raise NotImplementedError("a TimepointBatch is cut from the store, not concatenated")
