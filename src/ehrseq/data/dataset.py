"""The histories of one split, served a batch at a time."""

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ehrseq.config.schema import Loader
from ehrseq.data.batch import SequenceBatch
from ehrseq.data.grid import Grid
from ehrseq.data.sampler import OrderedBatches, ShuffledBatches


class HistoryDataset(Dataset[SequenceBatch]):
    """Some samples of a store.

    An index is an array of positions, and what it gives is a finished batch: there is no Python work a sample.
    """

    def __init__(self, grid: Grid, samples: NDArray[np.int64]) -> None:
        self.grid = grid
        self.samples = samples
        self.lengths = grid.lengths(samples)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def __getitem__(self, positions: NDArray[np.int64]) -> SequenceBatch:
        return self.grid.cut(self.samples[positions])

    def targets(self) -> NDArray[np.float32]:
        """The labels, (M,)."""
        return self.grid.store.arrays.sample_label[self.samples]

    def shuffled(self, config: Loader, seed: int, pin: bool = False) -> DataLoader[SequenceBatch]:
        """A loader for training."""
        return self._loader(ShuffledBatches(self.lengths, config.batch_size, seed), config.num_workers, pin)

    def ordered(self, config: Loader, pin: bool = False) -> DataLoader[SequenceBatch]:
        """A loader for evaluation: every sample exactly once."""
        return self._loader(OrderedBatches(self.lengths, config.eval_batch_size), config.num_workers, pin)

    def _loader(self, sampler: ShuffledBatches | OrderedBatches, workers: int, pin: bool) -> DataLoader[SequenceBatch]:
        # batch_size=None hands the sampler's arrays to the dataset as they are.
        return DataLoader(
            self, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pin, persistent_workers=workers > 0
        )
