"""Thresholds, calibration and usefulness: against scikit-learn, statsmodels or a plain loop."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from sklearn import metrics as reference
from sklearn.calibration import _sigmoid_calibration
from sklearn.isotonic import IsotonicRegression

from drawn import draw
from ehrseq.metrics.binary import brier
from ehrseq.metrics.calibration import (
    brier_parts,
    calibration_fit,
    evaluate_calibration,
    evaluate_errors,
    reliability,
)
from ehrseq.metrics.intervals import evaluate_binary
from ehrseq.metrics.logistic import logit
from ehrseq.metrics.recalibration import METHODS, Calibrator, fit_calibrator, fit_temperature
from ehrseq.metrics.thresholds import (
    alert_threshold,
    evaluate_thresholds,
    operating_point,
    sensitivity_threshold,
    youden_threshold,
)
from ehrseq.metrics.usefulness import decision_curve, net_benefit

Floats = NDArray[np.float64]
NO_INTERVALS: dict[str, Any] = {"replicates": 0, "seed": 0, "level": 0.95}


def theirs(label: Floats, risk: Floats, threshold: float, weight: Floats) -> dict[str, float]:
    """The same by scikit-learn, with nan for what it calls 0 by decree."""
    alert = risk >= threshold
    options: dict[str, Any] = {"sample_weight": weight, "zero_division": np.nan}
    sensitivity = reference.recall_score(label, alert, **options)
    ppv = reference.precision_score(label, alert, **options)
    true = float(weight[alert & (label == 1)].sum())
    alerts, positive, total = float(weight[alert].sum()), float(weight[label == 1].sum()), float(weight.sum())
    constant = len(set(label[weight > 0])) < 2 or len(set(alert[weight > 0])) < 2
    return {
        "sensitivity": sensitivity,
        "specificity": reference.recall_score(1 - label, ~alert, **options),
        "ppv": ppv,
        "npv": reference.precision_score(1 - label, ~alert, **options),
        "f1": reference.f1_score(label, alert, **options),
        "mcc": np.nan if constant else reference.matthews_corrcoef(label, alert, sample_weight=weight),
        "lift": ppv / (positive / total) if positive else np.nan,
        "alert_rate": alerts / total if total else np.nan,
        "nne": alerts / true if true else np.nan,
    }


DEGENERATE: dict[str, tuple[Floats, Floats]] = {
    "one class": (np.zeros(6), np.linspace(0.1, 0.9, 6)),
    "all positive": (np.ones(6), np.linspace(0.1, 0.9, 6)),
    "constant": (np.array([0.0, 1, 1, 0]), np.full(4, 0.4)),
    "no alert": (np.array([0.0, 1, 1, 0]), np.full(4, 0.1)),
}


@pytest.mark.parametrize("seed", range(4))
def test_operating_points_agree_with_scikit_learn(seed: int) -> None:
    label, risk, weight = draw(seed, ties=bool(seed % 2))
    for threshold in (0.05, 0.2, 0.5, 2.0):
        for own in (np.ones(len(label)), weight):
            assert operating_point(label, risk, threshold, own) == pytest.approx(
                theirs(label, risk, threshold, own), abs=1e-9, nan_ok=True
            )


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_operating_points_are_undefined_not_zero(case: str) -> None:
    label, risk = DEGENERATE[case]
    found = operating_point(label, risk, 0.3)
    assert found == pytest.approx(theirs(label, risk, 0.3, np.ones(len(label))), abs=1e-9, nan_ok=True)
    for name in {"one class": ["sensitivity", "lift", "mcc"], "no alert": ["ppv", "nne", "mcc"]}.get(case, ["mcc"]):
        assert np.isnan(found[name])
    assert all(np.isnan(value) for value in operating_point(np.empty(0), np.empty(0), 0.5).values())


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_the_best_of_all(seed: int) -> None:
    label, risk, _ = draw(seed, 80, ties=seed == 1)
    points = {t: operating_point(label, risk, t) for t in sorted(set(risk))}
    gain = {t: p["sensitivity"] + p["specificity"] for t, p in points.items()}
    assert gain[youden_threshold(label, risk)] == pytest.approx(max(gain.values()))
    reached = [t for t, p in points.items() if p["sensitivity"] >= 0.8 - 1e-9]
    assert sensitivity_threshold(label, risk, 0.8) == max(reached)
    within = [t for t, p in points.items() if p["alert_rate"] <= 0.1 + 1e-9]
    assert alert_threshold(risk, 0.1) == (min(within) if within else np.inf)
    assert np.isnan(youden_threshold(np.zeros(3), np.ones(3)))
    assert np.isnan(sensitivity_threshold(np.zeros(3), np.ones(3), 0.9))
    assert alert_threshold(np.full(5, 0.3), 0.1) == np.inf
    undefined = evaluate_thresholds(label, risk, np.arange(80), {"youden": float("nan")}, **NO_INTERVALS)
    assert {estimate.value for estimate in undefined.values()} == {None}


@pytest.mark.parametrize("seed", range(4))
def test_calibration_agrees_with_statsmodels(seed: int) -> None:
    label, risk, weight = draw(seed, ties=bool(seed % 2))
    for own in (np.ones(len(label)), weight):
        family = sm.families.Binomial()
        line = sm.GLM(label, sm.add_constant(logit(risk)), family=family, freq_weights=own).fit(tol=1e-14)
        large = sm.GLM(label, np.ones(len(label)), family=family, freq_weights=own, offset=logit(risk)).fit(tol=1e-14)
        found = calibration_fit(label, risk, own)
        assert found.slope == pytest.approx(line.params[1], abs=1e-9)
        assert found.intercept == pytest.approx(large.params[0], abs=1e-9)
    errors = evaluate_errors(label, risk, np.arange(len(label)) // 2, replicates=50, seed=1, level=0.95)
    # Sums of subjects and rows of weights are two ways to the same samples.
    same = evaluate_binary(label, risk, np.arange(len(label)) // 2, replicates=50, seed=1)
    for name, estimate in errors.items():
        for part in ("value", "ci_low", "ci_high"):
            assert getattr(estimate, part) == pytest.approx(getattr(same[name], part), abs=1e-12)
    estimates = evaluate_calibration(label, risk, np.arange(len(label)), **NO_INTERVALS)
    assert estimates["calibration_slope"].value == pytest.approx(calibration_fit(label, risk).slope, abs=1e-9)
    assert estimates["observed_expected"].value == pytest.approx(label.sum() / risk.sum(), abs=1e-9)


def test_calibration_is_undefined_where_it_has_no_answer() -> None:
    for label in (np.zeros(5), np.ones(5)):
        assert np.isnan(calibration_fit(label, np.linspace(0.1, 0.9, 5))).all()
    constant = calibration_fit(np.array([0.0, 1, 0, 0]), np.full(4, 0.5))
    assert np.isnan(constant.slope)
    assert constant.intercept == pytest.approx(logit(0.25))
    separated = calibration_fit(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert np.isnan(separated.slope)
    assert np.isfinite(separated.intercept)
    certain = evaluate_calibration(np.array([0.0, 1, 1]), np.array([0.0, 1, 0]), np.arange(3), **NO_INTERVALS)
    assert certain["brier/uncertainty"].value == pytest.approx(2 / 9)


@pytest.mark.parametrize("ties", [False, True])
def test_brier_parts_add_up_and_agree_with_a_loop(ties: bool) -> None:
    label, risk, weight = draw(5, 200, ties)
    for own in (np.ones(200), weight):
        parts = brier_parts(label, risk, own)
        assert parts.reliability - parts.resolution + parts.uncertainty + parts.within == pytest.approx(
            brier(label, risk, own), abs=1e-12
        )
        share, loop = (own * label).sum() / own.sum(), [0.0, 0.0]
        bins = np.searchsorted(np.sort(risk), risk) * 10 // 200
        for number in range(10):
            mine = own * (bins == number)
            if mine.sum():
                told, seen = (mine * risk).sum() / mine.sum(), (mine * label).sum() / mine.sum()
                loop[0] += mine.sum() * (told - seen) ** 2 / own.sum()
                loop[1] += mine.sum() * (seen - share) ** 2 / own.sum()
        assert [parts.reliability, parts.resolution] == pytest.approx(loop, abs=1e-12)
    assert np.isnan(brier_parts(np.empty(0), np.empty(0))).all()
    # With one risk a bin nothing is hidden.
    assert brier_parts(np.array([0.0, 1]), np.array([0.3, 0.6])).within == pytest.approx(0, abs=1e-12)


def test_reliability_bins_are_never_too_small() -> None:
    label, risk, _ = draw(6, 60)
    assert len(reliability(label, risk).size) == 10
    assert (reliability(label, risk, minimum=11).size >= 11).all()
    assert len(reliability(label[:5], risk[:5], minimum=11).size) == 0


def test_recalibration_agrees_with_references_and_survives_json() -> None:
    label, risk, _ = draw(7, 500)
    platt, isotonic, temperature = (fit_calibrator(method, label, risk) for method in METHODS)
    slope, intercept = _sigmoid_calibration(logit(risk), label)
    assert [platt.slope, platt.intercept] == pytest.approx([-slope, -intercept], abs=1e-4)  # their optimiser's limit
    goals = np.where(label == 1, (label.sum() + 1) / (label.sum() + 2), 1 / ((1 - label).sum() + 2))
    family = sm.families.Binomial()
    exact = sm.GLM(goals, sm.add_constant(logit(risk)), family=family).fit(tol=1e-14).params
    assert [platt.intercept, platt.slope] == pytest.approx(exact, abs=1e-9)
    exact = sm.GLM(label, logit(risk)[:, None], family=family).fit(tol=1e-14).params
    assert temperature.slope == pytest.approx(exact[0], abs=1e-9)
    plain = IsotonicRegression().fit(risk, label).predict(risk)
    sizes = np.unique(plain, return_inverse=True, return_counts=True)
    shrunk = (plain * sizes[2][sizes[1]] + label.mean()) / (sizes[2][sizes[1]] + 1)
    if (np.diff(np.unique(shrunk)) > 0).all():
        assert isotonic.apply(risk) == pytest.approx(np.maximum.accumulate(shrunk[np.argsort(risk)])[rank(risk)])
    assert 0 < isotonic.apply(np.array([0.0]))[0] < isotonic.apply(np.array([1.0]))[0] < 1
    for calibrator in (platt, isotonic, temperature):
        mended = calibrator.apply(risk)
        assert (np.diff(mended[np.argsort(risk)]) >= -1e-15).all()
        assert brier_parts(label, mended).reliability < brier_parts(label, risk).reliability
        assert Calibrator.from_json(calibrator.to_json()) == calibrator


def rank(values: Floats) -> NDArray[np.int64]:
    ranks: NDArray[np.int64] = np.argsort(np.argsort(values))
    return ranks


@pytest.mark.parametrize("method", METHODS)
def test_recalibration_of_degenerate_data_changes_nothing_or_the_level(method: str) -> None:
    risk = np.array([0.1, 0.4, 0.8])
    for label in (np.zeros(3), np.ones(3)):
        calibrator = fit_calibrator(method, label, risk)  # type: ignore[arg-type]
        assert calibrator.apply(risk) == pytest.approx(risk)
    constant = fit_calibrator(method, np.array([0.0, 1, 0, 0]), np.full(4, 0.5))  # type: ignore[arg-type]
    assert np.isfinite(constant.apply(np.array([0.5]))).all()
    separated = fit_calibrator(method, np.array([0.0, 0, 1, 1]), np.array([0.2, 0.3, 0.7, 0.8]))  # type: ignore[arg-type]
    assert np.isfinite(separated.apply(risk)).all()


def test_temperature_of_classes_has_the_greatest_likelihood() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(400, 3))
    truth = np.array([random.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    told = np.exp(2.5 * logits) / np.exp(2.5 * logits).sum(axis=1, keepdims=True)
    fitted = fit_temperature(truth, told)

    def loss(slope: float) -> float:
        return float(reference.log_loss(truth, Calibrator("temperature", slope=slope).apply_classes(told)))

    assert loss(fitted.slope) <= min(loss(slope) for slope in np.linspace(0.1, 2, 30))
    assert fitted.slope == pytest.approx(0.4, abs=0.1)
    assert fit_temperature(np.empty(0), np.empty((0, 3))).slope == 1


def test_net_benefit_against_its_definition() -> None:
    label, risk, _ = draw(8, 100)
    for threshold in (0.05, 0.3, 0.9):
        alert = risk >= threshold
        loop = sum(
            (1 if y else -threshold / (1 - threshold)) for y, a in zip(label, alert, strict=True) if a
        ) / len(label)  # fmt: skip
        assert net_benefit(label, risk, [threshold])[0] == pytest.approx(loop, abs=1e-12)
    curve = decision_curve(label, risk, np.arange(100), np.array([0.1, 0.2]), replicates=50, seed=0, level=0.95)
    assert curve.everybody == pytest.approx(label.mean() - (1 - label.mean()) * np.array([1 / 9, 1 / 4]))
    assert (curve.low <= curve.model).all()
    assert (curve.model <= curve.high).all()
    assert np.isnan(net_benefit([], [], [0.1])).all()
    assert np.isnan(net_benefit([1.0], [0.5], [1.0])).all()
