"""The utility of sepsis alarms through the real command: of a net with hourly outputs, and of trees."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.metrics import best_threshold, evaluate_utility, normalised_utility
from ehrseq.sources.physionet2019_codes import COLUMNS
from ehrseq.workflows import prepare
from ehrseq.workflows.evaluate import plain
from ehrseq.workflows.runs import open_run

Command = Callable[..., "subprocess.CompletedProcess[str]"]
SOURCE = ("source=physionet2019", "source.path=stays", "task=sepsis")
SPLIT = ("split.tuning=0.3", "split.held_out=0.3")
QUICK = (
    "tracking=none",
    "trainer.accelerator=cpu",
    "evaluate.figures=false",
    "evaluate.replicates=60",
    "evaluate.level=0.9",
)
MODELS = {
    "net": ("outputs=steps", "model/pooling=last", "explain=none", "trainer.max_epochs=6"),
    "trees": ("model=gbm", "model.booster.learning_rate=0.1", "model.booster.patience=10", "model.booster.threads=1"),
}


def write_stays(folder: Path, count: int) -> None:
    """Stays whose heart rate rises some hours before sepsis; about every third has it."""
    folder.mkdir()
    generator = random.Random(0)
    for number in range(1, count + 1):
        hours = generator.randint(8, 30)
        onset = generator.randint(4, hours) if generator.random() < 0.4 else None
        lines = ["|".join([*COLUMNS, "SepsisLabel"])]
        for hour in range(1, hours + 1):
            rate = generator.gauss(80, 10) + (30 if onset is not None and hour >= onset - 4 else 0)
            values = {"HR": f"{rate:.0f}", "Age": 60, "Gender": 1, "HospAdmTime": -1, "ICULOS": hour}
            cells = [str(values.get(column, "NaN")) for column in COLUMNS]
            lines.append("|".join([*cells, str(int(onset is not None and hour >= onset))]))
        (folder / f"p{number:06d}.psv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sepsis")
    write_stays(folder / "stays", 150)
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_utility_is_that_of_the_threshold_chosen_on_tuning(model: str, ehrseq: Command, work: Path) -> None:
    words = (*SOURCE, *SPLIT, *QUICK, *MODELS[model])
    done = ehrseq("train", *words, f"paths.runs={model}", cwd=work)
    assert done.returncode == 0, done.stderr
    (folder,) = (work / model).iterdir()
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    assert "held_out/utility" in done.stdout + done.stderr
    # By hand: hourly predictions of both splits, as files have them.
    held_out = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
    absolute = (f"source.path={work / 'stays'}", f"paths.data={work / '.ehrseq'}")
    store = prepare.run(load_settings([*words, *absolute])).open()
    tuning = store.samples("tuning")
    run = open_run(folder)
    probability = run.scorer().score(store, tuning, run.settings)[:, 0]
    chosen = best_threshold(store.subjects_of(tuning), store.arrays.sample_label[tuning, 0], probability)
    found = metrics["held_out/utility_threshold"]
    assert found == {"value": pytest.approx(chosen.threshold, rel=1e-6), "ci_low": None, "ci_high": None}
    subject, label = held_out["subject_id"].to_numpy(), held_out["label"].to_numpy()
    alarm = held_out["probability"].to_numpy() >= found["value"]
    utility = metrics["held_out/utility"]
    assert utility["value"] == pytest.approx(normalised_utility(subject, label, alarm), abs=1e-9)
    again = evaluate_utility(subject, label, alarm, replicates=60, seed=0, level=0.9)
    assert utility == pytest.approx(plain(again))
    assert utility["ci_low"] < utility["value"] < utility["ci_high"]
    assert 0.1 < utility["value"] < 1  # the rise is plain to see; silence would be worth 0


@pytest.mark.parametrize("model", MODELS)
def test_predictions_come_in_the_order_asked_for(model: str, ehrseq: Command, work: Path) -> None:
    words = (*SOURCE, *SPLIT, *QUICK, *MODELS[model])
    done = ehrseq("train", *words, f"paths.runs={model}", cwd=work)
    assert done.returncode == 0, done.stderr
    run = open_run(next((work / model).iterdir()))
    absolute = (f"source.path={work / 'stays'}", f"paths.data={work / '.ehrseq'}")
    store = prepare.run(load_settings([*words, *absolute])).open()
    samples, scorer = store.samples("held_out"), run.scorer()
    together = scorer.score(store, samples, run.settings)
    assert together.shape == (len(samples), 1)
    order = np.random.default_rng(0).permutation(len(samples))[: len(samples) // 2]
    # Stays are read up to the last prediction asked for: of other lengths, batches round otherwise.
    np.testing.assert_allclose(scorer.score(store, samples[order], run.settings), together[order], atol=1e-5)


def test_without_a_utility_there_is_none(ehrseq: Command, work: Path) -> None:
    words = (*SOURCE, *SPLIT, *QUICK, *MODELS["trees"], "task.target.utility=none")
    done = ehrseq("train", *words, "paths.runs=none", cwd=work)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(next((work / "none").glob("*/evaluate/metrics.json")).read_text())
    assert not [name for name in metrics if "utility" in name]
