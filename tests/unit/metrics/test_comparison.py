"""DeLong against published values and plain loops; whether intervals and tests of comparisons keep their promises."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from ehrseq.metrics import Estimate, evaluate_binary
from ehrseq.metrics.comparison import (
    Groups,
    compare_groups,
    correct,
    corrected_resampled_t,
    covariance_of,
    group_runs,
    infer,
    letters,
    over_sets,
    telling_subjects,
)
from ehrseq.metrics.delong import delong

Floats = NDArray[np.float64]

# 113 patients after an aneurysmal subarachnoid haemorrhage (Turck et al. 2010, Intensive Care Medicine 36; the example
# of pROC, Robin et al. 2011, BMC Bioinformatics 12): outcome, and the ranks of three markers. Ranks are all that AUROC
# sees of them.
POOR = """
0 0 0 0 1 1 0 1 0 0 1 0 1 1 0 0 1 0 1 1 1 0 1 0 0 0 0 0 0 0 0 0 1 0 0 1 1 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 1 0 0 0
1 0 1 0 0 1 1 1 0 1 1 0 1 1 1 1 0 0 0 1 1 0 1 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 0 0 0 1 0 0 0
"""
RANKS = {
    "wfns": """
1 1 1 1 3 2 5 4 1 2 5 2 5 5 1 2 5 2 2 5 2 1 1 1 1 2 1 2 1 1 3 4 2 1 4 5 4 1 4 2 5 5 1 1 2 4 1 1 2 5 5 2 1 2 5 1 2 2
2 1 5 1 1 2 5 2 1 4 5 2 4 4 1 4 1 2 1 4 2 1 2 3 2 4 2 1 4 5 1 1 5 4 2 2 1 1 1 3 1 2 5 2 2 5 5 5 2 4 4 5 1 1 1
""",
    "s100b": """
11 12 8 2 11 8 36 14 16 8 10 8 33 44 2 6 38 2 5 27 7 7 5 9 5 15 5 9 11 17 3 14 31 12 28 29 37 7 49 21 39 35 14 5 32
34 9 6 7 48 40 6 4 11 50 8 12 13 5 4 46 3 7 25 1 7 2 19 43 7 23 44 6 22 6 14 7 11 8 6 9 27 9 24 5 8 26 18 5 3 20 30
8 13 6 12 8 5 2 17 41 12 42 26 47 45 13 36 15 33 13 39 37
""",
    "ndka": """
1 27 23 42 82 61 8 66 76 9 78 83 5 28 67 86 49 79 97 105 98 104 100 31 10 56 13 11 108 62 35 36 38 84 4 72 90 22 17
25 14 33 65 21 74 101 18 16 58 69 2 30 19 64 109 95 91 39 87 53 41 106 12 48 55 70 80 93 63 34 89 24 107 76 43 45 75
6 33 3 88 81 60 30 47 85 46 7 54 20 37 44 96 26 57 63 102 51 59 29 32 99 52 73 103 50 94 40 71 77 92 15 68
""",
}
# What pROC's own tests hold its DeLong test to: Z, p and the 95% interval of the difference.
PUBLISHED = {
    ("wfns", "s100b"): (2.20898359144091, 0.0271757822291882, 0.0104061769564846, 0.174214419249478),
    ("wfns", "ndka"): (2.79777591868904, 0.00514557970691098, 0.0634011709339876, 0.3600405634833566),
    ("ndka", "s100b"): (-1.39077002573558, 0.164295175223054, -0.2876917446341914, 0.0488706064228094),
}


def test_delong_agrees_with_published_values() -> None:
    label = np.array(POOR.split(), np.float64)
    names = list(RANKS)
    areas = delong(label, np.array([RANKS[name].split() for name in names], np.float64))
    assert areas.auroc == pytest.approx([0.82367886178861, 0.73136856368564, 0.61195799457995], abs=1e-13)
    for (one, other), (z, p, low, high) in PUBLISHED.items():
        contrast = np.array([(name == one) - 1.0 * (name == other) for name in names])
        error = np.sqrt(contrast @ areas.covariance @ contrast)
        found = infer(contrast @ areas.auroc, error, np.array(np.inf), level=0.95)
        assert found.estimate / found.error == pytest.approx(z, rel=1e-12)
        assert [found.p, found.low, found.high] == pytest.approx([p, low, high], rel=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_delong_is_its_definition(seed: int, count: int, levels: int) -> None:
    """Against the double loop over pairs, with ties and with several predictions of a subject."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([[1, 1, 0, 0], rng.integers(0, 2, count)]).astype(np.float64)
    score = rng.integers(0, 3**levels, (3, len(label))).astype(np.float64)
    areas = delong(label, score)
    positive, negative = score[:, label == 1], score[:, label == 0]
    wins = (positive[:, :, None] > negative[:, None]) + 0.5 * (positive[:, :, None] == negative[:, None])
    assert areas.auroc == pytest.approx([roc_auc_score(label, row) for row in score], abs=1e-12)
    expected = np.cov(wins.mean(axis=2)) / positive.shape[1] + np.cov(wins.mean(axis=1)) / negative.shape[1]
    assert areas.covariance == pytest.approx(expected, abs=1e-12)
    twice = delong(np.tile(label, 2), np.tile(score, 2), np.tile(np.arange(len(label)), 2))
    assert twice.auroc == pytest.approx(areas.auroc, abs=1e-12)  # whoever is there twice says nothing new
    assert twice.covariance == pytest.approx(expected, abs=1e-12)


