"""Random risks and outcomes, for tests of metrics."""

import numpy as np
from numpy.typing import NDArray

from ehrseq.metrics.logistic import logit, sigmoid

Floats = NDArray[np.float64]


def draw(seed: int, count: int = 300, ties: bool = False) -> tuple[Floats, Floats, Floats]:
    """Labels, overconfident risks and weights."""
    random = np.random.default_rng(seed)
    risk = sigmoid(random.normal(-1, 1.5, count))
    if ties:
        risk = np.clip(risk.round(1), 0.05, 0.95)
    label = (random.random(count) < sigmoid(0.7 * logit(risk) - 0.3)).astype(np.float64)
    label[:2] = 0, 1
    weight = random.integers(0, 4, count).astype(np.float64) + 0.5
    return label, risk, weight
