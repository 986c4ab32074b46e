"""Curves of a binary model as tables, for tools that draw and compare them (`dvc plots`)."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.targets import BinaryTarget, Target
from ehrseq.metrics import precision_recall_curve, reliability_curve, roc_curve

_POINTS = 101  # of a curve: enough to draw, too few to give single persons away


def write_curves(target: Target, frame: pl.DataFrame, folder: Path) -> None:
    """Write `roc.csv`, `precision_recall.csv` and `calibration.csv`; nothing for other targets than binary ones.

    Args:
        target: What was predicted.
        frame: The predictions, as `evaluate` writes them.
        folder: Where to.
    """
    if not isinstance(target, BinaryTarget):
        return
    label = frame["label"].cast(pl.Float64).to_numpy()
    probability = frame["probability"].to_numpy()
    roc, recall = roc_curve(label, probability), precision_recall_curve(label, probability)
    bins = reliability_curve(label, probability)
    tables = {
        "roc": {"false_positive_rate": roc.x, "sensitivity": roc.y},
        "precision_recall": {"recall": recall.x, "precision": recall.y},
        "calibration": {"predicted": bins.probability, "observed": bins.positive},
    }
    for name, columns in tables.items():
        pl.DataFrame({column: _thin(values) for column, values in columns.items()}).write_csv(folder / f"{name}.csv")


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Some of the points, the ends among them."""
    chosen = np.linspace(0, max(len(values) - 1, 0), min(len(values), _POINTS)).round().astype(np.int64)
    return values[chosen]
