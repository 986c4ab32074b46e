"""The real command line, in real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from sklearn.metrics import roc_auc_score

Command = Callable[..., "subprocess.CompletedProcess[str]"]
EHRSEQ = Path(sys.executable).parent / "ehrseq"


def run_folder(folder: Path) -> Path:
    return next(iter(sorted((folder / "runs").iterdir())))


def mlflow_run_id(folder: Path) -> str:
    run_id: str = json.loads((run_folder(folder) / "tracking" / "run.json").read_text())["run_id"]
    return run_id


def test_help_teaches_and_imports_nothing_heavy(ehrseq: Command, tmp_path: Path) -> None:
    done = ehrseq("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in (
        "prepare",
        "train",
        "evaluate",
        "compare",
        "choose",
        "reproduce",
        "explain",
        "predict",
        "report",
        "config",
        "ui",
        "source=physionet2012",
        "-m",
    ):
        assert word in done.stdout
    script = (
        "import sys; from ehrseq.cli import main; main(['config'], standalone_mode=False); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "hidden_size: 64" in done.stdout
    for heavy in ("torch", "mlflow", "pytorch_lightning", "polars", "matplotlib"):
        assert f"'{heavy}'" not in done.stdout


@pytest.mark.parametrize("command", ["train", "prepare", "config", "evaluate", "predict"])
def test_misspelt_word_is_one_line_and_exit_code_2(ehrseq: Command, tmp_path: Path, command: str) -> None:
    done = ehrseq(command, "trainer.max_epoch=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: unknown key 'trainer.max_epoch'; did you mean 'max_epochs'?\n"
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_one_line_and_write_nothing(ehrseq: Command, tmp_path: Path) -> None:
    done = ehrseq("train", "source=physionet2012", "source.path=nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: source.path=nowhere does not exist\n"
    assert list(tmp_path.iterdir()) == []
    debug = ehrseq("train", "source=physionet2012", "source.path=nowhere", "--debug", cwd=tmp_path)
    assert "Traceback" in debug.stderr


def test_a_run_leaves_what_is_documented(trained: Path) -> None:
    folder = run_folder(trained)
    for name in (
        "train/model.safetensors",
        "train/config.yaml",
        "train/preprocessor.json",
        "train/history.csv",
        "train/environment.json",
        "evaluate/roc.png",
        "evaluate/precision_recall.png",
        "evaluate/calibration.png",
        "evaluate/usefulness.png",
        "evaluate/groups.png",
        "evaluate/over_time.svg",
        "evaluate/cohort.svg",
        "evaluate/tables/thresholds.csv",
        "evaluate/tables/table1.csv",
        "report/report.html",
        "report/model_card.md",
        "report/tripod_ai.md",
        "explain/attention.parquet",
        "explain/cohort_attention.png",
        "explain/timeline_01.png",
        "explain/timeline_01.html",
        "explain/verdict.json",
        "explain/verdict.png",
        "explain/importance.parquet",
        "explain/importance.png",
        "explain/dependence.parquet",
        "explain/dependence.png",
        "explain/subgroups.parquet",
        "explain/attributions.parquet",
        "tracking/metrics.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    predictions = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
    assert predictions.columns == ["subject_id", "prediction_time", "label", "probability"]
    assert predictions.height == 120
    auroc = metrics["held_out/auroc"]
    assert auroc["value"] == pytest.approx(roc_auc_score(predictions["label"], predictions["probability"]), abs=1e-12)
    assert auroc["ci_low"] < auroc["value"] < auroc["ci_high"]
    assert {"held_out/auprc", "held_out/brier", "held_out/log_loss", "held_out/ece"} <= set(metrics)
    attention = pl.read_parquet(folder / "explain" / "attention.parquet")
    sums = attention.group_by("subject_id").agg(pl.col("attention").sum(), pl.col("hours_before").min())
    assert sums.height == 120
    assert sums["attention"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert (sums["hours_before"] == 0).all()
    verdict = json.loads((folder / "explain" / "verdict.json").read_text())
    assert verdict["sentence"]
    assert set(verdict["believed"]) <= set(verdict["ranking"])
    assert {"code", "time"} == set(pl.read_parquet(folder / "explain" / "importance.parquet")["kind"])
    page = (folder / "explain" / "timeline_01.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is loaded from anywhere
    assert "without it the risk would be" in page
    assert not re.search(r"(?<![\d.])1000[0-6]\d\d(?!\d)|202[01]-\d\d-\d\d", page)


def test_mlflow_holds_the_run(trained: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{trained / 'mlflow.db'}")
    run = client.get_run(mlflow_run_id(trained))
    assert run.info.status == "FINISHED"
    assert {"train/loss", "tuning/auroc", "lr", "held_out/auroc", "held_out/auroc_ci_low"} <= set(run.data.metrics)
    assert {"held_out/at_youden/ppv", "held_out/groups/flagged"} <= set(run.data.metrics)
    assert "held_out/at_youden/ppv_ci_low" not in run.data.metrics
    assert run.data.params["model.encoder.hidden_size"] == "64"
    assert "held_out/auroc" in run.data.tags["mlflow.note.content"]
    assert "`evaluate/roc.png`" in run.data.tags["mlflow.note.content"]
    assert {"ehrseq.data_digest", "ehrseq.store_digest", "ehrseq.weights_digest"} <= set(run.data.tags)
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2
    names = {path.name for path in (trained / "mlartifacts").rglob("*") if path.is_file()}
    assert {"roc.png", "report.html", "metrics_table.json", "groups_table.json", "model.safetensors"} <= names
    assert {"verdict.json", "verdict.png", "importance.parquet", "importance.png"} <= names
    # What shows single histories stays where the data are.
    assert not {"timeline_01.png", "timeline_01.html", "attributions.parquet", "attention.parquet"} & names
    assert run.data.tags["ehrseq.verdict"]
    assert "verdict/integrated_gradients/comprehensiveness" in run.data.metrics
    assert run.inputs is not None
    contexts = {item.dataset.name: item.tags[0].value for item in run.inputs.dataset_inputs}
    assert contexts == {
        "synthetic-train": "training", "synthetic-tuning": "validation", "synthetic-held_out": "testing"
    }  # fmt: skip
    assert {item.dataset.digest for item in run.inputs.dataset_inputs} == {run.data.tags["ehrseq.store_digest"]}


def test_the_same_again_does_nothing(ehrseq: Command, trained: Path, tiny: tuple[str, ...]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder(trained).rglob("*")}
    done = ehrseq("train", *tiny, cwd=trained)
    assert done.returncode == 0
    assert "is up to date" in done.stderr
    assert "epoch" not in done.stderr
    assert "held_out/auroc" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in run_folder(trained).rglob("*")}


def test_evaluate_and_explain_find_the_run(ehrseq: Command, trained: Path, tiny: tuple[str, ...]) -> None:
    metrics = (run_folder(trained) / "evaluate" / "metrics.json").read_text()
    by_folder = ehrseq("evaluate", f"run={run_folder(trained)}", "evaluate.replicates=20", cwd=trained)
    assert by_folder.returncode == 0, by_folder.stderr
    assert (run_folder(trained) / "evaluate" / "metrics.json").read_text() != metrics
    by_id = ehrseq("evaluate", f"run={mlflow_run_id(trained)}", cwd=trained)
    assert by_id.returncode == 0, by_id.stderr
    assert (run_folder(trained) / "evaluate" / "metrics.json").read_text() == metrics
    by_words = ehrseq("explain", *tiny, "explain.timelines=2", cwd=trained)
    assert by_words.returncode == 0, by_words.stderr
    assert len(list((run_folder(trained) / "explain").glob("timeline_*.png"))) == 2
    missing = ehrseq("evaluate", *tiny, "seed=77", cwd=trained)
    assert missing.returncode == 1
    assert "have not been trained" in missing.stderr
    nowhere = ehrseq("evaluate", "run=nowhere", cwd=trained)
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("error: run=nowhere: no such folder")


def test_changed_weights_are_refused(ehrseq: Command, trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run_folder(trained), copy)
    weights = copy / "train" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = ehrseq("predict", f"run={copy}", cwd=tmp_path)
    assert done.returncode == 1
    assert "is not what the training wrote" in done.stderr


def test_multirun_checks_every_value_first(ehrseq: Command, tmp_path: Path) -> None:
    done = ehrseq("train", "-m", "model=lstm,gur", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: model=gur: no such option; did you mean 'gru'?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_kill_ends_the_run_as_killed(tmp_path: Path) -> None:
    words = ["train", "source.n_subjects=600", "trainer.max_epochs=5000", "trainer.patience=null"]
    process = subprocess.Popen(
        [EHRSEQ, *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch") and (tmp_path / "mlflow.db").exists():
            break
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(mlflow_run_id(tmp_path)).info.status == "KILLED"
    assert {path.name for path in run_folder(tmp_path).iterdir()} == {"checkpoints", "tracking"}


def test_completion_and_ui(ehrseq: Command, tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_EHRSEQ_COMPLETE" in ehrseq("completion", shell, cwd=tmp_path).stdout
    environment = {
        **os.environ,
        "_EHRSEQ_COMPLETE": "bash_complete",
        "COMP_WORDS": "ehrseq train model=",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([EHRSEQ], env=environment, capture_output=True, text=True, check=False)
    assert {"plain,model=gru", "plain,model=lstm"} <= set(done.stdout.split())
    done = ehrseq("ui", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no mlflow.db here yet" in done.stderr


def test_groups_are_listed(ehrseq: Command, tmp_path: Path) -> None:
    done = ehrseq("config", "--groups", cwd=tmp_path)
    (models,) = [line for line in done.stdout.splitlines() if line.startswith("model: ")]
    assert {"gbm", "gru", "lstm"} <= set(models.removeprefix("model: ").split(", "))
    assert "source: meds, omop, physionet2012, physionet2019, synthetic, tables" in done.stdout
