"""Labels from windows in the record: the common clinical tasks in a few lines of YAML.

A window opens at each `start` event (an admission) and closes at the first `end` event from then on (a discharge).
Predictions are made at its start or end, or again and again in it; the outcome is looked for in the rest of the window,
within a number of hours, or in the next window. See docs/tasks.md for the tasks that come with the project.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ehrseq.errors import ConfigError, DataError
from ehrseq.meds import schema
from ehrseq.meds.read import NO_TIME, Shard, list_shards
from ehrseq.store.format import HOUR
from ehrseq.tasks.labels import Labels
from ehrseq.tasks.outcomes import EVENT, TIME_TO_EVENT

_S, _T = schema.SUBJECT_ID, schema.TIME
_ROLES = ("start", "end", "outcome", "exclude", "death")


@dataclass(frozen=True)
class WindowLabels:
    """A task in the language of windows.

    A code stands for itself and for what begins with it and `//`; one that ends in `*` for all codes that begin so.

    Attributes:
        start: Codes that open a window.
        end: Codes that close it; empty: windows stay open to the end of the record.
        predict: Whether predictions are made after the window's start or its end.
        delay_hours: How long after.
        every_hours: Predict again so often, as long as the window is open; None: once.
        outcome: Codes of which any is the positive outcome; empty with `longer_than_hours`.
        within: Where the outcome is looked for: "window" (prediction_time, end], "horizon" (prediction_time,
            prediction_time + horizon_hours], "next_window" [its start, its end].
        horizon_hours: See `within`.
        longer_than_hours: The outcome is that the window lasts longer than this.
        exclude: A prediction is not made if one of these codes came since the window's start, prediction_time
            included: who is dead, or has the outcome already.
        gives: "outcome": whether it comes, for binary targets; "hours_left": how long the window stays open, for
            regression and ordinal targets; "time_to_outcome": when it comes, or the record (with `within` "window" the
            window) ends without it, for survival targets.
        follow_up: "require" drops predictions whose horizon reaches beyond the subject's last event without an outcome
            or death; "assume" takes them for negative.

    Raises:
        ConfigError: If the parts do not make a task.
    """

    start: str | Sequence[str]
    end: str | Sequence[str] = ()
    predict: Literal["start", "end"] = "end"
    delay_hours: float = 0.0
    every_hours: float | None = None
    outcome: str | Sequence[str] = ()
    within: Literal["window", "horizon", "next_window"] = "horizon"
    horizon_hours: float | None = None
    longer_than_hours: float | None = None
    exclude: str | Sequence[str] = ()
    follow_up: Literal["require", "assume"] = "assume"
    gives: Literal["outcome", "hours_left", "time_to_outcome"] = "outcome"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("predict", self.predict, ("start", "end")),
            ("within", self.within, ("window", "horizon", "next_window")),
            ("follow_up", self.follow_up, ("require", "assume")),
            ("gives", self.gives, ("outcome", "hours_left", "time_to_outcome")),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}; allowed is one of {', '.join(known)}")
        if not _patterns(self.start):
            raise ConfigError("start is empty; give the codes that open a window")
        needs_end = self.predict == "end" or self.every_hours is not None or self.within != "horizon"
        if not _patterns(self.end) and (needs_end or self.longer_than_hours is not None):
            raise ConfigError("end is empty; this task needs the codes that close a window")
        if self.gives != "outcome":
            self._check_numbers()
        elif bool(_patterns(self.outcome)) == (self.longer_than_hours is not None):
            raise ConfigError("give either outcome or longer_than_hours")
        elif self.longer_than_hours is None and (self.within == "horizon") == (self.horizon_hours is None):
            raise ConfigError(f"within={self.within} and horizon_hours={self.horizon_hours} do not go together")
        if self.longer_than_hours is not None and self.predict == "end":
            raise ConfigError("longer_than_hours is known at the end of the window; use predict=start")
        for name, hours in (("every_hours", self.every_hours), ("horizon_hours", self.horizon_hours)):
            if hours is not None and hours <= 0:
                raise ConfigError(f"{name} is {hours}; allowed are positive numbers")
        if self.delay_hours < 0:
            raise ConfigError(f"delay_hours is {self.delay_hours}; allowed are 0 and more")

    def _check_numbers(self) -> None:
        """What tasks that give numbers need."""
        if self.gives == "hours_left":
            if not _patterns(self.end) or self.predict == "end":
                raise ConfigError("gives=hours_left needs predict=start and the codes that close a window, end")
            if _patterns(self.outcome) or self.longer_than_hours is not None:
                raise ConfigError("gives=hours_left has no outcome and no longer_than_hours")
        elif not _patterns(self.outcome) or self.longer_than_hours is not None or self.within == "next_window":
            raise ConfigError("gives=time_to_outcome needs an outcome, within=window or horizon, no longer_than_hours")

    def fingerprint(self) -> dict[str, Any]:
        """The arguments, and the version of the rules."""
        return {"windows": 2, **asdict(self)}

    def labels(self, dataset: Path, name: str) -> Labels:
        """Make the labels; see `LabelMaker.labels`."""
        events, last = self._find(dataset)
        starts = events["start"]
        attrition = [("start events", starts.height)]
        windows = self._windows(starts, events["end"])
        if _patterns(self.end):
            attrition.append(("windows that close", windows.height))
        cases = self._predictions(windows)
        attrition.append(("predictions within the record", cases.height))
        cases = _before(cases, events["exclude"], "excluded").filter(
            pl.col("excluded").is_null() | (pl.col("excluded") < pl.col("start"))
        )
        if _patterns(self.exclude):
            attrition.append(("without an excluding event before", cases.height))
        if self.gives != "outcome":
            return self._numbers(cases, events["outcome"], last, attrition, name)
        cases, counted = self._outcomes(cases, events, last)
        attrition += counted
        if not cases.height:
            steps = "; ".join(f"{step}: {count:,}" for step, count in attrition)
            raise DataError(f"task.name={name}: no prediction is left ({steps}); look at the codes of task.labels")
        frame = cases.select(
            pl.col(_S),
            pl.from_epoch(pl.col("at"), time_unit="us").cast(pl.Datetime("us")).alias(schema.PREDICTION_TIME),
            pl.col("label").alias(schema.BOOLEAN_VALUE),
        )
        frame = frame.unique([_S, schema.PREDICTION_TIME], keep="first", maintain_order=True)
        return Labels(
            frame.sort(_S, schema.PREDICTION_TIME), [*attrition, ("positive", int(frame[schema.BOOLEAN_VALUE].sum()))]
        )

    def _numbers(
        self,
        cases: pl.DataFrame,
        outcomes: pl.DataFrame,
        last: pl.DataFrame,
        attrition: list[tuple[str, int]],
        name: str,
    ) -> Labels:
        """Labels of `hours_left` and `time_to_outcome`."""
        at = pl.col("at")
        if self.gives == "hours_left":
            cases = cases.with_columns(((pl.col("end") - at) / HOUR).alias(schema.FLOAT_VALUE))
            values = [schema.FLOAT_VALUE]
        else:
            cases = _after(cases.join(last, on=_S, how="left"), outcomes, "found", "at")
            known = pl.col("end") if self.within == "window" else pl.col("last")
            happened = (pl.col("found") <= known).fill_null(False)
            until = pl.when(happened).then(pl.col("found")).otherwise(known)
            cases = cases.with_columns(((until - at) / HOUR).alias(TIME_TO_EVENT), happened.cast(pl.Int64).alias(EVENT))
            cases = cases.filter(pl.col(TIME_TO_EVENT) > 0)
            attrition.append(("seen for a while after the prediction", cases.height))
            values = [TIME_TO_EVENT, EVENT]
        if not cases.height:
            raise DataError(f"task.name={name}: no prediction is left; look at the codes of task.labels")
        time = pl.from_epoch(at, time_unit="us").cast(pl.Datetime("us")).alias(schema.PREDICTION_TIME)
        frame = cases.select(pl.col(_S), time, *values)
        frame = frame.unique([_S, schema.PREDICTION_TIME], keep="first", maintain_order=True)
        return Labels(frame.sort(_S, schema.PREDICTION_TIME), attrition)

    def _windows(self, starts: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
        """`start`, `end` and the next window's of each window; what opens within an open window opens none."""
        if not _patterns(self.end):
            return starts.select(
                _S, pl.col(_T).alias("start"), *(pl.lit(None, pl.Int64).alias(n) for n in ("end", "next", "next_end"))
            )
        joined = starts.join_asof(
            ends.select(_S, pl.col(_T), pl.col(_T).alias("end")),
            on=_T,
            by=_S,
            strategy="forward",
            check_sortedness=False,
        )
        joined = joined.filter(pl.col("end").is_not_null()).rename({_T: "start"})
        # Two starts that one end closes are one window.
        joined = joined.unique([_S, "end"], keep="first", maintain_order=True).sort(_S, "start")
        return joined.with_columns(
            pl.col("start").shift(-1).over(_S).alias("next"), pl.col("end").shift(-1).over(_S).alias("next_end")
        )

    def _predictions(self, windows: pl.DataFrame) -> pl.DataFrame:
        """A row a prediction, `at`."""
        delay = round(self.delay_hours * HOUR)
        cases = windows.with_columns((pl.col(self.predict) + delay).alias("at"))
        if self.predict == "start":
            cases = cases.filter(pl.col("end").is_null() | (pl.col("at") < pl.col("end")))
        if self.every_hours is not None:
            step = round(self.every_hours * HOUR)
            cases = cases.with_columns(pl.int_ranges(pl.col("at"), pl.col("end"), step).alias("at")).explode(
                "at", empty_as_null=True
            )
        return cases.filter(pl.col("at").is_not_null()).sort(_S, "at")

    def _outcomes(
        self, cases: pl.DataFrame, events: dict[str, pl.DataFrame], last: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[tuple[str, int]]]:
        """Adds `label`."""
        if self.longer_than_hours is not None:
            limit = round(self.longer_than_hours * HOUR)
            return cases.with_columns((pl.col("end") - pl.col("start") > limit).alias("label")), []
        counted = []
        if self.within == "next_window":
            cases = cases.filter(pl.col("next").is_not_null())
            counted.append(("with a next window", cases.height))
            cases = _after(cases, events["outcome"], "found", "next", inclusive=True)
            cases = cases.with_columns(pl.col("next_end").alias("until"))
        elif self.within == "window":
            cases = _after(cases, events["outcome"], "found", "at").with_columns(pl.col("end").alias("until"))
        else:
            horizon = round((self.horizon_hours or 0) * HOUR)
            cases = _after(cases, events["outcome"], "found", "at").with_columns(
                (pl.col("at") + horizon).alias("until")
            )
        cases = cases.with_columns((pl.col("found") <= pl.col("until")).fill_null(False).alias("label"))
        if self.follow_up == "require":
            cases = _after(cases.join(last, on=_S, how="left"), events["death"], "died", "at", inclusive=True)
            known = pl.col("label") | (pl.col("last") >= pl.col("until")) | (pl.col("died") <= pl.col("until"))
            cases = cases.filter(known.fill_null(False))
            counted.append(("followed up to the horizon", cases.height))
        return cases, counted

    def _find(self, dataset: Path) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
        """The events of each role, (subject_id, time) sorted, and the last time of each subject."""
        patterns = {role: _patterns(getattr(self, role, ())) for role in _ROLES}
        patterns["death"] = ("MEDS_DEATH",)
        found: dict[str, list[pl.DataFrame]] = {role: [] for role in _ROLES}
        last = []
        for path in list_shards(dataset):
            for chunk in Shard(path).chunks():
                count = np.diff(chunk.begin)
                last.append(pl.DataFrame({_S: chunk.subject, "last": chunk.time[chunk.begin[1:] - 1]}))
                for role, wanted in patterns.items():
                    hits = np.array([_matches(code, wanted) for code in chunk.codes], bool)
                    if hits.any():
                        rows = np.flatnonzero(hits[chunk.code] & (chunk.time != NO_TIME))
                        subject = np.repeat(chunk.subject, count)[rows]
                        found[role].append(pl.DataFrame({_S: subject, _T: chunk.time[rows]}))
        empty = pl.DataFrame(schema={_S: pl.Int64, _T: pl.Int64})
        events = {role: pl.concat([empty, *parts]).unique().sort(_S, _T) for role, parts in found.items()}
        return events, pl.concat(last)


