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
from ehrseq.metrics.outcomes import evaluate_predictions, headline
from ehrseq.metrics.utility import best_threshold, evaluate_utility, normalised_utility, total_utility

__all__ = [
    "Estimate",
    "auroc",
    "average_precision",
    "best_threshold",
    "brier",
    "ece",
    "evaluate_binary",
    "evaluate_predictions",
    "evaluate_utility",
    "headline",
    "log_loss",
    "normalised_utility",
    "precision_recall_curve",
    "reliability_curve",
    "roc_curve",
    "total_utility",
]
