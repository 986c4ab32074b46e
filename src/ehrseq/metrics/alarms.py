"""What alarms of repeated predictions mean at the bedside: events caught in time, alarms a day, alarms in vain."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.metrics.binary import Floats
from ehrseq.metrics.intervals import Estimate, estimate_sums


class Rules(NamedTuple):
    """How alarms are judged.

    Attributes:
        horizon_hours: How long before an event labels turn positive: the event is so long after the first positive.
        reach_hours: An alarm is true from so long before the event until the event.
        silence_hours: After an alarm, so long no other of the same subject sounds.
        leads_hours: Lead times at which the share of events that were foretold is told.
    """

    horizon_hours: float
    reach_hours: float
    silence_hours: float
    leads_hours: tuple[float, ...]


def sounding(subject: ArrayLike, hours: ArrayLike, alarm: ArrayLike, silence_hours: float) -> NDArray[np.bool_]:
    """Which alarms sound, (N,): those that no sounding alarm of the same subject came less than `silence_hours` before.

    Args:
        subject: (N,) whose prediction each is.
        hours: (N,) when; in any order.
        alarm: (N,) whether it is at or above the threshold.
        silence_hours: 0: all sound.
    """
    who, time = np.asarray(subject), np.asarray(hours, np.float64)
    raised = np.flatnonzero(np.asarray(alarm, bool))
    raised = raised[np.lexsort((time[raised], who[raised]))]
    result = np.zeros(len(who), bool)
    last: tuple[Any, float] | None = None
    for place, name, when in zip(raised.tolist(), who[raised].tolist(), time[raised].tolist(), strict=True):
        if last is None or last[0] != name or when - last[1] >= silence_hours:
            result[place] = True
            last = name, when
    return result


def evaluate_alarm_burden(
    subject: NDArray[np.generic], hours: Floats, label: Floats, alarm: NDArray[np.bool_], rules: Rules, **options: Any
) -> dict[str, Estimate]:
    """Figures of alarms with intervals by subject.

    `event_recall` (share of events with a true alarm), `event_recall_<L>h` (with one at least L hours before),
    `alarms_per_day` (sounding, a subject and day observed), `alarms_per_day_unsilenced`, `alarm_precision` (share of
    sounding alarms that are true), `first_alarm_precision` (of the first alarms of subjects), `lead_hours` (mean time
    from the first true alarm to the event, of events that were caught).

    Args:
        subject: (N,).
        hours: (N,) time of each prediction.
        label: (N,) of 0 and 1.
        alarm: (N,) whether it is at or above the threshold.
        rules: How they are judged.
        **options: See `estimate_sums`.
    """
    columns = alarm_columns(subject, hours, label, alarm, rules)

    def metrics(sums: Floats) -> dict[str, Floats]:
        days, unsilenced, sounded, true, first, first_true, events, caught, lead = sums[:, :9].T
        with np.errstate(invalid="ignore", divide="ignore"):
            figures = {
                "event_recall": caught / events,
                **{f"event_recall_{ahead:g}h": sums[:, 9 + k] / events for k, ahead in enumerate(rules.leads_hours)},
                "alarms_per_day": sounded / days,
                "alarms_per_day_unsilenced": unsilenced / days,
                "alarm_precision": true / sounded,
                "first_alarm_precision": first_true / first,
                "lead_hours": lead / caught,
            }
        return {name: np.where(np.isfinite(value), value, np.nan) for name, value in figures.items()}

    return estimate_sums(columns, metrics, np.unique(subject), **options)


def alarm_columns(
    subject: NDArray[np.generic], hours: Floats, label: Floats, alarm: NDArray[np.bool_], rules: Rules
) -> Floats:
    """What alarms are judged by, (S, 9 + L): a row a subject, in the order of their ids.

    Days observed, alarms, sounding alarms, true ones, whether there is a first alarm, whether it is true, whether
    there is an event, whether it was caught, hours from the first true alarm to it, and whether it was caught at each
    lead time. A prediction stands for the usual time between two.
    """
    people, who = np.unique(subject, return_inverse=True)
    size = len(people)
    order = np.lexsort((hours, who))
    same = who[order][1:] == who[order][:-1]
    steps = np.diff(hours[order])[same]
    step = float(np.median(steps)) if len(steps) else 1.0
    days = np.bincount(who, minlength=size) * step / 24
    onset = np.full(size, np.inf)
    np.minimum.at(onset, who[label == 1], hours[label == 1])
    onset += rules.horizon_hours
    event = np.isfinite(onset)
    sounds = sounding(subject, hours, alarm, rules.silence_hours)
    before = onset[who] - hours
    # Times are sums of fractions of hours: a hair is no miss.
    true = sounds & (before <= rules.reach_hours + 1e-9) & (before >= -1e-9)
    first = np.full(size, np.inf)
    np.minimum.at(first, who[sounds], hours[sounds])
    first_true = np.bincount(who[true & (hours == first[who])], minlength=size) > 0
    lead = np.full(size, -np.inf)
    np.maximum.at(lead, who[true], before[true])
    caught = np.isfinite(lead)
    columns = [
        days,
        np.bincount(who, alarm, minlength=size),
        np.bincount(who, sounds, minlength=size),
        np.bincount(who, true, minlength=size),
        np.isfinite(first),
        first_true,
        event,
        caught,
        np.where(caught, lead, 0),
        *_caught_ahead(caught, lead, rules.leads_hours),
    ]
    return np.column_stack(columns).astype(np.float64)


def _caught_ahead(caught: NDArray[np.bool_], lead: Floats, ahead: Sequence[float]) -> list[NDArray[np.bool_]]:
    return [caught & (lead >= hours - 1e-9) for hours in ahead]
