"""Who the subjects are: static codes and ages, straight from the dataset, and the groups that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.errors import ConfigError, suggest
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards
from ehrseq.metrics.groups import Grouping

_BIRTH = "MEDS_BIRTH"
_MOST_CATEGORIES = 12
_SMALLEST_SHARE = 0.05  # of the second largest group of lengths
_YEAR = 365.25 * 24 * 3600 * 1e6
UNKNOWN, OTHER, AGE = "unknown", "other", "age"
CALENDAR, HISTORY, EVENTS = "calendar", "history_hours", "history_events"
OVER_TIME = (CALENDAR, HISTORY, EVENTS)


@dataclass(frozen=True)
class Statics:
    """What is known of subjects whatever the time.

    Attributes:
        categories: By variable: subject and category, one row a subject.
        numbers: By variable: subject and value, one row a subject.
        birth: Subject and time of birth, microseconds since 1970.
    """

    categories: dict[str, pl.DataFrame]
    numbers: dict[str, pl.DataFrame]
    birth: pl.DataFrame


def read_statics(dataset: Path) -> Statics:
    """Static events of all subjects; a code `A//B` is the category B of A, one with a number is a number.

    The first of several values counts, in the order of the file.
    """
    parts = []
    for shard in list_shards(dataset):
        lazy = pl.scan_parquet(shard)
        if schema.NUMERIC_VALUE not in lazy.collect_schema():
            lazy = lazy.with_columns(pl.lit(None, pl.Float32).alias(schema.NUMERIC_VALUE))
        wanted = pl.col(schema.TIME).is_null() | pl.col(schema.CODE).cast(pl.String).str.starts_with(_BIRTH)
        columns = (
            pl.col(schema.SUBJECT_ID).cast(pl.Int64),
            pl.col(schema.TIME).cast(pl.Datetime("us")).cast(pl.Int64),
            pl.col(schema.CODE).cast(pl.String),
            pl.col(schema.NUMERIC_VALUE).cast(pl.Float64),
        )
        parts.append(lazy.filter(wanted).select(columns).collect())
    events = pl.concat(parts)
    births = events.filter(pl.col(schema.TIME).is_not_null()).unique(schema.SUBJECT_ID, keep="first")
    static = events.filter(pl.col(schema.TIME).is_null()).with_columns(
        pl.col(schema.CODE).str.split("//").list.first().alias("variable")
    )
    with_number = pl.col(schema.NUMERIC_VALUE).is_not_nan() & pl.col(schema.NUMERIC_VALUE).is_not_null()
    numbers = {
        str(name): part.unique(schema.SUBJECT_ID, keep="first", maintain_order=True).select(
            schema.SUBJECT_ID, pl.col(schema.NUMERIC_VALUE).alias("value")
        )
        for (name,), part in static.filter(with_number).group_by("variable", maintain_order=True)
    }
    named = static.filter(~with_number & pl.col(schema.CODE).str.contains("//")).with_columns(
        pl.col(schema.CODE).str.replace(r"^.*?//", "").alias("value")
    )
    categories = {
        str(name): part.unique(schema.SUBJECT_ID, keep="first", maintain_order=True).select(schema.SUBJECT_ID, "value")
        for (name,), part in named.group_by("variable", maintain_order=True)
    }
    return Statics(
        dict(sorted(categories.items())),
        dict(sorted(numbers.items())),
        births.select(schema.SUBJECT_ID, pl.col(schema.TIME).alias("value")),
    )


def ages(statics: Statics, subject: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Age in years at each prediction, (N,), nan where unknown; None where nobody's is known."""
    for name, frame in statics.numbers.items():
        if name.lower() == AGE:
            known: NDArray[np.float64] = _of_subjects(frame, subject, pl.Float64).to_numpy()
            return known
    if statics.birth.height:
        born = _of_subjects(statics.birth, subject, pl.Float64).to_numpy()
        passed: NDArray[np.float64] = (time - born) / _YEAR
        return passed
    return None


