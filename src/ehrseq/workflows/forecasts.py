"""What forecasts and the surprise that they leave are worth, and the tables of both."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.metrics import Estimate
from ehrseq.preprocess import Preprocessor
from ehrseq.store import Store
from ehrseq.workflows.scorers import ForecastScorer

if TYPE_CHECKING:
    from ehrseq.data import Forecasts
    from ehrseq.training.forecasting import Anomalies, ForecastBatch

FORECASTS, ANOMALY = "forecasts.parquet", "anomaly.parquet"


def evaluate_forecasts(
    settings: Settings,
    store: Store,
    scorer: ForecastScorer,
    preprocessor: Preprocessor,
    samples: NDArray[np.int64],
    folder: Path,
    **options: Any,
) -> tuple[dict[str, Estimate], NDArray[np.float64]]:
    """Figures of all forecasts of some histories.

    Writes `forecasts.parquet`, a row a value that was measured, with the forecast and its central 90% interval in the
    unit of the code, `prediction_time` being the end of the step that foretells; and `anomaly.parquet`, a row a step.

    Args:
        settings: How to score.
        store: The data.
        scorer: Of the run.
        preprocessor: What was fitted for it.
        samples: (M,) sample numbers.
        folder: Where the tables go.
        **options: See `ehrseq.metrics.forecasts.evaluate_forecasts`.

    Returns:
        The figures, and the anomaly of each history, (M, 1).
    """
    from ehrseq.metrics.forecasts import evaluate_forecasts as evaluate

    forecasts = scorer.forecasts(store)
    with _Tables(forecasts, preprocessor, folder / FORECASTS) as tables:
        anomalies = scorer.anomalies(store, samples, settings, tables.add)
    anomaly_frame(store, anomalies).write_parquet(folder / ANOMALY)
    hours = [forecasts.bin_hours * (number + 1) for number in range(forecasts.horizon)]
    estimates = evaluate(np.concatenate(tables.sums), np.concatenate(tables.subject), hours, forecasts.names, **options)
    return estimates, anomalies.of_histories(forecasts, samples)[:, None]


def anomaly_frame(store: Store, anomalies: "Anomalies") -> pl.DataFrame:
    """How surprising each step is: `subject_id`, `prediction_time` (the end of the step), `anomaly`."""
    return pl.DataFrame(
        {
            "subject_id": store.subjects_of(anomalies.sample),
            "prediction_time": pl.Series(anomalies.time).cast(pl.Datetime("us")),
            "anomaly": pl.Series(anomalies.surprise, nan_to_null=True),
        }
    ).sort("subject_id", "prediction_time")


class _Tables:
    """Takes forecasts a batch at a time: writes them down, and keeps a row of sums a history.

    Attributes:
        sums: (B, 6 H + 2 F) of each batch, see `ehrseq.metrics.forecasts.sum_forecasts`.
        subject: (B,) whose they are.
    """

    def __init__(self, forecasts: "Forecasts", preprocessor: Preprocessor, path: Path) -> None:
        self.forecasts = forecasts
        self.preprocessor = preprocessor
        self.path = path
        self.names = pl.Series(forecasts.names, dtype=pl.String)
        position = {name: number for number, name in enumerate(preprocessor.codes)}
        self.entry = np.array([position[name] for name in forecasts.names])
        self.sums: list[NDArray[np.float64]] = []
        self.subject: list[NDArray[np.int64]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, batch: "ForecastBatch") -> None:
        """Take a batch."""
        from ehrseq.metrics.forecasts import CENTRAL_DEVIATIONS, sum_forecasts

        forecasts, store = self.forecasts, self.forecasts.store
        told, steps = batch.foretold()
        half = CENTRAL_DEVIATIONS * told.deviation
        parts = {"value": told.value, "prediction": told.mean, "low": told.mean - half, "high": told.mean + half}
        entry = self.entry[told.feature]
        own = {name: self.preprocessor.restore(entry, part) for name, part in parts.items()}
        rows = len(batch.batch)
        error = np.abs(own["prediction"] - own["value"])
        self.sums.append(sum_forecasts(told, error, rows, forecasts.horizon, len(forecasts.names)))
        first, _ = forecasts.locate(batch.batch.samples[:, 0].cpu().numpy())
        self.subject.append(store.subjects_of(first))
        sample, time = forecasts.locate(steps)
        frame = pl.DataFrame(
            {
                "subject_id": store.subjects_of(sample),
                "prediction_time": pl.Series(time).cast(pl.Datetime("us")),
                "hours_ahead": (told.horizon + 1) * forecasts.bin_hours,
                "code": self.names.gather(told.feature),
                **own,
            }
        )
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema)
        self._writer.write_table(table)
