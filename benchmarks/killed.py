"""Trainings that are killed with SIGKILL at random points and gone on with, and trainings that processes share.

    python benchmarks/killed.py [--points 5] [--seed 0] [--work FOLDER]

Each case runs `ehrseq train` as a user would: once undisturbed, then, for each point, killed (all of its processes at
once) so many seconds after its first step, and started again by the same command. What must be the same bytes are the
weights, the history of the epochs, the metrics and the predictions; MLflow must have one run, finished, with no step of
a metric twice. Then the same weights, which a rate of 1e-13 leaves as they are, predict what is held out after
trainings of 1, 2 and 4 processes.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrseq.files import write_json

RESULT = Path(__file__).parent / "results" / "killed.json"
EHRSEQ = Path(sys.executable).parent / "ehrseq"
SMALL = (
    *("source.n_subjects=1003", "trainer.accelerator=cpu", "explain=none", "evaluate.figures=false"),
    *("evaluate.replicates=20", "trainer.max_epochs=12", "trainer.patience=null", "trainer.checkpoint_minutes=0.01"),
)
CASES = {
    "one process": (),
    "two data workers": ("loader.num_workers=2", "loader.cache_gib=0"),
    "two processes": ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
}
SAME = ("train/model.safetensors", "train/history.csv", "evaluate/metrics.json", "evaluate/predictions.parquet")
STILL = ("optim=adam", "optim.optimizer.lr=1e-13", "optim.weight_averaging=null", "trainer.max_epochs=1")


def start(folder: Path, words: Sequence[str]) -> "subprocess.Popen[str]":
    """A training in a session of its own, so that all of its processes can be killed at once."""
    folder.mkdir(exist_ok=True)
    command = [str(EHRSEQ), "train", *SMALL, f"paths.data={folder.parent / 'data'}", *words]
    silent, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=silent, stderr=pipe, text=True, start_new_session=True)


def finish(process: "subprocess.Popen[str]") -> float:
    """Seconds from the first step to the end of the training."""
    begun = ended = 0.0
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "first step done" in line:
            begun = time.perf_counter()
        if "best epoch" in line:
            ended = time.perf_counter()
    if process.wait():
        raise SystemExit("".join(said))
    return ended - begun


def kill(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Kill all processes so many seconds after the first step."""
    assert process.stderr is not None
    next(line for line in process.stderr if "first step done" in line)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(folder: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """What must be the same bytes, and what MLflow has."""
    (run,) = (path.parent for path in folder.glob("runs/*/evaluate"))
    tracked = sqlite3.connect(folder / "mlflow.db")
    twice = "select count(*) from (select 1 from metrics group by run_uuid, key, step having count(*) > 1)"
    asked = {
        "runs": "select count(*) from runs",
        "finished": "select count(*) from runs where status = 'FINISHED'",
        "metrics": "select count(*) from metrics",
        "steps_twice": twice,
    }
    found = {name: tracked.execute(query).fetchone()[0] for name, query in asked.items()}
    return {name: (run / name).read_bytes() for name in SAME}, found


def killed(work: Path, name: str, points: int, chance: random.Random) -> dict[str, Any]:
    """One case: undisturbed, then killed at random points."""
    place = work / name.replace(" ", "_")
    seconds = finish(start(place, CASES[name]))
    whole, tracked = outcome(place)
    found = []
    for number in range(points):
        folder, after = place.with_name(f"{place.name}_{number}"), chance.uniform(0.0, 0.95) * seconds
        kill(start(folder, CASES[name]), after)
        finish(start(folder, CASES[name]))
        again, seen = outcome(folder)
        differing = [part for part in SAME if again[part] != whole[part]]
        found.append({"killed_after": after / seconds, "differing": differing, "mlflow": seen})
        print(name, found[-1], flush=True)
    return {"training_seconds": seconds, "mlflow": tracked, "killed": found}


def shared(work: Path) -> dict[str, float]:
    """How far held-out predictions after trainings of 2 and 4 processes are from those of one, at most."""
    tables = {}
    for count in (1, 2, 4):
        folder = work / f"shared_{count}"
        finish(start(folder, [*STILL, "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={count}"]))
        (path,) = folder.glob("runs/*/evaluate/predictions.parquet")
        tables[count] = pl.read_parquet(path).sort("subject_id")
        assert tables[count]["subject_id"].equals(tables[1]["subject_id"])
        assert tables[count]["subject_id"].is_unique().all()
    alone = tables[1]["probability"].to_numpy()
    apart = {str(count): np.abs(tables[count]["probability"].to_numpy() - alone).max() for count in (2, 4)}
    return {count: float(value) for count, value in apart.items()}


def main() -> None:
    """Run all cases and keep what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        chance = random.Random(options.seed)
        found = {name: killed(work, name, options.points, chance) for name in CASES}
        write_json(RESULT, {"killed": found, "apart_from_one_process": shared(work)})
    worst = [one for case in found.values() for one in case["killed"] if one["differing"]]
    print(f"{len(worst)} of {len(CASES) * options.points} differ")


if __name__ == "__main__":
    main()
