"""Scoring new subjects with a trained run, using only what was fitted in its training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError
from ehrseq.files import atomic_file
from ehrseq.meds.read import count_rows, list_shards
from ehrseq.preprocess import Preprocessor, build_store
from ehrseq.store import Store, open_store
from ehrseq.workflows.build import build_label_maker, build_source
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.engine import choose_engine
from ehrseq.workflows.evaluate import prediction_frame
from ehrseq.workflows.forecasts import anomaly_frame
from ehrseq.workflows.runs import TrainedRun
from ehrseq.workflows.scorers import ForecastScorer

_WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".csv": lambda frame, path: frame.write_csv(path),
}


@dataclass(frozen=True)
class Predicted:
    """What `predict` gives: the file, and how many histories were scored."""

    path: Path
    histories: int


def run(settings: Settings, trained: TrainedRun, output: Path) -> Predicted:
    """Write the predictions of each history of a source.

    Args:
        settings: `source`, `loader`, `trainer.accelerator` and `recalibration` are used; everything else comes from
            the run.
        trained: The run.
        output: `.parquet` or `.csv` file with `subject_id`, `prediction_time` and the predictions; of forecasts, the
            anomaly of each step goes into a file beside it, `<name>_steps`.

    Raises:
        ConfigError: If the output has another suffix.
        DataError: If the source breaks its contract; nothing is written then.
    """
    writer = _WRITERS.get(output.suffix)
    if writer is None:
        raise ConfigError(f"output={output}: the name must end in {' or '.join(_WRITERS)}")
    source = build_source(settings.source).without_labels()
    preprocessor = trained.preprocessor()
    # Where the prediction times come from may differ from the training's: label files belong to their data.
    task = settings.task if settings.task.labels is not None else trained.settings.task
    maker = build_label_maker(task)
    with TemporaryDirectory(prefix="ehrseq-predict-") as name:
        folder = Path(name)
        with timed("predict: source read"):
            dataset = source.dataset or folder / "dataset"
            if source.dataset is None:
                dataset.mkdir()
                source.write(dataset)
            labels = maker.labels(dataset, trained.settings.task.name).frame.select("subject_id", "prediction_time")
        store = _tensorise(dataset, labels, settings, preprocessor, folder)
        samples = np.arange(len(store.arrays.sample_time))
        scorer = trained.scorer()
        if isinstance(scorer, ForecastScorer):
            anomalies = scorer.anomalies(store, samples, settings)
            prediction = anomalies.of_histories(scorer.forecasts(store), samples)[:, None]
            with atomic_file(output.with_stem(f"{output.stem}_steps")) as staging:
                writer(anomaly_frame(store, anomalies), staging)
        else:
            prediction = trained.recalibrate(scorer.score(store, samples, settings), settings.recalibration)
        with atomic_file(output) as staging:
            writer(prediction_frame(store, trained.target(), samples, prediction), staging)
    return Predicted(output, len(samples))


def score_dataset(
    dataset: Path, labels: pl.DataFrame, settings: Settings, trained: TrainedRun, folder: Path
) -> pl.DataFrame:
    """The predictions of each history of a MEDS dataset, as people get them.

    Args:
        dataset: The dataset.
        labels: `subject_id` and `prediction_time`, sorted.
        settings: See `run`.
        trained: The run.
        folder: Where the tensors go; an existing one.
    """
    store = _tensorise(dataset, labels, settings, trained.preprocessor(), folder)
    samples = np.arange(len(store.arrays.sample_time))
    prediction = trained.recalibrate(trained.scorer().score(store, samples, settings), settings.recalibration)
    return prediction_frame(store, trained.target(), samples, prediction)


def _tensorise(
    dataset: Path, labels: pl.DataFrame, settings: Settings, preprocessor: Preprocessor, folder: Path
) -> Store:
    """A store of new subjects below `folder`, under a run's preprocessing."""
    (folder / "store").mkdir()
    with choose_engine(settings.engine, sum(count_rows(list_shards(dataset)))) as engine:
        report, _ = build_store(dataset, labels, None, preprocessor, folder / "store", folder / "work", engine)
    left_out = report.filter(pl.col("entry").is_null())
    if left_out.height:
        say(f"predict: {left_out['events'].sum():,} events of {left_out.height} codes unknown to the run left out")
    return open_store(folder / "store")
