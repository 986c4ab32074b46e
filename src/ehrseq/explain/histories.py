"""Histories whose events can be taken out, hidden, or faded in.

What an explanation numbers are the *parts* of a history: of a grid the cells in which something was measured (a code in
a step), else the events themselves; after them the static codes. Every part knows the events of the store that it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.store import Store

# What stands in the place of a part: nothing, so that the value before is carried forward; or the train centre.
Replacement = Literal["carry", "mask"]
Leaves = dict[str, Tensor]
_VALUE = " (value)"  # ends the name of a static feature that holds the number of its code


@dataclass(frozen=True)
class Links:
    """Which events the parts are, (N,) each: of history `row` the part `part` is, alone or with others, `event`.

    Attributes:
        row: Position in the batch.
        part: Position among the P parts.
        event: Position in the store's events.
    """

    row: NDArray[np.int64]
    part: NDArray[np.int64]
    event: NDArray[np.int64]


@dataclass(frozen=True)
class StaticCodes:
    """The static codes of a store, which have a feature or two each.

    Attributes:
        names: K of them.
        of_feature: (S,) which code each static feature is of.
    """

    names: tuple[str, ...]
    of_feature: Tensor

    @classmethod
    def of(cls, store: Store) -> "StaticCodes":
        """Of a store."""
        names = [name.removesuffix(_VALUE) for name in store.statics]
        distinct = tuple(dict.fromkeys(names))
        return cls(distinct, torch.tensor([distinct.index(name) for name in names], dtype=torch.int64))

    def there(self, statics: Tensor) -> Tensor:
        """Which codes each history has, (B, K)."""
        found = torch.zeros(len(statics), len(self.names), device=statics.device)
        return found.index_add(1, self.of_feature.to(statics.device), (statics != 0).float()) > 0

    def keep(self, statics: Tensor, kept: Tensor) -> Tensor:
        """Static features with those of other codes at 0: (B, S) and (B, K) to (B, S)."""
        return statics * self.spread(kept)

    def spread(self, weights: Tensor) -> Tensor:
        """Weights of codes to weights of features: (B, K) to (B, S)."""
        return weights[:, self.of_feature.to(weights.device)]

    def collect(self, shares: Tensor) -> Tensor:
        """Shares of features to shares of codes: (B, S) to (B, K)."""
        sums = shares.new_zeros(len(shares), len(self.names))
        return sums.index_add(1, self.of_feature.to(shares.device), shares)


@dataclass(frozen=True)
class Histories(ABC):
    """B histories of P parts each.

    Attributes:
        batch: As the network reads them.
        present: (B, P) which parts there are.
        code: (B, P) or (1, P) which code each part is of: those of the representation, then the static ones; -1: none.
        step: (B, P) or (1, P) the step that each part is in; -1 for statics and for what is older than all steps.
        hours: (B, P) hours from each part (of several events, the latest) to the prediction; NaN for statics.
        value: (B, P) normalised values; NaN where there is none.
        statics: What the last K of the parts are.
        links: Which events the parts are.
    """

    batch: SequenceBatch
    present: Tensor
    code: Tensor
    step: Tensor
    hours: Tensor
    value: Tensor
    statics: StaticCodes
    links: Links = field(repr=False)

    def __len__(self) -> int:
        """B."""
        return len(self.present)

    @property
    def parts(self) -> int:
        """P."""
        return self.present.shape[1]

    @property
    def timed(self) -> int:
        """How many of the parts are no static codes; these come first."""
        return self.parts - len(self.statics.names)

    @abstractmethod
    def fill(self, present: Tensor, hidden: Tensor | None = None) -> SequenceBatch:
        """The batch of the histories that have some of the parts only.

        Args:
            present: (B, P) which parts there are; none that this history has not.
            hidden: (B, P) which of them the train centre stands for: that something was measured is still seen. What
                has no number is taken out instead.
        """

    @abstractmethod
    def leaves(self, present: Tensor) -> Leaves:
        """The tensors that parts act through, in a form in which they can be faded in."""

    @abstractmethod
    def inputs(self, leaves: Leaves) -> SequenceBatch:
        """What the network reads, made of such tensors."""

    @abstractmethod
    def collect(self, shares: Leaves, present: Tensor) -> Tensor:
        """Sum what tensors contribute to what parts do.

        Args:
            shares: Of tensors of the shapes of `leaves`; those that the network does not read may be left out.
            present: (B, P) the parts that the tensors were made of.

        Returns:
            (B, P).
        """

    @abstractmethod
    def spread(self, weights: Tensor) -> Leaves:
        """Weights of parts, laid on the tensors of `leaves` of the whole history: the adjoint of `collect`.

        Args:
            weights: (B, P); gradients pass.
        """

    @abstractmethod
    def take(self, rows: Tensor) -> Self:
        """Some histories, or one several times; without `links`."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """On another device."""

    def without(self, removed: Tensor, replacement: Replacement = "carry") -> SequenceBatch:
        """The batch of the histories after some parts are taken away, (B, P)."""
        if replacement == "mask":
            return self.fill(self.present, self.present & removed)
        return self.fill(self.present & ~removed)


def no_links() -> Links:
    """Of histories that were copied."""
    empty = np.empty(0, np.int64)
    return Links(empty, empty, empty)
