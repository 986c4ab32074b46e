"""From a store to padded batches."""

from ehrseq.config.representation import EventsConfig, GridConfig, RepresentationConfig, TimepointsConfig
from ehrseq.config.schema import Outputs
from ehrseq.data.batch import EventBatch, GridBatch, SequenceBatch, StepBatch, TimepointBatch
from ehrseq.data.dataset import HistoryDataset
from ehrseq.data.events import Events
from ehrseq.data.forecasts import Forecasts
from ehrseq.data.grid import Grid
from ehrseq.data.representation import Representation
from ehrseq.data.sampler import OrderedBatches, ShuffledBatches
from ehrseq.data.timepoints import Timepoints
from ehrseq.data.trajectories import StepHistories, Trajectories, nth_of_subject
from ehrseq.store.format import Store

__all__ = [
    "EventBatch",
    "Events",
    "Forecasts",
    "Grid",
    "GridBatch",
    "HistoryDataset",
    "OrderedBatches",
    "Representation",
    "SequenceBatch",
    "ShuffledBatches",
    "StepBatch",
    "StepHistories",
    "TimepointBatch",
    "Timepoints",
    "Trajectories",
    "nth_of_subject",
    "represent",
]


def represent(
    store: Store, config: RepresentationConfig, outputs: Outputs = "last", horizon: int | None = None
) -> Representation:
    """The representation that a configuration describes.

    Args:
        store: The data.
        config: How histories become steps.
        outputs: "last": a history a prediction; "steps": a history a subject, see `Trajectories`.
        horizon: Of how many steps the values are foretold, see `Forecasts`; None: the outcomes are those of labels.
    """
    if isinstance(config, GridConfig):
        grid = Grid(store, config)
        if horizon is not None:
            return Forecasts(grid, horizon)
        return Trajectories(grid) if outputs == "steps" else grid
    if isinstance(config, EventsConfig):
        return Events(store, config)
    assert isinstance(config, TimepointsConfig)
    return Timepoints(store, config)
