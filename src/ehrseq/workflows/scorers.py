"""What gives predictions: a trained network, or trees; workflows need not know which."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Outputs, RepresentationConfig, Settings, SummaryConfig
from ehrseq.store import Store

if TYPE_CHECKING:
    from ehrseq.baselines import GradientBoosting
    from ehrseq.nn import SequenceModel

_CHUNK = 20_000  # histories summarised at once


class Scorer(Protocol):
    """Scores histories."""

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The predictions of each history, (M, P), see `ehrseq.config.targets.prediction_names`.

        Args:
            store: Where the histories are.
            samples: (M,) sample numbers; the rows of the result are in their order.
            settings: How: batch size and accelerator. What is scored is the run's own business.
        """


@dataclass(frozen=True)
class NetworkScorer:
    """A network, and what it reads."""

    model: "SequenceModel"
    representation: RepresentationConfig
    outputs: Outputs

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The predictions of each history, (M, P); see `Scorer`."""
        from ehrseq.data import HistoryDataset, represent
        from ehrseq.training import inference

        dataset = HistoryDataset(represent(store, self.representation, self.outputs), np.unique(samples))
        device = inference.choose_device(settings.trainer.accelerator)
        scores = inference.score(self.model, dataset.ordered(settings.loader), device)
        # With an output at every step, a subject's earlier predictions come along unasked.
        return scores.prediction[np.searchsorted(scores.samples, samples)]


@dataclass(frozen=True)
class EnsembleScorer:
    """Several scorers, whose predictions are averaged (Lakshminarayanan et al. 2017)."""

    members: tuple[Scorer, ...]

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The mean of the members' predictions, (M, P); see `Scorer`."""
        total = sum(member.score(store, samples, settings) for member in self.members)
        mean: NDArray[np.float64] = np.asarray(total) / len(self.members)
        return mean


@dataclass(frozen=True)
class TreesScorer:
    """Trees, and what they read."""

    booster: "GradientBoosting"
    summary: SummaryConfig

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:  # noqa: ARG002
        """The predictions of each history, (M, P); see `Scorer`."""
        from ehrseq.data.summary import summarise

        parts = [samples[start : start + _CHUNK] for start in range(0, max(len(samples), 1), _CHUNK)]
        return np.concatenate([self.booster.predict(summarise(store, part, self.summary)[0]) for part in parts])
