"""The batch: frozen, documented, and checked when it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

_STEPPED = ("values", "observed", "hours_since")  # what has a dimension of steps


@dataclass(frozen=True)
class SequenceBatch:
    """B histories, padded at the end to the T steps of the longest.

    Attributes:
        values: (B, T, F) float32, normalised; the last value seen up to this step, 0 (the train centre) before the
        first.
        observed: (B, T, F) float32, 1 where the value was measured in this very step.
        hours_since: (B, T, F) float32, hours from the last measurement to the end of the step; before the first
            measurement, hours since the first step began.
        statics: (B, S) float32.
        lengths: (B,) int64, real steps of each history, at least 1; steps from there on are padding and 0.
        targets: (B,) float32, 0 or 1; NaN where there is no outcome.
        samples: (B,) int64, sample numbers in the store: whose history each row is.
    """

    values: Tensor
    observed: Tensor
    hours_since: Tensor
    statics: Tensor
    lengths: Tensor
    targets: Tensor
    samples: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise ValueError(f"values has shape {tuple(self.values.shape)}, expected (B, T, F)")
        for name in ("observed", "hours_since"):
            if getattr(self, name).shape != self.values.shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, values {tuple(self.values.shape)}"
                )
        if self.statics.ndim != 2:
            raise ValueError(f"statics has shape {tuple(self.statics.shape)}, expected (B, S)")
        for name in ("statics", "lengths", "targets", "samples"):
            if len(getattr(self, name)) != len(self.values):
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, values {len(self.values)}")

    def __len__(self) -> int:
        """The number B of histories."""
        return len(self.values)

    @property
    def steps(self) -> int:
        """The number T of steps, padding included."""
        return self.values.shape[1]

    def select(self, rows: Tensor, steps: int) -> "SequenceBatch":
        """Some histories, without padding beyond `steps`.

        Args:
            rows: (B',) positions.
            steps: The longest length among them.
        """
        chosen = {item.name: getattr(self, item.name).index_select(0, rows) for item in fields(self)}
        return SequenceBatch(**{name: part[:, :steps] if name in _STEPPED else part for name, part in chosen.items()})

    @classmethod
    def concatenate(cls, batches: Sequence["SequenceBatch"]) -> "SequenceBatch":
        """All histories of several batches, padded to the longest."""
        steps = max(batch.steps for batch in batches)
        joined = {}
        for item in fields(cls):
            parts = [getattr(batch, item.name) for batch in batches]
            if item.name in _STEPPED:
                parts = [functional.pad(part, (0, 0, 0, steps - part.shape[1])) for part in parts]
            joined[item.name] = torch.cat(parts)
        return cls(**joined)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "SequenceBatch":
        return SequenceBatch(**{item.name: function(getattr(self, item.name)) for item in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SequenceBatch":
        """The batch on another device; Lightning calls this."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "SequenceBatch":
        """The batch in page-locked memory, for asynchronous transfer to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())