def test_delong_of_one_class_is_undefined() -> None:
    assert np.isnan(delong([1, 1, 0], [[0.1, 0.2, 0.3]]).auroc).all()


def experiment(seed: int, subjects: int, strengths: Floats, each: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Labels, risks of each model and subjects, where each subject has so many predictions."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), each)
    label = (rng.random(len(subject)) < 0.2).astype(np.float64)
    shared = rng.normal(size=subjects)[subject] + 0.5 * rng.normal(size=len(subject))
    noise = shared + 0.6 * rng.normal(size=(len(strengths), len(subject)))
    return label, 1 / (1 + np.exp(1 - strengths[:, None] * label - noise)), subject


@pytest.mark.parametrize("method", ["delong", "bootstrap"])
@pytest.mark.parametrize("each", [1, 4])
def test_intervals_cover_and_p_is_uniform_where_models_are_equal(method: str, each: int) -> None:
    """A small one of the simulations in `benchmarks/comparison.py`, of AUROC and (bootstrap) log loss."""
    experiments = 400 if method == "delong" else 80
    p = []
    for seed in range(experiments):
        label, risk, subject = experiment(seed, 300 // each, np.array([1.5, 1.5]), each)
        tables: list[tuple[Floats, Floats]] = [delong(label, risk, subject)]
        if method == "bootstrap":
            drawn = [evaluate_binary(label, row, subject, replicates=200, seed=seed) for row in risk]
            tables = [table_of(drawn, name) for name in ("auroc", "log_loss")]
        for value, covariance in tables:
            groups = group_runs(value, covariance, np.arange(2))
            p.append(float(compare_groups(groups, telling_subjects(label, subject), 0.95).p[0, 1]))
    missed = np.mean(np.array(p) < 0.05)
    # Four standard errors of the count.
    assert abs(missed - 0.05) < 4 * math.sqrt(0.05 * 0.95 / len(p))
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def table_of(drawn: list[dict[str, Estimate]], name: str) -> tuple[Floats, Floats]:
    values = np.array([estimate[name].value for estimate in drawn], np.float64)
    rows = [estimate[name].replicates for estimate in drawn]
    return values, covariance_of(np.stack([row for row in rows if row is not None]))


def test_bootstrap_and_delong_give_the_same_errors() -> None:
    label, risk, subject = experiment(3, 500, np.array([1.0, 1.6]), 2)
    drawn = [evaluate_binary(label, row, subject, replicates=2000, seed=0) for row in risk]
    _, covariance = table_of(drawn, "auroc")
    assert covariance == pytest.approx(delong(label, risk, subject).covariance, rel=0.12)


def test_seeds_count_beside_sampling_and_are_kept_apart() -> None:
    """Of equal configurations whose seeds differ, seeds left out find too many differences, seeds counted do not."""
    p: dict[str, list[float]] = {"with": [], "without": []}
    spreads = []
    for number in range(300):
        rng = np.random.default_rng(number)
        strengths = 1.5 + 0.15 * rng.normal(size=8)
        label, risk, subject = experiment(number, 600, strengths, 1)
        groups = group_runs(*delong(label, risk, subject), np.repeat([0, 1], 4))
        spreads.append(groups.spread)
        p["with"].append(float(compare_groups(groups, telling_subjects(label, subject), 0.95).p[0, 1]))
        alone = groups._replace(spread=np.full(2, np.nan))
        p["without"].append(float(compare_groups(alone, telling_subjects(label, subject), 0.95).p[0, 1]))
    assert 0.02 < np.mean(np.array(p["with"]) < 0.05) < 0.09
    assert np.mean(np.array(p["without"]) < 0.05) > 0.12
    big = [
        delong(*experiment(0, 40_000, 1.5 + 0.15 * np.array([[-1.0], [1.0]])[row], 1)[:2]).auroc[0] for row in (0, 1)
    ]
    assert np.sqrt(np.mean(np.square(spreads))) == pytest.approx(abs(big[1] - big[0]) / 2, rel=0.25)


def test_one_seed_leaves_the_error_to_sampling() -> None:
    groups = group_runs(np.array([0.8, 0.82, 0.7]), np.diag([1.0, 1.0, 1.0]) * 1e-4, np.array([0, 0, 1]))
    assert groups.mean == pytest.approx([0.81, 0.7])
    assert np.isnan(groups.spread[1])
    found = compare_groups(groups, 100, 0.95)
    assert found.error[0, 1] == pytest.approx(math.sqrt(0.5e-4 + 1e-4))
    assert found.freedom[0, 1] == pytest.approx(99)
    assert found.p[0, 0] == 1


def test_the_rarer_class_tells() -> None:
    label = np.array([0.0, 1.0, 1.0, 0.0, 1.0, np.nan, 1.0])
    subject = np.array([1, 1, 1, 2, 3, 4, 5])
    assert telling_subjects(label, subject) == 2  # two subjects are seen without the outcome, three with it
    assert telling_subjects(1 - label, subject) == 2
    assert telling_subjects(np.ones(3), np.arange(3)) == 0


def test_identical_models_are_equal() -> None:
    groups = Groups(np.array([0.8, 0.8]), np.full((2, 2), 1e-4), np.full(2, np.nan), np.ones(2, np.int64))
    found = compare_groups(groups, 100, 0.95)
    assert (found.p == 1).all()
    assert (found.low == 0).all()


def test_sets_that_differ_as_sampling_says_have_its_error_and_else_more() -> None:
    sampling = np.full((4, 1), 4e-4)
    quiet = over_sets(np.array([[0.01], [0.02], [0.015], [0.015]]), sampling, 1 / 3, 1000, 0.95)
    assert quiet.error == pytest.approx(np.sqrt(4e-4 / 4))
    assert quiet.freedom == pytest.approx(999)
    value = np.array([[0.01], [0.09], [-0.05], [0.03]])
    loud = over_sets(value, sampling, 1 / 3, 1000, 0.95)
    beyond = (value.var(ddof=1) - 4e-4) * (1 / 4 + 1 / 3)
    assert loud.error == pytest.approx(np.sqrt(1e-4 + beyond))
    assert 3 < loud.freedom < 5
    assert loud.estimate == pytest.approx(0.02)
    with pytest.raises(ValueError, match="1 set"):
        over_sets(value[:1], sampling[:1], 1 / 3, 1000, 0.95)


def test_corrected_resampled_t_by_hand() -> None:
    difference = np.array([0.02, 0.01, 0.03, -0.01, 0.02])
    found = corrected_resampled_t(difference, 0.25, 0.95)
    statistic = 0.014 / math.sqrt((1 / 5 + 0.25) * np.var(difference, ddof=1))
    assert found.p == pytest.approx(2 * stats.t.sf(statistic, 4))
    assert corrected_resampled_t(difference, 0.0, 0.95).p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    with pytest.raises(ValueError, match="two or more"):
        corrected_resampled_t(difference[:1], 0.25, 0.95)


def test_corrections_against_their_definitions() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert correct(p, "holm") == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    known = np.array([0.01, 0.04, 0.03, 0.005])
    assert correct(p, "fdr")[~np.isnan(p)] == pytest.approx(stats.false_discovery_control(known))
    assert correct(p, "none") == pytest.approx(p, nan_ok=True)


@given(st.integers(1, 8), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_letters_say_exactly_who_is_told_apart(count: int, seed: int) -> None:
    apart = np.triu(np.random.default_rng(seed).random((count, count)) < 0.4, 1)
    apart |= apart.T
    names = letters(apart)
    assert "a" in names[0]
    for one, other in itertools.combinations(range(count), 2):
        assert bool(set(names[one]) & set(names[other])) is not bool(apart[one, other])
