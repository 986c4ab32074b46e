"""From a store to padded batches."""

from ehrseq.config.schema import EventsConfig, GridConfig, RepresentationConfig, TimepointsConfig
from ehrseq.data.batch import EventBatch, GridBatch, SequenceBatch, TimepointBatch
from ehrseq.data.dataset import HistoryDataset
from ehrseq.data.events import Events
from ehrseq.data.grid import Grid
from ehrseq.data.representation import Representation
from ehrseq.data.sampler import OrderedBatches, ShuffledBatches
from ehrseq.data.timepoints import Timepoints
from ehrseq.store.format import Store

__all__ = [
    "EventBatch",
    "Events",
    "Grid",
    "GridBatch",
    "HistoryDataset",
    "OrderedBatches",
    "Representation",
    "SequenceBatch",
    "ShuffledBatches",
    "TimepointBatch",
    "Timepoints",
    "represent",
]


def represent(store: Store, config: RepresentationConfig) -> Representation:
    """The representation that a configuration describes."""
    if isinstance(config, GridConfig):
        return Grid(store, config)
    if isinstance(config, EventsConfig):
        return Events(store, config)
    assert isinstance(config, TimepointsConfig)
    return Timepoints(store, config)
