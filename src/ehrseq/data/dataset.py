"""The histories of one split, served a batch at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ehrseq.config.schema import Loader
from ehrseq.data.batch import SequenceBatch
from ehrseq.data.representation import Representation
from ehrseq.data.sampler import OrderedBatches, ShuffledBatches

_CHUNK = 512  # histories cut at once when all are kept
_PART = 64  # histories gone through at once


class HistoryDataset(Dataset[SequenceBatch]):
    """Some samples of a store.

    An index is an array of positions, and what it gives is a finished batch: there is no Python work a sample.

    Attributes:
        outcomes: (M, L) of all samples.
        auxiliary: (M, A) of all samples.
        samples: Those that a row of a batch is made for, see `Representation.units`.
        lengths: Steps of each of these.

    Args:
        representation: Cuts histories out of the store.
        samples: (M,) sample numbers.
        cache_gib: If all histories fit into this much memory, each is cut once and kept; batches are the same either
        way.
    """

    def __init__(self, representation: Representation, samples: NDArray[np.int64], cache_gib: float = 0.0) -> None:
        self.representation = representation
        arrays = representation.store.arrays
        self.outcomes, self.auxiliary = arrays.sample_label[samples], arrays.sample_auxiliary[samples]
        self.samples = samples = representation.units(samples)
        self.lengths = representation.lengths(samples)
        size = len(samples) * int(self.lengths.max(initial=0)) * representation.bytes_a_step
        self._cached = 0 < size <= cache_gib * 2**30
        self._whole: SequenceBatch | None = None

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def __getitem__(self, positions: NDArray[np.int64]) -> SequenceBatch:
        if not self._cached:
            return self.representation.cut(self.samples[positions])
        if self._whole is None:
            parts = [self.samples[start : start + _CHUNK] for start in range(0, len(self.samples), _CHUNK)]
            batches = [self.representation.cut(part) for part in parts]
            self._whole = type(batches[0]).concatenate(batches)
        return self._whole.select(torch.from_numpy(positions), int(self.lengths[positions].max()))

    def chunks(self) -> Iterator[SequenceBatch]:
        """All histories, some at a time."""
        return (self[np.arange(len(self))[start : start + _PART]] for start in range(0, len(self), _PART))

    def shuffled(
        self, config: Loader, pin: bool = False, rank: int = 0, ranks: int = 1, seed: int = 0, accumulate: int = 1
    ) -> DataLoader[SequenceBatch]:
        """A loader for training.

        Args:
            config: `batch_size` and `batch_tokens` are of one step of the optimiser, for all ranks and parts together.
            pin: Whether batches go into page-locked memory.
            rank: Which process asks.
            ranks: Among how many.
            seed: Of the order.
            accumulate: How many batches of a rank make a step.
        """
        parts = ranks * accumulate
        tokens = None if config.batch_tokens is None else max(config.batch_tokens // parts, 1)
        size = config.batch_size // parts
        sampler = ShuffledBatches(self.lengths, size, seed, tokens, config.max_padding, rank, ranks, accumulate)
        return self._loader(sampler, config.num_workers, pin)

    def ordered(self, config: Loader, pin: bool = False, rank: int = 0, ranks: int = 1) -> DataLoader[SequenceBatch]:
        """A loader for evaluation: every sample exactly once."""
        sampler = OrderedBatches(self.lengths, config.eval_batch_size, rank, ranks)
        return self._loader(sampler, config.num_workers, pin)

    def _loader(self, sampler: ShuffledBatches | OrderedBatches, workers: int, pin: bool) -> DataLoader[SequenceBatch]:
        # batch_size=None hands the sampler's arrays to the dataset as they are.
        return _Batches(
            self, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pin, persistent_workers=workers > 0
        )


class _Batches(DataLoader[SequenceBatch]):
    """Makes the next batch in a thread while the network learns from this one, where no other process makes it.

    Gathering and the network's backward pass leave Python's lock to each other; which batches come, and in which order,
    does not depend on it. On a busy machine torch's threads also sleep sooner where another thread gathers, and do not
    wait for each other at full speed.
    """

    def __iter__(self) -> Iterator[SequenceBatch]:  # type: ignore[override]
        dataset = self.dataset
        if self.num_workers or not isinstance(dataset, HistoryDataset):
            batches: Iterator[SequenceBatch] = super().__iter__()
            return batches
        picked = (dataset[positions] for positions in self.sampler)
        pinned = (batch.pin_memory() for batch in picked) if self.pin_memory else picked
        return _one_ahead(pinned)


def _one_ahead(batches: Iterator[SequenceBatch]) -> Iterator[SequenceBatch]:
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
