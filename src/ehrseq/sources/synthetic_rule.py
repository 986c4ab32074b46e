"""The planted rule of the synthetic data: which codes, values and lags cause the outcome, and nothing else does.

The log-odds of the outcome are `INTERCEPT` plus the weights of the conditions that hold. A condition holds if any event
of its code compares as it says and its age at prediction_time lies in [lag_from, lag_to] hours, both included. The same
codes with the same values outside that window occur too, and mean nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from ehrseq.meds import schema


@dataclass(frozen=True)
class Condition:
    """One condition of the rule.

    Attributes:
        name: For people.
        code: The MEDS code that is looked at.
        comparison: How its value is compared; `present` asks for no value.
        threshold: What it is compared with.
        lag_from: Youngest age of the event, hours before prediction_time.
        lag_to: Oldest age, hours before prediction_time.
        weight: Added to the log-odds if the condition holds.
    """

    name: str
    code: str
    comparison: Literal[">", "<", "present"]
    threshold: float | None
    lag_from: float
    lag_to: float
    weight: float

    def holds(self) -> pl.Expr:
        """Whether an event, with the column `age` in hours, meets the condition."""
        here = (pl.col(schema.CODE) == self.code) & pl.col("age").is_between(self.lag_from, self.lag_to)
        value = pl.col(schema.NUMERIC_VALUE)
        if self.comparison == ">":
            return here & (value > self.threshold)
        if self.comparison == "<":
            return here & (value < self.threshold)
        return here


INTERCEPT = -3.7
RULE: tuple[Condition, ...] = (
    Condition("recent high lactate", "LAB//lactate//mmol/L", ">", 4.0, 0, 12, 4.5),
    Condition("hypotension now", "VITAL//systolic_pressure//mmHg", "<", 85.0, 0, 6, 4.0),
    Condition("renal failure today", "LAB//creatinine//mg/dL", ">", 2.5, 0, 24, 3.5),
    Condition("vasopressor within 12 h", "MED//norepinephrine//ug/kg/min", "present", None, 0, 12, 3.5),
    Condition("sepsis diagnosed at any time", "DX//sepsis", "present", None, 0, 24 * 365, 2.0),
    Condition("antibiotic today protects", "MED//antibiotic", "present", None, 0, 24, -2.5),
)


def evaluate_rule(events: pl.DataFrame, labels: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The true risk of each history, and the very events that make it.

    Args:
        events: MEDS events.
        labels: `subject_id`, `prediction_time`.

    Returns:
        (`subject_id`, `prediction_time`, `score` in log-odds, `probability`), and the events that meet a condition:
        `subject_id`, `prediction_time`, `time`, `code`, `numeric_value`, `condition`, `weight`.
    """
    keys = [schema.SUBJECT_ID, schema.PREDICTION_TIME]
    age = (pl.col(schema.PREDICTION_TIME) - pl.col(schema.TIME)).dt.total_microseconds() / 3.6e9
    codes = {condition.code for condition in RULE}
    aged = (
        events.filter(pl.col(schema.CODE).is_in(sorted(codes)))
        .join(labels.select(keys), on=schema.SUBJECT_ID, maintain_order="left")
        .with_columns(age.alias("age"))
    )
    columns = [*keys, schema.TIME, schema.CODE, schema.NUMERIC_VALUE]
    found = [
        aged.filter(condition.holds()).select(
            *columns, pl.lit(condition.name).alias("condition"), pl.lit(condition.weight).alias("weight")
        )
        for condition in RULE
    ]
    planted = pl.concat(found).sort(schema.SUBJECT_ID, schema.TIME, "condition", maintain_order=True)
    sums = planted.unique([*keys, "condition"]).group_by(keys).agg(pl.col("weight").sum())
    score = (pl.col("weight").fill_null(0.0) + INTERCEPT).alias("score")
    scores = labels.select(keys).join(sums, on=keys, how="left", maintain_order="left").select(*keys, score)
    return scores.with_columns((1 / (1 + (-pl.col("score")).exp())).alias("probability")), planted


def rule_as_json() -> dict[str, Any]:
    """The rule as plain JSON types."""
    return {"intercept": INTERCEPT, "conditions": [asdict(condition) for condition in RULE]}
