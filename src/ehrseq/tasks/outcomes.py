"""From labels to numbers: what each kind of target learns, a row a history."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.targets import (
    BinaryTarget,
    ForecastTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    Part,
    RegressionTarget,
    SeveralTarget,
    SingleTarget,
    SurvivalTarget,
    Target,
)
from ehrseq.errors import DataError, suggest
from ehrseq.meds import schema

TIME_TO_EVENT, EVENT = "time_to_event_hours", "event"
_KEYS = (schema.SUBJECT_ID, schema.PREDICTION_TIME)


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of M histories.

    Attributes:
        target: The kind of target, with what the labels settle: its classes or labels.
        value: (M, L) float32; NaN where unknown. Binary: 0 or 1; multiclass: the class's number; multilabel: 0 or 1,
            a column a label; regression: the number; ordinal: the bucket's number; survival: hours and cause, of which
            0 is censoring; forecast: 0 or 1 where the labels say so, by which anomalies are judged. Several targets:
            the columns of each, part after part.
    """

    target: Target
    value: NDArray[np.float32]


def encode(labels: pl.DataFrame, target: Target, task: str) -> Outcomes:
    """Numbers of the labels.

    Args:
        labels: In the MEDS label schema, perhaps with the columns that `target` asks for.
        target: The kind.
        task: Name of the task, for messages.

    Raises:
        DataError: If the labels do not have what the target needs.
    """
    if isinstance(target, SeveralTarget):
        return _several(labels, target, task)
    for name in () if isinstance(target, ForecastTarget) else _columns(labels, target):
        if labels[name].null_count():
            row = labels.filter(pl.col(name).is_null()).row(0)
            raise DataError(
                f"task.name={task}: the label of subject {row[0]} at {row[1]} has no {name}; remove the row"
            )
    return _single(labels, target, task)


def _several(labels: pl.DataFrame, target: SeveralTarget, task: str) -> Outcomes:
    """Each part from its own columns; NaN in the rows in which it is not known."""
    parts, values = {}, []
    for name, part in target.parts.items():
        parts[name], value = encode_part(labels, part, f"{task}, part {name}")
        values.append(value)
    return Outcomes(target.model_copy(update={"parts": parts}), np.concatenate(values, axis=1))


def encode_part(labels: pl.DataFrame, part: Part, task: str) -> tuple[Part, NDArray[np.float32]]:
    """Numbers of labels of which some are not known.

    Args:
        labels: As for `encode`; null where an outcome is not known.
        part: What they are of.
        task: What to call it in messages.

    Returns:
        The part, with what the labels settle, and its outcomes (M, L), NaN where unknown.

    Raises:
        DataError: If the labels do not have what the target needs, or none is known.
    """
    own = _under_its_names(labels, part, task)
    known = np.ones(labels.height, bool)
    if not isinstance(part.target, MultilabelTarget):  # whose labels are known or not one by one
        for column in _columns(own, part.target):
            known &= own[column].is_not_null().to_numpy()
    if not known.any():
        raise DataError(f"task.name={task}: no label is known")
    found = _single(own.filter(pl.Series(known)), part.target, task)
    value = np.full((labels.height, found.value.shape[1]), np.nan, np.float32)
    value[known] = found.value
    return part.model_copy(update={"target": found.target}), value


def _under_its_names(labels: pl.DataFrame, part: Part, task: str) -> pl.DataFrame:
    """The keys and a part's columns, called as its kind of target has them."""
    if part.column is None:
        return labels
    keys = labels.select(_KEYS)
    if isinstance(part.target, SurvivalTarget | MultilabelTarget):
        prefix = f"{part.column}_"
        own = {name: name.removeprefix(prefix) for name in labels.columns if name.startswith(prefix)}
    else:
        own = {part.column: part.column} if part.column in labels.columns else {}
    if not own:
        found = ", ".join(name for name in labels.columns if name not in _KEYS)
        raise DataError(f"task.name={task}: the labels have no column {part.column}; found {found or 'none'}")
    if part.column in own:
        kind = labels[part.column].dtype
        fits = {"binary": kind == pl.Boolean, "multiclass": kind == pl.String or kind.is_integer()}
        if not fits.get(part.target.kind, kind.is_numeric()):
            raise DataError(
                f"task.name={task}: column {part.column} is {kind}, which a {part.target.kind} target is not"
            )
        is_name = {"binary": schema.BOOLEAN_VALUE, "multiclass": schema.CATEGORICAL_VALUE}
        own[part.column] = is_name.get(part.target.kind, schema.FLOAT_VALUE)
    return keys.with_columns(labels[name].alias(alias) for name, alias in own.items())


def _columns(labels: pl.DataFrame, target: SingleTarget) -> list[str]:
    """The columns of labels that hold the outcome, as far as they are there."""
    wanted: tuple[str, ...]
    match target:
        case BinaryTarget():
            wanted = (schema.BOOLEAN_VALUE,)
        case MulticlassTarget():
            wanted = (schema.CATEGORICAL_VALUE, schema.INTEGER_VALUE)
        case MultilabelTarget():
            return [name for name in target.labels or _booleans(labels) if name in labels.columns]
        case RegressionTarget() | OrdinalTarget():
            wanted = (schema.FLOAT_VALUE, schema.INTEGER_VALUE)
        case SurvivalTarget():
            return [name for name in (TIME_TO_EVENT, EVENT) if name in labels.columns]
    return [name for name in wanted if name in labels.columns][:1]


