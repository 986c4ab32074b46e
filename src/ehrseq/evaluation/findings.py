"""What every aspect of an evaluation takes and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.metrics import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """N predictions of one split, of which the outcome is known, and what was chosen for them elsewhere.

    Attributes:
        label: (N,) of 0 and 1.
        risk: (N,) as told to people: mended where the run mends its risks.
        raw: (N,) as the model gives them.
        subject: (N,) whose.
        time: (N,) prediction times, microseconds since 1970.
        history_hours: (N,) from the first event to the prediction.
        thresholds: Chosen on `tuning`, by the name of the rule; nan where that was not possible.
        prefix: Of the names of all figures, where this is one of several targets.
        name: Which of several outcomes of a target; empty where there is one.
        weight: (N,) how much each counts; None: alike.
        mended: (N,) risks mended in each way that was fitted on `tuning`.
        rows: (N,) their places in the split.
    """

    label: Floats
    risk: Floats
    raw: Floats
    subject: NDArray[np.int64]
    time: NDArray[np.int64]
    history_hours: Floats
    thresholds: Mapping[str, float]
    prefix: str = ""
    name: str = ""
    weight: Floats | None = None
    mended: Mapping[str, Floats] = field(default_factory=dict)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class Findings:
    """Figures by name, and tables by the name of their file; `a | b` has both.

    A column of a table and its interval are `x`, `x_low` and `x_high`; null is undefined or hidden.
    """

    metrics: dict[str, Estimate] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)

    def __or__(self, other: "Findings") -> "Findings":
        return Findings(self.metrics | other.metrics, self.tables | other.tables)

    def prefixed(self, prefix: str) -> "Findings":
        """The same under other names."""
        return Findings(
            {f"{prefix}{name}": value for name, value in self.metrics.items()},
            {f"{prefix}{name}": value for name, value in self.tables.items()},
        )


def stacked(named: Sequence[tuple[str, Findings]]) -> Findings:
    """The tables of several outcomes below each other, with a first column `outcome`; their metrics stay in these."""
    tables = {}
    for name in dict.fromkeys(name for _, findings in named for name in findings.tables):
        own = [
            findings.tables[name].select(pl.lit(outcome).alias("outcome"), pl.all())
            for outcome, findings in named
            if name in findings.tables
        ]
        tables[name] = pl.concat(own, how="vertical_relaxed")
    return Findings({}, tables)


def columns_of_estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as columns of a table."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: estimate.value, f"{name}_low": estimate.ci_low, f"{name}_high": estimate.ci_high}
