"""What gives predictions: a trained network, or trees; workflows need not know which."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.model import SummaryConfig
from ehrseq.config.representation import RepresentationConfig
from ehrseq.config.schema import Outputs, Settings
from ehrseq.config.targets import ForecastTarget
from ehrseq.store import Store
from ehrseq.workflows.member_folds import MemberFolds

if TYPE_CHECKING:
    from ehrseq.baselines import GradientBoosting
    from ehrseq.data import Forecasts
    from ehrseq.nn import SequenceModel
    from ehrseq.training.forecasting import Anomalies, ForecastBatch

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
class ForecastScorer:
    """A network that foretells, and what it reads; its prediction of a history is how surprising it was."""

    model: "SequenceModel"
    representation: RepresentationConfig
    horizon: int

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The anomaly of each history, (M, 1); see `Scorer`."""
        return self.anomalies(store, samples, settings).of_histories(self.forecasts(store), samples)[:, None]

    def anomalies(
        self,
        store: Store,
        samples: NDArray[np.int64],
        settings: Settings,
        each: Callable[["ForecastBatch"], None] = lambda _: None,
    ) -> "Anomalies":
        """How surprising every step is, in one pass.

        Args:
            store: Where the histories are.
            samples: (M,) sample numbers.
            settings: How: batch size and accelerator.
            each: Receives the forecasts, a batch at a time: all of them together may be many.
        """
        from ehrseq.data import HistoryDataset
        from ehrseq.training import inference
        from ehrseq.training.forecasting import Anomalies, forecast

        forecasts = self.forecasts(store)
        dataset = HistoryDataset(forecasts, np.unique(samples))
        device = inference.choose_device(settings.trainer.accelerator)
        parts = []
        for batch in forecast(self.model, dataset.ordered(settings.loader), device):
            each(batch)
            parts.append(batch.surprises())
        steps, surprise = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Anomalies.collect(forecasts, steps, surprise)

    def forecasts(self, store: Store) -> "Forecasts":
        """The representation of a store that the network reads."""
        from ehrseq.data import Forecasts, represent

        representation = represent(store, self.representation, "steps", self.horizon)
        assert isinstance(representation, Forecasts)
        return representation


def network_scorer(model: "SequenceModel", settings: Settings) -> Scorer:
    """The scorer of a network that was trained with these settings."""
    target = settings.task.target
    if isinstance(target, ForecastTarget):
        return ForecastScorer(model, settings.representation, target.horizon)
    return NetworkScorer(model, settings.representation, settings.outputs)


@dataclass(frozen=True)
class EnsembleScorer:
    """Several scorers, whose predictions are averaged (Lakshminarayanan et al. 2017).

    Of an ensemble over folds, subjects that members have learned from are predicted by the one that has not: what is
    chosen or fitted on `tuning` rests on predictions of unseen subjects there, too.

    Attributes:
        members: K scorers.
        folds: What each has not learned from; None: all have learned from the same.
    """

    members: tuple[Scorer, ...]
    folds: MemberFolds | None = None

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The mean of the members' predictions, (M, P); see `Scorer`."""
        return self.average(self.each(store, samples, settings))

    def average(self, each: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean (M, P) of what the members predict, (K, M, P)."""
        if self.folds is None:
            mean: NDArray[np.float64] = each.mean(axis=0)
        else:
            known = ~np.isnan(each[:, :, :1])
            mean = np.where(known, each, 0.0).sum(axis=0) / known.sum(axis=0)
        return mean

    def each(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """What each member predicts, (K, M, P); nan of subjects that it has learned from and another has not."""
        if self.folds is None:
            return np.stack([member.score(store, samples, settings) for member in self.members])
        fold = self.folds.of_samples(store)[samples]
        parts = {}
        for number, member in enumerate(self.members):
            rows = np.flatnonzero((fold == number) | (fold < 0))
            if len(rows):
                parts[number] = rows, member.score(store, samples[rows], settings)
        width = next(iter(parts.values()))[1].shape[1] if parts else 0
        each = np.full((len(self.members), len(samples), width), np.nan)
        for number, (rows, predicted) in parts.items():
            each[number, rows] = predicted
        return each


@dataclass(frozen=True)
class BlendScorer:
    """A network and trees, whose predictions are averaged.

    Attributes:
        network: The one.
        trees: The other.
        weight: Of the trees; the network has the rest.
    """

    network: Scorer
    trees: Scorer
    weight: float

    def score(self, store: Store, samples: NDArray[np.int64], settings: Settings) -> NDArray[np.float64]:
        """The weighted mean of both, (M, P); see `Scorer`."""
        network, trees = (scorer.score(store, samples, settings) for scorer in (self.network, self.trees))
        return (1 - self.weight) * network + self.weight * trees


def score_members(
    scorer: Scorer, store: Store, samples: NDArray[np.int64], settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The predictions (M, P), and of an ensemble how far its members are apart.

    Returns:
        The predictions, and the standard deviation of the members' first prediction, (M,); None where there is one
        member, or one that has not learned from the subject.
    """
    if not isinstance(scorer, EnsembleScorer):
        return scorer.score(store, samples, settings), None
    each = scorer.each(store, samples, settings)
    unseen_by_all = not np.isnan(each).any()
    return scorer.average(each), each[:, :, 0].std(axis=0, ddof=1) if unseen_by_all else None


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
