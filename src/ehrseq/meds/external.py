"""Splits that stand for another time or another place: temporal validation, and one site left out."""

from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.config.schema import Split
from ehrseq.errors import DataError, suggest
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards
from ehrseq.meds.splits import check_splits, hold_out

_BIRTH = "MEDS_BIRTH"
_TABLE = ".parquet:"


def split_by_time(dataset: Path, labels: pl.DataFrame, config: Split, both_classes: bool = True) -> pl.DataFrame:
    """The earliest subjects are learned from, later ones are for tuning, the latest are held out.

    A subject counts by its last prediction, so that nothing is learned from that was predicted after the first subject
    of `held_out` (`calendar=prediction`), or by its first event with a time, birth aside (`calendar=first_event`).
    Subjects of one time stay together.

    Args:
        dataset: A MEDS dataset.
        labels: In the MEDS label schema.
        config: Shares and calendar.
        both_classes: Whether a split that holds one class only is refused.

    Returns:
        `subject_id`, `split`, sorted by subject.

    Raises:
        DataError: If the data have no calendar, or a split would be empty or hold one class only.
    """
    if config.calendar == "prediction":
        dated = labels.group_by(schema.SUBJECT_ID).agg(pl.col(schema.PREDICTION_TIME).max().alias("when"))
    else:
        events = pl.scan_parquet(list_shards(dataset)).select(
            pl.col(schema.SUBJECT_ID).cast(pl.Int64), pl.col(schema.TIME), pl.col(schema.CODE).cast(pl.String)
        )
        events = events.filter(pl.col(schema.TIME).is_not_null(), ~pl.col(schema.CODE).str.starts_with(_BIRTH))
        first = events.group_by(schema.SUBJECT_ID).agg(pl.col(schema.TIME).min().alias("when")).collect()
        dated = labels.select(pl.col(schema.SUBJECT_ID).unique()).join(first, on=schema.SUBJECT_ID, how="left")
        missing = dated["when"].null_count()
        if missing:
            raise DataError(
                f"split.calendar=first_event: {missing:,} labelled subjects have no event with a time; use "
                "split.calendar=prediction"
            )
    dated = dated.sort(schema.SUBJECT_ID)
    when = dated["when"].to_numpy()
    ordered = np.sort(when)
    count = len(ordered)
    if not count or ordered[0] == ordered[-1]:
        raise DataError(
            f"split.method=time: all {count:,} subjects have the same time (split.calendar={config.calendar}): these "
            "data have no calendar"
        )
    held_out = ordered[min(round(count * (1 - config.held_out)), count - 1)]
    tuning = ordered[min(round(count * (1 - config.held_out - config.tuning)), count - 1)]
    names = np.where(when >= held_out, schema.HELD_OUT, np.where(when >= tuning, schema.TUNING, schema.TRAIN))
    frame = dated.select(schema.SUBJECT_ID).with_columns(pl.Series("split", names.tolist(), dtype=pl.String))
    check_splits(labels, frame, both_classes)
    return frame


def split_by_site(dataset: Path, labels: pl.DataFrame, config: Split, both_classes: bool = True) -> pl.DataFrame:
    """One site is held out, the others are divided into `train` and `tuning`.

    Args:
        dataset: A MEDS dataset.
        labels: In the MEDS label schema.
        config: `sites`: a static code in front of `//`, or `<table in the dataset>.parquet:<column>`; `site`: which.
        both_classes: Whether a split that holds one class only is refused.

    Returns:
        `subject_id`, `split`, sorted by subject.

    Raises:
        DataError: If subjects have no site or several, there is no such site, or a split would be empty or
            hold one class only.
    """
    assert config.sites is not None
    assert config.site is not None
    sites = _of_table(dataset, config.sites) if _TABLE in config.sites else _of_codes(dataset, config.sites)
    sites = sites.unique()
    own = labels.select(pl.col(schema.SUBJECT_ID).unique()).join(sites, on=schema.SUBJECT_ID, how="left")
    missing, doubled = own["site"].null_count(), own.height - own[schema.SUBJECT_ID].n_unique()
    if missing or doubled:
        which = f"{missing:,} of no site" if missing else f"{doubled:,} of more than one site"
        raise DataError(f"split.sites={config.sites}: of {own.height:,} labelled subjects {which}; each needs one")
    known = sorted(own["site"].unique().to_list())
    if config.site not in known:
        raise DataError(f"split.site={config.site}: no such site; {suggest(config.site, known)}")
    if len(known) == 1:
        raise DataError(f"split.sites={config.sites}: all subjects are of {known[0]}; there is nothing to learn from")
    chosen = own.filter(pl.col("site") == config.site)[schema.SUBJECT_ID]
    return hold_out(labels, chosen, config, both_classes)


def _of_codes(dataset: Path, prefix: str) -> pl.DataFrame:
    """`subject_id`, `site` of the static codes `<prefix>//<site>`."""
    events = pl.scan_parquet(list_shards(dataset)).select(
        pl.col(schema.SUBJECT_ID).cast(pl.Int64), pl.col(schema.TIME), pl.col(schema.CODE).cast(pl.String)
    )
    start = f"{prefix}//"
    static = events.filter(pl.col(schema.TIME).is_null(), pl.col(schema.CODE).str.starts_with(start))
    found = static.select(schema.SUBJECT_ID, pl.col(schema.CODE).str.strip_prefix(start).alias("site")).collect()
    if not found.height:
        raise DataError(
            f"split.sites={prefix}: no static event has a code {start}...; name the part before // of one that has, or "
            "a table as metadata/subjects.parquet:hospital"
        )
    return found


def _of_table(dataset: Path, reference: str) -> pl.DataFrame:
    """`subject_id`, `site` of a column of a table of the dataset."""
    name, _, column = reference.rpartition(":")
    path = dataset / name
    # Beside the dataset's own files a table would not be part of its digest.
    if not path.resolve().is_relative_to(dataset.resolve()) or not path.is_file():
        raise DataError(f"split.sites={reference}: {name} is not a table in the dataset {dataset}")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); is it complete?") from error
    for wanted in (schema.SUBJECT_ID, column):
        if wanted not in table.columns:
            raise DataError(f"{path} has no column {wanted}; {suggest(wanted, table.columns)}")
    return table.select(
        pl.col(schema.SUBJECT_ID).cast(pl.Int64), pl.col(column).cast(pl.String).alias("site")
    ).drop_nulls()
