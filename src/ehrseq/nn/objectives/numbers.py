"""A number, and the next values of all features."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ehrseq.nn.objectives.base import Objective, mean_of_known

# Bound of the log variance of a forecast: a standard deviation lies between 0.05 and 20, in normalised units.
_LOG_VARIANCE = 6.0


class RegressionObjective(Objective):
    """Mean squared error of the standardised number.

    Args:
        log: Whether log(1 + value) is learned; predictions are then medians rather than means.
    """

    outputs = 1

    def __init__(self, log: bool = False) -> None:
        super().__init__()
        self.log = log
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Mean and standard deviation of `train`."""
        value = self._moved(torch.from_numpy(outcomes[:, 0]).double())
        value = value[~value.isnan()]
        self.get_buffer("center").copy_(value.mean())
        self.get_buffer("scale").copy_(value.std(correction=0).clamp(min=1e-6))

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome[:, 0].isnan()
        truth = (self._moved(outcome[:, 0].nan_to_num(0.0)) - self.get_buffer("center")) / self.get_buffer("scale")
        return mean_of_known((output[:, 0] - truth) ** 2, known)

    def predict(self, output: Tensor) -> Tensor:
        """Numbers in the unit of the labels, (B, 1)."""
        value = output * self.get_buffer("scale") + self.get_buffer("center")
        return torch.expm1(value) if self.log else value

    def _moved(self, value: Tensor) -> Tensor:
        return torch.log1p(value) if self.log else value


class ForecastObjective(Objective):
    """Negative log-likelihood of the values measured in the next H steps, each a Gaussian of its own.

    Of each value the net gives mean and log variance: (H F) of the one, then of the other. At every step the last value
    seen, times a learned weight that starts at 1, is added to the mean, so that the net learns how things change;
    outputs for whole histories lack it.

    Args:
        features: F.
        horizon: H.
    """

    reads = ("values",)

    def __init__(self, features: int, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.outputs = 2 * horizon * features
        self.keep = nn.Parameter(torch.ones(horizon * features))

    def at_steps(self, output: Tensor, *, values: Tensor) -> Tensor:  # type: ignore[override]
        """See `Objective.at_steps`.

        Args:
            output: (B, T, O).
            values: The last value seen of each feature, (B, T, F).
        """
        mean, spread = output.chunk(2, dim=-1)
        return torch.cat([mean + self.keep * values.repeat(1, 1, self.horizon), spread], dim=-1)

    def distribution(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (..., H F) each, of outputs (..., O)."""
        mean, spread = output.chunk(2, dim=-1)
        # Bounded smoothly: what never changes would else be foretold with a certainty without end.
        return mean, torch.exp(_LOG_VARIANCE * torch.tanh(spread / _LOG_VARIANCE) / 2)

    def surprise(self, output: Tensor, outcome: Tensor) -> Tensor:
        """Negative log-likelihood of each value, (..., H F); NaN where it is unknown."""
        mean, deviation = self.distribution(output.float())
        return ((outcome - mean) / deviation) ** 2 / 2 + deviation.log() + math.log(2 * math.pi) / 2

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome.isnan()
        return mean_of_known(self.surprise(output, outcome.nan_to_num(0.0)), known)

    def predict(self, output: Tensor) -> Tensor:
        """Means, (B, H F)."""
        return self.distribution(output)[0]
