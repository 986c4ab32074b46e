"""Mending risks by what was seen on `tuning`: Platt scaling, isotonic regression, temperature.

What is learned is a few plain numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.metrics.binary import Floats
from ehrseq.metrics.logistic import fit_logistic, logit, sigmoid

Method = Literal["platt", "isotonic", "temperature"]
METHODS: tuple[Method, ...] = ("platt", "isotonic", "temperature")
_TEMPERATURES = 0.05, 20.0


@dataclass(frozen=True)
class Calibrator:
    """A rising map from risks to risks.

    Attributes:
        method: Which.
        slope: Of the log odds, for `platt` and `temperature` (1 over the temperature).
        intercept: Added to them, for `platt`.
        risks: (K,) risks at which `isotonic` is known; straight lines between.
        observed: (K,) what they become.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    risks: tuple[float, ...] = ()
    observed: tuple[float, ...] = ()

    def apply(self, probability: ArrayLike) -> Floats:
        """Mended risks, of the same shape."""
        values = np.asarray(probability, np.float64)
        if self.method == "isotonic":
            mended: Floats = np.interp(values, self.risks, self.observed)
            return mended
        odds: Floats = self.slope * logit(values) + self.intercept
        return sigmoid(odds)

    def apply_classes(self, probability: ArrayLike) -> Floats:
        """Probabilities of classes (N, C) at this temperature (Guo et al. 2017): each row still adds up to 1."""
        logs = self.slope * np.log(np.maximum(np.asarray(probability, np.float64), 1e-300))
        powers: Floats = np.exp(logs - logs.max(axis=1, keepdims=True))
        mended: Floats = powers / powers.sum(axis=1, keepdims=True)
        return mended

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Calibrator":
        """The inverse of `to_json`."""
        return cls(**plain | {name: tuple(plain[name]) for name in ("risks", "observed")})


def fit_calibrator(method: Method, label: ArrayLike, probability: ArrayLike) -> Calibrator:
    """Learn how to mend risks.

    `platt`: logistic regression on the log odds, with Platt's targets, which never are quite 0 and 1 (Platt 1999).
    `temperature`: its slope alone (Guo et al. 2017). `isotonic`: the rising steps of least squares (Zadrozny and Elkan
    2002), drawn towards the middle by one case of each kind a step, so that no risk becomes 0 or 1.

    Args:
        method: Which.
        label: (N,) of 0 and 1.
        probability: (N,).

    Returns:
        Where there is only one class, or nothing, a map that changes nothing.
    """
    labels, risks = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return Calibrator(method) if method != "isotonic" else Calibrator(method, risks=(0, 1), observed=(0, 1))
    if method == "isotonic":
        return _isotonic(labels, risks)
    odds = logit(risks)
    if method == "temperature":
        slope = fit_logistic(odds[:, None], labels, np.ones(len(labels)))[0]
        return Calibrator(method, slope=_within(slope))
    goals = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    intercept, slope = fit_logistic(np.column_stack([np.ones(len(odds)), odds]), goals, np.ones(len(odds)))
    if np.isnan(slope):  # constant risks: their level alone can be mended
        intercept, slope = float(logit(goals.mean()) - odds.mean()), 1.0
    return Calibrator(method, slope=float(slope), intercept=float(intercept))


def fit_temperature(truth: ArrayLike, probability: ArrayLike) -> Calibrator:
    """The temperature of greatest likelihood of classes (Guo et al. 2017), by bisection of the derivative.

    Args:
        truth: (N,) number of the class.
        probability: (N, C).
    """
    chosen = np.asarray(truth, np.int64)
    logs = np.log(np.maximum(np.asarray(probability, np.float64), 1e-300))
    right = logs[np.arange(len(logs)), chosen] if len(logs) else np.empty(0)
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]

    def rises(slope: float) -> bool:
        powers = np.exp(slope * logs - (slope * logs).max(axis=1, keepdims=True))
        return bool((right - (powers * logs).sum(axis=1) / powers.sum(axis=1)).sum() > 0)

    if not len(logs):
        return Calibrator("temperature")
    for _ in range(60):  # the likelihood has one maximum
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return Calibrator("temperature", slope=(low + high) / 2)


def _within(slope: float) -> float:
    low, high = _TEMPERATURES
    return float(np.clip(slope, 1 / high, 1 / low)) if np.isfinite(slope) else 1.0


def _isotonic(label: Floats, risk: Floats) -> Calibrator:
    """Pool adjacent violators (Ayer et al. 1955)."""
    knots, number = np.unique(risk, return_inverse=True)
    sizes, sums = np.bincount(number).astype(np.float64), np.bincount(number, label)
    blocks: list[tuple[float, float, int, int]] = []  # positives, size, first knot, last knot
    for place, (size, positive) in enumerate(zip(sizes, sums, strict=True)):
        block = positive, size, place, place
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            before = blocks.pop()
            block = before[0] + block[0], before[1] + block[1], before[2], block[3]
        blocks.append(block)
    # One case in all, of the overall share, for each block: close to least squares where there are many.
    share = label.mean()
    ends = [(knots[place], (block[0] + share) / (block[1] + 1)) for block in blocks for place in block[2:]]
    points = dict(ends)
    observed = np.maximum.accumulate(list(points.values()))
    return Calibrator("isotonic", risks=tuple(points), observed=tuple(observed.tolist()))
