"""Metrics of times to an event that some are censored before."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 1024


def concordance(hours: Floats, cause: Floats, which: int, risk: Floats, weight: Floats) -> Floats:
    """Harrell's C of one cause (Harrell et al. 1982; with competing risks as Wolbers et al. 2009), for many weightings.

    Of all pairs in which one person is seen to have the event while the other has not had it so far, the share in which
    the first had the higher risk; equal risks count half. Who had another cause before is taken not to have this one.

    Args:
        hours: (N,) times of event or censoring.
        cause: (N,) 0: censored.
        which: The cause.
        risk: (N,) predicted.
        weight: (R, N) weightings.

    Returns:
        (R,); nan where there are no pairs.
    """
    events = np.flatnonzero(cause == which)
    hours = np.where((cause > 0) & (cause != which), np.inf, hours)
    right, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    for start in range(0, len(events), _CHUNK):
        rows = events[start : start + _CHUNK]
        # Who is censored at the very time of an event had not had it until then.
        later = (hours > hours[rows, None]) | ((hours == hours[rows, None]) & (cause != which))
        higher = (risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk)
        mine = weight[:, rows]
        pairs += (mine * (weight @ later.T)).sum(axis=1)
        right += (mine * (weight @ (later * higher).T)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, right / pairs, np.nan)


def brier_columns(hours: Floats, cause: Floats, which: int, incidence: Floats, edges: Floats) -> Floats:
    """Squared errors of the incidence of one cause at each edge, weighted for censoring (Graf et al. 1999).

    Args:
        hours: (N,) times of event or censoring.
        cause: (N,) 0: censored.
        which: The cause.
        incidence: (N, K) predicted up to each edge.
        edges: (K,) hours.

    Returns:
        (N, K + 1): what has to be averaged for each edge, and ones.
    """
    columns = []
    for number, edge in enumerate(edges):
        had, known = known_weights(hours, cause, which, float(edge))
        columns.append(known * (had - incidence[:, number]) ** 2)
    return np.column_stack([*columns, np.ones(len(hours))])


def known_weights(hours: Floats, cause: Floats, which: int, edge: float) -> tuple[Floats, Floats]:
    """Who had the event by a time, and how much each counts, weighted for censoring (Graf et al. 1999), (N,) each.

    Whoever is known to have had it, not to have had it so far, or to have had another cause, stands for those who were
    censored before, by one over the chance not to be. Whoever was censored before the time counts nothing. Another
    cause is not having the event.

    Args:
        hours: (N,) times of event or censoring.
        cause: (N,) 0: censored.
        which: The cause.
        edge: The time.

    Returns:
        Labels, 1 for who had it, and weights.
    """
    had = (cause == which) & (hours <= edge)
    settled = (cause > 0) & (hours <= edge)
    before_event = settled / uncensored(hours, cause, hours, before=True)
    return had.astype(np.float64), before_event + (hours > edge) / uncensored(hours, cause, np.full_like(hours, edge))


def case_weights(hours: Floats, cause: Floats, which: int, edge: float) -> tuple[Floats, Floats]:
    """Who had the event by a time and who is known not to have, and how much each counts (Uno et al. 2007), (N,) each.

    Cases stand for those who were censored before, by one over the chance not to be; controls are beyond the time.
    Whoever was censored before it, or had another cause, counts nothing.

    Args:
        hours: (N,) times of event or censoring.
        cause: (N,) 0: censored.
        which: The cause.
        edge: The time.

    Returns:
        Labels, 1 for cases, and weights: the AUROC of a risk under both is its cumulative, dynamic AUC at that time.
    """
    case = (cause == which) & (hours <= edge)
    weight = np.where(case, 1 / uncensored(hours, cause, hours, before=True), hours > edge)
    return case.astype(np.float64), weight


def uncensored(hours: Floats, cause: Floats, at: Floats, before: bool = False) -> Floats:
    """The chance not to be censored up to each time (Kaplan and Meier 1958), never 0.

    Args:
        hours: (N,) times of event or censoring.
        cause: (N,) 0: censored.
        at: (M,) times.
        before: Up to just before the time.
    """
    times, inverse = np.unique(hours, return_inverse=True)
    censored = np.bincount(inverse, cause == 0, minlength=len(times))
    everybody = np.bincount(inverse, minlength=len(times))
    events = everybody - censored
    left = everybody[::-1].cumsum()[::-1]
    # Events come before censoring at the same time.
    steps = 1 - censored / np.maximum(left - events, 1)
    curve = np.append(1.0, np.cumprod(steps))
    place = np.searchsorted(times, at, side="left" if before else "right")
    chance: Floats = np.maximum(curve[place], 1e-3)
    return chance
