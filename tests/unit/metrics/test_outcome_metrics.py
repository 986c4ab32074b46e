"""Metrics of every kind of target against scikit-learn and plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as reference

from ehrseq.config.targets import WATCHED, more_is_better, prediction_names, read_target, watched
from ehrseq.metrics import Estimate, evaluate_predictions, headline
from ehrseq.metrics.streaming import WatchedMetrics
from ehrseq.metrics.survival import concordance, uncensored

RNG = np.random.default_rng(0)
N = 300
SUBJECT = np.arange(N) // 2


def evaluate(plain: dict[str, Any], outcome: NDArray[Any], prediction: NDArray[Any], **options: Any) -> Any:
    subject = options.pop("subject", SUBJECT)
    return evaluate_predictions(
        read_target(plain), outcome.astype(np.float32), prediction, subject, **{"replicates": 50, **options}
    )


def check_intervals(found: dict[str, Estimate]) -> None:
    for name, item in found.items():
        assert item.value is not None, name
        assert item.ci_low is not None, name
        assert item.ci_high is not None, name
        assert item.ci_low <= item.ci_high, name


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return result


def test_multiclass() -> None:
    label = RNG.integers(0, 3, N)
    prediction = softmax(RNG.normal(size=(N, 3)) + np.eye(3)[label])
    found = evaluate({"kind": "multiclass", "classes": ["a", "b", "c"]}, label[:, None], prediction)
    check_intervals(found)
    chosen = prediction.argmax(1)
    expected = {
        "macro_auroc": reference.roc_auc_score(label, prediction, multi_class="ovr"),
        "accuracy": reference.accuracy_score(label, chosen),
        "balanced_accuracy": reference.balanced_accuracy_score(label, chosen),
        "log_loss": reference.log_loss(label, prediction),
        "brier": ((prediction - np.eye(3)[label]) ** 2).sum(1).mean(),
        "auroc_b": reference.roc_auc_score(label == 1, prediction[:, 1]),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value), name


def test_multilabel_with_unknown_labels() -> None:
    label = (RNG.random((N, 2)) < 0.4).astype(float)
    prediction = RNG.random((N, 2)) * 0.5 + label * 0.3
    label[:40, 1] = np.nan
    found = evaluate({"kind": "multilabel", "labels": ["x", "y"]}, label, prediction)
    check_intervals(found)
    known = slice(40, None)
    own = [
        reference.roc_auc_score(label[:, 0], prediction[:, 0]),
        reference.roc_auc_score(label[known, 1], prediction[known, 1]),
    ]
    assert found["auroc_y"].value == pytest.approx(own[1])
    assert found["macro_auroc"].value == pytest.approx(np.mean(own))


def test_regression() -> None:
    truth = RNG.normal(100, 20, N)
    prediction = truth + RNG.normal(2, 5, N)
    found = evaluate({"kind": "regression"}, truth[:, None], prediction[:, None])
    check_intervals(found)
    truth = truth.astype(np.float32).astype(float)
    assert found["mae"].value == pytest.approx(reference.mean_absolute_error(truth, prediction))
    assert found["rmse"].value == pytest.approx(reference.mean_squared_error(truth, prediction) ** 0.5)
    assert found["r2"].value == pytest.approx(reference.r2_score(truth, prediction))
    assert found["bias"].value == pytest.approx((prediction - truth).mean())


def test_ordinal() -> None:
    label = RNG.integers(0, 4, N)
    prediction = softmax(RNG.normal(size=(N, 4)) + 2 * np.eye(4)[label])
    found = evaluate({"kind": "ordinal", "edges": [1, 2, 3]}, label[:, None], prediction)
    check_intervals(found)
    kappa = reference.cohen_kappa_score(label, prediction.argmax(1), weights="quadratic")
    assert found["kappa"].value == pytest.approx(kappa)
    assert found["mae"].value == pytest.approx(np.abs(prediction @ np.arange(4) - label).mean())


def test_concordance_against_all_pairs() -> None:
    hours = np.round(RNG.exponential(30, 60))  # with ties
    cause = RNG.integers(0, 3, 60)
    risk = np.round(RNG.random(60), 1)
    weight = np.stack([np.ones(60), RNG.integers(0, 3, 60).astype(float)])
    for which in (1, 2):
        expected = []
        for row in weight:
            right = pairs = 0.0
            for i in range(60):
                for j in range(60):
                    had_other = cause[j] not in (0, which)
                    later = hours[j] > hours[i] or had_other or (hours[j] == hours[i] and cause[j] != which)
                    if cause[i] == which and later:
                        pairs += row[i] * row[j]
                        right += row[i] * row[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
            expected.append(right / pairs)
        np.testing.assert_allclose(concordance(hours, cause.astype(float), which, risk, weight), expected)


def test_censoring_curve_against_its_definition() -> None:
    hours = np.array([1.0, 2, 2, 3, 4, 4, 5])
    cause = np.array([0.0, 1, 0, 1, 0, 1, 0])
    # At 1: 1 of 7 censored; at 2: one event first, then 1 of 5; at 4: one event first, then 1 of 2.
    expected = {0.5: 1, 1: 6 / 7, 2: 6 / 7 * 4 / 5, 3: 6 / 7 * 4 / 5, 4: 6 / 7 * 4 / 5 * 1 / 2}
    got = uncensored(hours, cause, np.array(list(expected)))
    np.testing.assert_allclose(got, list(expected.values()))
    np.testing.assert_allclose(uncensored(hours, cause, np.array([2.0]), before=True), 6 / 7)


def test_survival_without_censoring_is_plain_brier() -> None:
    hours = RNG.exponential(40, N) + 0.1
    outcome = np.column_stack([hours, np.ones(N)])
    incidence = np.sort(RNG.random((N, 2)), axis=1)
    found = evaluate({"kind": "survival", "edges": [24, 48]}, outcome, incidence)
    check_intervals(found)
    plain = [((incidence[:, k] - (hours <= edge)) ** 2).mean() for k, edge in enumerate((24, 48))]
    assert found["integrated_brier"].value == pytest.approx(np.mean(plain), rel=1e-5)


SEVERAL: dict[str, Any] = {
    "kind": "several",
    "parts": {
        "death": {"target": {"kind": "binary"}},
        "marks": {"target": {"kind": "multilabel", "labels": ["x", "y"]}},
        "stay": {"target": {"kind": "regression"}},
    },
}


def several() -> tuple[NDArray[Any], NDArray[Any]]:
    """Outcomes (N, 4), some unknown, and predictions that know something of them."""
    outcome = np.column_stack([(RNG.random((N, 3)) < 0.4).astype(np.float32), RNG.normal(5, 2, N)]).astype(np.float32)
    prediction = outcome + RNG.normal(0, 0.3, (N, 4))
    prediction[:, :3] = 1 / (1 + np.exp(-prediction[:, :3]))
    for column, share in enumerate((0.1, 0.5, 0.2, 0.4)):
        outcome[RNG.random(N) < share, column] = np.nan
    return outcome, prediction


def test_each_of_several_targets_is_scored_on_what_is_known_of_it() -> None:
    outcome, prediction = several()
    found = evaluate(SEVERAL, outcome, prediction)
    check_intervals(found)
    known = ~np.isnan(outcome)
    death, stay = known[:, 0], known[:, 3]
    expected = {
        "death_auroc": reference.roc_auc_score(outcome[death, 0], prediction[death, 0]),
        "death_prevalence": outcome[death, 0].mean(),
        "marks_auroc_y": reference.roc_auc_score(outcome[known[:, 2], 2], prediction[known[:, 2], 2]),
        "stay_mae": np.abs(outcome[stay, 3] - prediction[stay, 3]).mean(),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-6), name
    # The interval of a part is that of the part alone.
    alone = evaluate({"kind": "binary"}, outcome[death, :1], prediction[death, :1], subject=SUBJECT[death])
    assert {name: value for name, value in found.items() if name.startswith("death_")} == {
        f"death_{name}": value for name, value in alone.items()
    }


def test_what_is_watched_of_several_targets() -> None:
    outcome, prediction = several()
    outcome[:50, 0] = np.nan  # a whole batch without
    target = read_target(SEVERAL)
    metrics = WatchedMetrics(target, "tuning/")
    for start in range(0, N, 50):
        batch = slice(start, start + 50)
        metrics.update(torch.from_numpy(prediction[batch]), torch.from_numpy(outcome[batch]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert sorted(found) == sorted(f"tuning/{name}" for name in watched(target))
    death, stay = ~np.isnan(outcome[:, 0]), ~np.isnan(outcome[:, 3])
    auroc = reference.roc_auc_score(outcome[death, 0], prediction[death, 0])
    assert found["tuning/death_auroc"] == pytest.approx(auroc, abs=1e-6)
    mae = np.abs(outcome[stay, 3] - prediction[stay, 3]).mean()
    assert found["tuning/stay_mae"] == pytest.approx(mae, rel=1e-5)
    ups = {name: more_is_better(name) for name in found}
    assert [name for name, up in ups.items() if not up] == ["tuning/stay_mae"]


# Forecasts are scored cell by cell, see test_forecast_metrics.py.
@pytest.mark.parametrize("kind", [kind for kind in WATCHED if kind != "forecast"])
def test_every_kind_has_a_headline_among_its_metrics(kind: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "multiclass": {"classes": ["a", "b"]},
        "multilabel": {"labels": ["a", "b"]},
        "ordinal": {"edges": [1]},
        "survival": {"edges": [24], "causes": ["a", "b"]},
    }
    plain = {"kind": kind, **more.get(kind, {})}
    outcome = RNG.integers(0, 2, (N, 2 if kind in ("multilabel", "survival") else 1)) + (kind == "survival")
    prediction = RNG.random((N, len(prediction_names(read_target(plain)))))
    assert headline(read_target(plain)) in evaluate(plain, outcome, prediction)
    both = {"kind": "several", "parts": {"one": {"target": plain}, "two": {"target": {"kind": "binary"}}}}
    assert headline(read_target(both)) == f"one_{headline(read_target(plain))}"


@pytest.mark.parametrize("seed", range(3))
def test_survival_with_censoring_agrees_with_scikit_survival(seed: int) -> None:
    from sksurv.metrics import brier_score, concordance_index_censored, cumulative_dynamic_auc
    from sksurv.util import Surv

    random = np.random.default_rng(seed)
    risk = random.random(250)
    event_at, censored_at = random.exponential(60 / (0.3 + risk)), random.exponential(80, 250)
    hours, event = np.minimum(event_at, censored_at), event_at <= censored_at
    # In the precision that outcomes are kept in, so that both see the same ties.
    hours = hours.astype(np.float32).astype(np.float64)
    edges = [20.0, 50.0, 90.0]
    incidence = np.clip(np.column_stack([risk * share for share in (0.3, 0.6, 0.9)]), 0, 1)
    target = {"kind": "survival", "edges": edges}
    found = evaluate_predictions(
        read_target(target), np.column_stack([hours, event]).astype(np.float32), incidence, np.arange(250), replicates=0
    )
    known = Surv.from_arrays(event, hours)
    areas, _ = cumulative_dynamic_auc(known, known, incidence, edges)
    _, briers = brier_score(known, known, 1 - incidence, edges)
    for edge, area, score in zip(edges, areas, briers, strict=True):
        assert found[f"auroc_{edge:g}h"].value == pytest.approx(area, abs=1e-9)
        assert found[f"brier_{edge:g}h"].value == pytest.approx(score, abs=1e-9)
    assert found["integrated_brier"].value == pytest.approx(np.mean(briers), abs=1e-9)
    assert found["c_index"].value == pytest.approx(
        concordance_index_censored(event, hours, incidence[:, -1])[0], abs=1e-9
    )


def test_survival_without_events_is_undefined() -> None:
    outcome = np.column_stack([np.full(20, 50.0), np.zeros(20)]).astype(np.float32)
    found = evaluate_predictions(
        read_target({"kind": "survival", "edges": [24, 48]}), outcome, RNG.random((20, 2)), np.arange(20), replicates=10
    )
    for name in ("c_index", "auroc_24h", "auroc_48h"):
        assert found[name].value is None


def test_classes_agree_with_scikit_learn_beyond_accuracy() -> None:
    truth, prediction = RNG.integers(0, 4, N), RNG.dirichlet(np.ones(4), N)
    target = read_target({"kind": "multiclass", "classes": ["a", "b", "c", "d"]})
    found = evaluate_predictions(target, truth[:, None].astype(np.float32), prediction, np.arange(N), replicates=0)
    chosen = prediction.argmax(axis=1)
    assert found["macro_f1"].value == pytest.approx(reference.f1_score(truth, chosen, average="macro"), abs=1e-9)
    assert found["kappa"].value == pytest.approx(reference.cohen_kappa_score(truth, chosen), abs=1e-9)
    one = evaluate_predictions(
        target, np.zeros((N, 1), np.float32), np.tile([0.7, 0.1, 0.1, 0.1], (N, 1)), np.arange(N)
    )
    assert one["macro_auroc"].value is None
    assert one["kappa"].value is None
