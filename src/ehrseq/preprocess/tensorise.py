"""From MEDS events to the arrays of a store, with a count of everything that was changed on the way."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.meds import schema
from ehrseq.preprocess.events import CODE, ROW, TIME, VALUE, history_events, subject_table
from ehrseq.preprocess.fit import entry_numbers
from ehrseq.preprocess.fitted import Preprocessor
from ehrseq.store.format import NO_SPLIT, SPLIT_CODES, Arrays

_COUNTS = ("events", "repaired", "out_of_limits", "clipped")


def tensorise(
    dataset: Path, labels: pl.DataFrame, splits: pl.DataFrame | None, preprocessor: Preprocessor
) -> tuple[Arrays, pl.DataFrame]:
    """Apply a fitted preprocessing to a dataset.

    Args:
        dataset: A MEDS dataset.
        labels: In the MEDS label schema, sorted by subject and time; one sample a row.
        splits: `subject_id`, `split`; None for prediction.
        preprocessor: What was fitted on `train`.

    Returns:
        The store's arrays, and a report with a row a code: what was kept, repaired, dropped, clipped. Codes that are
        not in the vocabulary have `in_vocabulary` false.
    """
    subjects = subject_table(labels)
    static = np.zeros((subjects.height, len(preprocessor.static_features)), np.float32)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    reports = []
    for events in history_events(dataset, subjects):
        number = entry_numbers(events, preprocessor.entries)
        reports.append(_apply(events, number, preprocessor, static, parts))
    row = np.concatenate([part[0] for part in parts])
    # Shards may hold the subjects in any order; within a subject the order stays.
    order = np.argsort(row, kind="stable")
    row, time, code, value = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    offset = np.searchsorted(row, np.arange(subjects.height + 1))
    arrays = Arrays(
        subject_id=subjects[schema.SUBJECT_ID].to_numpy(),
        offset=offset,
        time=time,
        code=code.astype(np.int32),
        value=value.astype(np.float32),
        static=static,
        **_samples(labels, subjects, splits, offset, time),
    )
    report = pl.concat(reports).group_by("code", "static", "in_vocabulary").agg(pl.col(_COUNTS).sum())
    return arrays, report.sort("in_vocabulary", "static", "code", descending=[True, False, False])


def _apply(
    events: pl.DataFrame,
    number: NDArray[np.int64],
    preprocessor: Preprocessor,
    static: NDArray[np.float32],
    parts: list[tuple[NDArray[np.int64], ...]],
) -> pl.DataFrame:
    """Normalise one shard: statics into `static`, timed events onto `parts`; returns the counts."""
    known = number >= 0
    raw = events[VALUE].fill_null(float("nan")).to_numpy()
    outcome = preprocessor.apply(number[known], raw[known])
    keep = np.zeros(len(number), bool)
    keep[known] = outcome.keep
    value = np.full(len(number), np.nan, np.float32)
    value[known] = outcome.value
    row = events[ROW].to_numpy()
    time = events[TIME].fill_null(0).to_numpy()
    is_static = events[TIME].is_null().to_numpy()
    timed = keep & ~is_static
    parts.append((row[timed], time[timed], number[timed], value[timed]))
    _fill_static(static, row[keep & is_static], number[keep & is_static], value[keep & is_static], preprocessor)
    flags = {"repaired": outcome.repaired, "out_of_limits": ~outcome.keep, "clipped": outcome.clipped & outcome.keep}
    counts = events.select(CODE, pl.Series("static", is_static), pl.Series("in_vocabulary", known))
    for name, flag in flags.items():
        column = np.zeros(len(number), np.int64)
        column[known] = flag
        counts = counts.with_columns(pl.Series(name, column))
    return (
        counts.with_columns(pl.lit(1, pl.Int64).alias("events"))
        .group_by(CODE, "static", "in_vocabulary")
        .agg(pl.col(_COUNTS).sum())
    )


def _fill_static(
    static: NDArray[np.float32],
    row: NDArray[np.int64],
    number: NDArray[np.int64],
    value: NDArray[np.float32],
    preprocessor: Preprocessor,
) -> None:
    """Presence of each static code and the value of numeric ones; what is absent stays 0, the train centre."""
    column = 0
    for entry in preprocessor.static_entries:
        hit = number == preprocessor.entries.index(entry)
        static[row[hit], column] = 1
        column += 1
        if entry.numeric:
            static[row[hit], column] = np.nan_to_num(value[hit])
            column += 1


def _samples(
    labels: pl.DataFrame,
    subjects: pl.DataFrame,
    splits: pl.DataFrame | None,
    offset: NDArray[np.int64],
    time: NDArray[np.int64],
) -> dict[str, Any]:
    """The sample arrays: which events each history holds, its label and split."""
    row = labels.join(subjects, on=schema.SUBJECT_ID, maintain_order="left")[ROW].to_numpy()
    cut = labels[schema.PREDICTION_TIME].cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
    begin = offset[row]
    # Inclusive: an event at prediction_time is known when the prediction is made.
    end = np.fromiter(
        (b + np.searchsorted(time[b:e], t, side="right") for b, e, t in zip(begin, offset[row + 1], cut, strict=True)),
        np.int64,
        len(row),
    )
    label = np.full(len(row), np.nan, np.float32)
    if schema.BOOLEAN_VALUE in labels.columns:
        label = labels[schema.BOOLEAN_VALUE].cast(pl.Float32).to_numpy()
    split = np.full(len(row), NO_SPLIT, np.int8)
    if splits is not None:
        names = labels.join(splits, on=schema.SUBJECT_ID, how="left", maintain_order="left")["split"]
        split = names.replace_strict(SPLIT_CODES, return_dtype=pl.Int8).to_numpy()
    return {
        "sample_subject": row,
        "sample_time": cut,
        "sample_begin": begin,
        "sample_end": end,
        "sample_label": label,
        "sample_split": split,
    }
