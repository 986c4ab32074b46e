"""Several processes train one network: every history counts once, and the death of one is not the training's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

EHRSEQ = Path(sys.executable).parent / "ehrseq"
# A rate at which the weights stay what they were: figures of one and of two processes are of the same network. 313
# subjects make splits that two cannot share evenly.
SAME = (
    *(
        "source.n_subjects=313",
        "trainer.accelerator=cpu",
        "explain=none",
        "evaluate.replicates=0",
        "evaluate.figures=false",
    ),
    *("paths.data=data", "optim=adam", "optim.optimizer.lr=1e-13", "optim.weight_averaging=null", "model.summary=null"),
    *("loader.eval_batch_size=16", "trainer.max_epochs=4", "trainer.patience=null", "trainer.checkpoint_minutes=0"),
)


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [str(EHRSEQ), "train", *SAME, *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def history(folder: Path, runs: str) -> pl.DataFrame:
    return pl.read_csv(next((folder / runs).glob("*/train/history.csv")))


def predictions(folder: Path, runs: str) -> pl.DataFrame:
    return pl.read_parquet(next((folder / runs).glob("*/evaluate/predictions.parquet")))


def find_rank(parent: int, rank: int) -> int:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes().split(b"\0")
            below = f"PPid:\t{parent}\n" in (place / "status").read_text()
        except OSError:
            continue
        if below and f"RANK={rank}".encode() in environment:
            return int(place.name)
    raise AssertionError(f"no process of rank {rank} below {parent}")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_two_processes_are_one_training_and_outlive_the_death_of_one(tmp_path: Path) -> None:
    alone = start(tmp_path, "paths.runs=one", "trainer.max_epochs=1")
    assert alone.wait(300) == 0, alone.stderr.read() if alone.stderr else ""

    both = start(tmp_path, "paths.runs=two", "trainer=ddp", "trainer.accelerator=cpu")
    assert both.stderr is not None
    for line in both.stderr:
        if line.startswith("epoch   2/4"):  # so that a checkpoint after the first is written for certain
            break
    os.kill(find_rank(both.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    _, said = both.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert both.returncode == 1
    assert "error: process 1 of 2 died of signal SIGKILL" in said
    assert "Traceback" not in said

    again = start(tmp_path, "paths.runs=two", "trainer=ddp", "trainer.accelerator=cpu")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "goes on from" in said
    assert "epoch   1/4" not in said

    one, two = history(tmp_path, "one"), history(tmp_path, "two")
    assert two["epoch"].to_list() == list(range(1, 5))
    for name in ("tuning/loss", "tuning/auroc", "tuning/auprc"):
        # Every tuning history counted once: the figures are those of one process.
        for value in two[name]:
            assert value == pytest.approx(one[name][0], abs=1e-6), name
    single, shared = predictions(tmp_path, "one"), predictions(tmp_path, "two")
    assert single.drop("probability").equals(shared.drop("probability"))
    assert np.abs((single["probability"] - shared["probability"]).to_numpy()).max() < 1e-5


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, "trainer=ddp", "trainer.devices=3")
    _, said = done.communicate(timeout=60)
    assert done.returncode == 2
    assert "loader.batch_size=64 is the batch of one optimiser step: 3 processes cannot share it evenly" in said
    done = start(tmp_path, "trainer=multinode", "loader.batch_size=64")
    _, said = done.communicate(timeout=60)
    assert done.returncode == 2
    assert "trainer.nodes=2: start it on each machine with torchrun" in said
    assert not (tmp_path / "runs").exists()
