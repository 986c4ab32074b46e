"""Every kind of target through the real command: trained, scored, and predicted for new data."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
KEYS = ["subject_id", "prediction_time"]
FAST = (
    "trainer.max_epochs=6",
    "explain=none",
    "tracking=none",
    "evaluate.replicates=20",
    "model.encoder.hidden_size=16",
)
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    """A synthetic dataset, and labels of every kind that follow from the mean heart rate."""
    folder = tmp_path_factory.mktemp("targets")
    done = ehrseq("prepare", "source.n_subjects=600", cwd=folder)
    assert done.returncode == 0, done.stderr
    dataset = next((folder / ".ehrseq" / "datasets").iterdir())
    events = pl.read_parquet(dataset / "data" / "**" / "*.parquet")
    labels = pl.read_parquet(dataset / "labels" / "**" / "*.parquet").select(KEYS)
    rate = (
        events.filter(pl.col("code") == "VITAL//heart_rate//bpm")
        .group_by("subject_id")
        .agg(pl.col("numeric_value").mean())
    )
    frame = labels.join(rate, on="subject_id", how="left", maintain_order="left")
    value = frame["numeric_value"].fill_null(85.0).cast(pl.Float64).to_numpy()
    low, high = np.quantile(value, [1 / 3, 2 / 3])
    third = np.digitize(value, [low, high])
    hours = RANDOM.exponential(2000 / (value - value.min() + 10))
    censored = RANDOM.random(len(value)) < 0.3
    columns: dict[str, dict[str, Any]] = {
        "number": {"float_value": value},
        "class": {"categorical_value": np.array(["low", "middle", "high"])[third]},
        "several": {"is_high": third == 2, "is_low": third == 0},
        "time": {
            "time_to_event_hours": np.where(censored, hours * RANDOM.random(len(value)), hours) + 0.1,
            "event": np.where(censored, 0, 1 + (RANDOM.random(len(value)) < 0.3)),
        },
    }
    for name, values in columns.items():
        labels.with_columns(**{key: pl.Series(column) for key, column in values.items()}).write_parquet(
            folder / f"{name}.parquet"
        )
    (folder / "meds").symlink_to(dataset)
    return folder


CASES: dict[str, tuple[str, list[str], str, list[str]]] = {
    "regression": ("number", [], "r2", ["prediction"]),
    "multiclass": ("class", [], "macro_auroc", [f"probability_{name}" for name in ("high", "low", "middle")]),
    "multilabel": ("several", [], "macro_auroc", ["probability_is_high", "probability_is_low"]),
    "ordinal": ("number", ["+task.target.edges=[75,85,95]"], "kappa", [f"probability_{k}" for k in range(4)]),
    "survival": (
        "time",
        ["+task.target.edges=[24,72]", "+task.target.causes=[death,discharge]"],
        "c_index_death",
        [f"incidence_{cause}_{edge}h" for cause in ("death", "discharge") for edge in (24, 72)],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_target_is_learned_scored_and_predicted(kind: str, ehrseq: Command, work: Path) -> None:
    labels, words, headline, names = CASES[kind]
    task = ["task=labels", f"task.name={kind}", f"task.labels.path={labels}.parquet", f"task.target.kind={kind}"]
    source = ("source=meds", "source.path=meds")
    done = ehrseq("train", *source, *task, *words, *FAST, cwd=work)
    assert done.returncode == 0, done.stderr
    run = next((work / "runs").glob(f"*-{kind}-*"))
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    found = metrics[f"held_out/{headline}"]
    # Chance is 0 for r2 and kappa, 0.5 for the others.
    assert found["value"] > (0.2 if headline in ("r2", "kappa") else 0.6)
    assert found["ci_low"] <= found["value"] <= found["ci_high"]
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    assert [name for name in scored.columns if name in names] == names
    output = work / f"{kind}.parquet"
    done = ehrseq("predict", *source, f"run={run}", f"output={output}", cwd=work)
    assert done.returncode == 0, done.stderr
    predicted = pl.read_parquet(output)
    assert predicted.columns == [*KEYS, *names]
    both = scored.join(predicted, on=KEYS, suffix="_again")
    assert both.height == scored.height
    for name in names:
        np.testing.assert_allclose(both[name], both[f"{name}_again"], atol=1e-5, rtol=1e-5)


TREES = (
    "model=gbm",
    "model.booster.learning_rate=0.1",
    "model.booster.patience=10",
    "model.booster.min_child_samples=10",
    "model.booster.threads=1",
    "tracking=none",
    "evaluate.replicates=20",
)


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_trees_learn_score_and_predict(kind: str, ehrseq: Command, work: Path) -> None:
    labels, _, headline, names = CASES[kind]
    task = ("task=labels", f"task.name=trees_{kind}", f"task.labels.path={labels}.parquet", f"task.target.kind={kind}")
    words = {
        "regression": ("trainer.monitor=tuning/mae", "+task.target.log=true"),
        "multiclass": ("trainer.monitor=tuning/auroc", "loss.class_weight=balanced"),
    }
    source = ("source=meds", "source.path=meds")
    done = ehrseq("train", *source, *task, *TREES, *words[kind], cwd=work)
    assert done.returncode == 0, done.stderr
    run = next((work / "runs").glob(f"*-trees_{kind}-*"))
    found = json.loads((run / "evaluate" / "metrics.json").read_text())[f"held_out/{headline}"]
    assert found["value"] > (0.6 if kind == "regression" else 0.8)
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    done = ehrseq("predict", *source, f"run={run}", f"output=trees_{kind}.parquet", cwd=work)
    assert done.returncode == 0, done.stderr
    predicted = pl.read_parquet(work / f"trees_{kind}.parquet")
    assert predicted.columns == [*KEYS, *names]
    both = scored.join(predicted, on=KEYS, suffix="_again")
    for name in names:
        assert both[name].equals(both[f"{name}_again"], check_names=False)


MISTAKES: list[tuple[list[str], str]] = [
    (["task.target.kind=regression"], "a regression target needs labels with a column float_value or integer_value"),
    (["task.target.kind=survival"], "task.target.edges is missing"),
    (["task.target.kind=ordinal", "+task.target.edges=[3,1]"], "edges [3.0, 1.0] must rise"),
    (["trainer.monitor=tuning/mae"], "trainer.monitor=tuning/mae: a binary target has tuning/loss, tuning/auroc"),
    (["task.target.kind=several"], "task.target"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_targets_that_do_not_fit_end_in_one_line(words: list[str], message: str, ehrseq: Command, work: Path) -> None:
    done = ehrseq("prepare", "source.n_subjects=600", *words, cwd=work)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
