"""Trees go the same way as networks: data, run folder, figures, prediction, tracking."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient

from ehrseq.config.load import load_settings, read_settings
from ehrseq.config.schema import Settings
from ehrseq.workflows import prepare
from ehrseq.workflows.runs import open_run, train_key

REPOSITORY = Path(__file__).parent.parent.parent
Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    "model=gbm",
    "source.n_subjects=1500",
    "model.booster.learning_rate=0.1",
    "model.booster.patience=20",
    "model.booster.threads=2",
    "evaluate.replicates=50",
    "evaluate.figures=false",
)


def run_folder(work: Path) -> Path:
    return next(iter(sorted((work / "runs").iterdir())))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    done = ehrseq("train", *WORDS, "audit.shuffled_labels=true", "evaluate.figures=true", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_of_trees_leaves_what_is_documented(work: Path) -> None:
    folder = run_folder(work)
    assert "-gbm-" in folder.name
    for name in (
        "train/trees.txt",
        "train/importance.csv",
        "train/config.yaml",
        "train/preprocessor.json",
        "train/history.csv",
        "train/environment.json",
        "evaluate/roc.png",
        "evaluate/calibration.png",
        "tracking/metrics.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert not (folder / "explain").exists()
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    assert 0.75 < metrics["held_out/auroc"]["value"] < metrics["held_out/planted_rule_auroc"]["value"]
    control = json.loads((folder / "audit" / "audit.json").read_text())["control/shuffled_labels_auroc"]
    # 300 held-out histories, a third of them positive: a standard error of 0.035; four of them.
    assert control["value"] == pytest.approx(0.5, abs=0.14)
    importance = pl.read_csv(folder / "train" / "importance.csv")
    assert importance.columns == ["feature", "column", "gain", "splits"]
    assert importance["gain"].is_sorted(descending=True)
    assert sorted(importance["column"].to_list()) == list(range(importance.height))
    history = pl.read_csv(folder / "train" / "history.csv")
    assert {"epoch", "train/loss", "tuning/loss", "tuning/auroc", "tuning/auprc"} == set(history.columns)


def test_mlflow_holds_the_trees(work: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{work / 'mlflow.db'}")
    run_id = json.loads((run_folder(work) / "tracking" / "run.json").read_text())["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert {"tuning/auroc", "held_out/auroc", "control/shuffled_labels_auroc"} <= set(run.data.metrics)
    assert run.data.params["model.booster.num_leaves"] == "7"
    names = {path.name for path in (work / "mlartifacts").rglob("*")}
    assert {"trees.txt", "importance.csv", "metrics.json"} <= names


def test_the_same_seed_gives_the_same_bytes(work: Path, ehrseq: Command, tmp_path: Path) -> None:
    done = ehrseq("train", *WORDS, "tracking=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("train/trees.txt", "train/importance.csv", "train/history.csv", "evaluate/metrics.json"):
        assert (run_folder(work) / name).read_bytes() == (run_folder(tmp_path) / name).read_bytes(), name
    again = ehrseq("train", *WORDS, "tracking=none", cwd=tmp_path)
    assert "is up to date" in again.stderr
    assert "tree " not in again.stderr


def test_prediction_equals_the_evaluation_and_company_changes_nothing(work: Path, ehrseq: Command) -> None:
    folder = run_folder(work)
    done = ehrseq("predict", f"run={folder}", "source.n_subjects=1500", "output=all.parquet", cwd=work)
    assert done.returncode == 0, done.stderr
    scored = pl.read_parquet(work / "all.parquet").rename({"probability": "again"})
    evaluated = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
    joined = evaluated.join(scored, on=["subject_id", "prediction_time"])
    assert joined.height == evaluated.height == 300
    assert joined["again"].equals(joined["probability"], check_names=False)
    trained = open_run(folder)
    paths = trained.settings.paths.model_copy(update={"data": str(work / ".ehrseq")})
    store = prepare.run(trained.settings.model_copy(update={"paths": paths})).open()
    scorer, samples = trained.scorer(), store.samples("held_out")
    together = scorer.score(store, samples, trained.settings)
    np.testing.assert_array_equal(together[:, 0], evaluated["probability"].to_numpy())
    for place in (0, 150, 299):
        alone = scorer.score(store, samples[place : place + 1], trained.settings)
        assert alone[0] == together[place]


def test_a_run_is_found_by_its_mlflow_id_even_without_its_folder(work: Path, ehrseq: Command) -> None:
    folder = run_folder(work)
    run_id = json.loads((folder / "tracking" / "run.json").read_text())["run_id"]
    hidden = folder.rename(work / "elsewhere")
    try:
        done = ehrseq("predict", f"run={run_id}", "source.n_subjects=1500", "output=fetched.parquet", cwd=work)
    finally:
        hidden.rename(folder)
    assert done.returncode == 0, done.stderr
    by_folder = ehrseq("predict", f"run={folder / 'train'}", "source.n_subjects=1500", "output=by.csv", cwd=work)
    assert by_folder.returncode == 0, by_folder.stderr
    fetched = pl.read_parquet(work / "fetched.parquet")
    assert fetched["probability"].to_list() == pytest.approx(pl.read_csv(work / "by.csv")["probability"].to_list())


def test_explanation_is_refused_in_one_line(work: Path, ehrseq: Command) -> None:
    done = ehrseq("explain", f"run={run_folder(work)}", cwd=work)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"error: {run_folder(work).name} is a run of trees, which are not explained;")
    assert line.endswith("train/importance.csv")
    assert "Traceback" not in done.stderr
    at_once = ehrseq("train", "model=gbm", "explain=quick", cwd=work)
    assert (at_once.returncode, at_once.stderr) == (
        2,
        "error: model=gbm is not a network, which explanations are of; use explain=none\n",
    )


def test_changed_trees_are_refused(work: Path, ehrseq: Command, tmp_path: Path) -> None:
    shutil.copytree(run_folder(work), tmp_path / "copy")
    trees = tmp_path / "copy" / "train" / "trees.txt"
    trees.write_text(trees.read_text().replace("leaf_value=", "leaf_value=9", 1))
    done = ehrseq("predict", f"run={tmp_path / 'copy'}", cwd=tmp_path)
    assert done.returncode == 1
    assert "trees.txt is not what the training wrote" in done.stderr


def test_what_trees_do_not_read_makes_no_other_run(work: Path) -> None:
    settings = read_settings(run_folder(work) / "train" / "config.yaml")
    paths = settings.paths.model_copy(update={"data": str(work / ".ehrseq")})
    prepared = prepare.run(settings.model_copy(update={"paths": paths}))

    def key(*words: str) -> object:
        other: Settings = load_settings([*WORDS, *words])
        return train_key(other, prepared)

    assert key() == train_key(settings, prepared)
    assert key("representation=events", "loader.batch_size=3", "optim=adam") == key()
    for word in (
        "trainer.monitor=tuning/auprc",
        "loss.class_weight=balanced",
        "seed=2",
        "model.summary.max_features=3",
    ):
        assert key(word) != key(), word


def test_the_stages_end_with_an_empty_explanation(ehrseq: Command, tmp_path: Path) -> None:
    settings = ehrseq("config", *WORDS, "source.n_subjects=600", "tracking=none", cwd=tmp_path)
    (tmp_path / "params.yaml").write_text(settings.stdout)
    for stage in ("prepare", "train", "evaluate", "explain"):
        script = REPOSITORY / "pipelines" / f"{stage}.py"
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "train" / "trees.txt").is_file()
    assert [path.name for path in (tmp_path / "results" / "explain").iterdir()] == ["manifest.json"]
