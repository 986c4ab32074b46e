"""Labels and who makes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl
import pyarrow.parquet as pq

from ehrseq.errors import DataError, suggest
from ehrseq.meds import schema

_KEYS = [schema.SUBJECT_ID, schema.PREDICTION_TIME]


@dataclass(frozen=True)
class Labels:
    """The labels of a task, one row a history.

    Attributes:
        frame: `subject_id`, `prediction_time` and, where there are outcomes, `boolean_value`, sorted.
        attrition: How many were left after each step of the making, in order.
    """

    frame: pl.DataFrame
    attrition: list[tuple[str, int]] = field(default_factory=list)


@runtime_checkable
class LabelMaker(Protocol):
    """Makes the labels of a task from a MEDS dataset."""

    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON facts that determine the labels, beside the dataset."""
        ...

    def labels(self, dataset: Path, name: str) -> Labels:
        """Make the labels.

        Args:
            dataset: A MEDS dataset.
            name: The task's name.

        Raises:
            DataError: If there are none, or they break their contract.
        """
        ...


class SourceLabels:
    """The labels that the source wrote beside its data, `labels/<task>/*.parquet`."""

    def fingerprint(self) -> dict[str, Any]:
        """Nothing beyond the dataset."""
        return {}

    def labels(self, dataset: Path, name: str) -> Labels:
        """The source's labels; see `LabelMaker.labels`."""
        folder = dataset / schema.LABELS
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if name not in known:
            hint = suggest(name, known) if known else "it gives none: describe them, see docs/tasks.md"
            raise DataError(f"task.name={name}: this source has no such labels; {hint}")
        return Labels(read_label_files(sorted((folder / name).rglob("*.parquet")), folder / name))


def read_label_files(paths: Sequence[Path], where: Path) -> pl.DataFrame:
    """Read MEDS label files.

    Args:
        paths: Parquet files.
        where: What they are, for messages.

    Returns:
        `subject_id`, `prediction_time` and, where there are outcomes, `boolean_value`, sorted.

    Raises:
        DataError: If a file is not in the MEDS label schema, or a history is labelled twice.
    """
    if not paths:
        raise DataError(f"{where} holds no parquet files of labels")
    labels = pl.concat([_read(path) for path in paths], how="diagonal").sort(_KEYS)
    if not labels.height:
        raise DataError(f"{where} holds no labels")
    doubled = labels.filter(labels.select(_KEYS).is_duplicated())
    if doubled.height:
        row = doubled.row(0)
        raise DataError(f"{where}: subject {row[0]} is labelled twice at {row[1]}; keep one label")
    if schema.BOOLEAN_VALUE in labels.columns and labels[schema.BOOLEAN_VALUE].null_count():
        row = labels.filter(pl.col(schema.BOOLEAN_VALUE).is_null()).row(0)
        raise DataError(f"{where}: the label of subject {row[0]} at {row[1]} has no boolean_value; remove the row")
    return labels


def _read(path: Path) -> pl.DataFrame:
    try:
        found = pq.read_schema(path)
        frame = pl.read_parquet(path)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); is it complete?") from error
    for name in _KEYS:
        if name not in found.names:
            raise DataError(f"{path}: no column {name}; found {', '.join(found.names)}")
    kinds = dict(zip(frame.columns, frame.dtypes, strict=True))
    if not kinds[schema.SUBJECT_ID].is_integer():
        raise DataError(f"{path}, column subject_id: type {kinds[schema.SUBJECT_ID]}, MEDS has int64; cast it")
    time = kinds[schema.PREDICTION_TIME]
    if not isinstance(time, pl.Datetime) or time.time_zone:
        raise DataError(f"{path}, column prediction_time: type {time}, MEDS has timestamp[us] without a zone; cast it")
    for name in _KEYS:
        if frame[name].null_count():
            row = int(frame[name].is_null().arg_max() or 0)
            raise DataError(f"{path}, row {row} (from 0), column {name}: is null")
    columns = [pl.col(schema.SUBJECT_ID).cast(pl.Int64), pl.col(schema.PREDICTION_TIME).cast(pl.Datetime("us"))]
    if schema.BOOLEAN_VALUE in frame.columns:
        if kinds[schema.BOOLEAN_VALUE] != pl.Boolean:
            raise DataError(f"{path}, column boolean_value: type {kinds[schema.BOOLEAN_VALUE]}, expected bool; cast it")
        columns.append(pl.col(schema.BOOLEAN_VALUE))
    return frame.select(columns)


def require_outcomes(labels: pl.DataFrame, task: str) -> None:
    """Refuse labels without outcomes, which are good for prediction only.

    Raises:
        DataError: If there is no value to learn from.
    """
    if schema.BOOLEAN_VALUE not in labels.columns:
        raise DataError(f"task.name={task}: the source gives no outcomes to learn from")
