"""What the benchmarks on folds share: one training, resumable, and the results of all models that are done."""

import json
import os
import time
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.workflows import experiment, prepare
from ehrseq.workflows.evaluate import prediction_frame
from ehrseq.workflows.runs import open_run, run_folder

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("EHRSEQ_TEST_DATA", ROOT.parent / "shared" / "data"))
FOLDS = 5
# Those of `model=gbm`, and of thresholds drawn by chance, as those are, or some of them, that teach the networks.
TREES = {
    "gbm": ["model=gbm"],
    "gbm_extra": ["model=gbm", "model.booster.extra_trees=true", "model.booster.num_leaves=15"],
}


def train(words: list[str], work: Path) -> tuple[Path, float | None]:
    """What `ehrseq train` does with these words, in this process; returns the run folder and the seconds it took."""
    settings = _settings(words, work)
    folder = run_folder(settings, prepare.run(settings))
    seconds = folder / "seconds.json"
    if not (folder / "evaluate" / "manifest.json").is_file():
        start = time.perf_counter()
        experiment.run(settings)
        seconds.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
    return folder, json.loads(seconds.read_text()) if seconds.is_file() else None


def score(words: list[str], split: str, work: Path) -> pl.DataFrame:
    """What the run that `train` made of these words predicts of another split; kept in its folder."""
    settings = _settings(words, work)
    prepared = prepare.run(settings)
    trained = open_run(run_folder(settings, prepared))
    kept = trained.folder / f"{split}.parquet"
    if not kept.is_file():
        store = prepared.open()
        samples = store.samples(split)
        told = trained.recalibrate(trained.scorer().score(store, samples, settings), settings.recalibration)
        outcome = store.arrays.sample_label[samples]
        prediction_frame(store, trained.target(), samples, told, outcome).write_parquet(kept)
    return pl.read_parquet(kept)


def _settings(words: list[str], work: Path) -> Settings:
    common = ["explain=none", "tracking=none", "evaluate.replicates=0"]
    return load_settings([*words, *common, f"paths.data={work / 'data'}", f"paths.runs={work / 'runs'}"])


def keep(result: Path, work: Path, model: str, figures: dict[str, Any]) -> None:
    """Keep a model's figures beside those of all that are done, now or earlier; several processes may do so."""
    (work / f"{model}.json").write_text(json.dumps(figures), encoding="utf-8")
    together = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    together |= {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in work.glob("*.json")}
    result.write_text(json.dumps(together, indent=2, sort_keys=True) + "\n", encoding="utf-8")
