"""The sample arrays of a store: which events each history holds, its label and split."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.meds import schema
from ehrseq.store.format import NO_SPLIT, SPLIT_CODES, Arrays
from ehrseq.store.search import search_within


def assemble(
    labels: pl.DataFrame,
    splits: pl.DataFrame | None,
    subject: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    static: NDArray[np.float32],
    events: dict[str, NDArray[Any]],
    outcome: NDArray[np.float32],
    auxiliary: NDArray[np.float32],
) -> Arrays:
    """Put the arrays of a store together.

    Args:
        labels: In the MEDS label schema, sorted by subject and time; one sample a row.
        splits: `subject_id`, `split`; None for prediction.
        subject: (N,) ids in the order of the store.
        begin: (N,) first event of each.
        end: (N,) one past the last.
        static: (N, S).
        events: The event arrays.
        outcome: (M, L), in the order of `labels`.
        auxiliary: (M, A), likewise.
    """
    by_id = np.argsort(subject, kind="stable")
    ids = labels[schema.SUBJECT_ID].to_numpy()
    row = by_id[np.searchsorted(subject[by_id], ids)]
    cut = labels[schema.PREDICTION_TIME].cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
    split = np.full(len(row), NO_SPLIT, np.int8)
    if splits is not None:
        names = labels.join(splits, on=schema.SUBJECT_ID, how="left", maintain_order="left")["split"]
        split = names.replace_strict(SPLIT_CODES, default=NO_SPLIT, return_dtype=pl.Int8).to_numpy()
    time = events["event"]["time"]
    return Arrays(
        subject_id=subject,
        begin=begin,
        end=end,
        static=static,
        sample_subject=row,
        sample_time=cut,
        sample_begin=begin[row],
        # Inclusive: an event at prediction_time is known when the prediction is made.
        sample_end=search_within(time, begin[row], end[row], cut),
        sample_label=outcome,
        sample_auxiliary=auxiliary,
        sample_split=split,
        **events,
    )
