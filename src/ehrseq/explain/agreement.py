"""Whether two explanations of the same histories say the same."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
TOP = 0.05  # of the parts, of which the overlap is taken


def ranks(value: Floats) -> NDArray[np.float64]:
    """Ranks of (N,) numbers, from 0; equal ones share the middle of theirs."""
    _, group, count = np.unique(value, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(count) - (count + 1) / 2
    return middle[group]


def spearman(one: Floats, other: Floats) -> float:
    """Rank correlation of (N,) and (N,); 0 where either is all the same."""
    a, b = ranks(one), ranks(other)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def correlation(one: Floats, other: Floats, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rank correlation of the weights (B, P) of two explainers in each history, (B,)."""
    rows = zip(one, other, present, strict=True)
    return np.array([spearman(a[there], b[there]) if there.sum() > 1 else np.nan for a, b, there in rows])


def overlap(one: Floats, other: Floats, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the first 5% of the parts that both name, (B,): their common parts over all that either names."""
    shares = []
    for a, b, there in zip(one, other, present, strict=True):
        number = int(np.ceil(there.sum() * TOP))
        first, second = (set(np.argsort(-row[there], kind="stable")[:number].tolist()) for row in (a, b))
        shares.append(len(first & second) / max(len(first | second), 1))
    return np.array(shares)


def evenness(weights: Floats, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entropy of attention weights (B, T) over that of even ones: 1 is even, 0 is one step alone; NaN for one step."""
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(weights > 0, weights * np.log(weights), 0.0).sum(1)
        share: NDArray[np.float64] = np.asarray(entropy / np.log(lengths), np.float64)
    share[lengths < 2] = np.nan
    return share
