"""A trained run as an MLflow model: MEDS events in, predictions out."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl

from ehrseq.errors import DataError
from ehrseq.meds import schema
from ehrseq.preprocess import Preprocessor
from ehrseq.workflows.predict import score_dataset
from ehrseq.workflows.runs import TrainedRun, open_run

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (schema.SUBJECT_ID, schema.TIME, schema.CODE, schema.NUMERIC_VALUE)
_EXAMPLE_EVENTS = 3


class ServedRun:
    """What MLflow calls.

    Args:
        trained: The run.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained

    def predict(self, events: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Predict at the last event of each subject.

        Args:
            events: MEDS events: `subject_id`, `time` (null: static), `code`, `numeric_value`.
            params: Not used.

        Raises:
            DataError: If a column is missing, or a subject has no event with a time.
        """
        del params
        missing = [name for name in _COLUMNS if name not in events.columns]
        if missing:
            raise DataError(f"the events have no column {', '.join(missing)}; they need {', '.join(_COLUMNS)}")
        return self.score(pl.from_pandas(events[list(_COLUMNS)])).to_pandas()

    def score(self, events: pl.DataFrame) -> pl.DataFrame:
        """Predictions at the last event of each subject: `subject_id`, `prediction_time`, and what is predicted."""
        events = events.cast(
            {
                schema.SUBJECT_ID: pl.Int64,
                schema.TIME: pl.Datetime("us"),
                schema.CODE: pl.String,
                schema.NUMERIC_VALUE: pl.Float32,
            }
        ).sort(schema.SUBJECT_ID, schema.TIME, nulls_last=False, maintain_order=True)
        last = events.group_by(schema.SUBJECT_ID, maintain_order=True).agg(pl.col(schema.TIME).max())
        if last[schema.TIME].null_count():
            raise DataError("a subject has static events only: predictions are made at the last event with a time")
        with TemporaryDirectory(prefix="ehrseq-serve-") as name:
            folder = Path(name)
            shard = folder / "dataset" / schema.DATA / "0.parquet"
            shard.parent.mkdir(parents=True)
            events.write_parquet(shard)
            labels = last.rename({schema.TIME: schema.PREDICTION_TIME})
            return score_dataset(folder / "dataset", labels, self.trained.settings, self.trained, folder)


def example_events(preprocessor: Preprocessor) -> pl.DataFrame:
    """Events of nobody: the first codes of the vocabulary with their train centre, an hour apart."""
    entries = [entry for entry in preprocessor.entries if not entry.static][:_EXAMPLE_EVENTS]
    start = pl.Series([f"2000-01-01 {hour:02d}:00:00" for hour in range(len(entries))])
    return pl.DataFrame(
        {
            schema.SUBJECT_ID: pl.Series([1] * len(entries), dtype=pl.Int64),
            schema.TIME: start.str.to_datetime(time_unit="us"),
            schema.CODE: [entry.code for entry in entries],
            schema.NUMERIC_VALUE: pl.Series(
                [round(entry.center, 2) if entry.numeric and not entry.log else None for entry in entries],
                dtype=pl.Float64,
            ),
        }
    )


def _load_pyfunc(path: str) -> ServedRun:
    """What MLflow opens a model with."""
    return ServedRun(open_run(Path(path)))
