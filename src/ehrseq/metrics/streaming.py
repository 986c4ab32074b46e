"""Metrics that training watches: exact, accumulated over a whole split."""

from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection, R2Score
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCohenKappa,
    MultilabelAUROC,
    MultilabelAveragePrecision,
)

from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
    SeveralTarget,
    SurvivalTarget,
    Target,
    columns_of,
)

_UNKNOWN = -1


class WatchedMetrics(nn.Module):
    """The metrics of a target, `ehrseq.config.targets.watched`.

    Args:
        target: What is predicted.
        prefix: Of the metrics' names.
    """

    def __init__(self, target: Target, prefix: str) -> None:
        super().__init__()
        self.kind = target.kind
        self.metrics = MetricCollection(_metrics(target), prefix=prefix)
        self.columns = columns_of(target.parts) if isinstance(target, SeveralTarget) else ()
        self.parts = nn.ModuleList(WatchedMetrics(part.target, f"{prefix}{part.name}_") for part in self.columns)

    def _parts(self) -> list["WatchedMetrics"]:
        return [part for part in self.parts if isinstance(part, WatchedMetrics)]

    def update(self, prediction: Tensor, outcome: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: (B, P).
            outcome: (B, L), NaN where unknown.
        """
        for part, columns in zip(self._parts(), self.columns, strict=True):
            part.update(prediction[:, columns.predictions], outcome[:, columns.outcomes])
        if not len(self.metrics):
            return
        if self.kind == "multilabel":
            self.metrics.update(prediction, outcome.nan_to_num(_UNKNOWN).long())
            return
        if self.kind == "forecast":
            known = ~outcome.isnan()
            self.metrics.update(prediction[known], outcome[known])
            return
        known = ~outcome[:, 0].isnan()
        prediction, outcome = prediction[known], outcome[known, 0]
        if not len(outcome):
            return
        if self.kind in ("binary", "regression"):
            prediction = prediction[:, 0]
        if self.kind != "regression":
            outcome = outcome.long()
        self.metrics.update(prediction, outcome)

    def compute(self) -> dict[str, Tensor]:
        """The figures of all batches since the last call, by name."""
        if not len(self.metrics):
            return {name: value for part in self._parts() for name, value in part.compute().items()}
        figures: dict[str, Tensor] = self.metrics.compute()
        self.metrics.reset()
        return figures


def _metrics(target: Target) -> dict[str, Metric | MetricCollection]:
    match target:
        case MulticlassTarget(classes=classes):
            return {
                "auroc": MulticlassAUROC(len(classes), thresholds=None),
                "accuracy": MulticlassAccuracy(len(classes), average="micro"),
            }
        case MultilabelTarget(labels=labels):
            return {
                "auroc": MultilabelAUROC(len(labels), ignore_index=_UNKNOWN),
                "auprc": MultilabelAveragePrecision(len(labels), ignore_index=_UNKNOWN),
            }
        case OrdinalTarget(edges=edges):
            return {"kappa": MulticlassCohenKappa(len(edges) + 1, weights="quadratic")}
        case BinaryTarget():
            return {"auroc": BinaryAUROC(thresholds=None), "auprc": BinaryAveragePrecision(thresholds=None)}
        case RegressionTarget():
            return {"mae": MeanAbsoluteError(), "r2": R2Score()}
        case ForecastTarget():
            return {"mae": MeanAbsoluteError()}
        case SurvivalTarget() | SeveralTarget():
            return {}
