"""Risks of one outcome: thresholds, calibration before and after mending, usefulness."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from ehrseq.config.schema import Evaluate
from ehrseq.evaluation.findings import Findings, Floats, Scored, columns_of_estimate
from ehrseq.metrics.calibration import evaluate_calibration, evaluate_errors, reliability
from ehrseq.metrics.thresholds import (
    POINT_METRICS,
    alert_threshold,
    evaluate_thresholds,
    sensitivity_threshold,
    youden_threshold,
)
from ehrseq.metrics.usefulness import decision_curve

YOUDEN, SENSITIVITY, BUDGET = "at_youden", "at_sensitivity", "at_budget"
_CURVE_POINTS = 60


def choose_thresholds(label: Floats, risk: Floats, config: Evaluate, weight: Floats | None = None) -> dict[str, float]:
    """The thresholds of all rules, on the split where choices are made."""
    return {
        YOUDEN: youden_threshold(label, risk, weight),
        SENSITIVITY: sensitivity_threshold(label, risk, config.sensitivity, weight),
        BUDGET: alert_threshold(risk, config.alert_budget),
    }


def evaluate_operating_points(scored: Scored, config: Evaluate, options: Mapping[str, Any]) -> Findings:
    """Metrics at each threshold, `at_<rule>/<metric>`, and the same as a table."""
    strata = scored.label if config.stratified else None
    given = scored.label, scored.risk, scored.subject, scored.thresholds, scored.weight
    found = evaluate_thresholds(*given, **options, strata=strata)
    words = {
        YOUDEN: "greatest sensitivity + specificity",
        SENSITIVITY: f"sensitivity {config.sensitivity:g} on tuning",
        BUDGET: f"at most {config.alert_budget:.0%} alerts on tuning",
    }
    rows = []
    for rule in scored.thresholds:
        row: dict[str, Any] = {"rule": words.get(rule, rule), "threshold": found[f"{rule}/threshold"].value}
        for metric in POINT_METRICS:
            row |= columns_of_estimate(metric, found[f"{rule}/{metric}"])
        rows.append(row)
    return Findings(found, {"thresholds": pl.DataFrame(rows, infer_schema_length=None)})


def compare_calibration(scored: Scored, used: str, config: Evaluate, options: Mapping[str, Any]) -> Findings:
    """Calibration as the model gives its risks, and mended in each way that was fitted on `tuning`."""
    ways = {"none": scored.raw, **scored.mended}
    used = used if used in ways else "none"
    strata = scored.label if config.stratified else None
    rows = []
    for name, risk in ways.items():
        given = scored.label, risk, scored.subject, scored.weight
        own = evaluate_errors(*given, **options, strata=strata)
        own |= evaluate_calibration(*given, **options, strata=strata)
        row: dict[str, Any] = {"recalibration": name, "used": name == used}
        for metric in ("calibration_slope", "calibration_intercept", "ece", "brier", "log_loss"):
            row |= columns_of_estimate(metric, own[metric])
        rows.append(row)
    curves = [_reliability_table(scored, risk, name, config) for name, risk in ways.items()]
    tables = {"calibration": pl.DataFrame(rows, infer_schema_length=None), "reliability": pl.concat(curves)}
    return Findings({}, tables)


def _reliability_table(scored: Scored, risk: Floats, name: str, config: Evaluate) -> pl.DataFrame:
    """The reliability curve as a table; bins hold at least the smallest group that may be shown."""
    curve = reliability(scored.label, risk, minimum=config.min_group, weight=scored.weight, subject=scored.subject)
    return pl.DataFrame(
        {
            "recalibration": pl.Series([name] * len(curve.size), dtype=pl.String),
            "risk": curve.probability,
            "observed": curve.positive,
            "observed_low": curve.low,
            "observed_high": curve.high,
            "predictions": pl.Series(curve.size).cast(pl.Int64),
        }
    )


def evaluate_usefulness(scored: Scored, config: Evaluate, options: Mapping[str, Any]) -> Findings:
    """The decision curve as a table: net benefit at thresholds up to where risks end."""
    top = float(np.quantile(scored.risk, 0.99)) if len(scored.risk) else 0.5
    # Of a rare outcome all thresholds that matter are low.
    unit = 0.05 if top > 0.1 else 0.01
    last = float(np.clip(np.ceil(top / unit) * unit, unit, 0.95))
    grid = np.linspace(min(0.01, last / _CURVE_POINTS), last, _CURVE_POINTS)
    strata = scored.label if config.stratified else None
    given = scored.label, scored.risk, scored.subject, grid, scored.weight
    curve = decision_curve(*given, **options, strata=strata)
    frame = pl.DataFrame(
        {
            "threshold": curve.threshold,
            "net_benefit": curve.model,
            "net_benefit_low": curve.low,
            "net_benefit_high": curve.high,
            "treat_all": curve.everybody,
            "treat_none": np.zeros(len(grid)),
        }
    )
    return Findings({}, {"decision_curve": frame.fill_nan(None)})
