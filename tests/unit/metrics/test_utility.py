"""The Challenge's utility against a loop over stays and hours, written from the published definition."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ehrseq.metrics import best_threshold, evaluate_utility, normalised_utility, total_utility

Stay = tuple[list[int], list[float]]


def slow_stay(labels: list[int], alarms: list[int]) -> float:
    """One stay, hour by hour: the lines through the corners of figure 2 of Reyna et al. 2020."""
    total = 0.0
    for hour, alarm in enumerate(alarms):
        if 1 not in labels:
            total += -0.05 if alarm else 0.0
            continue
        since = hour - (labels.index(1) + 6)
        if since > 3:
            continue
        if alarm:
            total += max((since + 12) / 6, -0.05) if since <= -6 else (3 - since) / 9
        elif since > -6:
            total += -2 * (since + 6) / 9
    return total


def slow_best(labels: list[int]) -> list[int]:
    """An alarm from twelve hours before onset to three after."""
    alarms = [0] * len(labels)
    if 1 in labels:
        onset = labels.index(1) + 6
        for hour in range(max(0, onset - 12), min(onset + 3, len(labels) - 1) + 1):
            alarms[hour] = 1
    return alarms


def slow_normalised(stays: list[Stay], threshold: float) -> float:
    observed = sum(slow_stay(labels, [int(score >= threshold) for score in scores]) for labels, scores in stays)
    best = sum(slow_stay(labels, slow_best(labels)) for labels, _ in stays)
    silent = sum(slow_stay(labels, [0] * len(labels)) for labels, _ in stays)
    return (observed - silent) / (best - silent) if best > silent else float("nan")


def arrays(stays: list[Stay]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(subject, label, score) of all hours; the subjects' numbers are in no order."""
    subject = [(7 * number) % 101 for number, (labels, _) in enumerate(stays) for _ in labels]
    return (
        np.array(subject, np.int64),
        np.array([label for labels, _ in stays for label in labels], np.int64),
        np.array([score for _, scores in stays for score in scores], np.float64),
    )


@st.composite
def stay(draw: st.DrawFn) -> Stay:
    hours = draw(st.integers(1, 40))
    onset = draw(st.one_of(st.none(), st.integers(0, hours - 1)))
    labels = [int(onset is not None and hour >= onset) for hour in range(hours)]
    # Few values, so that ties are common.
    return labels, draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), min_size=hours, max_size=hours))


