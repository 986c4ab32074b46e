"""`ehrseq train -m` as it is used: real processes that crash, are killed, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ehrseq.sweeps.study import open_storage

Command = Callable[..., "subprocess.CompletedProcess[str]"]
EHRSEQ = Path(sys.executable).parent / "ehrseq"
TINY = (
    "source.n_subjects=300",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "evaluate.replicates=20",
    "evaluate.figures=false",
    "explain=none",
    "model.encoder.hidden_size=8",
    "model.summary=null",
    "representation.bin_hours=12",
)
ROUGH = """
import os
import torch
from ehrseq.nn import Head

class Exits(Head):
    def forward(self, pooled, statics):
        os._exit(3)

class Gorges(Head):
    def forward(self, pooled, statics):
        return super().forward(pooled, statics) + torch.ones(1 << 50).sum()

class Diverges(Head):
    def forward(self, pooled, statics):
        return super().forward(pooled, statics) * float("nan")
"""


def summary(folder: Path, name: str) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / "runs" / "sweeps" / name / "summary.json").read_text())
    return plain


def mlflow_runs(folder: Path, sweep: str, uri: str | None = None) -> dict[str, list[Run]]:
    """The runs of a sweep by their role."""
    client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ehrseq")
    assert experiment is not None
    found: dict[str, list[Run]] = {"sweep": [], "group": [], "run": []}
    for run in client.search_runs([experiment.experiment_id], f"tags.`ehrseq.sweep` = '{sweep}'"):
        found[run.data.tags["ehrseq.role"]].append(run)
    return found


def test_three_that_fail_spare_the_rest_and_are_reported(tmp_path: Path) -> None:
    (tmp_path / "rough.py").write_text(ROUGH)
    models = tmp_path / "mine" / "model"
    models.mkdir(parents=True)
    for name in ("Exits", "Gorges", "Diverges"):
        head = f"head:\n  _target_: rough.{name}\n  hidden_size: null\n  dropout: 0.0\n"
        (models / f"{name.lower()}.yaml").write_text(f"defaults:\n  - gru\n  - _self_\n\nname: {name.lower()}\n{head}")
    environment = {
        **os.environ,
        "EHRSEQ_ALLOWED_TARGETS": "rough",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    words = ["train", "-m", "--config-dir", "mine", *TINY, "model=exits,gru,gorges,diverges,lstm", "sweep.name=rough"]
    done = subprocess.run(
        [EHRSEQ, *words, "seed=1,2", "sweep.retries=0", "sweep.jobs=2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = summary(tmp_path, "rough")
    assert told["counts"] == {"crashed": 2, "finished": 4, "out_of_memory": 2, "failed": 2}
    failures = {run["chosen"][0]: run["failure"] for run in told["runs"] if run["failure"]}
    assert failures["model=exits"]["kind"] == "ProcessExit"
    assert failures["model=gorges"]["message"].startswith("the memory of cpu does not hold a batch of 64 histories")
    assert "rough.py" in failures["model=gorges"]["traceback"]
    assert "training loss became nan" in failures["model=diverges"]["message"]
    assert "Traceback" in failures["model=diverges"]["traceback"]
    assert "6 run(s) failed:" in done.stderr
    for name in ("exits", "gorges", "diverges"):
        assert f"model={name} seed=1: " in done.stderr.split("run(s) failed:")[1]
    assert "Traceback" not in done.stderr
    # MLflow: a parent, a run for each configuration below it, its seeds below that; none is left running.
    runs = mlflow_runs(tmp_path, "rough")
    assert Counter({role: len(found) for role, found in runs.items()}) == {"sweep": 1, "group": 5, "run": 10}
    (parent,) = runs["sweep"]
    assert parent.info.status == "FAILED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs["group"]} == {parent.info.run_id}
    assert Counter(run.data.tags["mlflow.parentRunId"] for run in runs["run"]) == {
        group.info.run_id: 2 for group in runs["group"]
    }
    assert Counter(run.info.status for run in runs["run"]) == {"FINISHED": 4, "FAILED": 6}
    assert Counter(run.data.tags["ehrseq.outcome"] for run in runs["run"]) == told["counts"]
    assert all(run.data.params["model.encoder.hidden_size"] == "8" for run in runs["run"])
    for group in runs["group"]:
        own = [run for run in runs["run"] if run.data.tags["mlflow.parentRunId"] == group.info.run_id]
        if group.info.status == "FINISHED":
            mean = sum(run.data.metrics["tuning/loss"] for run in own) / 2
            assert group.data.metrics["tuning/loss"] == pytest.approx(mean)
            assert group.data.metrics["tuning/loss_sd"] > 0
    # The same again: what failed is tried again, what is done is not.
    (models / "exits.yaml").write_text("defaults:\n  - gru\n  - _self_\n\nname: exits\n")
    again = subprocess.run(
        [EHRSEQ, *words, "seed=1,2", "sweep.retries=0", "sweep.jobs=2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert "4 runs done before" in again.stderr
    assert summary(tmp_path, "rough")["counts"] == {"finished": 6, "out_of_memory": 2, "failed": 2}
    assert {role: len(found) for role, found in mlflow_runs(tmp_path, "rough").items()} == {
        "sweep": 1, "group": 5, "run": 10,
    }  # fmt: skip


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_eight_trials_at_once_are_all_there_whole(
    store: str, ehrseq: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tracking, study = f"sqlite:///{tmp_path / 'mlflow.db'}", "sqlite"
    if store == "postgres":
        new_database = request.getfixturevalue("new_database")
        tracking, study = new_database(), new_database()
    done = ehrseq(
        "train", "-m", *TINY, "trainer.max_epochs=1", "sweep=random", "optim.optimizer.lr=interval(1e-4,1e-2)",
        "sweep.trials=8", "sweep.jobs=8", "sweep.name=eight", f"sweep.storage={study}", f"tracking.uri={tracking}",
        "model=gru", cwd=tmp_path, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "locked" not in done.stderr
    assert "warning" not in done.stderr.lower()
    told = summary(tmp_path, "eight")
    assert told["counts"] == {"finished": 8}
    rates = {run["trial"]: run["chosen"][-1] for run in told["runs"]}
    assert sorted(rates) == list(range(8))
    assert len(set(rates.values())) == 8
    runs = mlflow_runs(tmp_path, "eight", tracking)
    assert {role: len(found) for role, found in runs.items()} == {"sweep": 1, "group": 0, "run": 8}
    finished = {run["trial"]: run["values"] for run in told["runs"]}
    for run in runs["run"]:
        trial = int(run.data.tags["ehrseq.trial"])
        assert run.info.status == "FINISHED"
        assert rates[trial] == f"optim.optimizer.lr={run.data.params['optim.optimizer.lr']}"
        for name in ("tuning/loss", "tuning/auroc"):
            assert run.data.metrics[name] == finished[trial][name]
    storage = open_storage(study, tmp_path / "runs" / "sweeps" / "eight")
    (trials,) = [storage.get_all_trials(found._study_id) for found in storage.get_all_studies()]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8


def test_a_killed_search_goes_on_to_exactly_its_trials(ehrseq: Command, tmp_path: Path) -> None:
    words = [
        "train", "-m", *TINY, "sweep=optuna", "model=lstm,gru", "optim.optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "trainer.monitor=tuning/auroc", "sweep.trials=7", "sweep.jobs=2", "sweep.name=search",
        "sweep.pruner_options.n_startup_trials=2",
    ]  # fmt: skip
    trials = tmp_path / "runs" / "sweeps" / "search" / "trials"
    process = subprocess.Popen([EHRSEQ, *words], cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(trials.glob("*.json"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = ehrseq(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = summary(tmp_path, "search")
    assert sorted(run["trial"] for run in told["runs"]) == list(range(7))
    assert sum(told["counts"].values()) == told["counts"]["finished"] + told["counts"].get("pruned", 0) == 7
    runs = mlflow_runs(tmp_path, "search")
    assert (len(runs["sweep"]), len(runs["run"])) == (1, 7)
    assert sorted(int(run.data.tags["ehrseq.trial"]) for run in runs["run"]) == list(range(7))
    assert all(run.info.status in {"FINISHED", "KILLED"} for run in runs["run"])
    # Choices are made on `tuning`: `held_out` was looked at for the chosen trial alone.
    (best,) = told["best"]
    looked = [
        run.data.tags["ehrseq.trial"] for run in runs["run"] if any("held_out" in key for key in run.data.metrics)
    ]
    assert looked == [str(best)]
    finished = [run for run in told["runs"] if run["status"] == "finished"]
    assert told["runs"][best]["values"]["tuning/auroc"] == max(run["values"]["tuning/auroc"] for run in finished)
    assert "held_out/auroc" in done.stdout
    # Every line of the log can be given to a shell as it stands.
    assert told["runs"][0]["words"][-2].startswith("model=")
    # Once more: nothing is left to do.
    before = {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}
    assert ehrseq(*words, cwd=tmp_path).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}


def test_what_is_missing_or_wrong_is_one_line(ehrseq: Command, tmp_path: Path) -> None:
    for words, told in (
        (["sweep=optuna"], "nothing varies: give several values"),
        (["sweep.launcher=slurm", "seed=1,2"], "sweep.launcher=slurm is not possible"),
        (["optim.optimizer.lr=interval(1e-4,1e-2)"], "'optim.optimizer.lr' is a range, which needs a sweeper"),
    ):
        done = ehrseq("train", "-m", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {told}")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
