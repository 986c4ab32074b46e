"""Which models can be told apart: differences of metrics on the same held-out examples, with intervals and tests.

All of it starts from the values of each run's metric and their sampling covariance, which comes from a bootstrap that
draws the same subjects for all runs, or for AUROC from `delong`. Two kinds of chance are kept apart: which subjects
were held out (sampling), and which seed a network was trained with.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Correction = Literal["holm", "fdr", "none"]


class Inference(NamedTuple):
    """Estimates with what is known of their error; all of one shape.

    Attributes:
        estimate: The values or differences.
        error: Their standard errors.
        freedom: Degrees of freedom of the errors.
        low: Lower ends of the intervals.
        high: Upper ends.
        p: Two-sided p-values of the estimate being 0.
    """

    estimate: Floats
    error: Floats
    freedom: Floats
    low: Floats
    high: Floats
    p: Floats


def infer(estimate: Floats, error: Floats, freedom: Floats, level: float) -> Inference:
    """Intervals and tests by Student's t distribution.

    Args:
        estimate: Of any shape.
        error: Standard errors, of that shape; where 0, the interval is the estimate.
        freedom: Degrees of freedom, of that shape.
        level: Coverage of the intervals.
    """
    half = error * stats.t.ppf((1 + level) / 2, freedom)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where(error > 0, np.abs(estimate) / error, np.where(estimate == 0, 0, np.inf))
    statistic = np.where(np.isnan(estimate) | np.isnan(error), np.nan, statistic)
    p = np.minimum(2 * stats.t.sf(statistic, freedom), 1.0)
    return Inference(estimate, error, freedom, estimate - half, estimate + half, p)


def covariance_of(replicates: Floats) -> Floats:
    """The sampling covariance (K, K) of K runs' metric from their bootstrap replicates (K, R), drawn together.

    Replicates in which the metric is undefined for a run are left out for all. nan where fewer than two are left.
    """
    defined = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if defined.shape[1] < 2:
        return np.full((len(replicates), len(replicates)), np.nan)
    covariance: Floats = np.atleast_2d(np.cov(defined))
    return covariance


def telling_subjects(label: Floats, subject: NDArray[Any]) -> int:
    """How many subjects the rarer class of a yes or no has: they settle how well an error is known.

    The variance of a metric of two classes is a sum over both, S1 / n1 + S0 / n0, as that of a difference of two means
    is; n - 1 of the smaller class bounds its degrees of freedom from below (Welch 1947, Biometrika 34).

    Args:
        label: (N,) 0, 1, or nan where unknown.
        subject: (N,) whose each is.
    """
    return min(len(np.unique(subject[label == value])) for value in (0, 1))


class Groups(NamedTuple):
    """Configurations, each with the runs of its seeds.

    Attributes:
        mean: (C,) mean of the metric over seeds.
        sampling: (C, C) covariance of the means by the choice of subjects.
        spread: (C,) standard deviation between seeds beyond what sampling explains; nan where there is one seed.
        seeds: (C,) how many there are.
    """

    mean: Floats
    sampling: Floats
    spread: Floats
    seeds: NDArray[np.int64]


def group_runs(value: Floats, covariance: Floats, group: NDArray[np.int64]) -> Groups:
    """Put runs that differ by their seed only together, and take the two kinds of chance apart.

    Seeds differ for two reasons: one training is better than another, on whomever it is tried, and each happens to suit
    some of these subjects. The second is part of the sampling variance already; it is estimated from the covariance and
    taken off the variance between seeds, as in the analysis of several readers of the same cases (Obuchowski and
    Rockette 1995, Communications in Statistics 24).

    Args:
        value: (K,) the metric of each run.
        covariance: (K, K) its sampling covariance.
        group: (K,) number of each run's configuration, from 0.
    """
    count = int(group.max()) + 1
    seeds = np.bincount(group, minlength=count)
    weight = (group == np.arange(count)[:, None]) / seeds[:, None]
    spread = np.full(count, np.nan)
    for number in np.flatnonzero(seeds > 1):
        members = np.flatnonzero(group == number)
        between = value[members].var(ddof=1)
        own = covariance[np.ix_(members, members)]
        chance = (np.trace(own) - own.sum() / len(members)) / (len(members) - 1)
        spread[number] = np.sqrt(max(between - chance, 0.0))
    return Groups(weight @ value, weight @ covariance @ weight.T, spread, seeds)


def compare_groups(groups: Groups, subjects: int, level: float) -> Inference:
    """Differences of all pairs of configurations, (C, C): row minus column.

    The error is that of another sample of subjects and, where both configurations have several seeds, of other seeds:
    the degrees of freedom follow Satterthwaite (1946). Where one of them has a single seed, the comparison is of these
    trained networks, not of their configurations.

    Args:
        groups: The configurations.
        subjects: How many subjects were drawn from; of a yes or no, how many the rarer class has (`telling_subjects`).
        level: Coverage of the intervals.
    """
    difference = groups.mean[:, None] - groups.mean
    own = np.diag(groups.sampling)
    sampling = np.maximum(own[:, None] + own - 2 * groups.sampling, 0.0)
    np.fill_diagonal(sampling, 0.0)
    by_seed = groups.spread**2 / groups.seeds
    known = ~np.isnan(by_seed)
    both = known[:, None] & known & ~np.eye(len(own), dtype=bool)
    seed = np.where(both, np.nan_to_num(by_seed)[:, None] + np.nan_to_num(by_seed), 0.0)
    total = sampling + seed
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.nan_to_num(by_seed) ** 2 / np.maximum(groups.seeds - 1, 1)
        parts = sampling**2 / max(subjects - 1, 1) + np.where(both, each[:, None] + each, 0.0)
        freedom = np.where(total > 0, total**2 / parts, max(subjects - 1, 1))
    return infer(difference, np.sqrt(total), freedom, level)


def over_sets(value: Floats, sampling: Floats, ratio: float, subjects: int, level: float) -> Inference:
    """Means over sets of examples that share no subject, such as the folds of a cross-validation.

    The error has two parts. Other subjects: the variance within each set, of the model that predicted it (LeDell,
    Petersen and van der Laan 2015, "Computationally efficient confidence intervals for cross-validated area under the
    ROC curve estimates", Electronic Journal of Statistics 9). Other trainings: what the sets differ by beyond that,
    with the factor of Nadeau and Bengio (2003), since trainings share subjects. Degrees of freedom by Satterthwaite.

    Args:
        value: (J, ...) values, or differences, in each of J sets.
        sampling: (J, ...) their variances by the choice of each set's subjects.
        ratio: Test to training subjects, n2 / n1.
        subjects: How many there are in all sets; of a yes or no, how many the rarer class has (`telling_subjects`).
        level: Coverage of the intervals.
    """
    sets = len(value)
    if sets < 2:
        raise ValueError(f"{sets} set: what trainings differ by needs two or more")
    within = sampling.sum(axis=0) / sets**2
    spread = np.maximum(value.var(axis=0, ddof=1) - sampling.mean(axis=0), 0.0)
    beyond = spread * (1 / sets + ratio)
    total = within + beyond
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / (within**2 / max(subjects - 1, 1) + beyond**2 / (sets - 1))
    freedom = np.where(total > 0, freedom, max(subjects - 1, 1))
    return infer(value.mean(axis=0), np.sqrt(total), freedom, level)


def corrected_resampled_t(difference: Floats, ratio: float, level: float) -> Inference:
    """Mean differences over random splits, whose held-out sets share subjects.

    So do their trainings, and their plain variance is too small; it is corrected by the share of test to training
    subjects (Nadeau and Bengio 2003, "Inference for the generalization error", Machine Learning 52).

    Args:
        difference: (..., J) differences, or values, in each of J splits.
        ratio: Test to training subjects, n2 / n1.
        level: Coverage of the intervals.
    """
    splits = difference.shape[-1]
    if splits < 2:
        raise ValueError(f"{splits} split: the corrected resampled t test needs two or more")
    error = np.sqrt((1 / splits + ratio) * difference.var(axis=-1, ddof=1))
    return infer(difference.mean(axis=-1), error, np.full(error.shape, splits - 1.0), level)


def correct(p: Floats, method: Correction) -> Floats:
    """P-values (M,) corrected for how many there are; nan stays nan and does not count.

    Args:
        p: As they are.
        method: `holm`: the chance of one false finding or more stays below the level (Holm 1979); `fdr`: the share of
            false ones among the findings does (Benjamini and Hochberg 1995); `none`.
    """
    corrected = p.copy()
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    count = len(order)
    if method == "holm":
        corrected[order] = np.minimum(np.maximum.accumulate(p[order] * (count - np.arange(count))), 1.0)
    elif method == "fdr":
        scaled = p[order] * count / (np.arange(count) + 1)
        corrected[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return corrected


def letters(apart: NDArray[np.bool_]) -> list[str]:
    """The compact letter display: two models share a letter if and only if they cannot be told apart.

    Insert and absorb (Piepho 2004, "An algorithm for a letter-based representation of all-pairwise comparisons",
    Journal of Computational and Graphical Statistics 13).

    Args:
        apart: (C, C) whether two are told apart; symmetric. The first model gets the first letter.

    Returns:
        The letters of each, for example "a", "ab", "b".
    """
    count = len(apart)
    columns = [frozenset(range(count))]
    for one, other in zip(*np.nonzero(np.triu(apart)), strict=True):
        split = []
        for column in columns:
            split += [column - {one}, column - {other}] if one in column and other in column else [column]
        # A column within another says nothing of its own.
        unique = list(dict.fromkeys(split))
        columns = [column for column in unique if not any(column < rest for rest in unique)]
    columns.sort(key=sorted)
    names = [_letter(number) for number in range(len(columns))]
    return ["".join(name for name, column in zip(names, columns, strict=True) if row in column) for row in range(count)]


def _letter(number: int) -> str:
    """The letters a to z, then A to Z, then numbers in brackets."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    alphabet += alphabet.upper()
    return alphabet[number] if number < len(alphabet) else f"({number + 1})"
