"""Alarms of repeated predictions: at every threshold, what they catch and how often they sound."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from ehrseq.config.schema import Evaluate
from ehrseq.evaluation.findings import Findings, Scored, columns_of_estimate
from ehrseq.metrics.alarms import Rules, evaluate_alarm_burden
from ehrseq.store.format import HOUR

UTILITY_RULE = "at_utility"
_QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def evaluate_alarms(
    scored: Scored, extra: Mapping[str, float], rule: str, config: Evaluate, options: Mapping[str, Any]
) -> Findings:
    """A table of alarms at all rules' thresholds and at quantiles of the risk; `alarms/...` of one rule.

    Args:
        scored: Predictions.
        extra: More thresholds by the name of their rule.
        rule: Which one the figures are of.
        config: How alarms are judged.
        options: How sure figures are made.
    """
    rules = Rules(**config.alarms.model_dump())
    hours = scored.time / HOUR
    named = {**scored.thresholds, **extra}
    grid = {f"quantile {share:g}": float(np.quantile(scored.risk, share)) for share in _QUANTILES}
    rows, metrics = [], {}
    for name, threshold in {**named, **grid}.items():
        if np.isnan(threshold):
            continue
        alarm = scored.risk >= threshold
        # On the grid only the curve is wanted.
        own = dict(options) | ({"replicates": 0} if name in grid else {})
        found = evaluate_alarm_burden(scored.subject, hours, scored.label, alarm, rules, **own)
        row: dict[str, Any] = {"rule": name, "threshold": threshold if np.isfinite(threshold) else None}
        for metric, estimate in found.items():
            row |= columns_of_estimate(metric, estimate)
        rows.append(row)
        if name == rule:
            metrics = {f"alarms/{metric}": estimate for metric, estimate in found.items()}
    return Findings(metrics, {"alarms": pl.DataFrame(rows, infer_schema_length=None)})
