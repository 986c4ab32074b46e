"""What sweeps promise, measured on PhysioNet 2012: going on after a kill, pruning, overhead, writers side by side.

    python benchmarks/sweeps.py resume pruning overhead launchers parallel [--archive set-a.tar.gz] [--work folder]

Each part runs `ehrseq train -m` as a user would, with a small net and few epochs, and adds its figures to
benchmarks/results/sweeps.json. `parallel` and `launchers` want PostgreSQL's programs and the extras of the launchers.
"""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "sweeps.json"
EHRSEQ = Path(sys.executable).parent / "ehrseq"
# A net that learns in seconds; the data are the whole of set A.
SMALL = (
    "source=physionet2012",
    "representation.bin_hours=4",
    "model.summary=null",
    "model.encoder.hidden_size=16",
    "loader.batch_size=128",
    "trainer.accelerator=cpu",
    "explain=none",
    "evaluate.replicates=50",
)
RATE = "optim.optimizer.lr=tag(log,interval(1e-4,3e-2))"
DROPOUT = "model.head.dropout=interval(0.0,0.6)"
DECAY = "optim.optimizer.weight_decay=tag(log,interval(1e-4,1e-1))"


def words(archive: Path, *more: str) -> list[str]:
    """A sweep's command."""
    return [str(EHRSEQ), "train", "-m", *SMALL, f"source.path={archive}", *more]


def sweep(command: Sequence[str], folder: Path, name: str) -> tuple[dict[str, Any], float]:
    """Run a sweep to its end: its summary and the seconds it took."""
    started = time.perf_counter()
    with (folder / f"{name}.log").open("a") as log:
        subprocess.run([*command, f"sweep.name={name}"], cwd=folder, stdout=log, stderr=log, check=False)
    return summary(folder, name), time.perf_counter() - started


def summary(folder: Path, name: str) -> dict[str, Any]:
    """`summary.json` of a sweep."""
    plain: dict[str, Any] = json.loads((folder / "runs" / "sweeps" / name / "summary.json").read_text())
    return plain


