"""What an evaluation shows, and what it never shows, by the real command line."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.config.schema import Tracking
from ehrseq.metrics.recalibration import Calibrator
from ehrseq.tracking import RunTracker
from ehrseq.workflows.runs import open_run
from ehrseq.workflows.serving import ServedRun, example_events

Command = Callable[..., "subprocess.CompletedProcess[str]"]
# Subjects are numbered 1000001 to 1000600 and predicted in 2020 or 2021. Whole numbers, not digits within a fraction.
IDENTIFIER = re.compile(r"(?<![\d.])1000[0-6]\d\d(?!\d)")
DATE = re.compile(r"202[01]-\d\d-\d\d")


def run_of(folder: Path) -> Path:
    return next(iter(sorted((folder / "runs").iterdir())))


def everything_logged(folder: Path) -> Iterator[tuple[str, str]]:
    """The text of all that went to MLflow, and of the report."""
    for path in [*(folder / "mlartifacts").rglob("*"), *(run_of(folder) / "report").iterdir()]:
        if path.suffix == ".parquet":
            yield str(path), pl.read_parquet(path).write_csv()
        elif path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
    with sqlite3.connect(folder / "mlflow.db") as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in database.execute(f'select * from "{table}"').fetchall():
                yield table, json.dumps([str(cell) for cell in row])


def test_nothing_of_a_single_person_is_logged(trained: Path) -> None:
    predictions = pl.read_parquet(run_of(trained) / "evaluate" / "predictions.parquet")
    risks = {f"{value:.7f}"[:8] for value in predictions["probability"]}  # six digits: no chance meeting in a table
    stored = Path(next((trained / ".ehrseq" / "datasets").iterdir())) / "data"
    raw = pl.concat([pl.read_parquet(path) for path in sorted(stored.rglob("*.parquet"))])
    rare = raw.filter(pl.col("numeric_value").is_not_null()).filter(pl.len().over("code", "numeric_value") == 1)
    exact = {str(value) for value in rare["numeric_value"].cast(pl.Float64).round(6) if len(str(value)) > 7}
    names = []
    for name, text in everything_logged(trained):
        names.append(Path(name).name)
        assert not IDENTIFIER.search(text), name
        assert not DATE.search(text), name
        if not name.endswith((".safetensors", ".png")):
            assert "prediction_time" not in text, name
            numbers = set(re.findall(r"\d+\.\d+", text))
            assert not {number[:8] for number in numbers if len(number) > 8} & risks - _tuning(text), name
            assert not numbers & exact, name
    assert "report.html" in names
    for kind in ("predictions", "attention.", "timeline"):
        assert not [name for name in names if name.startswith(kind)]


def _tuning(text: str) -> set[str]:
    """Risks that a calibration of `tuning` knows, which may be those of held-out subjects by chance."""
    return {number[:8] for number in re.findall(r"\d+\.\d+", text)} if '"isotonic"' in text else set()


def test_small_cells_are_in_no_table(trained: Path) -> None:
    tables = run_of(trained) / "evaluate" / "tables"
    groups = pl.read_csv(tables / "groups.csv", infer_schema_length=None)
    for name in ("subjects", "positives"):
        assert groups.filter((pl.col(name) > 0) & (pl.col(name) < 11)).is_empty()
    for cell in re.findall(r"\b(\d+) \(\d+\.\d%\)", (tables / "table1.csv").read_text()):
        assert int(cell) == 0 or int(cell) >= 11


def test_identifiers_go_to_mlflow_only_when_asked(ehrseq: Command, trained: Path, tmp_path: Path) -> None:
    words = (f"run={run_of(trained)}", "evaluate.individuals=true", "force=true", "evaluate.replicates=5")
    tracking = (f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}", f"paths.data={trained / '.ehrseq'}")
    import shutil

    copy = tmp_path / "runs" / run_of(trained).name
    shutil.copytree(run_of(trained), copy)
    done = ehrseq("evaluate", f"run={copy}", *words[1:], *tracking, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = next((tmp_path / "mlartifacts").rglob("predictions.parquet"))
    assert {"subject_id", "prediction_time"} <= set(pl.read_parquet(table).columns)


def test_report_is_one_file_that_needs_no_network(ehrseq: Command, trained: Path, tmp_path: Path) -> None:
    done = ehrseq("report", str(run_of(trained)), f"output={tmp_path / 'out'}", "tracking=none", cwd=trained)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert page == (run_of(trained) / "report" / "report.html").read_text()
    # Addresses only as names of XML dialects.
    links = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page)) - set(
        re.findall(r'src="(data:image/png[^"]*)"', page)
    )
    assert not links, links
    assert not re.search(r"@import|url\(\s*['\"]?http", page)
    for figure in ("roc", "precision_recall", "calibration", "usefulness", "groups", "over_time", "cohort"):
        assert f'id="figure-{figure}"' in page
    assert page.count("data-hover=") == 7
    for words in ("AUROC", "Table 1", "TRIPOD+AI", "calibration slope", "in_hospital_mortality"):
        assert words in page
    card, checklist = ((tmp_path / "out" / name).read_text() for name in ("model_card.md", "tripod_ai.md"))
    assert "held_out/auroc" in card
    assert checklist.count("\n| ") == 54
    assert "*to be written by the authors*" in checklist


def test_report_of_nothing_is_one_clear_line(ehrseq: Command, trained: Path, tmp_path: Path) -> None:
    import shutil

    none = ehrseq("report", cwd=tmp_path)
    assert (none.returncode, none.stderr) == (
        2,
        "error: report needs the run: ehrseq report <run folder or MLflow run id>\n",
    )
    copy = tmp_path / "copy"
    shutil.copytree(run_of(trained), copy, ignore=shutil.ignore_patterns("evaluate"))
    done = ehrseq("report", str(copy), "tracking=none", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {copy} holds no evaluation that can be reported; make one: ehrseq evaluate")
    assert "Traceback" not in done.stderr


def test_recalibration_is_kept_with_the_model_and_used_by_predict(
    ehrseq: Command, trained: Path, tmp_path: Path
) -> None:
    folder = run_of(trained)
    fitted = json.loads((folder / "train" / "calibration.json").read_text())["probability"]
    assert set(fitted) == {"platt", "isotonic", "temperature"}
    words = ("predict", f"run={folder}", "source.n_subjects=100", "trainer.accelerator=cpu")
    told = {}
    for method in ("none", "isotonic"):
        done = ehrseq(*words, f"recalibration={method}", f"output={tmp_path / method}.csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        told[method] = pl.read_csv(tmp_path / f"{method}.csv")["probability"].to_numpy()
    mended = Calibrator.from_json(fitted["isotonic"]).apply(told["none"])
    np.testing.assert_allclose(told["isotonic"], mended, atol=1e-12)
    assert np.abs(mended - told["none"]).max() > 0.01


def test_what_cannot_be_mended_or_grouped_is_told(ehrseq: Command, trained: Path, tmp_path: Path) -> None:
    done = ehrseq("config", "task=length_of_stay", "recalibration=platt", cwd=tmp_path)
    assert done.returncode == 2
    assert "recalibration=platt mends risks of yes or no" in done.stderr
    words = (f"run={run_of(trained)}", "evaluate.subgroups=[gender]", "tracking=none")
    done = ehrseq("evaluate", *words, cwd=trained)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: evaluate.subgroups: no static code gender// in the data; known: ADMISSION, SEX, age"
    )


def test_the_model_in_the_registry_predicts_without_pickle(trained: Path, tmp_path: Path) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    run = open_run(run_of(trained))
    events = example_events(run.preprocessor())
    told = ServedRun(run).score(events)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    warnings: list[str] = []
    config = Tracking(enabled=True, uri=uri, experiment="served", registry="mortality")
    tracker = RunTracker(tmp_path / "run", config, "name", warnings.append)
    tracker.start(fresh=True)
    for _ in range(2):  # the second time it is there already
        tracker.register(run.folder / "train", events.to_dict(as_series=False), told.to_dict(as_series=False))
    tracker.finish("FINISHED")
    assert warnings == []
    client = MlflowClient(tracking_uri=uri)
    assert [int(version.version) for version in client.search_model_versions("name='mortality'")] == [1]
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/mortality/1")
    assert model.metadata.signature.inputs.input_names() == ["subject_id", "time", "code", "numeric_value"]
    served = model.predict(events.to_pandas())
    np.testing.assert_allclose(served["probability"], told["probability"], atol=1e-9)
    assert not [path for path in (tmp_path / "mlartifacts").rglob("*") if path.suffix in {".pkl", ".pickle"}]
