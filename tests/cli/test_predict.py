"""Scoring new stays, without outcomes, with what was fitted in training."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def write_stays(folder: Path, first: int, count: int) -> dict[int, int]:
    """Stays of which those with a high heart rate mostly die."""
    folder.mkdir(parents=True)
    generator = random.Random(first)
    deaths = {}
    for record in range(first, first + count):
        rate = generator.uniform(60, 140)
        deaths[record] = int(generator.random() < (0.8 if rate > 110 else 0.1))
        rows = [
            f"00:00,RecordID,{record}",
            f"00:00,Age,{generator.randint(30, 90)}",
            "00:00,Gender,0",
            "00:00,Weight,-1",
        ]
        for hour in sorted(generator.sample(range(48), generator.randint(0, 20))):
            rows += [f"{hour:02d}:{generator.randint(0, 59):02d},HR,{rate + generator.gauss(0, 5):.0f}"]
        (folder / f"{record}.txt").write_text("\n".join(["Time,Parameter,Value", *rows]) + "\n")
    return deaths


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    folder = tmp_path_factory.mktemp("stays")
    deaths = write_stays(folder / "set-a", 1000, 240)
    lines = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    lines += [f"{record},1,1,1,-1,{death}" for record, death in deaths.items()]
    (folder / "Outcomes-a.txt").write_text("\n".join(lines) + "\n")
    write_stays(folder / "new", 5000, 60)
    (folder / "new" / "9999.txt").write_text("Time,Parameter,Value\n00:00,RecordID,9999\n03:00,Novelty,5\n")
    words = (
        "source=physionet2012",
        "source.path=set-a",
        "trainer.max_epochs=3",
        "explain=none",
        "evaluate.replicates=0",
        "evaluate.figures=false",
    )
    done = ehrseq("train", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def predict(ehrseq: Command, work: Path, path: str, output: str, run: str | None = None) -> pl.DataFrame:
    reference = run or str(next((work / "runs").iterdir()))
    words = ("source=physionet2012", f"source.path={path}", f"output={output}", f"run={reference}")
    done = ehrseq("predict", *words, cwd=work)
    assert done.returncode == 0, done.stderr
    return pl.read_csv(work / output) if output.endswith("csv") else pl.read_parquet(work / output)


def test_every_stay_gets_one_probability(ehrseq: Command, work: Path) -> None:
    scored = predict(ehrseq, work, "new", "all.parquet")
    assert scored.columns == ["subject_id", "prediction_time", "probability"]
    assert scored["subject_id"].to_list() == [*range(5000, 5060), 9999]
    assert scored["probability"].is_between(0, 1).all()
    by_csv = predict(ehrseq, work, "new", "all.csv")
    assert by_csv["probability"].to_list() == pytest.approx(scored["probability"].to_list(), abs=1e-15)


def test_alone_or_together_is_the_same(ehrseq: Command, work: Path) -> None:
    together = dict(predict(ehrseq, work, "new", "all.parquet").select("subject_id", "probability").iter_rows())
    for record in (5000, 5031, 9999):
        alone = work / f"alone{record}"
        alone.mkdir(exist_ok=True)
        shutil.copy(work / "new" / f"{record}.txt", alone)
        scored = predict(ehrseq, work, alone.name, "one.parquet")
        assert scored["probability"].to_list() == pytest.approx([together[record]], abs=1e-6)


def test_predictions_equal_those_of_the_evaluation(ehrseq: Command, work: Path) -> None:
    folder = next((work / "runs").iterdir())
    evaluated = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
    scored = predict(ehrseq, work, "set-a", "train.parquet").rename({"probability": "again"})
    joined = evaluated.join(scored, on=["subject_id", "prediction_time"])
    assert joined.height == evaluated.height == 48
    assert joined["again"].to_list() == pytest.approx(joined["probability"].to_list(), abs=1e-6)


def test_a_run_is_found_by_its_mlflow_id_even_without_its_folder(ehrseq: Command, work: Path) -> None:
    folder = next((work / "runs").iterdir())
    run_id = json.loads((folder / "tracking" / "run.json").read_text())["run_id"]
    expected = predict(ehrseq, work, "new", "all.parquet")
    assert predict(ehrseq, work, "new", "id.parquet", run=run_id).equals(expected)
    hidden = folder.rename(work / "elsewhere")
    try:
        assert predict(ehrseq, work, "new", "fetched.parquet", run=run_id).equals(expected)
    finally:
        hidden.rename(folder)


def test_mistakes_are_named(ehrseq: Command, work: Path) -> None:
    run = f"run={next((work / 'runs').iterdir())}"
    base = ("predict", "source=physionet2012", "source.path=new")
    cases = [
        ((*base,), 2, "error: predict needs the trained run: run=<run folder or MLflow run id>\n"),
        ((*base, run, "output=scores.xlsx"), 2, "error: output=scores.xlsx: the name must end in .parquet or .csv\n"),
        ((*base, run, "model=gru"), 2, "error: model=gru: a finished run has fixed model;"),
        (("predict", "source=physionet2012", "source.path=gone", run), 1, "error: source.path=gone does not exist\n"),
        ((*base, f"run={'0' * 32}"), 1, f"error: run={'0' * 32}: not found"),
    ]
    for words, code, message in cases:
        done = ehrseq(*words, cwd=work)
        assert (done.returncode, done.stderr[: len(message)]) == (code, message)
        assert done.stderr.count("\n") == 1
    assert not (work / "scores.xlsx").exists()
