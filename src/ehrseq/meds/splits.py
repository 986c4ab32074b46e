"""Splits by subject: seeded, stratified, or folds of a cross-validation.

Which split a subject falls into depends on its id, the seed and the ranks within its stratum only, never on the order
of rows or on a library's own hash, which may change between versions.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Split
from ehrseq.errors import DataError
from ehrseq.meds import schema

SPLITS = (schema.TRAIN, schema.TUNING, schema.HELD_OUT)


def hash_subjects(subject: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A well-mixed 64-bit hash of each subject id (SplitMix64, Steele et al. 2014).

    Args:
        subject: Ids (N,).
        seed: Another seed gives an unrelated order.
    """
    with np.errstate(over="ignore"):
        key = np.uint64((seed * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) % 2**64)
        mixed = subject.astype(np.uint64) + key
        for _ in range(2):  # twice, so that neighbouring seeds share nothing either
            mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def assign_splits(labels: pl.DataFrame, config: Split, both_classes: bool = True) -> pl.DataFrame:
    """Divide the labelled subjects into `train`, `tuning` and `held_out`.

    Args:
        labels: In the MEDS label schema; with `boolean_value` where the split is to be stratified, null where unknown.
        config: Shares, seed, folds.
        both_classes: Whether a split that holds one class only is refused.

    Returns:
        `subject_id`, `split` (the MEDS split schema), sorted by subject.

    Raises:
        DataError: If a split would be empty or hold one class only.
    """
    subjects = _strata(labels, config)
    names = _by_stratum(subjects, config, lambda count: _divide(count, config))
    return _finish(labels, subjects, names, both_classes)


def hold_out(labels: pl.DataFrame, held_out: pl.Series, config: Split, both_classes: bool = True) -> pl.DataFrame:
    """Splits with given subjects held out; `train` and `tuning` divide the others as `assign_splits` does.

    Args:
        labels: In the MEDS label schema.
        held_out: Ids of the subjects to hold out.
        config: Shares, seed, inner folds.
        both_classes: Whether a split that holds one class only is refused.

    Returns:
        `subject_id`, `split`, sorted by subject.

    Raises:
        DataError: If a split would be empty or hold one class only.
    """
    subjects = _strata(labels, config)
    outside = subjects[schema.SUBJECT_ID].is_in(held_out.implode()).to_numpy()
    names = np.full(subjects.height, schema.HELD_OUT, dtype=object)

    def divide(count: int) -> NDArray[np.object_]:
        return np.where(_tuned(count, config), schema.TUNING, schema.TRAIN).astype(object)

    names[~outside] = _by_stratum(subjects.filter(~pl.Series(outside)), config, divide)
    return _finish(labels, subjects, names, both_classes)


def _strata(labels: pl.DataFrame, config: Split) -> pl.DataFrame:
    """The labelled subjects, sorted, and in which stratum each is."""
    stratify = config.stratify and schema.BOOLEAN_VALUE in labels.columns
    stratum = pl.col(schema.BOOLEAN_VALUE).any() if stratify else pl.lit(False)
    return labels.group_by(schema.SUBJECT_ID).agg(stratum.alias("stratum")).sort(schema.SUBJECT_ID)


def _by_stratum(
    subjects: pl.DataFrame, config: Split, divide: Callable[[int], NDArray[np.object_]]
) -> NDArray[np.object_]:
    """The splits of subjects, (N,): each stratum is divided in the order of its hashes."""
    strata = subjects["stratum"].to_numpy()
    order = hash_subjects(subjects[schema.SUBJECT_ID].to_numpy(), config.seed)
    split = np.empty(subjects.height, dtype=object)
    for value in (False, True):
        members = np.flatnonzero(strata == value)
        members = members[np.argsort(order[members], kind="stable")]
        split[members] = divide(len(members))
    return split


def _finish(
    labels: pl.DataFrame, subjects: pl.DataFrame, names: NDArray[np.object_], both_classes: bool
) -> pl.DataFrame:
    frame = subjects.select(schema.SUBJECT_ID).with_columns(pl.Series("split", names.tolist(), dtype=pl.String))
    check_splits(labels, frame, both_classes)
    return frame


