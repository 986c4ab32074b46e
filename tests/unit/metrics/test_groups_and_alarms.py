"""Groups, alarms and intervals: against scikit-learn, statsmodels or a plain loop."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from drawn import draw
from ehrseq.metrics.alarms import Rules, alarm_columns, evaluate_alarm_burden, sounding
from ehrseq.metrics.calibration import (
    evaluate_calibration,
)
from ehrseq.metrics.disclosure import hide_small, visible_steps
from ehrseq.metrics.groups import Grouping, evaluate_groups, holm
from ehrseq.metrics.intervals import Draws, evaluate_binary
from ehrseq.metrics.logistic import logit, sigmoid

Floats = NDArray[np.float64]
NO_INTERVALS: dict[str, Any] = {"replicates": 0, "seed": 0, "level": 0.95}


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    values = np.random.default_rng(0).random(12) ** 3
    assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([]) == []


def test_groups_agree_with_scikit_learn_and_flag_what_is_planted() -> None:
    label, risk, _ = draw(9, 3000)
    group = np.random.default_rng(1).integers(0, 3, 3000)
    worse = risk.copy()
    worse[group == 2] = np.random.default_rng(2).permutation(worse[group == 2])
    grouping = Grouping("unit", ("a", "b", "c"), group)
    results = evaluate_groups(label, worse, np.arange(3000), [grouping], 0.3, 11, replicates=300, seed=0, level=0.95)
    for number, result in enumerate(results):
        mine = group == number
        assert result.subjects == mine.sum()
        assert result.figures["auroc"].value == pytest.approx(reference.roc_auc_score(label[mine], worse[mine]))
        assert result.figures["calibration_gap"].value == pytest.approx(worse[mine].mean() - label[mine].mean())
        overall = reference.recall_score(label, worse >= 0.3)
        assert result.figures["sensitivity_gap"].value == pytest.approx(
            reference.recall_score(label[mine], worse[mine] >= 0.3) - overall
        )
    assert "auroc_gap" in results[2].flags
    fair = evaluate_groups(
        label,
        sigmoid(0.7 * logit(risk) - 0.3),
        np.arange(3000),
        [grouping],
        0.3,
        11,
        replicates=300,
        seed=0,
        level=0.95,
    )
    assert [result.flags for result in fair] == [(), (), ()]


def test_small_and_empty_groups_are_hidden_and_cannot_be_worked_out() -> None:
    label, risk, _ = draw(10, 400)
    number = np.where(np.arange(400) < 8, 0, np.where(np.arange(400) < 100, 1, 2))
    label[8:100] = np.arange(92) < 40
    grouping = Grouping("unit", ("tiny", "small", "large", "empty"), number)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = evaluate_groups(label, risk, np.arange(400), [grouping], 0.3, 11, replicates=20, seed=0, level=0.95)
    assert [result.shown for result in results] == [False, False, True, False]  # 400 - 92 - 300 would give 8 away
    assert [bool(result.figures) for result in results] == [False, False, True, False]


def test_hidden_cells_cannot_be_worked_out() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        cells = random.integers(0, 40, (random.integers(1, 7), 1)) * (random.random((1, 1)) < 0.9)
        hidden = hide_small(cells, 11)
        assert not ((cells > 0) & (cells < 11))[~hidden].any()
        if hidden.any():
            together = cells[hidden].sum()
            everything = hidden[cells[:, 0] > 0].all()
            assert everything or (together >= 11 and (cells[hidden] > 0).sum() > 1)
    assert not hide_small(np.array([[3], [50]]), 1).any()


def test_a_flow_never_tells_how_few_were_left_out() -> None:
    assert visible_steps([100, 95, 60, 60], 11) == [False, True, True, True]
    shown = visible_steps([1000, 995, 700, 698, 600], 11)
    counts = [count for count, ok in zip([1000, 995, 700, 698, 600], shown, strict=True) if ok]
    assert all(abs(a - b) >= 11 or a == b for a, b in pairwise(counts))
    assert shown[-1]


def loop_sounding(subject: NDArray[np.int64], hours: Floats, alarm: NDArray[np.bool_], silence: float) -> list[bool]:
    result = [False] * len(subject)
    for place in sorted(range(len(subject)), key=lambda k: hours[k]):
        heard = [hours[k] for k in range(len(subject)) if result[k] and subject[k] == subject[place]]
        result[place] = bool(alarm[place]) and all(hours[place] - when >= silence for when in heard)
    return result


def test_alarms_against_plain_loops() -> None:
    random = np.random.default_rng(3)
    subject = np.repeat(np.arange(12), 20)
    hours = np.tile(np.arange(20.0), 12)
    label = np.concatenate([np.arange(20) >= (first := random.integers(3, 40)) for _ in range(12)]).astype(np.float64)
    del first
    alarm = random.random(240) < 0.15
    order = random.permutation(240)
    rules = Rules(horizon_hours=6, reach_hours=12, silence_hours=4, leads_hours=(3.0, 6.0))
    sounds = sounding(subject[order], hours[order], alarm[order], 4)
    assert sounds.tolist() == loop_sounding(subject[order], hours[order], alarm[order], 4)
    found = alarm_columns(subject[order], hours[order], label[order], alarm[order], rules)
    own = sounding(subject, hours, alarm, 4)
    for person in range(12):
        mine = subject == person
        times = hours[mine & own]
        positive = hours[mine & (label == 1)]
        onset = positive.min() + 6 if len(positive) else np.inf
        true = [t for t in times if 0 <= onset - t <= 12]
        expected = [
            20 / 24, alarm[mine].sum(), len(times), len(true), len(times) > 0,
            len(times) > 0 and times.min() in true, len(positive) > 0, len(true) > 0,
            onset - min(true) if true else 0, *(any(onset - t >= lead for t in true) for lead in (3, 6)),
        ]  # fmt: skip
        assert found[person].tolist() == pytest.approx([float(value) for value in expected]), person
    estimates = evaluate_alarm_burden(subject, hours, label, alarm, rules, **NO_INTERVALS)
    assert estimates["alarms_per_day"].value == pytest.approx(own.sum() / 10)
    silent = evaluate_alarm_burden(subject, hours, label * 0, alarm & False, rules, **NO_INTERVALS)
    assert silent["alarms_per_day"].value == 0
    for name in ("event_recall", "alarm_precision", "first_alarm_precision", "lead_hours"):
        assert silent[name].value is None


def test_draws_stay_within_their_strata_and_follow_the_subject() -> None:
    subject = np.repeat(np.arange(50), 3)
    strata = np.zeros(150)
    strata[[0, 30, 60, 90, 91]] = 1  # subjects 0, 10, 20, 30
    for weights in Draws(subject, 40, 0, strata):
        by_subject = weights[:, ::3]
        assert (weights == np.repeat(by_subject, 3, axis=1)).all()
        assert (by_subject[:, [0, 10, 20, 30]].sum(axis=1) == 4).all()
        assert (by_subject.sum(axis=1) == 50).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The thorough proof is benchmarks/coverage.py; this one would notice a mistake."""
    random = np.random.default_rng(4)
    # Of a large sample: what the metrics of this population are.
    truth = _figures(*_population(random, 60_000)[:2]) | {"calibration_slope": 1.0, "calibration_intercept": 0.0}
    held = dict.fromkeys(truth, 0)
    for seed in range(100):
        label, risk, subject = _population(random, 300)
        options: dict[str, Any] = {"replicates": 200, "seed": seed}
        found = evaluate_binary(label, risk, subject, **options)
        found |= evaluate_calibration(label, risk, subject, **options, level=0.95)
        for name, value in truth.items():
            held[name] += found[name].ci_low <= value <= found[name].ci_high  # type: ignore[operator]
    assert all(89 <= count <= 100 for count in held.values()), held


def _population(random: np.random.Generator, people: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Two predictions a subject, which go together."""
    subject = np.repeat(np.arange(people), 2)
    risk = sigmoid(np.repeat(random.normal(-0.5, 1, people), 2) + random.normal(0, 0.3, 2 * people))
    return (random.random(2 * people) < risk).astype(np.float64), risk, subject


def _figures(label: Floats, risk: Floats) -> dict[str, float]:
    named: dict[str, Callable[..., float]] = {
        "auroc": reference.roc_auc_score,
        "auprc": reference.average_precision_score,
        "brier": reference.brier_score_loss,
    }
    return {name: float(function(label, risk)) for name, function in named.items()}
