"""The covariance of several models' AUROC on the same predictions, without resampling.

DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 44; computed from midranks (Sun and Xu 2014, IEEE Signal Processing Letters 21).
Where a subject has several predictions, these are taken together (Obuchowski 1997, "Nonparametric analysis of clustered
ROC curve data", Biometrics 53), which with one prediction a subject is DeLong's method exactly.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


class Areas(NamedTuple):
    """The areas under the ROC curves of K models, (K,), and their covariance, (K, K)."""

    auroc: Floats
    covariance: Floats


def delong(label: ArrayLike, score: ArrayLike, subject: ArrayLike | None = None) -> Areas:
    """AUROC of several models on the same predictions, and its covariance.

    Args:
        label: (N,) of 0 and 1.
        score: (K, N) of K models.
        subject: (N,) whose prediction each is; by default each is somebody else's.

    Returns:
        The areas; nan where there are fewer than two subjects with a positive, or with a negative.
    """
    positive = np.asarray(label, np.float64) == 1
    scores = np.atleast_2d(np.asarray(score, np.float64))
    people = np.arange(len(positive)) if subject is None else np.unique(np.asarray(subject), return_inverse=True)[1]
    with_positive = len(np.unique(people[positive]))
    with_negative = len(np.unique(people[~positive]))
    models, count, total = len(scores), int(positive.sum()), len(positive)
    if min(with_positive, with_negative) < 2:
        return Areas(np.full(models, np.nan), np.full((models, models), np.nan))
    others = total - count
    ranks = rankdata(scores, axis=1)
    # The share of negatives below each positive, and of positives above each negative; ties count half.
    above = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / others
    below = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / count
    areas = above.mean(axis=1)
    of_positives = _sum_by(above - areas[:, None], people[positive], people)
    of_negatives = _sum_by(below - areas[:, None], people[~positive], people)
    everybody = of_positives.shape[1]
    first = of_positives @ of_positives.T * with_positive / (with_positive - 1) / count**2
    second = of_negatives @ of_negatives.T * with_negative / (with_negative - 1) / others**2
    across = of_positives @ of_negatives.T * everybody / (everybody - 1) / (count * others)
    return Areas(areas, first + second + across + across.T)


def _sum_by(values: Floats, who: NDArray[np.int64], people: NDArray[np.int64]) -> Floats:
    """Sums (K, G) of values (K, M) by the person `who` (M,) that each belongs to, of all G people."""
    everybody = int(people.max()) + 1
    return np.stack([np.bincount(who, row, minlength=everybody) for row in values])
