"""What is learned: from the head's outputs to a loss and to predictions, one class a kind of target.

Outcomes that are unknown (NaN) take no part in any loss. What an objective learns from the labels of `train` and needs
for predictions is part of its state, so that it is saved with the weights.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.config.fit import PLAIN_LOSS, unused_by
from ehrseq.config.schema import Loss
from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    SeveralTarget,
    SingleTarget,
    SurvivalTarget,
    Target,
    columns_of,
)
from ehrseq.errors import ConfigError

# Bound of the log variance of a forecast: a standard deviation lies between 0.05 and 20, in normalised units.
_LOG_VARIANCE = 6.0


class Objective(nn.Module, ABC):
    """Loss and predictions of one kind of target.

    Attributes:
        outputs: O, how many outputs the head has.
        reads: The batch's tensors that `at_steps` takes, by name.
    """

    outputs: int
    reads: ClassVar[tuple[str, ...]] = ()

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Take what is needed from the outcomes of `train`, (M, L)."""

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:  # noqa: ARG002
        """Outputs that are best for all histories alike, (O,), where learning begins; 0 where that is as good.

        Args:
            outcomes: (M, L) of `train`, which `fit` has seen.
        """
        return torch.zeros(self.outputs)

    def at_steps(self, output: Tensor, **inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Outputs at every step, (B, T, O), in view of what the steps hold; by default as they are."""
        return output

    def terms(self, output: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """The K parts of which the loss is the sum, and of how many known outcomes each is the mean, (K,) both.

        By them the loss of several batches is that of all their histories together.
        """
        return self.loss(output, outcome)[None], (~outcome.isnan()).sum()[None]

    @abstractmethod
    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """The mean loss of the known outcomes, a scalar; 0 where none is known.

        Args:
            output: (B, O).
            outcome: (B, L), NaN where unknown.
        """

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor:
        """Predictions of outputs (B, O), (B, P)."""

    def distance(self, output: Tensor, other: Tensor, spread: Tensor) -> Tensor:
        """How far the predictions of two networks are apart, a mean over columns, (B,).

        Args:
            output: (B, O).
            other: (B, O) of the other network.
            spread: (P,) the unit of each column, such as the standard deviation of the other network's predictions.
        """
        apart: Tensor = ((self.predict(output) - self.predict(other)).abs() / spread).mean(-1)
        return apart

    def risk(self, output: Tensor) -> Tensor:
        """One number a history, (B,), by which they can be ranked: the last prediction."""
        return self.predict(output)[:, -1]

    def score(self, output: Tensor) -> Tensor:
        """One number a history, (B,), on the scale on which explanations add up; by default the risk."""
        return self.risk(output)


class BinaryObjective(Objective):
    """Weighted binary cross-entropy, a logit a label; of one label or of several.

    The focal loss (Lin et al. 2017) multiplies each loss by (1 - p)^gamma, p being what was given to the truth. Logit
    adjustment (Menon et al. 2021) adds tau log(prior odds) to the logits while learning only.

    Args:
        labels: How many.
        loss: How errors count.
    """

    def __init__(self, labels: int, loss: Loss) -> None:
        super().__init__()
        self.outputs = labels
        self.config = loss
        self.register_buffer("weight", torch.ones(labels), persistent=False)
        self.register_buffer("prior", torch.zeros(labels), persistent=False)

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Weights and prior log odds from the outcomes of `train`."""
        positive, negative = (outcomes == 1).sum(axis=0), (outcomes == 0).sum(axis=0)
        odds = np.maximum(positive, 0.5) / np.maximum(negative, 0.5)
        weight = {"none": np.ones(self.outputs), "balanced": 1 / odds}.get(str(self.config.class_weight))
        if weight is None:
            weight = np.full(self.outputs, float(self.config.class_weight))
        self.get_buffer("weight").copy_(torch.from_numpy(weight))
        self.get_buffer("prior").copy_(torch.from_numpy(np.log(odds)))

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:  # noqa: ARG002
        """The frequencies, as the loss counts them; see `Objective.initial`."""
        return (1 - self.config.logit_adjustment) * self.get_buffer("prior") + self.get_buffer("weight").log()

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome.isnan()
        truth = outcome.nan_to_num(0.0)
        logits, smoothed = output, truth
        # What is switched off is left out, not computed with nothing.
        if self.config.logit_adjustment:
            logits = output + self.config.logit_adjustment * self.get_buffer("prior")
        if self.config.label_smoothing:
            smoothed = truth + self.config.label_smoothing * (0.5 - truth)
        weight = None if self.config.class_weight == "none" else self.get_buffer("weight")
        losses = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none", pos_weight=weight)
        if self.config.focal:
            missed = torch.sigmoid(logits * (1 - 2 * truth))
            losses = losses * missed**self.config.focal
        return _mean(losses, known)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities, (B, P)."""
        return torch.sigmoid(output)

    def score(self, output: Tensor) -> Tensor:
        """The logit of the last label, (B,)."""
        return output[:, -1]


class MulticlassObjective(Objective):
    """Cross-entropy over classes; focal loss and logit adjustment as in `BinaryObjective`.

    Args:
        classes: How many.
        loss: How errors count.
    """

    def __init__(self, classes: int, loss: Loss) -> None:
        super().__init__()
        self.outputs = classes
        self.config = loss
        self.register_buffer("weight", torch.ones(self.outputs), persistent=False)
        self.register_buffer("prior", torch.zeros(self.outputs), persistent=False)

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Weights and log priors from the outcomes of `train`."""
        count = np.maximum(_counts(outcomes, self.outputs), 0.5)
        if self.config.class_weight == "balanced":
            self.get_buffer("weight").copy_(torch.from_numpy(count.sum() / count / self.outputs))
        self.get_buffer("prior").copy_(torch.from_numpy(np.log(count / count.sum())))

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:  # noqa: ARG002
        """The frequencies, as the loss counts them; see `Objective.initial`."""
        return (1 - self.config.logit_adjustment) * self.get_buffer("prior") + self.get_buffer("weight").log()

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome[:, 0].isnan()
        number = outcome[:, 0].nan_to_num(0.0).long()
        logits = output + self.config.logit_adjustment * self.get_buffer("prior")
        weight = self.get_buffer("weight")
        losses = functional.cross_entropy(
            logits, number, weight, reduction="none", label_smoothing=self.config.label_smoothing
        )
        if self.config.focal:
            given = logits.softmax(-1).gather(1, number[:, None])[:, 0]
            losses = losses * (1 - given) ** self.config.focal
        # As torch has it: a mean whose weights sum to one.
        return (losses * known).sum() / (weight[number] * known).sum().clamp(min=torch.finfo(losses.dtype).tiny)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities, (B, P)."""
        return output.softmax(-1)

    def risk(self, output: Tensor) -> Tensor:
        """The probability of the likeliest class, (B,)."""
        return self.predict(output).amax(-1)


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
        return _mean((output[:, 0] - truth) ** 2, known)

    def predict(self, output: Tensor) -> Tensor:
        """Numbers in the unit of the labels, (B, 1)."""
        value = output * self.get_buffer("scale") + self.get_buffer("center")
        return torch.expm1(value) if self.log else value

    def _moved(self, value: Tensor) -> Tensor:
        return torch.log1p(value) if self.log else value


class OrdinalObjective(Objective):
    """Proportional odds (McCullagh 1980): P(bucket > k) = sigmoid(score - threshold_k), thresholds rising.

    Args:
        buckets: K, how many there are.
    """

    outputs = 1

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.first = nn.Parameter(torch.zeros(()))
        # Softplus keeps the steps between thresholds positive.
        self.steps = nn.Parameter(torch.zeros(buckets - 2))

    @property
    def thresholds(self) -> Tensor:
        """(K - 1,), rising."""
        return torch.cat([self.first[None], self.first + functional.softplus(self.steps).cumsum(0)])

    @torch.no_grad()
    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Start where a score of 0 gives the frequencies of `train`."""
        count = _counts(outcomes, self.buckets) + 0.5
        above = 1 - np.cumsum(count)[:-1] / count.sum()
        thresholds = -np.log(above / (1 - above))
        self.first.copy_(torch.tensor(thresholds[0]))
        self.steps.copy_(torch.from_numpy(np.log(np.expm1(np.maximum(np.diff(thresholds), 1e-3)))))

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome[:, 0].isnan()
        number = outcome[:, 0].nan_to_num(0.0).long()
        given = self.predict(output).gather(1, number[:, None])[:, 0]
        return _mean(-given.clamp(min=1e-12).log(), known)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities of the buckets, (B, K)."""
        above = torch.sigmoid(output - self.thresholds)
        one, none = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        return torch.cat([one, above], dim=1) - torch.cat([above, none], dim=1)

    def risk(self, output: Tensor) -> Tensor:
        """The score, (B,)."""
        return output[:, 0]


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
        return _mean(losses - event * happened, known)

    def predict(self, output: Tensor) -> Tensor:
        """Cumulative incidences, (B, C K): cause after cause."""
        hazards = self._log_hazards(output)
        before = functional.pad(hazards[..., 0].cumsum(1)[:, :-1], (1, 0)).exp()
        incidence = (before[..., None] * hazards[..., 1:].exp()).cumsum(1)
        return incidence.transpose(1, 2).reshape(len(output), -1)

    def risk(self, output: Tensor) -> Tensor:
        """The chance that the first cause strikes up to the last edge, (B,)."""
        return self.predict(output)[:, len(self.get_buffer("edges")) - 1]


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
        return _mean(self.surprise(output, outcome.nan_to_num(0.0)), known)

    def predict(self, output: Tensor) -> Tensor:
        """Means, (B, H F)."""
        return self.distribution(output)[0]


class SeveralObjective(Objective):
    """Several targets at once: a weighted sum of their losses, each the mean over the outcomes that are known to it.

    Args:
        target: With the classes and labels of its parts.
        loss: How errors count; what a part has no use for is not for it.
    """

    def __init__(self, target: SeveralTarget, loss: Loss) -> None:
        super().__init__()
        self.columns = columns_of(target)
        self.weights = [part.weight for part in target.parts.values()]
        own = [
            (part.target, {name: PLAIN_LOSS[name] for name in unused_by(part.target.kind, loss)})
            for part in self.columns
        ]
        self.parts = nn.ModuleList(_single(part, loss.model_copy(update=plain)) for part, plain in own)
        self.sizes = [part.outputs for part in self._objectives()]
        self.outputs = sum(self.sizes)

    def _objectives(self) -> list[Objective]:
        return [part for part in self.parts if isinstance(part, Objective)]

    def fit(self, outcomes: NDArray[np.float32]) -> None:
        """Each part from its own columns."""
        for part, columns in zip(self._objectives(), self.columns, strict=True):
            part.fit(outcomes[:, columns.outcomes])

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:
        """Those of all parts; see `Objective.initial`."""
        own = zip(self._objectives(), self.columns, strict=True)
        return torch.cat([part.initial(outcomes[:, columns.outcomes]) for part, columns in own])

    def terms(self, output: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """One of each part; see `Objective.terms`."""
        own = zip(self._objectives(), self.columns, torch.split(output, self.sizes, dim=1), strict=True)
        parts = [part.terms(mine, outcome[:, columns.outcomes]) for part, columns, mine in own]
        losses, counts = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        return losses * losses.new_tensor(self.weights), counts

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        return self.terms(output, outcome)[0].sum()

    def predict(self, output: Tensor) -> Tensor:
        """The predictions of all parts, (B, P), part after part."""
        own = zip(self._objectives(), torch.split(output, self.sizes, dim=1), strict=True)
        return torch.cat([part.predict(mine) for part, mine in own], dim=1)

    def risk(self, output: Tensor) -> Tensor:
        """That of the first part, (B,)."""
        return self._objectives()[0].risk(output[:, : self.sizes[0]])

    def score(self, output: Tensor) -> Tensor:
        """That of the first part, (B,)."""
        return self._objectives()[0].score(output[:, : self.sizes[0]])


def make_objective(target: Target, loss: Loss, features: int = 0) -> Objective:
    """The objective of a target.

    Args:
        target: With its classes or labels.
        loss: How errors count.
        features: F, of the representation; what a forecast foretells.

    Raises:
        ConfigError: If the loss has options that a single target has no use for.
    """
    if isinstance(target, SeveralTarget):
        return SeveralObjective(target, loss)
    if unused := unused_by(target.kind, loss):
        if target.kind == "multiclass":
            raise ConfigError("loss.class_weight is a number; with several classes it is none or balanced")
        raise ConfigError(f"loss.{unused[0]} is for binary, multiclass and multilabel targets; this is {target.kind}")
    if isinstance(target, ForecastTarget):
        return ForecastObjective(features, target.horizon)
    return _single(target, loss)


def _single(target: SingleTarget, loss: Loss) -> Objective:
    match target:
        case BinaryTarget():
            return BinaryObjective(1, loss)
        case MulticlassTarget():
            return MulticlassObjective(len(target.classes), loss)
        case MultilabelTarget():
            return BinaryObjective(len(target.labels), loss)
        case RegressionTarget():
            return RegressionObjective(target.log)
        case OrdinalTarget():
            return OrdinalObjective(len(target.edges) + 1)
        case SurvivalTarget():
            return SurvivalObjective(target.edges, len(target.causes))


def _counts(outcomes: NDArray[np.float32], minlength: int) -> NDArray[np.int64]:
    """How often each number is among the known outcomes, (M, 1)."""
    known = outcomes[~np.isnan(outcomes)]
    return np.bincount(known.astype(np.int64), minlength=minlength)


def _mean(losses: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