def _before(cases: pl.DataFrame, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds the time of the last event up to the prediction, itself included."""
    right = events.with_columns(pl.col(_T).alias(name)).sort(_T)
    joined = cases.sort("at").join_asof(
        right, left_on="at", right_on=_T, by=_S, strategy="backward", coalesce=True, check_sortedness=False
    )
    return joined.drop(_T, strict=False).sort(_S, "at")


def _after(cases: pl.DataFrame, events: pl.DataFrame, name: str, since: str, inclusive: bool = False) -> pl.DataFrame:
    """Adds the time of the first event after `since`."""
    right = events.with_columns(pl.col(_T).alias(name)).sort(_T)
    joined = cases.sort(since).join_asof(
        right,
        left_on=since,
        right_on=_T,
        by=_S,
        strategy="forward",
        allow_exact_matches=inclusive,
        coalesce=True,
        check_sortedness=False,
    )
    return joined.drop(_T, strict=False).sort(_S, "at")


def _patterns(codes: str | Sequence[str]) -> tuple[str, ...]:
    return (codes,) if isinstance(codes, str) else tuple(codes)


def _matches(code: str, patterns: tuple[str, ...]) -> bool:
    return any(
        code.startswith(pattern[:-1]) if pattern.endswith("*") else code == pattern or code.startswith(f"{pattern}//")
        for pattern in patterns
    )