def group_by_statics(
    statics: Statics,
    subject: NDArray[np.int64],
    time: NDArray[np.int64],
    variables: Sequence[str] | None,
    age_bands: Sequence[float],
) -> list[Grouping]:
    """How static codes and age divide predictions.

    Args:
        statics: Of the dataset.
        subject: (N,).
        time: (N,) prediction times.
        variables: Which; None: age, and all static codes with categories.
        age_bands: The ages at which a band begins.

    Raises:
        ConfigError: If a variable is none of the dataset's.
    """
    age = ages(statics, subject, time)
    known = ([] if age is None else [AGE]) + list(statics.categories)
    by_name = {name.lower(): name for name in known}
    for name in variables or []:
        if name.lower() not in by_name:
            raise ConfigError(f"evaluate.subgroups: no static code {name}// in the data; {suggest(name, known)}")
    groupings = []
    for name in known if variables is None else [by_name[item.lower()] for item in variables]:
        if name == AGE and age is not None:
            groupings.append(_age_groups(age, age_bands))
        else:
            values = _of_subjects(statics.categories[name], subject, pl.String)
            groupings.append(_categories(name, values))
    return [grouping for grouping in groupings if len(grouping.names) > 1]


def group_by_time(
    time: NDArray[np.int64], history_hours: NDArray[np.float64], history_events: NDArray[np.float64]
) -> list[Grouping]:
    """How calendar time and the length of histories divide predictions; what does not vary does not divide.

    Histories that all end after the same time are divided by the number of their events.
    """
    groupings = []
    moment = pl.Series(time).cast(pl.Datetime("us"))
    year, quarter = moment.dt.year().cast(pl.String), moment.dt.quarter().cast(pl.String)
    for label in (year + "-Q" + quarter, year):
        if 1 < label.n_unique() <= _MOST_CATEGORIES:
            groupings.append(_categories(CALENDAR, label, tested=False))
            break
    # The cuts are told as round hours or tens of events: they are of no one in particular.
    for name, length, decimals, unit in ((HISTORY, history_hours, 0, " h"), (EVENTS, history_events, -1, "")):
        if len(length) and (own := _quarters(name, length, decimals, unit)):
            return [*groupings, own]
    return groupings


def _quarters(name: str, length: NDArray[np.float64], decimals: int, unit: str) -> Grouping | None:
    """Groups of about equal size, from short to long; None where the cuts leave a single one or next to nobody."""
    cuts = np.unique(np.round(np.quantile(length, [0.25, 0.5, 0.75]), decimals))
    number = np.searchsorted(cuts, length, side="left")
    names = [f"up to {cut:,.0f}{unit}" for cut in cuts] + [f"over {cuts[-1]:,.0f}{unit}"]
    used, sizes = np.unique(number, return_counts=True)
    if np.sort(sizes)[-2:].sum() - sizes.max() < _SMALLEST_SHARE * len(length):
        return None
    return Grouping(name, tuple(names[item] for item in used), np.searchsorted(used, number), tested=False)


def _age_groups(age: NDArray[np.float64], bands: Sequence[float]) -> Grouping:
    edges = np.asarray(bands, np.float64)
    number = np.where(np.isnan(age), len(edges) + 1, np.searchsorted(edges, np.nan_to_num(age), side="right"))
    ends = [f"under {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges))]
    names = [*ends, f"{edges[-1]:g} and over", UNKNOWN]
    used = np.unique(number)
    return Grouping(AGE, tuple(names[item] for item in used), np.searchsorted(used, number))


def _categories(variable: str, values: pl.Series, tested: bool = True) -> Grouping:
    """Groups of equal values, in the order of their names; the rarest of very many are one."""
    values = values.fill_null(UNKNOWN)
    counts = values.value_counts(sort=True, name="n").sort("n", values.name, descending=[True, False])
    names = counts[values.name].to_list()
    if len(names) > _MOST_CATEGORIES:
        kept = names[: _MOST_CATEGORIES - 1]
        values = pl.select(pl.when(values.is_in(kept)).then(values).otherwise(pl.lit(OTHER))).to_series()
        names = [*kept, OTHER]
    ordered = sorted(set(names), key=lambda name: (name in (OTHER, UNKNOWN), name))
    place = {name: number for number, name in enumerate(ordered)}
    number = values.replace_strict(place, return_dtype=pl.Int64).to_numpy()
    return Grouping(variable, tuple(ordered), number, tested)


def _of_subjects(frame: pl.DataFrame, subject: NDArray[np.int64], kind: type[pl.DataType]) -> pl.Series:
    """The value of each prediction's subject, (N,)."""
    wanted = pl.DataFrame({schema.SUBJECT_ID: subject})
    return wanted.join(frame, on=schema.SUBJECT_ID, how="left", maintain_order="left")["value"].cast(kind)
