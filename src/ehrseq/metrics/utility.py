"""The utility of hourly sepsis alarms in the PhysioNet/Computing in Cardiology Challenge 2019.

Reyna et al. 2020, "Early prediction of sepsis from clinical data", Critical Care Medicine 48(2), and the Challenge's
evaluation code. A stay is a row an hour; the labels of a septic stay are 1 from six hours before onset. An alarm is
worth most six hours before onset, next to nothing twelve hours before and three hours after; silence costs more and
more from six hours before to three after. What an alarm at one hour is worth does not depend on the other hours.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.intervals import Draws, Estimate, estimate

Floats = NDArray[np.float64]
# Hours from onset between which an alarm counts, and at which it is worth most.
EARLY, OPTIMAL, LATE = -12, -6, 3
# The utility of the best alarm, of the worst silence, and of an alarm without sepsis or too early.
BEST_ALARM, WORST_SILENCE, FALSE_ALARM = 1.0, -2.0, -0.05


class Hourly(NamedTuple):
    """What each hour is worth, (N,) each.

    Attributes:
        alarm: With an alarm.
        silence: Without one.
        best: 1 where the best possible prediction gives an alarm.
    """

    alarm: Floats
    silence: Floats
    best: Floats


class Threshold(NamedTuple):
    """A threshold (alarm where the score is at least this) and the normalised utility it gives."""

    threshold: float
    utility: float


def hourly_utility(subject: ArrayLike, label: ArrayLike) -> Hourly:
    """What an alarm and silence are worth at each hour.

    Args:
        subject: (N,) whose hour each is.
        label: (N,) of 0 and 1; the hours of a subject in order, from the first of the stay.
    """
    labels = np.asarray(label, np.float64)
    hour, first = _hours(np.asarray(subject), labels == 1)
    # Hours from onset; minus infinity without sepsis. The onset is six hours after the first positive label.
    with np.errstate(invalid="ignore"):
        since = np.where(np.isfinite(first), hour - (first - OPTIMAL), -np.inf)
    rising = since <= OPTIMAL
    falling = ~rising & (since <= LATE)
    alarm = np.zeros(len(labels))
    alarm[rising] = np.maximum(BEST_ALARM * (since[rising] - EARLY) / (OPTIMAL - EARLY), FALSE_ALARM)
    alarm[falling] = BEST_ALARM * (LATE - since[falling]) / (LATE - OPTIMAL)
    silence = np.zeros(len(labels))
    silence[falling] = WORST_SILENCE * (since[falling] - OPTIMAL) / (LATE - OPTIMAL)
    best = ((since >= EARLY) & (since <= LATE)).astype(np.float64)
    return Hourly(alarm, silence, best)


def total_utility(subject: ArrayLike, label: ArrayLike, alarm: ArrayLike) -> float:
    """The sum of the utilities of all stays, not normalised.

    Args:
        subject: (N,) whose hour each is.
        label: (N,) of 0 and 1; the hours of a subject in order, from the first of the stay.
        alarm: (N,) of 0 and 1.
    """
    hourly = hourly_utility(subject, label)
    return float(np.where(np.asarray(alarm, np.float64) == 1, hourly.alarm, hourly.silence).sum())


def normalised_utility(subject: ArrayLike, label: ArrayLike, alarm: ArrayLike) -> float:
    """The Challenge's score: 0 for no alarm at all, 1 for the best possible; nan without any sepsis.

    Args:
        subject: (N,) whose hour each is.
        label: (N,) of 0 and 1; the hours of a subject in order, from the first of the stay.
        alarm: (N,) of 0 and 1.
    """
    gain, possible = _gains(subject, label)
    raised = np.asarray(alarm, np.float64) == 1
    return float(gain[raised].sum() / possible) if possible > 0 else float("nan")


def best_threshold(
    subject: ArrayLike, label: ArrayLike, score: ArrayLike, *, replicates: int = 200, seed: int = 0
) -> Threshold:
    """The threshold with the greatest utility, evened out over who happens to be there.

    The very best one is a matter of a few stays. So it is sought in bootstrap samples of stays, and what is taken has
    their mean place among all thresholds that tell any two scores apart, from no alarm at all downwards (bagging; for
    cutpoints Thiele and Hirschfeld 2021, "cutpointr: Improved Estimation and Validation of Optimal Cutpoints in R",
    Journal of Statistical Software 98(11)). By place, whatever keeps the order of the scores keeps the alarms.

    Choose it on `tuning`, never on what is reported.

    Args:
        subject: (N,) whose hour each is.
        label: (N,) of 0 and 1; the hours of a subject in order, from the first of the stay.
        score: (N,) the higher, the likelier.
        replicates: How many samples are drawn; 0: the threshold is the best of these very stays, of equals the highest.
        seed: Of the draws.

    Returns:
        The threshold (infinity: no alarm at all) and what it gives here; nan without any sepsis.
    """
    gain, possible = _gains(subject, label)
    if not possible > 0:
        return Threshold(float("nan"), float("nan"))
    scores = np.asarray(score, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, gain = scores[order], gain[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    thresholds = np.append(np.inf, scores[ends])

    def by_threshold(gains: Floats) -> Floats:
        # Rounded, so that what is equal is: of equals it is the highest threshold.
        return np.append(0.0, np.cumsum(gains)[ends]).round(9)

    total = by_threshold(gain)
    people, who = np.unique(np.asarray(subject), return_inverse=True)
    is_septic = np.bincount(who, weights=np.asarray(label, np.float64)) > 0
    who = who[order]
    places = [
        np.argmax(by_threshold(gain * drawn[who]))
        for weights in Draws(people, replicates, seed)
        for drawn in weights[weights @ is_septic > 0]
    ]
    best = int(np.mean(places)) if places else int(np.argmax(total))
    return Threshold(float(thresholds[best]), float(total[best] / possible))


def evaluate_utility(
    subject: ArrayLike,
    label: ArrayLike,
    alarm: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The normalised utility with a percentile bootstrap interval (Efron 1979), drawn by subject.

    It is a ratio of sums over subjects, so that a sample is a row of weights of their sums.

    Args:
        subject: (N,) whose hour each is.
        label: (N,) of 0 and 1; the hours of a subject in order, from the first of the stay.
        alarm: (N,) of 0 and 1.
        replicates: How many samples are drawn; 0 gives no interval.
        seed: The same seed gives the same interval.
        level: Coverage of the interval.
    """
    hourly = hourly_utility(subject, label)
    raised = np.asarray(alarm, np.float64) == 1
    people, who = np.unique(np.asarray(subject), return_inverse=True)
    hours = (
        np.where(raised, hourly.alarm, hourly.silence),
        hourly.silence,
        np.where(hourly.best == 1, hourly.alarm, hourly.silence),
    )
    sums = np.column_stack([np.bincount(who, weights=worth, minlength=len(people)) for worth in hours])
    drawn = [_normalise(weights @ sums) for weights in Draws(people, replicates, seed)]
    point = float(_normalise(sums.sum(axis=0)[None])[0])
    return estimate(point, np.concatenate(drawn) if drawn else None, level)


def _normalise(sums: Floats) -> Floats:
    """Normalised utilities (R,) of sums (R, 3) of what the alarms, silence and the best alarms are worth."""
    observed, silent, best = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(best > silent, (observed - silent) / (best - silent), np.nan)


def _gains(subject: ArrayLike, label: ArrayLike) -> tuple[Floats, float]:
    """What an alarm adds at each hour (N,), and how much can be added in all."""
    hourly = hourly_utility(subject, label)
    gain = hourly.alarm - hourly.silence
    return gain, float(gain @ hourly.best)


def _hours(subject: NDArray[np.generic], positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The number of each row among its subject's, from 0, and that of the subject's first positive row; (N,) each."""
    if not len(subject):
        return np.empty(0), np.empty(0)
    _, who = np.unique(subject, return_inverse=True)
    order = np.argsort(who, kind="stable")
    begin = np.append(0, np.cumsum(np.bincount(who)))
    hour = np.empty(len(who))
    hour[order] = np.arange(len(who)) - begin[who[order]]
    first = np.minimum.reduceat(np.where(positive, hour, np.inf)[order], begin[:-1])
    return hour, first[who]