def resume(archive: Path, folder: Path) -> dict[str, Any]:
    """30 trials with pruning, killed after a dozen and started again."""
    command = words(
        archive, "sweep=optuna", "model=lstm,gru", RATE, DECAY, "sweep.trials=30", "trainer.max_epochs=6",
        "sweep.name=resume",
    )  # fmt: skip
    trials = folder / "runs" / "sweeps" / "resume" / "trials"
    with (folder / "resume.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while len(list(trials.glob("*.json"))) < 12 and process.poll() is None:
            time.sleep(0.1)
        time.sleep(2)  # into the next trial
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(list(trials.glob("*.json")))
    time.sleep(1)
    alive = [path for path in Path("/proc").glob("[0-9]*/fd/1") if _lies_in(path, trials)]
    study = sqlite3.connect(trials.parent / "study.db")
    cut_off = study.execute("select count(*) from trials where state = 'RUNNING'").fetchone()[0]
    found, seconds = sweep(command[:-1], folder, "resume")
    states = dict(study.execute("select state, count(*) from trials group by state").fetchall())
    runs = mlflow_runs(f"sqlite:///{folder / 'mlflow.db'}", "resume")
    return {
        "outcomes_at_kill": before,
        "trials_cut_off": cut_off,
        "processes_left": len(alive),
        "states": states,
        "counts": found["counts"],
        "mlflow": runs,
        "seconds_after_kill": round(seconds, 1),
    }


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        return path.readlink().parent == folder
    except OSError:
        return False


def mlflow_runs(uri: str, sweep_id: str) -> dict[str, int]:
    """What MLflow knows of a sweep."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`ehrseq.sweep` = '{sweep_id}'", max_results=1000)
    roles = [run.data.tags["ehrseq.role"] for run in runs]
    children = [run for run in runs if run.data.tags["ehrseq.role"] == "run"]
    parents = {run.info.run_id for run in runs} - {run.info.run_id for run in children}
    return {
        "parents": roles.count("sweep"),
        "children": len(children),
        "trials": len({(run.data.tags["ehrseq.trial"], run.data.tags["ehrseq.repeat"]) for run in children}),
        "orphans": sum(run.data.tags.get("mlflow.parentRunId") not in parents for run in children),
        "running": sum(run.info.status == "RUNNING" for run in runs),
    }


def pruning(archive: Path, folder: Path) -> dict[str, Any]:
    """The same random search without pruning and with it."""
    search = ("sweep=random", "model=lstm,gru", RATE, DECAY, DROPOUT, "sweep.trials=30", "trainer.max_epochs=12")
    light = ("representation.bin_hours=8", "loader.batch_size=256", "model.next_values=null")
    options = ("trainer.monitor=tuning/auroc", "sweep.evaluate=none", "tracking=none", *light)
    result: dict[str, Any] = {}
    for name, more in {"whole": (), "pruned": ("sweep.pruner=median",)}.items():
        # Apart, so that what one has trained is not found by the other.
        found, _ = _apart(archive, folder, name, (*search, *options, *more))
        runs = found["runs"]
        result[name] = {
            "epochs": sum(int(run["values"]["train/epochs"]) for run in runs),
            "best_tuning_auroc": max(run["values"]["tuning/auroc"] for run in runs if run["status"] == "finished"),
            "counts": found["counts"],
        }
    result["epochs_saved"] = round(1 - result["pruned"]["epochs"] / result["whole"]["epochs"], 3)
    best = {name: result[name]["best_tuning_auroc"] for name in ("whole", "pruned")}
    result["best_differs_by"] = round(best["whole"] - best["pruned"], 5)
    return result


def _apart(archive: Path, folder: Path, name: str, more: Sequence[str]) -> tuple[dict[str, Any], float]:
    place = folder / name
    place.mkdir(exist_ok=True)
    return sweep([*words(archive, *more), f"paths.data={folder / '.ehrseq'}"], place, name)


def overhead(archive: Path, folder: Path) -> dict[str, Any]:
    """20 trials of one epoch on a prepared store, against the sum of their training times."""
    # The default LSTM on the default grid, not the small net of the other parts.
    default = ("source=physionet2012", f"source.path={archive}", "trainer.accelerator=cpu", "explain=none")
    subprocess.run([str(EHRSEQ), "prepare", *default], cwd=folder, check=True)
    rates = ",".join(f"{number}e-4" for number in range(1, 21))
    options = ("trainer.max_epochs=1", "sweep.evaluate=none", f"optim.optimizer.lr={rates}")
    found, seconds = sweep([str(EHRSEQ), "train", "-m", *default, *options], folder, "overhead")
    training = sum(run["values"]["train/seconds"] for run in found["runs"])
    processes = sum(run["seconds"] for run in found["runs"])
    return {
        "seconds": round(seconds, 1),
        "training_seconds": round(training, 1),
        "process_seconds": round(processes, 1),
        "ratio": round(seconds / training, 3),
    }


def launchers(archive: Path, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - all parts are called alike
    """The same six trials by every launcher; Ray on a cluster of two nodes, both on this machine."""
    from ray.cluster_utils import Cluster

    cluster = None
    figures: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    small = (
        "source.n_subjects=300",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "explain=none",
        "tracking=none",
    )
    try:
        for name in ("local", "joblib", "submitit_local", "ray"):
            more = [f"sweep.launcher={name}", "sweep.jobs=2", f"paths.runs={name}"]
            if name == "ray":
                cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
                cluster.add_node(num_cpus=1)
                more.append(f"hydra.launcher.address='{cluster.address}'")
            grid = ("model=lstm,gru", "optim.optimizer.lr=1e-3,3e-3,1e-2", *small, *more, "sweep.name=six")
            started = time.perf_counter()
            with (folder / f"{name}.log").open("a") as log:
                subprocess.run([str(EHRSEQ), "train", "-m", *grid], cwd=folder, stdout=log, stderr=log, check=True)
            seconds[name] = round(time.perf_counter() - started, 1)
            told = json.loads((folder / name / "sweeps" / "six" / "summary.json").read_text())
            figures[name] = [
                {key: value for key, value in run["values"].items() if key != "train/seconds"} for run in told["runs"]
            ]
    finally:
        if cluster is not None:
            cluster.shutdown()  # type: ignore[no-untyped-call,unused-ignore]
    same = {name: found == figures["local"] for name, found in figures.items()}
    return {"runs": len(figures["local"]), "figures_a_run": len(figures["local"][0]), "same": same, "seconds": seconds}


def main() -> None:
    """Run the parts that were named and keep their figures."""
    parts = {"resume": resume, "pruning": pruning, "overhead": overhead, "launchers": launchers}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EHRSEQ_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("parts", nargs="+", choices=sorted(parts))
    parser.add_argument("--archive", type=Path, default=data / "physionet2012" / "set-a.tar.gz")
    parser.add_argument("--work", type=Path, help="kept afterwards; else a temporary folder")
    options = parser.parse_args()
    folder = options.work or Path(tempfile.mkdtemp(prefix="ehrseq-sweeps-"))
    folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        figures = parts[part](options.archive.resolve(), folder.resolve())
        print(part, json.dumps(figures, indent=2))
        known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        known |= {"cpus": os.cpu_count(), part: figures}
        RESULT.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    if options.work is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
