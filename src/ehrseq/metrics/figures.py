"""Pictures of a binary model's quality: ROC, precision and recall, calibration."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import precision_recall_curve, reliability_curve, roc_curve
from ehrseq.metrics.intervals import Estimate
from ehrseq.plotting import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Z = 1.959963984540054  # 97.5% point of the normal distribution


def draw_roc(label: ArrayLike, probability: ArrayLike, path: Path, *, estimates: Mapping[str, Estimate]) -> None:
    """Draw the ROC curve with its area and interval.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        path: PNG to write.
        estimates: From `evaluate_binary`, for the title.
    """
    curve = roc_curve(label, probability)
    with new_figure(path, 4.8, 4.8) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="chance")
        if len(curve.x):
            axes.plot(curve.x, curve.y, color=BLUE, lw=2, label="model")
            axes.legend(loc="lower right")
        _finish(axes, "ROC: AUROC", estimates["auroc"], "false-positive rate", "sensitivity")


def draw_precision_recall(
    label: ArrayLike, probability: ArrayLike, path: Path, *, estimates: Mapping[str, Estimate]
) -> None:
    """Draw precision against recall, with the prevalence that a coin would reach; arguments as in `draw_roc`."""
    curve = precision_recall_curve(label, probability)
    prevalence = estimates["prevalence"].value
    with new_figure(path, 4.8, 4.8) as figure:
        axes = figure.subplots()
        if prevalence is not None:
            axes.axhline(prevalence, color=GREY, lw=1, ls="--", label=f"prevalence {prevalence:.3f}")
        if len(curve.x):
            axes.step(curve.x, curve.y, where="pre", color=BLUE, lw=2, label="model")
            axes.legend(loc="upper right")
        _finish(axes, "Precision and recall: AUPRC", estimates["auprc"], "recall (sensitivity)", "precision")


def draw_calibration(
    label: ArrayLike, probability: ArrayLike, path: Path, *, estimates: Mapping[str, Estimate]
) -> None:
    """Draw observed against predicted risk in ten bins of equal mass, with Wilson intervals; see `draw_roc`."""
    curve = reliability_curve(label, probability)
    values = np.asarray(probability, np.float64)
    with new_figure(path, 4.8, 5.6) as figure:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfect")
        if len(curve.size):
            low, high = wilson(curve.positive, curve.size)
            bars = [np.maximum(curve.positive - low, 0), np.maximum(high - curve.positive, 0)]
            axes.errorbar(
                curve.probability,
                curve.positive,
                bars,
                color=BLUE,
                marker="o",
                ms=5,
                lw=1.5,
                capsize=3,
                label="model, 95%",
            )
            axes.legend(loc="upper left")
            strip.hist(values, bins=np.linspace(0, 1, 41).tolist(), color=ORANGE)
        _finish(axes, "Calibration: ECE", estimates["ece"], "", "observed share of positives")
        strip.set(xlabel="predicted risk", ylabel="predictions", xlim=(0, 1))
        strip.set_yscale("log")


def wilson(share: NDArray[np.float64], count: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95% interval of shares (Wilson 1927): lower and upper ends, (K,) each."""
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return center - half, center + half


def _finish(axes: "Axes", name: str, estimate: Estimate, x: str, y: str) -> None:
    title = f"{name} undefined: one class only"
    if estimate.value is not None:
        title = f"{name} {estimate.value:.3f}"
        if estimate.ci_low is not None and estimate.ci_high is not None:
            title += f" ({estimate.ci_low:.3f} to {estimate.ci_high:.3f})"
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.01))
