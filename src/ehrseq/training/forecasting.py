"""What a trained forecaster says of the next values, batch by batch, and how surprised it is by those that come."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ehrseq.data.batch import SequenceBatch, StepBatch
from ehrseq.data.forecasts import Forecasts
from ehrseq.metrics.forecasts import Foretold
from ehrseq.nn import ForecastObjective, SequenceModel


@dataclass(frozen=True)
class ForecastBatch:
    """The forecasts for B histories.

    Attributes:
        batch: The histories; outcomes are the values that came, (B, T, H F).
        mean: (B, T, H F).
        deviation: (B, T, H F), standard deviations.
        surprise: (B, T, H F), negative log-likelihood of what came; NaN where nothing did.
    """

    batch: StepBatch
    mean: Tensor
    deviation: Tensor
    surprise: Tensor

    def foretold(self) -> tuple[Foretold, NDArray[np.int64]]:
        """What was foretold and then measured, and the number of the step that foretold it, (N,)."""
        features = self.batch.values.shape[2]
        row, step, place = torch.nonzero(~self.batch.targets.isnan(), as_tuple=True)
        cell = (row, step, place)
        parts = [self.batch.targets[cell], self.mean[cell], self.deviation[cell]]
        last = self.batch.values[row, step, place % features]
        value, mean, deviation, carried = (part.double().cpu().numpy() for part in (*parts, last))
        rows, horizon, feature = (part.cpu().numpy() for part in (row, place // features, place % features))
        told = Foretold(rows, horizon, feature, value, mean, deviation, carried)
        return told, self.batch.samples[row, step].cpu().numpy()

    def surprises(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Step numbers (N,) of all steps, and how surprising each is, (N,).

        That is the mean over the values measured in the step of what the step before it had to say; NaN for the first
        step, and where nothing was measured.
        """
        features = self.batch.values.shape[2]
        of_next = self.surprise[..., :features].double().nanmean(dim=-1)
        own = torch.full_like(of_next, torch.nan)
        own[:, 1:] = of_next[:, :-1]
        here = self.batch.samples >= 0
        return self.batch.samples[here].cpu().numpy(), own[here].cpu().numpy()


@torch.inference_mode()
def forecast(model: SequenceModel, loader: DataLoader[SequenceBatch], device: torch.device) -> Iterator[ForecastBatch]:
    """Foretell the next values at every step of every history.

    Args:
        model: The trained network, of a forecast target.
        loader: Batches of `Forecasts`, in any order.
        device: Where to run.
    """
    model.eval().to(device)
    objective = model.objective
    assert isinstance(objective, ForecastObjective)
    for batch in loader:
        moved = batch.to(device)
        assert isinstance(moved, StepBatch)
        output = model.at_steps(moved).output
        yield ForecastBatch(moved, *objective.distribution(output), objective.surprise(output, moved.targets))


@dataclass(frozen=True)
class Anomalies:
    """How surprising steps and whole histories are.

    Attributes:
        sample: (N,) the unit that each step belongs to, ascending.
        time: (N,) when it ends, in microseconds since 1970; rising within a unit.
        surprise: (N,) NaN where nothing can be said.
    """

    sample: NDArray[np.int64]
    time: NDArray[np.int64]
    surprise: NDArray[np.float64]

    @classmethod
    def collect(cls, forecasts: Forecasts, steps: NDArray[np.int64], surprise: NDArray[np.float64]) -> "Anomalies":
        """Put steps in order.

        Args:
            forecasts: The representation that numbered them.
            steps: (N,) step numbers.
            surprise: (N,).
        """
        order = np.argsort(steps)
        return cls(*forecasts.locate(steps[order]), surprise[order])

    def of_histories(self, forecasts: Forecasts, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """The mean surprise of each history's steps, (M,); NaN where nothing can be said.

        A history's steps are those of its subject's last one among `samples` that end by its own prediction.

        Args:
            forecasts: The representation.
            samples: (M,) sample numbers, of which the units were foretold.
        """
        arrays = forecasts.store.arrays
        units = forecasts.units(np.unique(samples))
        unit = units[np.searchsorted(units, samples)]  # a subject's samples stand together, its unit last
        begin = np.searchsorted(self.sample, unit)
        length = np.searchsorted(self.sample, unit, side="right") - begin
        left = arrays.sample_time[unit] - arrays.sample_time[samples]
        end = begin + np.maximum(length + -left // forecasts.grid.width, 0)
        known = ~np.isnan(self.surprise)
        total = np.append(0, np.cumsum(np.where(known, self.surprise, 0)))
        count = np.append(0, np.cumsum(known))
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = (total[end] - total[begin]) / (count[end] - count[begin])
        return mean
