"""Forecasts and anomalies through the real command: trained, judged, and told of new data."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
KEYS = ["subject_id", "prediction_time"]
SOURCE = "source.n_subjects=400"
QUICK = (
    "explain=none",
    "tracking=none",
    "evaluate.replicates=20",
    "evaluate.figures=false",
    "trainer.max_epochs=4",
    "optim.optimizer.lr=0.02",
)
FORECAST = ("task=forecast", "outputs=steps", "model/pooling=last", "model.encoder.hidden_size=16", *QUICK)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    """A folder with a forecaster two steps of two hours ahead, and one of normal histories."""
    folder = tmp_path_factory.mktemp("forecasts")
    kinds = {
        "two": ("task.target.horizon=2", "representation.bin_hours=2"),
        "normal": ("task.target.normal_only=true",),
    }
    for name, words in kinds.items():
        done = ehrseq("train", SOURCE, *FORECAST, *words, f"paths.runs={name}", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def run_of(work: Path, name: str) -> Path:
    return next((work / name).iterdir())


def test_next_values_are_foretold_better_than_carried_forward(work: Path) -> None:
    run = run_of(work, "two")
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert metrics["held_out/skill"]["ci_low"] > 0
    assert metrics["held_out/coverage_90"]["value"] == pytest.approx(0.9, abs=0.06)
    assert {"held_out/skill_2h", "held_out/skill_4h", "held_out/mae_VITAL//heart_rate//bpm"} <= set(metrics)
    assert not any("DX//" in name for name in metrics)  # diagnoses have no value to foretell
    table = pl.read_parquet(run / "evaluate" / "forecasts.parquet")
    assert table.columns == [*KEYS, "hours_ahead", "code", "value", "prediction", "low", "high"]
    assert table["hours_ahead"].unique().sort().to_list() == [2.0, 4.0]
    heart = table.filter(pl.col("code") == "VITAL//heart_rate//bpm")
    error = (heart["value"] - heart["prediction"]).abs().mean()
    assert metrics["held_out/mae_VITAL//heart_rate//bpm"]["value"] == pytest.approx(error)
    assert 40 < heart["value"].to_numpy().mean() < 140  # beats a minute, not deviations


def test_values_in_the_table_are_those_of_the_record(work: Path) -> None:
    run = run_of(work, "two")
    table = pl.read_parquet(run / "evaluate" / "forecasts.parquet").filter(pl.col("hours_ahead") == 2)
    dataset = next((work / ".ehrseq" / "datasets").iterdir())
    events = pl.read_parquet(dataset / "data" / "**" / "*.parquet").filter(pl.col("numeric_value").is_not_null())
    code = "VITAL//temperature//degC"
    checked = 0
    for subject, time, _, _, value, *_ in table.filter(pl.col("code") == code).head(200).iter_rows():
        inside = (pl.col("time") > time) & (pl.col("time") <= time + np.timedelta64(2, "h").item())
        mine = events.filter((pl.col("subject_id") == subject) & (pl.col("code") == code) & inside)["numeric_value"]
        if len(mine) == 1 and mine[0] < 45:  # what was written in Fahrenheit is mended
            assert value == pytest.approx(mine[0], abs=1e-3)
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", ["two", "normal"])
def test_anomalies_are_judged_by_the_label(name: str, work: Path) -> None:
    evaluated = run_of(work, name) / "evaluate"
    metrics = json.loads((evaluated / "metrics.json").read_text())
    for metric in ("anomaly_auroc", "anomaly_auprc"):
        found = metrics[f"held_out/{metric}"]
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
    assert metrics["held_out/anomaly_auroc"]["value"] > 0.55
    histories = pl.read_parquet(evaluated / "predictions.parquet")
    assert histories.columns == [*KEYS, "label", "anomaly"]
    steps = pl.read_parquet(evaluated / "anomaly.parquet")
    assert steps.columns == [*KEYS, "anomaly"]
    means = steps.group_by("subject_id").agg(pl.col("anomaly").mean().alias("mean"))
    both = histories.join(means, on="subject_id")
    np.testing.assert_allclose(both["anomaly"].to_numpy(), both["mean"].to_numpy())
    ends = histories.join(steps, on=KEYS)
    assert ends.height == histories.height  # the last step ends with the history


def test_splits_are_those_of_the_binary_task(work: Path, ehrseq: Command) -> None:
    done = ehrseq("prepare", SOURCE, cwd=work)
    assert done.returncode == 0, done.stderr
    splits = [pl.read_parquet(path) for path in (work / ".ehrseq" / "stores").glob("*/subject_splits.parquet")]
    assert len(splits) >= 3
    assert all(frame.equals(splits[0]) for frame in splits)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_prediction_tells_the_anomaly_of_histories_and_steps(suffix: str, work: Path, ehrseq: Command) -> None:
    run, output = run_of(work, "two"), work / f"told{suffix}"
    done = ehrseq("predict", SOURCE, f"run={run}", f"output={output}", cwd=work)
    assert done.returncode == 0, done.stderr
    read = pl.read_parquet if suffix == ".parquet" else lambda path: pl.read_csv(path, try_parse_dates=True)
    told, steps = read(output), read(work / f"told_steps{suffix}")
    assert told.columns == steps.columns == [*KEYS, "anomaly"]
    assert told.height == 400
    scored = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    both = scored.join(told, on="subject_id", suffix="_again")
    np.testing.assert_allclose(both["anomaly"].to_numpy(), both["anomaly_again"].to_numpy(), rtol=1e-5)
    before = pl.read_parquet(run / "evaluate" / "anomaly.parquet")
    again = before.join(steps.cast(before.schema), on=KEYS, suffix="_again")
    assert again.height == before.height
    np.testing.assert_allclose(again["anomaly"].to_numpy(), again["anomaly_again"].to_numpy(), rtol=1e-4, atol=1e-5)


def test_normal_histories_need_labels_that_say_so(work: Path, ehrseq: Command) -> None:
    times = pl.read_parquet(next((work / ".ehrseq" / "datasets").iterdir()) / "labels" / "**" / "*.parquet").select(
        KEYS
    )
    times.write_parquet(work / "times.parquet")
    labels = "+task.labels={_target_: ehrseq.tasks.LabelFiles, path: times.parquet}"
    done = ehrseq("prepare", SOURCE, *FORECAST, "task.target.normal_only=true", labels, cwd=work)
    assert done.returncode != 0
    assert "task.target.normal_only=true needs labels with a column boolean_value" in done.stderr
    assert "Traceback" not in done.stderr
    done = ehrseq("train", SOURCE, *FORECAST, labels, "paths.runs=plain", cwd=work)
    assert done.returncode == 0, done.stderr
    evaluated = run_of(work, "plain") / "evaluate"
    assert "anomaly_auroc" not in (evaluated / "metrics.json").read_text()
    assert pl.read_parquet(evaluated / "predictions.parquet").columns == [*KEYS, "anomaly"]
