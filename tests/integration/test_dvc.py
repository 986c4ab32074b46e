"""DVC on a fresh clone: reproduce, find nothing to do, run another model."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from ehrseq.files import digest_json

REPOSITORY = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the files that git knows or would take, committed."""
    if not (BIN / "dvc").exists():
        pytest.skip("DVC is not installed")
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path / "clone"
    for name in listed.stdout.splitlines():
        source = REPOSITORY / name
        if source.is_file() and not name.startswith(("tests/", "docs/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for git in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *git], cwd=folder, check=True)
    return folder


def dvc(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    environment |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@e.org", "GIT_COMMITTER_NAME": "t"}
    environment |= {"GIT_COMMITTER_EMAIL": "t@e.org"}
    command = [str(BIN / "dvc"), *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_reproduces_then_finds_nothing_to_do_then_trains_another_model(clone: Path) -> None:
    words = [
        *("source.n_subjects=500", "trainer.max_epochs=1", "evaluate.replicates=20", "evaluate.figures=false"),
        *("explain.samples=16", "explain.judged=8", "explain.timelines=1"),
    ]
    small = [part for word in words for part in ("-S", word)]
    first = dvc(clone, "exp", "run", *small)
    for stage in ("prepare", "train", "evaluate", "explain"):
        assert f"Running stage '{stage}'" in first
    again = dvc(clone, "repro")
    assert "Running stage" not in again
    assert "up to date" in again
    other = dvc(clone, "exp", "run", *small, "-S", "model=gru", "-S", "seed=2", "-S", "explain=none")
    assert "Running stage 'train'" in other
    settings = yaml.safe_load((clone / "results" / "train" / "config.yaml").read_text())
    assert (settings["model"]["name"], settings["seed"], settings["source"]["n_subjects"]) == ("gru", 2, 500)
    assert "held_out/auroc" in dvc(clone, "metrics", "show")
    check_links(clone, first, other)


def check_links(clone: Path, first: str, other: str) -> None:
    """`dvc.lock` names the MLflow run, whose tags lead back; metrics and curves of two experiments are shown."""
    one, two = (re.findall(r"Ran experiment\(s\): (\S+)", told)[0] for told in (first, other))
    link = json.loads((clone / "results" / "mlflow.json").read_text())
    tags = MlflowClient(tracking_uri=f"sqlite:///{clone / 'mlflow.db'}").get_run(link["run_id"]).data.tags
    assert tags["dvc.exp"] == two
    assert tags["dvc.lock"] == link["dvc_lock"]
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    assert {out["path"] for out in lock["link"]["outs"]} == {"results/mlflow.json"}
    (trained,) = lock["train"]["outs"]
    assert tags["dvc.out.results/train"] == trained["md5"]
    assert lock.pop("link")
    assert digest_json(lock) == link["dvc_lock"]
    assert "held_out/auroc.value" in dvc(clone, "metrics", "diff", one, two)
    plots = json.loads(dvc(clone, "plots", "diff", one, two, "--json").splitlines()[0])["data"]
    assert {"roc", "precision_recall", "calibration", "results/train/history.csv"} <= set(plots)
    assert set(plots["roc"][0]["revisions"]) == {one, two}
