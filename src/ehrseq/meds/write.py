"""Writing the files of a MEDS dataset with pinned types; tables are checked with the `meds` package."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, LabelSchema

from ehrseq import __version__
from ehrseq.errors import DataError
from ehrseq.files import write_json
from ehrseq.meds import schema


def write_events(frame: pl.DataFrame, path: Path) -> None:
    """Write one shard of events, sorted by subject and time, as the caller made them; `text_value` may be absent.

    Raises:
        DataError: If a column is missing or does not fit.
    """
    arrow = schema.EVENT_SCHEMA
    if schema.TEXT_VALUE in frame.columns:
        arrow = arrow.append(pa.field(schema.TEXT_VALUE, pa.large_string()))
    _write(frame, arrow, DataSchema, path)


def write_labels(frame: pl.DataFrame, path: Path) -> None:
    """Write labels; the values may be absent where there are no outcomes.

    Raises:
        DataError: If a column is missing or does not fit.
    """
    values = (schema.BOOLEAN_VALUE, schema.FLOAT_VALUE)
    fields = [field for field in schema.LABEL_SCHEMA if field.name in frame.columns or field.name not in values]
    _write(frame, pa.schema(fields), LabelSchema, path)


def write_codes(frame: pl.DataFrame, path: Path) -> None:
    """Write `metadata/codes.parquet`: `code`, `description`, and whatever else the source knows of a code."""
    if "parent_codes" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.List(pl.String)).alias("parent_codes"))
    fixed = {"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())}
    table = frame.to_arrow()
    fields = [pa.field(field.name, fixed.get(field.name, field.type), field.name != "code") for field in table.schema]
    _write(frame, pa.schema(fields), CodeMetadataSchema, path)


def write_dataset_json(path: Path, **fields: Any) -> None:
    """Write `metadata/dataset.json`; no time of creation, so that equal data are equal bytes."""
    facts = {"etl_name": "ehrseq", "etl_version": __version__, "meds_version": schema.MEDS_VERSION, **fields}
    DatasetMetadataSchema(**facts)
    write_json(path, facts)


def _write(frame: pl.DataFrame, arrow: pa.Schema, contract: Any, path: Path) -> None:
    missing = [name for name in arrow.names if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(frame.columns)}")
    try:
        table = frame.select(arrow.names).to_arrow().cast(arrow)
        contract.validate(table)
    except (pa.ArrowInvalid, ValueError) as error:
        raise DataError(f"{path} would not be valid MEDS: {error}") from error
    pq.write_table(table, path, compression="zstd")
