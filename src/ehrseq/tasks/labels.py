"""Reading the labels of a task."""

from pathlib import Path

import polars as pl

from ehrseq.errors import DataError, suggest
from ehrseq.meds import schema


def read_labels(dataset: Path, task: str) -> pl.DataFrame:
    """The labels of a task, one row a history.

    Args:
        dataset: A MEDS dataset with `labels/<task>/*.parquet`.
        task: The task's name.

    Returns:
        `subject_id`, `prediction_time` and, where there are outcomes, `boolean_value`, sorted.

    Raises:
        DataError: If the task has no labels, or a history is labelled twice.
    """
    folder = dataset / schema.LABELS
    known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if task not in known:
        raise DataError(f"task.name={task}: this source has no such labels; {suggest(task, known)}")
    labels = pl.concat([pl.read_parquet(path) for path in sorted((folder / task).glob("*.parquet"))])
    keys = [schema.SUBJECT_ID, schema.PREDICTION_TIME]
    labels = labels.select([*keys, *(name for name in [schema.BOOLEAN_VALUE] if name in labels.columns)]).sort(keys)
    doubled = labels.filter(labels.select(keys).is_duplicated())
    if doubled.height:
        row = doubled.row(0)
        raise DataError(f"{folder / task}: subject {row[0]} is labelled twice at {row[1]}; keep one label")
    if not labels.height:
        raise DataError(f"{folder / task} holds no labels")
    return labels


def require_outcomes(labels: pl.DataFrame, task: str) -> None:
    """Refuse labels without outcomes, which are good for prediction only.

    Raises:
        DataError: If there is no value to learn from.
    """
    if schema.BOOLEAN_VALUE not in labels.columns:
        raise DataError(f"task.name={task}: the source gives no outcomes to learn from")
