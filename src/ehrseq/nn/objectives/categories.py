"""Yes or no, one of several classes, labels side by side, buckets in order."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.config.schema import Loss
from ehrseq.nn.objectives.base import Objective, Told, counts_of_known, mean_of_known


class BinaryObjective(Objective):
    """Weighted binary cross-entropy, a logit a label; of one label or of several.

    The focal loss (Lin et al. 2017) multiplies each loss by (1 - p)^gamma, p being what was given to the truth. Logit
    adjustment (Menon et al. 2021) adds tau log(prior odds) to the logits while learning only.

    What a teacher says is learned as its risks r, by cross-entropy (Hinton et al. 2015), or as its logits (Ba and
    Caruana 2014, "Do Deep Nets Really Need to be Deep?"): half the squared distance between both, times `Told.scale`.
    With r (1 - r) as scale the latter would be the former, near the teacher; one scale for all has it that small risks
    are told apart as well as large ones.

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
        positive, negative = (np.nansum(part, axis=0, dtype=np.float64) for part in (outcomes, 1 - outcomes))
        odds = np.maximum(positive, 0.5) / np.maximum(negative, 0.5)
        weight = {"none": np.ones(self.outputs), "balanced": 1 / odds}.get(str(self.config.class_weight))
        if weight is None:
            weight = np.full(self.outputs, float(self.config.class_weight))
        self.get_buffer("weight").copy_(torch.from_numpy(weight))
        self.get_buffer("prior").copy_(torch.from_numpy(np.log(odds)))

    def initial(self, outcomes: NDArray[np.float32]) -> Tensor:  # noqa: ARG002
        """The frequencies, as the loss counts them; see `Objective.initial`."""
        return (1 - self.config.logit_adjustment) * self.get_buffer("prior") + self.get_buffer("weight").log()

    def terms(self, output: Tensor, outcome: Tensor, told: Told | None = None) -> tuple[Tensor, Tensor]:
        """One; see `Objective.terms`."""
        known = ~outcome.isnan()
        if told is not None:
            known = known | ~told.logit.isnan()
        return self._loss(output, outcome, told)[None], known.sum()[None]

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        return self._loss(output, outcome, None)

    def _loss(self, output: Tensor, outcome: Tensor, told: Told | None) -> Tensor:
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
        if told is not None:
            teacher = told.logit.nan_to_num(0.0)
            if told.scale is None:
                risk = torch.sigmoid(teacher)
                away = functional.binary_cross_entropy_with_logits(logits, risk, reduction="none", pos_weight=weight)
            else:
                # Weighted outcomes raise the logits by the logarithm of the weight.
                away = told.scale / 2 * (logits - teacher - self.get_buffer("weight").log()).square()
            spoken = ~told.logit.isnan()
            return (1 - told.weight) * mean_of_known(losses, known) + told.weight * mean_of_known(away, spoken)
        return mean_of_known(losses, known)

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
        count = np.maximum(counts_of_known(outcomes, self.outputs), 0.5)
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
        count = counts_of_known(outcomes, self.buckets) + 0.5
        above = 1 - np.cumsum(count)[:-1] / count.sum()
        thresholds = -np.log(above / (1 - above))
        self.first.copy_(torch.tensor(thresholds[0]))
        self.steps.copy_(torch.from_numpy(np.log(np.expm1(np.maximum(np.diff(thresholds), 1e-3)))))

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """See `Objective.loss`."""
        known = ~outcome[:, 0].isnan()
        number = outcome[:, 0].nan_to_num(0.0).long()
        given = self.predict(output).gather(1, number[:, None])[:, 0]
        return mean_of_known(-given.clamp(min=1e-12).log(), known)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities of the buckets, (B, K)."""
        above = torch.sigmoid(output - self.thresholds)
        one, none = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        return torch.cat([one, above], dim=1) - torch.cat([above, none], dim=1)

    def risk(self, output: Tensor) -> Tensor:
        """The score, (B,)."""
        return output[:, 0]
