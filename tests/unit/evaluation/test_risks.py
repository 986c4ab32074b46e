"""The yes-or-no questions of every kind of target, each looked at as a risk of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from drawn import draw
from ehrseq.config.load import load_settings
from ehrseq.config.schema import Evaluate
from ehrseq.config.targets import read_target
from ehrseq.evaluation.binary import compare_calibration, evaluate_operating_points, evaluate_usefulness
from ehrseq.evaluation.findings import Findings, Scored, stacked
from ehrseq.evaluation.pictures import draw_risks
from ehrseq.evaluation.risks import Risk, Rows, risks_of, score_risks
from ehrseq.metrics import Estimate, evaluate_binary
from ehrseq.metrics.calibration import evaluate_calibration, evaluate_errors, reliability
from ehrseq.metrics.intervals import Draws
from ehrseq.metrics.survival import known_weights
from ehrseq.metrics.thresholds import evaluate_thresholds, sensitivity_threshold, youden_threshold
from ehrseq.metrics.usefulness import decision_curve
from ehrseq.reporting.page import _by_outcome

OPTIONS: dict[str, Any] = {"replicates": 40, "seed": 0, "level": 0.95}
N = 900


@pytest.fixture(scope="module")
def config() -> Evaluate:
    return load_settings([]).evaluate


def rows(count: int = N) -> Rows:
    return Rows(np.arange(count), np.zeros(count, np.int64), np.ones(count))


def times(seed: int, count: int = N) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of two causes and of censoring, (N, 2), and the incidence of each cause at two edges, (N, 4)."""
    random = np.random.default_rng(seed)
    risk = random.random(count)
    first, second = random.exponential(50 / (0.2 + risk)), random.exponential(200, count)
    stop = random.exponential(90, count)
    hours = np.minimum(np.minimum(first, second), stop).astype(np.float32).astype(np.float64)
    cause = np.where(hours == stop.astype(np.float32), 0.0, np.where(first < second, 1, 2))
    incidence = np.column_stack([risk * share for share in (0.3, 0.7, 0.1, 0.2)])
    return np.column_stack([hours, cause]), incidence


def test_what_each_kind_of_target_is_asked() -> None:
    truth = np.array([[0.0], [2], [1], [np.nan]])
    told = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])

    def ask(plain: dict[str, Any], outcome: NDArray[Any] = truth) -> dict[str, Risk]:
        found = risks_of(read_target(plain), outcome.astype(np.float32), told)
        return {f"{item.prefix}{item.name}": item for item in found}

    classes = ask({"kind": "multiclass", "classes": ["a", "b", "c"]})
    assert list(classes) == ["a", "b", "c"]
    np.testing.assert_array_equal(classes["c"].label, [0, 1, 0, np.nan])
    np.testing.assert_array_equal(classes["c"].risk, told[:, 2])
    buckets = ask({"kind": "ordinal", "edges": [24, 48]})
    assert list(buckets) == ["from 24", "from 48"]
    np.testing.assert_array_equal(buckets["from 24"].label, [0, 1, 1, np.nan])
    np.testing.assert_allclose(buckets["from 24"].risk, told[:, 1:].sum(axis=1))
    marks = ask({"kind": "multilabel", "labels": ["x", "y", "z"]}, told > 0.3)
    np.testing.assert_array_equal(marks["y"].label, [0, 0, 1, 0])
    parts = {"death": {"target": {"kind": "binary"}}, "unit": {"target": {"kind": "multiclass", "classes": ["p", "q"]}}}
    several = ask({"kind": "several", "parts": parts}, np.array([[1.0, 0], [0, 1], [0, 1], [0, np.nan]]))
    assert list(several) == ["death_", "unit_p", "unit_q"]
    np.testing.assert_array_equal(several["unit_q"].risk, told[:, 2])
    assert ask({"kind": "regression"}) == {}
    edges = ask({"kind": "survival", "edges": [24, 48]}, np.array([[10.0, 1], [30, 0], [60, 0], [np.nan, np.nan]]))
    assert list(edges) == ["by 24 h", "by 48 h"]
    np.testing.assert_array_equal(edges["by 24 h"].label, [1, 0, 0, np.nan])
    np.testing.assert_array_equal(edges["by 48 h"].label, [1, np.nan, 0, np.nan])  # nobody knows of the second
    np.testing.assert_array_equal(edges["by 48 h"].weight, [1, 0, 2, 0])


