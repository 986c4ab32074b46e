"""The figures that are watched while trees grow, under our names: LightGBM's own, and those that it lacks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.targets import WATCHED, BinaryTarget, MulticlassTarget, RegressionTarget, Target
from ehrseq.metrics import auroc

if TYPE_CHECKING:
    from lightgbm import Dataset
    from lightgbm.callback import CallbackEnv

Floats = NDArray[np.float64]
# LightGBM's names of our figures; those of other targets are our own.
_THEIRS = {"loss": "binary_logloss", "auroc": "auc", "auprc": "average_precision"}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}


def lightgbm_name(name: str, target: Target) -> str:
    """What LightGBM calls a figure of ours."""
    return _THEIRS[name] if isinstance(target, BinaryTarget) else name


def read_figures(environment: "CallbackEnv") -> dict[str, float]:
    """The loss on `train` and all figures on `tuning`, after a tree."""
    figures = {}
    for result in environment.evaluation_result_list or []:
        split, metric, value = result[:3]
        name = _OURS.get(metric, metric)
        if split == "tuning" or name == "loss":
            figures[f"{split}/{name}"] = float(value)
    return figures


def in_units(output: Floats, target: Target) -> Floats:
    """What LightGBM gives, in the unit of the outcomes."""
    return np.expm1(output) if isinstance(target, RegressionTarget) and target.log else output


class OwnFigures:
    """The figures that LightGBM has not, or has otherwise, after every tree.

    Args:
        target: What is predicted: multiclass or regression.
        names: Which, in the order in which they are told.
    """

    def __init__(self, target: Target, names: Sequence[str]) -> None:
        self.target = target
        self.names = names

    def __call__(self, output: Floats, data: "Dataset") -> list[tuple[str, float, bool]]:
        """The name, value and better direction of each."""
        label = np.asarray(data.get_label(), np.float64)
        upward = WATCHED[self.target.kind]
        figure = self._of_classes if isinstance(self.target, MulticlassTarget) else self._of_numbers
        return [(name, figure(name, output, label), upward.get(name, False)) for name in self.names]

    def _of_classes(self, name: str, output: Floats, label: Floats) -> float:
        if name == "loss":
            given = output[np.arange(len(label)), label.astype(np.int64)]
            return float(-np.log(np.maximum(given, np.finfo(np.float64).tiny)).mean())
        if name == "accuracy":
            return float((output.argmax(axis=1) == label).mean())
        # Of the classes that are there.
        return float(np.mean([auroc(label == number, output[:, int(number)]) for number in np.unique(label)]))

    def _of_numbers(self, name: str, output: Floats, label: Floats) -> float:
        if name == "loss":  # of what is learned
            return float(((output - label) ** 2).mean())
        error = in_units(output, self.target) - (truth := in_units(label, self.target))
        if name == "mae":
            return float(np.abs(error).mean())
        return float(1 - (error**2).sum() / max(((truth - truth.mean()) ** 2).sum(), np.finfo(np.float64).tiny))
