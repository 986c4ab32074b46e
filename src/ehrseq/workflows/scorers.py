"""What gives probabilities: a trained network, or trees; workflows need not know which."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import RepresentationConfig, Settings, SummaryConfig
from ehrseq.store import Store

if TYPE_CHECKING:
    from ehrseq.baselines import GradientBoosting
    from ehrseq.nn import SequenceModel

_CHUNK = 20_000  # histories summarised at once


class Scorer(Protocol):
    """Scores histories."""

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The probability of each history, (M,).

        Args:
            store: Where the histories are.
            samples: (M,) sample numbers, ascending.
            settings: How: batch size and accelerator. What is scored is the run's own business.
        """


@dataclass(frozen=True)
class NetworkScorer:
    """A network, and what it reads."""

    model: "SequenceModel"
    representation: RepresentationConfig

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The probability of each history, (M,); see `Scorer`."""
        from ehrseq.data import HistoryDataset, represent
        from ehrseq.training import inference

        dataset = HistoryDataset(represent(store, self.representation), samples)
        device = inference.choose_device(settings.trainer.accelerator)
        return inference.score(self.model, dataset.ordered(settings.loader), device).probability


@dataclass(frozen=True)
class TreesScorer:
    """Trees, and what they read."""

    booster: "GradientBoosting"
    summary: SummaryConfig

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:  # noqa: ARG002
        """The probability of each history, (M,); see `Scorer`."""
        from ehrseq.data.summary import summarise

        parts = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
        scores = [self.booster.predict(summarise(store, part, self.summary)[0]) for part in parts]
        return np.concatenate(scores) if scores else np.empty(0)