@pytest.mark.parametrize("seed", range(3))
def test_weights_for_censoring_agree_with_kaplan_and_meier(seed: int) -> None:
    from sksurv.nonparametric import CensoringDistributionEstimator, kaplan_meier_estimator
    from sksurv.util import Surv

    outcome, _ = times(seed)
    hours, event = outcome[:, 0], outcome[:, 1] > 0
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(event, hours))
    any_cause = event.astype(float)
    for edge in (20.0, 45.0):
        label, weight = known_weights(hours, any_cause, 1, edge)
        x, survival = kaplan_meier_estimator(event, hours)
        happened = 1 - survival[np.searchsorted(x, edge, side="right") - 1]
        assert np.average(label, weights=weight) == pytest.approx(happened, abs=1e-9)
        assert weight.sum() == pytest.approx(N, abs=1e-6)
        beyond = hours > edge
        np.testing.assert_allclose(weight[beyond], 1 / theirs.predict_proba(np.full(beyond.sum(), edge)), atol=1e-9)
        # With two causes, the one or the other has happened.
        both = [known_weights(hours, outcome[:, 1], cause, edge) for cause in (1, 2)]
        assert sum(float(np.average(*own[:1], weights=own[1])) for own in both) == pytest.approx(happened, abs=1e-9)