def read_splits(dataset: Path, labels: pl.DataFrame, both_classes: bool = True) -> pl.DataFrame:
    """The dataset's own splits of the labelled subjects, from `metadata/subject_splits.parquet`.

    Subjects of other splits than `train`, `tuning` and `held_out` take no part.

    Args:
        dataset: A MEDS dataset.
        labels: In the MEDS label schema.
        both_classes: Whether a split that holds one class only is refused.

    Returns:
        `subject_id`, `split`, sorted by subject; splits of other names are null.

    Raises:
        DataError: If there is no such file, a subject is in two splits or in none, or a split would be empty or hold
            one class only.
    """
    path = dataset / schema.SPLITS_FILE
    if not path.is_file():
        raise DataError(f"split.method=source: {path} does not exist; use split.method=hash")
    try:
        table = pl.read_parquet(path)
        table = table.select(pl.col(schema.SUBJECT_ID).cast(pl.Int64), pl.col("split").cast(pl.String)).unique()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} is not the MEDS table of subject_id and split: {error}") from error
    doubled = table.filter(table[schema.SUBJECT_ID].is_duplicated())
    if doubled.height:
        subject = int(doubled[schema.SUBJECT_ID].to_numpy().min())
        names = sorted(doubled.filter(pl.col(schema.SUBJECT_ID) == subject)["split"].to_list())
        raise DataError(f"{path}: subject {subject} is in two splits, {' and '.join(names)}; keep one")
    subjects = labels.select(pl.col(schema.SUBJECT_ID).unique()).sort(schema.SUBJECT_ID)
    joined = subjects.join(table, on=schema.SUBJECT_ID, how="left", maintain_order="left")
    missing = joined.filter(pl.col("split").is_null())
    if missing.height:
        raise DataError(
            f"{path}: {missing.height} of {joined.height} labelled subjects are in no split, the first is "
            f"{missing[schema.SUBJECT_ID][0]}; add them, or use split.method=hash"
        )
    frame = joined.with_columns(pl.when(pl.col("split").is_in(SPLITS)).then("split").alias("split"))
    check_splits(labels, frame, both_classes)
    return frame


def _divide(count: int, config: Split) -> NDArray[np.object_]:
    """The splits of `count` subjects in the order of their hashes."""
    names = np.full(count, schema.TRAIN, dtype=object)
    if config.folds is None:
        held_out = np.arange(count) < round(count * config.held_out)
    else:
        held_out = np.arange(count) * config.folds // max(count, 1) == config.fold
    rest = np.flatnonzero(~held_out)
    names[held_out] = schema.HELD_OUT
    if config.folds is not None:
        # Tuning comes right after the held-out fold, so that it rotates through all subjects too.
        rest = np.roll(rest, -int(np.searchsorted(rest, np.flatnonzero(held_out).max(initial=-1))))
    names[rest[_tuned(len(rest), config)]] = schema.TUNING
    return names


def _tuned(count: int, config: Split) -> NDArray[np.bool_]:
    """Which of `count` subjects that are not held out are for tuning: a share of them, or an inner fold."""
    if config.inner_folds is not None:
        fold: NDArray[np.bool_] = np.arange(count) * config.inner_folds // max(count, 1) == config.inner_fold
        return fold
    # The share of the rest is the same with and without folds.
    return np.arange(count) < round(count * (config.tuning / (1 - config.held_out)))


def check_splits(labels: pl.DataFrame, splits: pl.DataFrame, both_classes: bool) -> None:
    """Refuse splits in which nothing can be learned or scored.

    Raises:
        DataError: If one is empty, or holds one class only where `both_classes` are needed.
    """
    joined = labels.join(splits, on=schema.SUBJECT_ID)
    for name in SPLITS:
        part = joined.filter(pl.col("split") == name)
        if not part.height:
            raise DataError(
                f"split {name} would be empty: {splits.height} subjects are too few for these shares (config key split)"
            )
        known = part.get_column(schema.BOOLEAN_VALUE).drop_nulls() if schema.BOOLEAN_VALUE in part.columns else None
        if both_classes and known is not None and known.n_unique() < 2:
            only = "positive" if known.any() else "negative"
            positives = int(labels[schema.BOOLEAN_VALUE].sum())
            raise DataError(
                f"split {name} has only {only} labels ({part.height} of them; {positives} of all {labels.height} "
                "labels are positive): nothing can be learned or scored; give more subjects, other shares "
                "(config key split), or split.stratify=true"
            )