def _booleans(labels: pl.DataFrame) -> tuple[str, ...]:
    return tuple(name for name, kind in labels.schema.items() if kind == pl.Boolean and name not in _KEYS)


def _single(labels: pl.DataFrame, target: SingleTarget | ForecastTarget, task: str) -> Outcomes:
    match target:
        case BinaryTarget():
            return Outcomes(target, _column(labels, task, target.kind, schema.BOOLEAN_VALUE)[:, None])
        case MulticlassTarget():
            return _classes(labels, target, task)
        case MultilabelTarget():
            known = _booleans(labels)
            wanted = target.labels or known
            if len(wanted) < 2:
                found = ", ".join(known) or "none"
                raise DataError(f"task.name={task}: a multilabel target needs 2 boolean columns or more; found {found}")
            columns = [_column(labels, task, target.kind, name) for name in wanted]
            return Outcomes(target.model_copy(update={"labels": wanted}), np.stack(columns, axis=1))
        case RegressionTarget():
            value = _number(labels, task, target.kind)
            if target.log and value.min(initial=0) <= -1:
                raise DataError(f"task.name={task}: {value.min()} has no log(1 + value); use task.target.log=false")
            return Outcomes(target, value[:, None])
        case OrdinalTarget():
            value = _number(labels, task, target.kind)
            bucket = np.searchsorted(np.array(target.edges), value, side="right").astype(np.float32)
            return Outcomes(target, bucket[:, None])
        case SurvivalTarget():
            return _survival(labels, target, task)
        case ForecastTarget():
            if schema.BOOLEAN_VALUE in labels.columns:
                return Outcomes(target, _column(labels, task, target.kind, schema.BOOLEAN_VALUE)[:, None])
            if target.normal_only:
                raise DataError(
                    f"task.name={task}: task.target.normal_only=true needs labels with a column boolean_value, which "
                    "say who is not normal"
                )
            return Outcomes(target, np.full((labels.height, 1), np.nan, np.float32))


def _column(labels: pl.DataFrame, task: str, kind: str, *names: str) -> NDArray[np.float32]:
    """The first of the columns that is there, as numbers."""
    for name in names:
        if name in labels.columns:
            return labels[name].cast(pl.Float32).to_numpy().astype(np.float32)
    others = [name for name in labels.columns if name not in _KEYS]
    raise DataError(
        f"task.name={task}: a {kind} target needs labels with a column {' or '.join(names)}; there "
        + (f"is {', '.join(others)}: choose another task.target.kind" if others else "are no outcomes to learn from")
    )


def _number(labels: pl.DataFrame, task: str, kind: str) -> NDArray[np.float32]:
    value = _column(labels, task, kind, schema.FLOAT_VALUE, schema.INTEGER_VALUE)
    if not np.isfinite(value).all():
        raise DataError(
            f"task.name={task}: {int((~np.isfinite(value)).sum())} labels are no finite numbers; remove them"
        )
    return value


def _classes(labels: pl.DataFrame, target: MulticlassTarget, task: str) -> Outcomes:
    for name in (schema.CATEGORICAL_VALUE, schema.INTEGER_VALUE):
        if name in labels.columns:
            column = labels[name]
            break
    else:
        _column(labels, task, target.kind, schema.CATEGORICAL_VALUE, schema.INTEGER_VALUE)
        raise AssertionError
    # Numbers in their own order, names in that of the alphabet.
    found = [str(value) for value in column.unique().sort().to_list()]
    classes = target.classes or tuple(found)
    if len(classes) < 2:
        raise DataError(f"task.name={task}: all labels are {found[0]!r}; a multiclass target needs 2 classes or more")
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise DataError(
            f"task.name={task}: label {unknown[0]!r} is none of task.target.classes; "
            + suggest(unknown[0], list(classes))
        )
    number = column.cast(pl.String).replace_strict(list(classes), list(range(len(classes))), return_dtype=pl.Float32)
    return Outcomes(target.model_copy(update={"classes": classes}), number.to_numpy()[:, None].astype(np.float32))


def _survival(labels: pl.DataFrame, target: SurvivalTarget, task: str) -> Outcomes:
    hours = _column(labels, task, target.kind, TIME_TO_EVENT)
    cause = _column(labels, task, target.kind, EVENT)
    wrong = np.flatnonzero(~(np.isfinite(hours) & (hours > 0)))
    if len(wrong):
        row = labels.row(int(wrong[0]), named=True)
        raise DataError(
            f"task.name={task}: {TIME_TO_EVENT} of subject {row[schema.SUBJECT_ID]} is {hours[wrong[0]]}; it counts "
            "from prediction_time and must be more than 0"
        )
    strange = np.flatnonzero(~np.isin(cause, np.arange(len(target.causes) + 1)))
    if len(strange):
        raise DataError(
            f"task.name={task}: {EVENT} is {cause[strange[0]]:g}; allowed are 0 (censored) to {len(target.causes)}, "
            "the number of task.target.causes"
        )
    return Outcomes(target, np.stack([hours, cause], axis=1))
