"""When something happens, and which of several things."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ehrseq.nn.objectives.base import Objective, mean_of_known


class SurvivalObjective(Objective):
    """Hazards in discrete time with competing risks (Tutz and Schmid 2016, "Modeling Discrete Time-to-Event Data").

    In each interval, a softmax over going on and each cause. Who is censored counts for the intervals they saw the end
    of. Predictions are cumulative incidences at the end of each interval.

    Args:
        edges: Ends of the K intervals, in hours; the first begins at 0.
        causes: C, how many.
    """

    def __init__(self, edges: tuple[float, ...], causes: int) -> None:
        super().__init__()
        self.outputs = len(edges) * causes
        self.causes = causes
        self.register_buffer("edges", torch.tensor(edges), persistent=False)

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:
        """The hazards of `train`; see `Objective.initial`."""
        known = torch.from_numpy(outcomes[~np.isnan(outcomes).any(axis=1)])
        interval, happened, survived = self._intervals(known[:, :1], known[:, 1].long())
        events = torch.zeros(len(self.get_buffer("edges")), self.causes)
        struck = known[happened, 1].long() - 1
        events.index_put_((interval[happened], struck), torch.ones(len(struck)), accumulate=True)
        return ((events + 0.5) / (survived.sum(0) + 0.5)[:, None]).log().flatten()

    def _intervals(self, hours: Tensor, cause: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In which interval it ended (B,), whether by an event (B,), which ones were survived (B, K)."""
        edges = self.get_buffer("edges")
        happened = (cause > 0) & (hours[:, 0] <= edges[-1])
        # Intervals (from, to]: what happens at an edge happens in the interval that ends there.
        number = torch.searchsorted(edges, hours[:, 0].contiguous()).clamp(max=len(edges) - 1)
        return number, happened, torch.where(happened[:, None], edges < hours, edges <= hours)

    def _log_hazards(self, output: Tensor) -> Tensor:
        """(B, K, 1 + C): the first is that of going on."""
        logits = output.reshape(len(output), -1, self.causes)
        return torch.cat([torch.zeros_like(logits[..., :1]), logits], dim=-1).log_softmax(-1)

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """The negative log-likelihood; see `Objective.loss`."""
        hours, cause = outcome[:, :1].nan_to_num(0.0), outcome[:, 1].nan_to_num(0.0).long()
        known = ~outcome.isnan().any(1)
        hazards = self._log_hazards(output)
        number, happened, survived = self._intervals(hours, cause)
        losses = -(hazards[..., 0] * survived).sum(1)
        event = hazards[torch.arange(len(output), device=output.device), number].gather(1, cause[:, None])[:, 0]
        return mean_of_known(losses - event * happened, known)

    def predict(self, output: Tensor) -> Tensor:
        """Cumulative incidences, (B, C K): cause after cause."""
        hazards = self._log_hazards(output)
        before = functional.pad(hazards[..., 0].cumsum(1)[:, :-1], (1, 0)).exp()
        incidence = (before[..., None] * hazards[..., 1:].exp()).cumsum(1)
        return incidence.transpose(1, 2).reshape(len(output), -1)

    def risk(self, output: Tensor) -> Tensor:
        """The chance that the first cause strikes up to the last edge, (B,)."""
        return self.predict(output)[:, len(self.get_buffer("edges")) - 1]
