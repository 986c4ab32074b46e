import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from ehrseq import metrics
from ehrseq.metrics.binary import mass_bins
from ehrseq.metrics.calibration import wilson
from ehrseq.metrics.intervals import METRICS, bootstrap

Floats = NDArray[np.float64]
PAIRS = [
    (metrics.auroc, reference.roc_auc_score),
    (metrics.average_precision, reference.average_precision_score),
    (metrics.brier, reference.brier_score_loss),
    (metrics.log_loss, reference.log_loss),
]


def draw(seed: int, count: int, ties: bool) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(seed)
    probability = random.uniform(0.001, 0.999, count)
    if ties:
        probability = np.clip(probability.round(1), 0.05, 0.95)
    label = (random.random(count) < probability**2).astype(np.float64)
    label[:2] = 0, 1
    return label, probability, random.integers(0, 4, count) + np.eye(1, count)[0] + np.eye(1, count, 1)[0]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(ours, theirs, ties: bool, seed: int) -> None:  # type: ignore[no-untyped-def]
    label, probability, weight = draw(seed, 200, ties)
    assert ours(label, probability) == pytest.approx(theirs(label, probability), abs=1e-9)
    assert ours(label, probability, weight) == pytest.approx(theirs(label, probability, sample_weight=weight), abs=1e-9)


@pytest.mark.parametrize("ours", [metrics.auroc, metrics.average_precision])
def test_ranking_without_positives_is_undefined(ours) -> None:  # type: ignore[no-untyped-def]
    assert np.isnan(ours(np.zeros(5), np.linspace(0, 1, 5)))
    assert np.isnan(ours(np.empty(0), np.empty(0)))


def test_auroc_without_negatives_is_undefined_but_precision_is_one() -> None:
    assert np.isnan(metrics.auroc(np.ones(5), np.linspace(0, 1, 5)))
    assert metrics.average_precision(np.ones(5), np.linspace(0, 1, 5)) == 1.0


def test_constant_prediction_ranks_like_a_coin() -> None:
    label = np.array([0.0, 1, 1, 0, 0])
    assert metrics.auroc(label, np.full(5, 0.3)) == 0.5
    assert metrics.average_precision(label, np.full(5, 0.3)) == pytest.approx(0.4)


def test_ece_against_a_plain_loop() -> None:
    label, probability, _ = draw(3, 100, ties=False)
    order = np.argsort(probability)
    gaps = [abs((probability[part] - label[part]).sum()) for part in np.array_split(order, 10)]
    assert metrics.ece(label, probability) == pytest.approx(sum(gaps) / 100, abs=1e-12)


def test_ece_does_not_depend_on_the_order_of_ties() -> None:
    label, probability, _ = draw(4, 301, ties=True)
    order = np.random.default_rng(0).permutation(301)
    assert metrics.ece(label, probability) == pytest.approx(metrics.ece(label[order], probability[order]), abs=1e-12)
    assert len(set(zip(probability, mass_bins(probability, 10), strict=True))) == len(np.unique(probability))


def test_replicates_equal_a_slow_loop_over_the_same_draws() -> None:
    label, probability, _ = draw(5, 240, ties=True)
    subject = np.random.default_rng(1).integers(0, 90, 240)
    fast = bootstrap(label, probability, subject, 25, seed=9)
    names, cluster = np.unique(subject, return_inverse=True)
    draws = np.random.default_rng(9).integers(len(names), size=(25, len(names)))
    for number, drawn in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(cluster == who) for who in drawn])
        assert fast["auroc"][number] == pytest.approx(reference.roc_auc_score(label[rows], probability[rows]), abs=1e-9)
        expected = reference.average_precision_score(label[rows], probability[rows])
        assert fast["auprc"][number] == pytest.approx(expected, abs=1e-9)
        assert fast["brier"][number] == pytest.approx(np.mean((label[rows] - probability[rows]) ** 2), abs=1e-9)
        assert fast["log_loss"][number] == pytest.approx(reference.log_loss(label[rows], probability[rows]), abs=1e-9)
        assert fast["prevalence"][number] == pytest.approx(label[rows].mean(), abs=1e-12)


def test_interval_is_drawn_by_subject() -> None:
    label, probability, _ = draw(6, 400, ties=False)
    once = metrics.evaluate_binary(label, probability, np.arange(400), seed=2)["auroc"]
    copies = metrics.evaluate_binary(np.tile(label, 9), np.tile(probability, 9), np.tile(np.arange(400), 9), seed=2)[
        "auroc"
    ]
    naive = metrics.evaluate_binary(np.tile(label, 9), np.tile(probability, 9), np.arange(3600), seed=2)["auroc"]
    width = [item.ci_high - item.ci_low for item in (once, copies, naive)]  # type: ignore[operator]
    assert width[1] == pytest.approx(width[0], rel=0.1)
    # Nine copies taken for nine patients would look three times as sure.
    assert width[2] == pytest.approx(width[0] / 3, rel=0.15)


def test_interval_covers_the_truth() -> None:
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(120):
        label = (random.random(300) < 0.3).astype(np.float64)
        score = random.normal(label, 1.0)
        item = metrics.evaluate_binary(label, 1 / (1 + np.exp(-score)), np.arange(300), replicates=200)["auroc"]
        # The area under the curve of two normals one standard deviation apart is Phi(1 / sqrt(2)).
        hits += bool(item.ci_low <= 0.7602499389065233 <= item.ci_high)  # type: ignore[operator]
    # 95% of 120 is 114; four standard errors are 10.
    assert 104 <= hits <= 120


def test_intervals_repeat_and_can_be_left_out() -> None:
    label, probability, _ = draw(7, 150, ties=True)
    again = [metrics.evaluate_binary(label, probability, np.arange(150), replicates=50, seed=4) for _ in range(2)]
    assert again[0] == again[1]
    assert set(again[0]) == set(METRICS)
    none = metrics.evaluate_binary(label, probability, np.arange(150), replicates=0)
    assert none["auroc"].value == again[0]["auroc"].value
    assert none["auroc"].ci_low is None


def test_one_class_gives_undefined_not_zero() -> None:
    item = metrics.evaluate_binary(np.zeros(20), np.linspace(0, 1, 20), np.arange(20), replicates=20)
    assert item["auroc"] == metrics.Estimate(None, None, None)
    assert item["brier"].value is not None


def test_wilson_against_its_defining_equation() -> None:
    share, count = np.array([0.0, 0.1, 0.5, 1.0]), np.array([20.0, 50.0, 8.0, 5.0])
    for end in wilson(share, count):
        # Both ends solve (p - share)^2 = z^2 p (1 - p) / n.
        np.testing.assert_allclose((end - share) ** 2, 1.959963984540054**2 * end * (1 - end) / count, atol=1e-12)
