"""For whom a model works: metrics by group, their distance to everybody's, and which distances are not chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehrseq.metrics.binary import Floats
from ehrseq.metrics.disclosure import hide_small
from ehrseq.metrics.intervals import Draws, Estimate, Ranked, estimate
from ehrseq.metrics.logistic import normal_tail

# Of each group; then the gaps to everybody, which are tested; `calibration_gap` is the mean risk less the share of
# positives, which is compared with 0.
GROUP_METRICS = ("auroc", "auprc", "brier", "prevalence", "sensitivity", "specificity")
GAPS = ("auroc_gap", "sensitivity_gap", "calibration_gap")
_TESTED_BY = dict(zip(GAPS, ("auroc", "sensitivity", "calibration_gap"), strict=True))  # what has to vary


@dataclass(frozen=True)
class Grouping:
    """One way to divide predictions.

    Attributes:
        variable: What divides them.
        names: G groups, in their order.
        number: (N,) which group each prediction is in.
        tested: Whether gaps are tested.
    """

    variable: str
    names: tuple[str, ...]
    number: NDArray[np.int64]
    tested: bool = True


@dataclass(frozen=True)
class GroupResult:
    """How a model does in one group.

    Where the group is too small to be shown it has no figures, and none of its counts may be shown either. Where too
    few of it have the outcome, or lack it, `positives` is None and only `calibration_gap` is there.

    Attributes:
        variable: What divides.
        group: Which group.
        subjects: In it.
        predictions: Of them.
        positives: Subjects with the outcome; None also where those of another group would give them away.
        figures: `GROUP_METRICS` and `GAPS`.
        adjusted: The p-value of each gap, adjusted for all that were tested (Holm 1979).
        flags: The gaps that are not chance, at 1 - level.
        shown: Whether the group is large enough.
    """

    variable: str
    group: str
    subjects: int
    predictions: int
    positives: int | None
    figures: dict[str, Estimate]
    adjusted: dict[str, float]
    flags: tuple[str, ...]
    shown: bool


def evaluate_groups(
    label: Floats,
    probability: Floats,
    subject: NDArray[np.generic],
    groupings: Sequence[Grouping],
    threshold: float,
    minimum: int,
    *,
    replicates: int,
    seed: int,
    level: float,
) -> list[GroupResult]:
    """Metrics of every group with intervals, and flags for gaps that are not chance.

    All groups and everybody are measured on the same bootstrap samples of subjects, so that a gap has an interval of
    its own. Its p-value is that of its distance from 0 in bootstrap standard deviations; Holm's procedure holds the
    chance of any false flag at 1 - level over all groups and gaps.

    Args:
        label: (N,) of 0 and 1.
        probability: (N,).
        subject: (N,).
        groupings: The ways to divide.
        threshold: For sensitivity and specificity; nan leaves them undefined.
        minimum: Groups with fewer subjects are hidden, see `hide_small`, as is the outcome of fewer.
        replicates: How many samples are drawn; 0 gives neither intervals nor flags.
        seed: The same seed gives the same result.
        level: Coverage of the intervals.
    """
    cells = [_cells(grouping, label, subject) for grouping in groupings]
    shown = [~hide_small(cell[:, :1], minimum) & (cell[:, 0] > 0) for cell in cells]
    counted = [~hide_small(cell[:, :3], minimum) for cell in cells]
    own_figures = [~np.any((cell[:, 1:3] > 0) & (cell[:, 1:3] < minimum), axis=1) for cell in cells]
    measures = [_Measure(np.arange(len(label)), label, probability, threshold)]
    keys = []
    for number, grouping in enumerate(groupings):
        for group in np.flatnonzero(shown[number]).tolist():
            keys.append((number, group))
            measures.append(_Measure(np.flatnonzero(grouping.number == group), label, probability, threshold))
    points = [measure.figures(np.ones((1, len(label)))) for measure in measures]
    drawn: list[list[dict[str, Floats]]] = [[] for _ in measures]
    for weights in Draws(subject, replicates, seed) if len(label) else []:
        for measure, parts in zip(measures, drawn, strict=True):
            parts.append(measure.figures(weights))
    tables = [_gaps(_join(parts), _join(drawn[0])) for parts in drawn]
    points = [_gaps(point, points[0]) for point in points]
    found = {
        key: {
            name: estimate(float(point[name][0]), table.get(name), level)
            for name in point
            if name == "calibration_gap"
            or (own_figures[key[0]][key[1]] and (name != "prevalence" or counted[key[0]][key[1]]))
        }
        for key, point, table in zip(keys, points[1:], tables[1:], strict=True)
    }
    tested = [
        (key, name, _p_value(float(point[name][0]), table[name], table[_TESTED_BY[name]]))
        for key, point, table in zip(keys, points[1:], tables[1:], strict=True)
        for name in GAPS
        if groupings[key[0]].tested and table and name in found[key]
    ]
    tested = [item for item in tested if not np.isnan(item[2])]
    adjusted = dict(zip([item[:2] for item in tested], holm([item[2] for item in tested]), strict=True))
    results = []
    for number, grouping in enumerate(groupings):
        for group, name in enumerate(grouping.names):
            key, (size, positive, _, rows) = (number, group), cells[number][group].tolist()
            own = {gap: adjusted[key, gap] for gap in GAPS if (key, gap) in adjusted}
            flags = tuple(gap for gap, value in own.items() if value <= 1 - level)
            results.append(
                GroupResult(
                    grouping.variable,
                    name,
                    size,
                    rows,
                    positive if counted[number][group] else None,
                    found.get(key, {}),
                    own,
                    flags,
                    bool(shown[number][group]),
                )
            )
    return results


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, so that any false finding among them stays as rare as wished (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    scaled = np.asarray(values, np.float64)[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(values) else scaled
    return [float(value) for value in adjusted]


class _Measure:
    """The figures of some predictions, for any weighting of all."""

    def __init__(self, rows: NDArray[np.int64], label: Floats, probability: Floats, threshold: float) -> None:
        self.rows = rows
        label, probability = label[rows], probability[rows]
        self.ranked = Ranked(label, probability)
        alert = probability >= threshold
        undefined = np.nan if np.isnan(threshold) else 1.0
        parts = [alert * label * undefined, label, ~alert * (1 - label) * undefined, 1 - label, probability - label]
        self.columns = np.column_stack(parts)

    def figures(self, weights: Floats) -> dict[str, Floats]:
        mine = weights.take(self.rows, axis=1)
        true, positive, spared, negative, excess = (mine @ self.columns).T
        with np.errstate(invalid="ignore", divide="ignore"):
            ranked = self.ranked.metrics(mine)
            return {
                **{name: ranked[name] for name in ("auroc", "auprc", "brier", "prevalence")},
                "sensitivity": np.where(positive > 0, true / positive, np.nan),
                "specificity": np.where(negative > 0, spared / negative, np.nan),
                "calibration_gap": excess / (positive + negative),
            }


def _gaps(own: dict[str, Floats], all_: dict[str, Floats]) -> dict[str, Floats]:
    return own and own | {f"{name}_gap": own[name] - all_[name] for name in ("auroc", "sensitivity")}


def _join(parts: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def _p_value(gap: float, drawn: Floats, own: Floats) -> float:
    """Of a gap against 0, two-sided.

    nan where it is undefined, or where the group's figure never varies, as a sensitivity of 1 does not: then its
    samples say nothing of how sure it is.
    """
    defined, own = drawn[~np.isnan(drawn)], own[~np.isnan(own)]
    if np.isnan(gap) or len(defined) < 2 or not own.std() > 1e-12 or not defined.std(ddof=1) > 0:
        return float("nan")
    return 2 * normal_tail(abs(gap) / float(defined.std(ddof=1)))


def _cells(grouping: Grouping, label: Floats, subject: NDArray[np.generic]) -> NDArray[np.int64]:
    """Subjects of each group, those with a positive, those with a negative, and predictions, (G, 4)."""
    _, who = np.unique(subject, return_inverse=True)
    cells = np.zeros((len(grouping.names), 4), np.int64)
    for group in range(len(cells)):
        inside = grouping.number == group
        cells[group] = [
            *(len(np.unique(who[inside & part])) for part in (inside, label == 1, label == 0)),
            inside.sum(),
        ]
    return cells
