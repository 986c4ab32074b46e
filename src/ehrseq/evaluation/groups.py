"""For whom it works, when, and on how long a history: metrics by group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Evaluate
from ehrseq.config.targets import Target
from ehrseq.evaluation.findings import Findings, Scored, columns_of_estimate
from ehrseq.metrics import Estimate, evaluate_predictions, headline
from ehrseq.metrics.disclosure import hide_small
from ehrseq.metrics.groups import GAPS, GROUP_METRICS, Grouping, GroupResult, evaluate_groups


def evaluate_subgroups(
    scored: Scored, groupings: Sequence[Grouping], rule: str, config: Evaluate, options: Mapping[str, Any]
) -> Findings:
    """A table of all groups, and how many gaps are flagged (`groups/flagged`), the lowest AUROC, the widest gap.

    A group that is too small to be shown has no count either.
    """
    threshold = scored.thresholds.get(rule, float("nan"))
    results = evaluate_groups(
        scored.label, scored.risk, scored.subject, groupings, threshold, config.min_group, **options
    )
    if not results:
        return Findings()
    rows = []
    for result in results:
        row: dict[str, Any] = {
            "variable": result.variable,
            "group": result.group,
            "shown": result.shown,
            "subjects": result.subjects if result.shown else None,
            "predictions": result.predictions if result.shown else None,
            "positives": result.positives if result.shown else None,
        }
        for name in (*GROUP_METRICS, *GAPS):
            row |= columns_of_estimate(name, result.figures.get(name))
        row |= {f"{name}_p_adjusted": result.adjusted.get(name) for name in GAPS}
        rows.append(row | {"flags": " ".join(result.flags)})
    tested = {grouping.variable for grouping in groupings if grouping.tested}
    own = [result for result in results if result.variable in tested and result.shown]
    areas = [value for result in own if (value := _value(result, "auroc")) is not None]
    gaps = [abs(value) for result in own if (value := _value(result, "auroc_gap")) is not None]
    figures = {
        "groups/flagged": float(sum(len(result.flags) for result in own)) if own else None,
        "groups/auroc_lowest": min(areas, default=None),
        "groups/auroc_gap_widest": max(gaps, default=None),
    }
    metrics = {name: Estimate(value, None, None) for name, value in figures.items()}
    return Findings(metrics, {"groups": pl.DataFrame(rows, infer_schema_length=None)})


def _value(result: GroupResult, name: str) -> float | None:
    return result.figures[name].value if name in result.figures else None


def evaluate_other_subgroups(
    target: Target,
    outcome: NDArray[np.float32],
    prediction: NDArray[np.float64],
    subject: NDArray[np.int64],
    groupings: Sequence[Grouping],
    config: Evaluate,
    options: Mapping[str, Any],
) -> Findings:
    """The headline metric by group, for targets that are not one yes or no."""
    name = headline(target)
    rows = []
    for grouping in groupings:
        members = [grouping.number == group for group in range(len(grouping.names))]
        sizes = np.array([len(np.unique(subject[member])) for member in members])
        shown = ~hide_small(sizes[:, None], config.min_group) & (sizes > 0)
        for group, member in enumerate(members):
            row: dict[str, Any] = {"variable": grouping.variable, "group": grouping.names[group]}
            row |= {"shown": bool(shown[group]), "subjects": int(sizes[group]) if shown[group] else None}
            own = None
            if shown[group]:
                own = evaluate_predictions(target, outcome[member], prediction[member], subject[member], **options)
            rows.append(row | columns_of_estimate(name, own.get(name) if own else None))
    return Findings({}, {"groups": pl.DataFrame(rows, infer_schema_length=None)} if rows else {})
