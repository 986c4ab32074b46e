"""Labels and who makes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl
import pyarrow.parquet as pq

from ehrseq.errors import DataError, suggest
from ehrseq.meds import schema
from ehrseq.tasks.outcomes import EVENT, TIME_TO_EVENT

_KEYS = [schema.SUBJECT_ID, schema.PREDICTION_TIME]
# The columns of values: MEDS' own, and those of survival targets.
_VALUES: tuple[tuple[str, Callable[[pl.DataType], bool], str], ...] = (
    (schema.BOOLEAN_VALUE, lambda kind: kind == pl.Boolean, "bool"),
    (schema.INTEGER_VALUE, lambda kind: kind.is_integer(), "int64"),
    (schema.FLOAT_VALUE, lambda kind: kind.is_float(), "float"),
    (schema.CATEGORICAL_VALUE, lambda kind: kind in (pl.String, pl.Categorical), "string"),
    (TIME_TO_EVENT, lambda kind: kind.is_numeric(), "float"),
    (EVENT, lambda kind: kind.is_integer(), "int64"),
)


@dataclass(frozen=True)
class Labels:
    """The labels of a task, one row a history.

    Attributes:
        frame: `subject_id`, `prediction_time` and, where there are outcomes, columns of values, sorted; null where a
            value is not known.
        attrition: How many were left after each step of the making, in order.
    """

    frame: pl.DataFrame
    attrition: list[tuple[str, int]] = field(default_factory=list)


@runtime_checkable
class LabelMaker(Protocol):
    """Makes the labels of a task from a MEDS dataset."""

    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON facts that determine the labels beside the dataset: arguments, digests of files, never paths."""
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
    """The labels that the source wrote beside its data, `labels/<task>/*.parquet`.

    Args:
        of_any_task: Whether, where there are none of the task's name, the source's only labels are taken: for tasks
            that need prediction times and no more.
    """

    def __init__(self, of_any_task: bool = False) -> None:
        self.of_any_task = of_any_task

    def fingerprint(self) -> dict[str, Any]:
        """Nothing beyond the dataset."""
        return {}

    def labels(self, dataset: Path, name: str) -> Labels:
        """The source's labels; see `LabelMaker.labels`."""
        folder = dataset / schema.LABELS
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if self.of_any_task and len(known) == 1:
            name = known[0]
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
        `subject_id`, `prediction_time` and the columns of values that are there, sorted.

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
    for name, fits, kind in _VALUES:
        if name in frame.columns:
            if not fits(kinds[name]):
                raise DataError(f"{path}, column {name}: type {kinds[name]}, expected {kind}; cast it")
            columns.append(pl.col(name))
    taken = {*_KEYS, *(name for name, _, _ in _VALUES)}
    # Several answers or targets have columns of their own names.
    plain = (pl.Boolean, pl.String)
    columns += [
        pl.col(name) for name, kind in kinds.items() if (kind in plain or kind.is_numeric()) and name not in taken
    ]
    return frame.select(columns)
