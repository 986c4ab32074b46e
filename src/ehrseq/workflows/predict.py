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
from ehrseq.preprocess import tensorise
from ehrseq.store import Store
from ehrseq.tasks.labels import read_labels
from ehrseq.workflows.build import build_source
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.evaluate import prediction_frame
from ehrseq.workflows.runs import TrainedRun

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
    """Write one probability for each history of a source.

    Args:
        settings: `source`, `loader` and `trainer.accelerator` are used; everything else comes from the run.
        trained: The run.
        output: `.parquet` or `.csv` file with `subject_id`, `prediction_time`, `probability`.

    Raises:
        ConfigError: If the output has another suffix.
        DataError: If the source breaks its contract; nothing is written then.
    """
    from ehrseq.data.dataset import HistoryDataset
    from ehrseq.data.grid import Grid
    from ehrseq.training import inference

    writer = _WRITERS.get(output.suffix)
    if writer is None:
        raise ConfigError(f"output={output}: the name must end in {' or '.join(_WRITERS)}")
    source = build_source(settings.source).without_labels()
    preprocessor = trained.preprocessor()
    with TemporaryDirectory(prefix="ehrseq-predict-") as folder:
        dataset = Path(folder)
        with timed("predict: source read"):
            source.write(dataset)
            labels = read_labels(dataset, trained.settings.task.name).select("subject_id", "prediction_time")
            arrays, report = tensorise(dataset, labels, None, preprocessor)
    left_out = report.filter(~pl.col("in_vocabulary"))
    if left_out.height:
        say(f"predict: {left_out['events'].sum():,} events of {left_out.height} codes unknown to the run left out")
    store = Store(trained.folder, arrays, preprocessor.codes, preprocessor.static_features, {})
    dataset_of_all = HistoryDataset(Grid(store, trained.settings.representation), np.arange(len(arrays.sample_time)))
    device = inference.choose_device(settings.trainer.accelerator)
    scores = inference.score(trained.model(), dataset_of_all.ordered(settings.loader), device)
    with atomic_file(output) as staging:
        writer(prediction_frame(store, scores.samples, scores.probability), staging)
    return Predicted(output, len(scores.samples))
