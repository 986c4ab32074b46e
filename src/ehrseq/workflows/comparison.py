"""What a comparison consists of, as its JSON has it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """A configuration's figures of one metric.

    Attributes:
        name: The configuration.
        value: The metric; the mean over its seeds or folds.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        seeds: How many runs there are on each set of examples.
        seed_sd: Standard deviation between seeds beyond sampling; None with one seed.
        letters: Two configurations that share a letter cannot be told apart; None unless all pairs were compared.
    """

    name: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    seeds: int
    seed_sd: float | None
    letters: str | None


@dataclass(frozen=True)
class Pair:
    """The difference of two configurations in one metric: `one` minus `other`.

    Attributes:
        one: A configuration.
        other: Another.
        difference: Of their values.
        ci_low: Lower end of its interval, which is not corrected for how many there are.
        ci_high: Upper end.
        p: Of no difference.
        p_corrected: The same, corrected.
        apart: Whether the two are told apart.
    """

    one: str
    other: str
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_corrected: float | None
    apart: bool


@dataclass(frozen=True)
class MetricTable:
    """All about one metric.

    Attributes:
        better: `higher`, `lower`, or None where neither is.
        method: How differences were judged.
        rows: The configurations, best first.
        pairs: The differences that were looked at.
    """

    better: str | None
    method: str
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    def with_reference(self, name: str) -> Mapping[str, Pair]:
        """The pairs of each other configuration with the reference, as other minus reference."""
        found = {}
        for pair in self.pairs:
            if pair.other == name:
                found[pair.one] = pair
            elif pair.one == name:
                found[pair.other] = _turned(pair)
        return found


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives; `plain` is its JSON.

    Attributes:
        task: What is predicted.
        split: Where it was scored.
        headline: The metric by which configurations are judged at a glance.
        reference: With which configuration the others are compared.
        reference_by: Why that one.
        examples: How many there are in all sets.
        subjects: How many subjects in all sets.
        left_out: Examples that not all configurations have.
        runs_left_out: Runs on sets of examples (folds) that not all configurations have.
        splits: How many sets of examples (folds) there are.
        level: Coverage of the intervals.
        correction: For many comparisons.
        comparisons: How many pairs of a metric were corrected for.
        runs: How many runs there are.
        configurations: Settings in which each differs, its runs, its mean figure on `tuning`.
        metrics: By name.
    """

    task: str
    split: str
    headline: str
    reference: str
    reference_by: str
    examples: int
    subjects: int
    left_out: int
    runs_left_out: int
    splits: int
    level: float
    correction: str
    comparisons: int
    runs: int
    configurations: tuple[dict[str, Any], ...]
    metrics: dict[str, MetricTable]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def _turned(pair: Pair) -> Pair:
    """The same difference the other way round."""
    return replace(
        pair,
        one=pair.other,
        other=pair.one,
        difference=None if pair.difference is None else -pair.difference,
        ci_low=None if pair.ci_high is None else -pair.ci_high,
        ci_high=None if pair.ci_low is None else -pair.ci_low,
    )
