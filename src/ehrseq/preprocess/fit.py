"""Fitting vocabulary and normaliser on the histories of `train` subjects, and on nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Preprocess
from ehrseq.errors import DataError
from ehrseq.meds import schema
from ehrseq.preprocess.events import CODE, ROW, TIME, VALUE, history_events, subject_table
from ehrseq.preprocess.fitted import CodeEntry, Preprocessor, Repair, clean

# Quartile distance of a normal distribution with standard deviation one.
_NORMAL_IQR = 1.3489795003921634
_SKEWNESS = 1.5


def fit(dataset: Path, labels: pl.DataFrame, splits: pl.DataFrame, config: Preprocess) -> Preprocessor:
    """Fit the preprocessing.

    Args:
        dataset: A MEDS dataset; limits and repairs come from the extra columns `low`, `high`, `unit`, `repairs` of its
            `metadata/codes.parquet`, where it has them.
        labels: In the MEDS label schema.
        splits: `subject_id`, `split`; only `train` is looked at.
        config: How.

    Raises:
        DataError: If no timed code is frequent enough.
    """
    train = splits.filter(pl.col("split") == schema.TRAIN).select(schema.SUBJECT_ID)
    subjects = subject_table(labels.join(train, on=schema.SUBJECT_ID, how="semi"))
    events = pl.concat(list(history_events(dataset, subjects)))
    counted = (
        events.group_by(pl.col(TIME).is_null().alias("static"), CODE)
        .agg(
            pl.col(ROW).n_unique().alias("subjects"),
            pl.len().alias("events"),
            pl.col(VALUE).is_not_null().any().alias("numeric"),
        )
        .filter(pl.col("subjects") >= config.min_subjects)
        .sort("static", CODE)
    )
    if counted.filter(~pl.col("static")).is_empty():
        raise DataError(
            f"no code with a time is seen in {config.min_subjects} or more of the {subjects.height} train subjects; "
            "lower preprocess.min_subjects or give more data"
        )
    facts = _code_facts(dataset, config)
    entries = [CodeEntry(**{**row, **facts.get(row["code"], {})}) for row in counted.iter_rows(named=True)]
    return Preprocessor(tuple(_fit_normaliser(entries, events, config)), config.clip)


def _code_facts(dataset: Path, config: Preprocess) -> dict[str, dict[str, Any]]:
    """Limits, repairs and units by code, as far as the source knows and the configuration wants them."""
    path = dataset / schema.CODES_FILE
    if not path.is_file():
        return {}
    facts: dict[str, dict[str, Any]] = {}
    for row in pl.read_parquet(path).iter_rows(named=True):
        repairs = tuple(Repair(**repair) for repair in row.get("repairs") or ())
        facts[row["code"]] = {
            "unit": row.get("unit"),
            "low": row.get("low") if config.limits else None,
            "high": row.get("high") if config.limits else None,
            "repairs": repairs if config.repairs else (),
        }
    return facts


def entry_numbers(events: pl.DataFrame, entries: tuple[CodeEntry, ...] | list[CodeEntry]) -> NDArray[np.int64]:
    """The vocabulary position of each event; -1 for codes that are not in it."""
    table = pl.DataFrame(
        {CODE: [entry.code for entry in entries], "static": [entry.static for entry in entries]},
        schema={CODE: pl.String, "static": pl.Boolean},
    ).with_row_index("entry")
    joined = events.select(pl.col(CODE), pl.col(TIME).is_null().alias("static")).join(
        table, on=[CODE, "static"], how="left", maintain_order="left"
    )
    return joined["entry"].cast(pl.Int64).fill_null(-1).to_numpy()


def _fit_normaliser(entries: list[CodeEntry], events: pl.DataFrame, config: Preprocess) -> list[CodeEntry]:
    """Centre and scale of each numeric code, from clean values in a fixed order (so that sums repeat bit for bit)."""
    number = entry_numbers(events, entries)
    value = events[VALUE].to_numpy()
    use = (number >= 0) & ~np.isnan(value)
    number, value = number[use], value[use]
    value, keep, _ = clean(entries, number, value)
    number, value = number[keep], value[keep]
    order = np.lexsort((value, number))
    number, value = number[order], value[order]
    bounds = np.searchsorted(number, np.arange(len(entries) + 1))
    fitted = []
    for index, entry in enumerate(entries):
        part = value[bounds[index] : bounds[index + 1]]
        log = config.log == "auto" and entry.numeric and _is_skewed(part)
        part = np.log1p(part) if log else part
        center, scale = _center_scale(part, config.normaliser) if entry.numeric and len(part) else (0.0, 1.0)
        fitted.append(replace(entry, log=log, center=center, scale=scale))
    return fitted


def _is_skewed(value: NDArray[np.float64]) -> bool:
    """Whether values are never negative and lean to the right so much that their logarithm is the better scale."""
    if not len(value) or value[0] < 0:
        return False
    deviation = value.std()
    return bool(deviation > 0 and np.mean(((value - value.mean()) / deviation) ** 3) > _SKEWNESS)


def _center_scale(value: NDArray[np.float64], normaliser: str) -> tuple[float, float]:
    """Centre and scale of sorted values; a scale is never 0."""
    if normaliser == "none":
        return 0.0, 1.0
    deviation = float(value.std())
    if normaliser == "zscore":
        return float(value.mean()), deviation or 1.0
    low, middle, high = np.quantile(value, [0.25, 0.5, 0.75])
    # More than half of the values may be equal (a coma score of 15): then the quartiles say nothing about the spread.
    return float(middle), float(high - low) / _NORMAL_IQR or deviation or 1.0
