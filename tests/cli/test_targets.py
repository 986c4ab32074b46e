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
    "evaluate.figures=false",
    "model.encoder.hidden_size=16",
    # Few epochs on few histories: the recurrent net alone, and nothing that holds it back.
    "model.summary=null",
    "model.embedding.dropout=0",
    "model.hidden_dropout=0",
    "optim.optimizer.lr=0.01",
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
    hours = 600 / (value - value.min() + 10) * RANDOM.uniform(0.5, 1.5, len(value))
    censored = RANDOM.random(len(value)) < 0.3
    columns: dict[str, dict[str, Any]] = {
        "number": {"float_value": value},
        "class": {"categorical_value": np.array(["low", "middle", "high"])[third]},
        "several": {"is_high": third == 2, "is_low": third == 0},
        "time": {
            "time_to_event_hours": np.where(censored, hours * RANDOM.random(len(value)), hours) + 0.1,
            "event": np.where(censored, 0, 1 + (RANDOM.random(len(value)) < 0.3)),
        },
        "together": {
            "high": third == 2,
            "rate": pl.Series(np.where(RANDOM.random(len(value)) < 0.4, np.nan, value)).fill_nan(None),
            "float_value": value,
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
        [
            "+task.target.edges=[24,72]",
            "+task.target.causes=[death,discharge]",
            "trainer.max_epochs=15",
            "trainer.patience=15",
        ],
        "c_index_death",
        [f"incidence_{cause}_{edge}h" for cause in ("death", "discharge") for edge in (24, 72)],
    ),
}


QUESTIONS = {
    "multiclass": ["high", "low", "middle"],
    "multilabel": ["is_high", "is_low"],
    "ordinal": ["from 75", "from 85", "from 95"],
    "survival": [f"{cause} by {edge} h" for cause in ("death", "discharge") for edge in (24, 72)],
}


def check_questions(run: Path, kind: str) -> None:
    """Each yes-or-no question has its thresholds, calibration and decision curve, and the report shows them."""
    tables = run / "evaluate" / "tables"
    if kind not in QUESTIONS:
        assert not (tables / "thresholds.csv").exists()
        return
    for name in ("thresholds", "calibration", "reliability", "decision_curve"):
        table = pl.read_csv(tables / f"{name}.csv", infer_schema_length=None)
        assert table["outcome"].unique(maintain_order=True).to_list() == QUESTIONS[kind]
    points = pl.read_csv(tables / "thresholds.csv", infer_schema_length=None)
    assert points["sensitivity"].null_count() < points.height
    page = (run / "report" / "report.html").read_text()
    assert all(f"thresholds: {name}".replace("_", " ") in page for name in QUESTIONS[kind])


@pytest.mark.parametrize("kind", CASES)
def test_target_is_learned_scored_and_predicted(kind: str, ehrseq: Command, work: Path) -> None:
    labels, words, headline, names = CASES[kind]
    task = ["task=labels", f"task.name={kind}", f"task.labels.path={labels}.parquet", f"task.target.kind={kind}"]
    source = ("source=meds", "source.path=meds")
    done = ehrseq("train", *source, *task, *FAST, *words, cwd=work)
    assert done.returncode == 0, done.stderr
    run = next((work / "runs").glob(f"*-{kind}-*"))
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    found = metrics[f"held_out/{headline}"]
    # Chance is 0 for r2 and kappa, 0.5 for the others.
    assert found["value"] > (0.2 if headline in ("r2", "kappa") else 0.55)
    assert found["ci_low"] <= found["value"] <= found["ci_high"]
    check_questions(run, kind)
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


