"""Which histories make which batch: a pure function of (seed, epoch), or of the lengths alone for evaluation."""

from collections.abc import Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

# A pool of so many batches is sorted by length: little padding, and still another mix in every epoch.
_POOL = 50


class ShuffledBatches(Sampler[NDArray[np.int64]]):
    """Shuffled, length-bucketed batches for training; the last one may be smaller.

    Attributes:
        epoch: Set it before each epoch; the order depends on (seed, epoch) only.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of batches."""
        return ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        pool = self.batch_size * _POOL
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        for index in generator.permutation(len(batches)):
            yield batches[index]


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Batches by length, longest first: every sample once, and a batch too large for memory is met at once."""

    def __init__(self, lengths: NDArray[np.int64], batch_size: int) -> None:
        self.order = np.argsort(-lengths, kind="stable")
        self.batch_size = batch_size

    def __len__(self) -> int:
        """The number of batches."""
        return ceil(len(self.order) / self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(self.order), self.batch_size):
            yield self.order[start : start + self.batch_size]
