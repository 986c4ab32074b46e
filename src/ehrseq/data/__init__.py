"""From a store to padded batches."""

from ehrseq.data.batch import SequenceBatch
from ehrseq.data.dataset import HistoryDataset
from ehrseq.data.sampler import OrderedBatches, ShuffledBatches

__all__ = ["HistoryDataset", "OrderedBatches", "SequenceBatch", "ShuffledBatches"]