cohorts = st.lists(stay(), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(cohorts, st.sampled_from([0.0, 0.2, 0.3, 0.7, 1.0]))
def test_equals_the_slow_loop(stays: list[Stay], threshold: float) -> None:
    subject, label, score = arrays(stays)
    alarm = score >= threshold
    expected = sum(slow_stay(labels, [int(score >= threshold) for score in scores]) for labels, scores in stays)
    assert total_utility(subject, label, alarm) == pytest.approx(expected, abs=1e-9)
    assert normalised_utility(subject, label, alarm) == pytest.approx(
        slow_normalised(stays, threshold), abs=1e-9, nan_ok=True
    )


@settings(max_examples=100, deadline=None)
@given(cohorts)
def test_no_other_threshold_is_better(stays: list[Stay]) -> None:
    subject, label, score = arrays(stays)
    found = best_threshold(subject, label, score, replicates=0)
    tried = [slow_normalised(stays, threshold) for threshold in (*np.unique(score), np.inf)]
    assert found.utility == pytest.approx(max(tried), abs=1e-9, nan_ok=True)
    if label.any():
        assert normalised_utility(subject, label, score >= found.threshold) == pytest.approx(found.utility, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(cohorts)
def test_a_threshold_is_in_the_middle_of_those_of_drawn_stays(stays: list[Stay]) -> None:
    subject, label, score = arrays(stays)
    thresholds = [np.inf, *sorted(set(score), reverse=True)]
    places = []
    for draw in np.random.default_rng(3).integers(len(stays), size=(30, len(stays))):
        drawn = [stays[number] for number in draw]
        if any(any(labels) for labels, _ in drawn):
            tried = [slow_normalised(drawn, threshold) for threshold in thresholds]
            places.append(int(np.argmax(np.array(tried) > max(tried) - 1e-9)))
    found = best_threshold(subject, label, score, replicates=30, seed=3)
    if not label.any():
        assert np.isnan(found.threshold)
        return
    assert found.threshold == thresholds[int(np.mean(places))]
    assert normalised_utility(subject, label, score >= found.threshold) == pytest.approx(found.utility, abs=1e-9)
    # Alarms depend on the order of the scores alone.
    moved = best_threshold(subject, label, np.exp(score), replicates=30, seed=3)
    assert moved.threshold == pytest.approx(np.exp(found.threshold))


@settings(max_examples=60, deadline=None)
@given(cohorts, st.randoms(use_true_random=False))
def test_known_identities(stays: list[Stay], random: Random) -> None:
    subject, label, score = arrays(stays)
    best = np.concatenate([slow_best(labels) for labels, _ in stays])
    if label.any():
        assert normalised_utility(subject, label, np.zeros(len(label))) == 0
        assert normalised_utility(subject, label, best) == pytest.approx(1, abs=1e-12)
        # Nothing is better than the best.
        assert normalised_utility(subject, label, score >= 0.5) <= 1 + 1e-12
    else:
        assert np.isnan(normalised_utility(subject, label, best))
    # Whether the stays lie one after the other or mixed does not matter, as long as each one's hours are in order.
    mixed = list(range(len(label)))
    random.shuffle(mixed)
    place = np.argsort(np.argsort(np.array([int(subject[i]) for i in mixed]), kind="stable"), kind="stable")
    in_order = np.argsort(subject, kind="stable")[place]
    assert total_utility(subject[in_order], label[in_order], best[in_order]) == pytest.approx(
        total_utility(subject, label, best), abs=1e-9
    )


def test_intervals_are_those_of_cohorts_drawn_by_stay() -> None:
    random = np.random.default_rng(0)
    stays: list[Stay] = []
    for _ in range(30):
        hours, onset = int(random.integers(1, 40)), int(random.integers(0, 60))
        labels = [int(hour >= onset) for hour in range(hours)]
        stays.append((labels, random.random(hours).tolist()))
    subject, label, score = arrays(stays)
    alarm = score >= 0.6
    found = evaluate_utility(subject, label, alarm, replicates=200, seed=3, level=0.9)
    assert found.value == pytest.approx(normalised_utility(subject, label, alarm), abs=1e-12)
    # Subjects are drawn by their place in the order of their numbers; a stay drawn twice stands there twice.
    people = np.unique(subject)
    draws = np.random.default_rng(3).integers(len(people), size=(200, len(people)))
    values = []
    for draw in draws:
        rows = [np.flatnonzero(subject == people[number]) for number in draw]
        who = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        everything = np.concatenate(rows)
        values.append(normalised_utility(who, label[everything], alarm[everything]))
    low, high = np.quantile(values, [0.05, 0.95])
    assert found.ci_low == pytest.approx(low, abs=1e-12)
    assert found.ci_high == pytest.approx(high, abs=1e-12)
    assert evaluate_utility(subject, label, alarm, replicates=0).ci_low is None
    nobody = evaluate_utility(subject, label * 0, alarm, replicates=10)
    assert (nobody.value, nobody.ci_low, nobody.ci_high) == (None, None, None)


def test_the_example_of_the_challenge() -> None:
    # Six hours, sepsis labelled from the fifth, alarms from the third: given with the evaluation code.
    assert total_utility([1] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]) == pytest.approx(3.388888888888889, abs=1e-12)


def test_edges() -> None:
    # Labelled in the first hour: onset is taken to be at hour 6, the window is hours 0 to 9.
    labels = np.ones(12)
    window = (np.arange(12) < 10).astype(float)
    assert normalised_utility(np.zeros(12), labels, window) == pytest.approx(1)
    assert normalised_utility(np.zeros(12), labels, np.ones(12)) == pytest.approx(1)  # too late costs nothing
    # A single hour, septic and not.
    assert total_utility([3], [1], [1]) == 1
    assert total_utility([3], [1], [0]) == 0
    assert total_utility([3], [0], [1]) == -0.05
    # No sepsis at all, no rows at all.
    assert np.isnan(normalised_utility([1, 1, 2], [0, 0, 0], [0, 1, 0]))
    assert np.isnan(best_threshold([1, 1, 2], [0, 0, 0], [0.1, 0.2, 0.3]).utility)
    assert np.isnan(normalised_utility([], [], []))
    # Scores that are the wrong way round: it is best to say nothing.
    subject, label = np.repeat([0, 1], 60), np.append(np.zeros(60), [0] * 58 + [1] * 2)
    found = best_threshold(subject, label, np.append(np.ones(60), np.zeros(60)))
    assert found == (np.inf, 0.0)