def test_a_weight_is_as_many_predictions() -> None:
    label, risk, _ = draw(3, 200, ties=True)
    count = np.random.default_rng(0).integers(1, 4, 200)
    subject = np.arange(200) // 2
    labels, risks, subjects = np.repeat(label, count), np.repeat(risk, count), np.repeat(subject, count)
    weight = count.astype(np.float64)
    thresholds = {"a": 0.2, "b": 0.5, "c": float("nan")}
    grid = np.array([0.1, 0.3])
    assert youden_threshold(label, risk, weight) == youden_threshold(labels, risks)
    for share in (0.5, 0.9, 1.0):
        assert sensitivity_threshold(label, risk, share, weight) == sensitivity_threshold(labels, risks, share)
    metrics: list[tuple[Callable[..., dict[str, Estimate]], list[Any]]]
    metrics = [(evaluate_thresholds, [thresholds]), (evaluate_calibration, []), (evaluate_errors, [])]
    for evaluate, more in metrics:
        one = evaluate(label, risk, subject, *more, weight=weight, **OPTIONS)
        other = evaluate(labels, risks, subjects, *more, **OPTIONS)
        for name in one:
            if "brier/" in name or name == "ece":  # bins of equal mass are others
                continue
            assert one[name].value == pytest.approx(other[name].value, abs=1e-9), name
            assert one[name].ci_low == pytest.approx(other[name].ci_low, abs=1e-9), name
            assert one[name].ci_high == pytest.approx(other[name].ci_high, abs=1e-9), name
    ranked = evaluate_binary(label, risk, subject, weight=weight, **OPTIONS)
    again = evaluate_binary(labels, risks, subjects, **OPTIONS)
    for name in ("auroc", "auprc", "brier", "log_loss", "prevalence"):
        assert ranked[name].value == pytest.approx(again[name].value, abs=1e-9)
        assert ranked[name].ci_low == pytest.approx(again[name].ci_low, abs=1e-9)
    assert ranked["auroc"].value == pytest.approx(reference.roc_auc_score(label, risk, sample_weight=weight), abs=1e-9)
    curve = decision_curve(label, risk, subject, grid, weight=weight, **OPTIONS)
    for mine, theirs in zip(curve, decision_curve(labels, risks, subjects, grid, **OPTIONS), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


def test_bins_of_weighted_risks() -> None:
    label, risk, weight = draw(5, 400)
    curve = reliability(label, risk, bins=4, weight=weight)
    order = np.argsort(risk)
    for number, part in enumerate(np.split(order, 4)):
        observed = np.average(label[part], weights=weight[part])
        assert curve.positive[number] == pytest.approx(observed, abs=1e-9)
        assert curve.probability[number] == pytest.approx(np.average(risk[part], weights=weight[part]), abs=1e-9)
        assert curve.size[number] == 100
        assert curve.low[number] < observed < curve.high[number]
    plain = reliability(label, risk, bins=4, weight=np.full(400, 2.5))
    for mine, theirs in zip(plain, reliability(label, risk, bins=4), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_bins_of_repeated_predictions_are_as_sure_as_their_subjects() -> None:
    random = np.random.default_rng(2)
    # What a subject's twelve predictions have in common is more than what tells them apart.
    people = np.repeat(np.arange(150), 12)
    odds = np.repeat(random.normal(-0.5, 1, 150), 12)
    label = (random.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    risk = np.full(len(odds), 0.4)
    curve = reliability(label, risk, subject=people)
    drawn = [np.average(label, weights=weights)
             for chunk in Draws(people, 2000, 0) for weights in chunk]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert curve.low[0] == pytest.approx(low, abs=0.01)
    assert curve.high[0] == pytest.approx(high, abs=0.01)
    alone = reliability(label, risk)
    assert (curve.high - curve.low)[0] > 1.5 * (alone.high - alone.low)[0]
    # Twelve predictions of one person are of one person.
    assert len(reliability(label[:12], risk[:12], minimum=11, subject=people[:12]).size) == 0
    same = reliability(np.zeros(24), np.full(24, 0.1), subject=np.arange(24) // 12)
    assert same.high[0] == pytest.approx(reliability(np.zeros(2), np.full(2, 0.1)).high[0])


def examine(scored: Scored, config: Evaluate) -> Findings:
    ranked = evaluate_binary(scored.label, scored.risk, scored.subject, weight=scored.weight, **OPTIONS)
    found = Findings({name: ranked[name] for name in ("auroc", "auprc", "prevalence")})
    found |= evaluate_operating_points(scored, config, OPTIONS) | evaluate_usefulness(scored, config, OPTIONS)
    return found | compare_calibration(scored, "platt", config, OPTIONS)


def test_classes_that_are_rare_or_many_are_left_out(config: Evaluate) -> None:
    random = np.random.default_rng(0)
    label = random.choice(4, N, p=[0.6, 0.3, 0.098, 0.002])
    label[:3] = 3
    told = random.dirichlet(np.ones(4), N)
    target = read_target({"kind": "multiclass", "classes": ["many", "some", "few", "rare"]})
    asked = risks_of(target, label[:, None].astype(np.float32), told)
    scored = score_risks(asked, asked, {}, asked, rows(), config)
    assert [(item.name, len(item.label)) for item in scored] == [("many", N), ("some", N), ("few", N), ("rare", 0)]
    nothing = examine(scored[3], config)
    assert all(item.value is None for name, item in nothing.metrics.items() if not name.endswith("/threshold"))
    fewer = score_risks(asked, asked, {}, asked, rows(), config.model_copy(update={"outcomes": 2}))
    assert [item.name for item in fewer] == ["many", "some"]
    # Nobody is known to have what nobody could be seen to have.
    empty = risks_of(target, np.full((N, 1), np.nan, np.float32), told)
    assert all(
        examine(item, config).metrics["auroc"].value is None
        for item in score_risks(empty, empty, {}, empty, rows(), config)
    )


def test_times_to_an_event_are_drawn_and_tabled(config: Evaluate, tmp_path: Path) -> None:
    outcome, incidence = times(1)
    target = read_target({"kind": "survival", "edges": [24, 60], "causes": ["death", "discharge"]})
    asked = risks_of(target, outcome.astype(np.float32), incidence)
    scored = score_risks(asked, asked, {}, asked, rows(), config.model_copy(update={"outcomes": 2}))
    found = [(item, examine(item, config)) for item in scored]
    draw_risks(found, "at_budget", config, tmp_path)
    names = ["death by 24 h", "death by 60 h"]
    for picture in ("roc", "precision_recall", "calibration", "usefulness"):
        drawn = (tmp_path / f"{picture}.svg").read_text()
        assert all(name in drawn for name in names), picture
    tables = stacked([(item.name, own) for item, own in found]).tables
    assert set(tables) == {"thresholds", "calibration", "reliability", "decision_curve"}
    points = tables["thresholds"]
    assert points["outcome"].unique(maintain_order=True).to_list() == names
    # What was asked for on the same data is reached there.
    reached = points.filter(pl.col("rule").str.starts_with("sensitivity"))["sensitivity"]
    assert reached.min() >= 0.9 - 1e-9  # type: ignore[operator]
    shown = _by_outcome("thresholds", points)
    assert [table.name for table in shown] == [f"thresholds: {name}" for name in names]
    assert shown[0].columns[0] == "rule"
    assert shown[0].rows[1][0] == "sensitivity"
