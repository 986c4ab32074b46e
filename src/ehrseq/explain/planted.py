"""Held against the truth: where data were made by a rule, the events that the rule looked at are known."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.explain.histories import Histories
from ehrseq.meds import schema
from ehrseq.metrics.binary import average_precision
from ehrseq.store import Store

TRUTH = Path("ground_truth") / "events"


class PlantedEvents:
    """The events that made each history's outcome.

    Args:
        folder: `ground_truth/events/` of a dataset.
        store: Of the same dataset.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        events = pl.read_parquet(folder / "*.parquet", columns=[*_HISTORY, schema.TIME, schema.CODE])
        codes = pl.DataFrame({schema.CODE: store.codes, "number": range(len(store.codes))})
        times = pl.col(schema.PREDICTION_TIME, schema.TIME).cast(pl.Datetime("us")).cast(pl.Int64)
        self._events = (
            events.join(codes, on=schema.CODE)
            .select(schema.SUBJECT_ID, times, pl.col("number").cast(pl.Int64), pl.lit(True).alias("planted"))
            .unique()
        )

    def among(self, histories: Histories) -> NDArray[np.bool_]:
        """Which parts hold a planted event, (B, P)."""
        links, arrays = histories.links, self.store.arrays
        samples = histories.batch.samples.cpu().numpy()[links.row]
        found = pl.DataFrame(
            {
                schema.SUBJECT_ID: self.store.subjects_of(samples),
                schema.PREDICTION_TIME: arrays.sample_time[samples],
                schema.TIME: arrays.time[links.event],
                "number": arrays.code[links.event].astype(np.int64),
            }
        ).join(self._events, on=[*_HISTORY, schema.TIME, "number"], how="left", maintain_order="left")
        hit = found["planted"].fill_null(value=False).to_numpy()
        planted = np.zeros(tuple(histories.present.shape), bool)
        planted[links.row[hit], links.part[hit]] = True
        return planted


_HISTORY = (schema.SUBJECT_ID, schema.PREDICTION_TIME)


def recovery(
    planted: NDArray[np.bool_], weight: NDArray[np.floating], present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How well weights find what is planted: the average precision in each history, (B,).

    Args:
        planted: (B, P).
        weight: (B, P), never negative; equal ones count as found together.
        present: (B, P) which parts there are.

    Returns:
        NaN for a history in which nothing is planted.
    """
    rows = zip(planted, weight, present, strict=True)
    return np.array([average_precision(truth[there], found[there]) for truth, found, there in rows])
