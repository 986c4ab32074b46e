"""Metrics that training watches: exact, accumulated over a whole split."""

from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision


def binary_collection(prefix: str) -> MetricCollection:
    """AUROC and AUPRC of probabilities (B,) against labels (B,), as `<prefix>auroc` and `<prefix>auprc`."""
    return MetricCollection(
        {"auroc": BinaryAUROC(thresholds=None), "auprc": BinaryAveragePrecision(thresholds=None)}, prefix=prefix
    )