TOGETHER = (
    "task=labels",
    "task.labels.path=together.parquet",
    "task.target.kind=several",
    "+task.target.parts={high:{target:{kind:binary},column:high},rate:{target:{kind:regression},column:rate,weight:2},"
    "bucket:{target:{kind:ordinal,edges:[75,85,95]}}}",
)
PREDICTED = ["high_probability", *(f"bucket_probability_{k}" for k in range(4)), "rate_prediction"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alone", ["trainer.monitor=tuning/high_auroc", "loss.focal=1", "evaluate.figures=true"]),
        ("ensemble", ["members=2", "audit.shuffled_labels=true"]),
        ("steps", ["outputs=steps", "model/pooling=max"]),
    ],
)
def test_several_targets_are_learned_together(name: str, words: list[str], ehrseq: Command, work: Path) -> None:
    source = ("source=meds", "source.path=meds")
    done = ehrseq("train", *source, *TOGETHER, f"task.name=together_{name}", *FAST, *words, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "labels are known" not in done.stderr
    run = next((work / "runs").glob(f"*-together_{name}-*"))
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    value = {name: item["value"] for name, item in metrics.items()}
    assert value["held_out/high_auroc"] > 0.7
    assert value["held_out/bucket_kappa"] > 0.2
    assert value["held_out/rate_r2"] > 0.2
    if name == "alone":
        assert (run / "evaluate" / "high_roc.png").is_file()
    if name == "ensemble":
        control = json.loads((run / "audit" / "audit.json").read_text())
        assert abs(control["control/shuffled_labels_high_auroc"]["value"] - 0.5) < 0.25
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    spread = ["spread"] if name == "ensemble" else []
    assert scored.columns == [*KEYS, "high_label", "bucket_label", "rate_label", *PREDICTED, *spread]
    # What is missing in the labels is missing here, and not taken for anything.
    truth = pl.read_parquet(work / "together.parquet")
    both = scored.join(truth, on=KEYS)
    assert 0.2 < both["rate_label"].null_count() / both.height < 0.6
    assert both["rate_label"].equals(both["rate"].cast(pl.Float32), check_names=False, null_equal=True)
    assert both["high_label"].equals(both["high"], check_names=False)
    known = both.drop_nulls("rate_label")
    mae = (known["rate_label"] - known["rate_prediction"]).abs().mean()
    assert value["held_out/rate_mae"] == pytest.approx(mae, rel=1e-6)
    output = work / f"together_{name}.parquet"
    done = ehrseq("predict", *source, f"run={run}", f"output={output}", cwd=work)
    assert done.returncode == 0, done.stderr
    predicted = pl.read_parquet(output)
    assert predicted.columns == [*KEYS, *PREDICTED]
    again = scored.join(predicted, on=KEYS, suffix="_again")
    for column in PREDICTED:
        np.testing.assert_allclose(again[column], again[f"{column}_again"], atol=1e-5, rtol=1e-5)


def test_several_targets_are_explained_by_the_first(ehrseq: Command, work: Path) -> None:
    words = ("source=meds", "source.path=meds", *TOGETHER, "task.name=together_explained", *FAST[:1], *FAST[2:])
    done = ehrseq("train", *words, cwd=work)
    assert done.returncode == 0, done.stderr
    run = next((work / "runs").glob("*-together_explained-*"))
    table = pl.read_parquet(run / "explain" / "attention.parquet").unique(KEYS)
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet").join(table, on=KEYS)
    np.testing.assert_allclose(scored["risk"], scored["high_probability"], atol=1e-5)
    assert (run / "explain" / "timeline_01.png").is_file()


def test_a_task_of_windows_on_real_records(ehrseq: Command, test_data: Path, tmp_path: Path) -> None:
    words = (
        "task=mortality_and_stay",
        "source=meds",
        f"source.path={test_data / 'mimic-iv-demo-meds'}",
        "representation=timepoints",
        "trainer.max_epochs=1",
        "explain=none",
        "tracking=none",
        "evaluate.replicates=0",
    )
    done = ehrseq("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mortality: positive: 14" in done.stderr
    assert "labelled by any part: 244" in done.stderr
    run = next((tmp_path / "runs").iterdir())
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    assert scored.null_count().sum_horizontal()[0] == 0
    assert (scored["stay_label"] > 0).all()


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
    (["task.target.kind=several"], "task.target.parts is missing"),
    (["task=mortality_and_stay", "+task.target.first=sty"], "first=sty is none of the parts mortality, stay"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_targets_that_do_not_fit_end_in_one_line(words: list[str], message: str, ehrseq: Command, work: Path) -> None:
    done = ehrseq("prepare", "source.n_subjects=600", *words, cwd=work)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
