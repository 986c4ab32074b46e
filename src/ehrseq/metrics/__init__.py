"""Metrics of predictions: pure functions, and intervals by subject. Nothing here imports torch or matplotlib."""

from ehrseq.metrics.binary import (
    auroc,
    average_precision,
    brier,
    ece,
    log_loss,
    precision_recall_curve,
    reliability_curve,
    roc_curve,
)
from ehrseq.metrics.intervals import Estimate, evaluate_binary
from ehrseq.metrics.outcomes import HEADLINE, evaluate_predictions

__all__ = [
    "HEADLINE",
    "Estimate",
    "auroc",
    "average_precision",
    "brier",
    "ece",
    "evaluate_binary",
    "evaluate_predictions",
    "log_loss",
    "precision_recall_curve",
    "reliability_curve",
    "roc_curve",
]
