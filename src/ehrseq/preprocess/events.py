"""Reading the events that any history may hold, shard by shard."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from ehrseq.errors import DataError
from ehrseq.meds import schema

ROW, TIME, CODE, VALUE = "row", "time", "code", "value"


def subject_table(labels: pl.DataFrame) -> pl.DataFrame:
    """The labelled subjects in ascending order: `subject_id`, `row` (their number), `last` prediction_time."""
    return (
        labels.group_by(schema.SUBJECT_ID)
        .agg(pl.col(schema.PREDICTION_TIME).max().alias("last"))
        .sort(schema.SUBJECT_ID)
        .with_row_index(ROW)
        .with_columns(pl.col(ROW).cast(pl.Int64))
    )


def history_events(dataset: Path, subjects: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Statics and the events up to each subject's last prediction_time; what comes later is never read further.

    Args:
        dataset: A MEDS dataset.
        subjects: From `subject_table`, perhaps only some of its rows.

    Yields:
        A frame a shard: `row`, `time` (microseconds since 1970; null = static), `code`, `value` (float64), by row,
        then time, then as they stood.

    Raises:
        DataError: If a shard cannot be read or lacks a column, or a subject is in two shards.
    """
    shards = sorted((dataset / schema.DATA).rglob("*.parquet"))
    if not shards:
        raise DataError(f"{dataset / schema.DATA} holds no parquet files")
    first_seen: dict[int, Path] = {}
    for path in shards:
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        for column in (schema.SUBJECT_ID, schema.TIME, schema.CODE):
            if column not in frame.columns:
                raise DataError(f"{path}: no column {column}")
        if schema.NUMERIC_VALUE not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.Float32).alias(schema.NUMERIC_VALUE))
        events = (
            frame.lazy()
            .join(subjects.lazy().select(schema.SUBJECT_ID, ROW, "last"), on=schema.SUBJECT_ID, maintain_order="left")
            .filter(pl.col(schema.TIME).is_null() | (pl.col(schema.TIME) <= pl.col("last")))
            .select(
                ROW,
                pl.col(schema.TIME).cast(pl.Datetime("us")).cast(pl.Int64).alias(TIME),
                pl.col(schema.CODE).alias(CODE),
                pl.col(schema.NUMERIC_VALUE).cast(pl.Float64).alias(VALUE),
            )
            .sort(ROW, TIME, nulls_last=False, maintain_order=True)
            .collect()
        )
        for row in events[ROW].unique().to_list():
            if row in first_seen:
                subject = subjects.filter(pl.col(ROW) == row)[schema.SUBJECT_ID][0]
                raise DataError(f"subject {subject} is in two files, {first_seen[row]} and {path}; MEDS allows one")
            first_seen[row] = path
        yield events
