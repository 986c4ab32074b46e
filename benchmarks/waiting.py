"""How long a user waits: for help, for the first training step from set-a.tar.gz, for it again, for predictions.

    python benchmarks/waiting.py [path of set-a.tar.gz] [--runs 5]

Each run starts `ehrseq` processes in an empty folder, as a user would, and notes when their lines arrive. The
yardstick, in the same run, is the bare import of what a training needs (torch, Lightning, MLflow): nothing on this
stack is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "waiting.json"
EHRSEQ = Path(sys.executable).parent / "ehrseq"


def time_to(line_start: str, command: list[str], folder: Path) -> float:
    """Seconds until a process prints a line that starts so; the process is ended then."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(line_start):
                seconds = time.perf_counter() - started
                process.terminate()
                return seconds
    raise RuntimeError(f"no line began with {line_start!r}: {''.join(lines)}")


def time_of(command: list[str], folder: Path) -> float:
    """Seconds of a whole process."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def one_run(archive: Path) -> dict[str, float]:
    """One newcomer: help, first training on raw data, second with another seed on the store, scoring of raw stays."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ["source=physionet2012", f"source.path={archive}"]
        train = [str(EHRSEQ), "train", *source]
        times = {
            "imports": time_of([sys.executable, "-c", "import torch, pytorch_lightning, mlflow.tracking"], folder),
            "help": time_of([str(EHRSEQ), "--help"], folder),
            "config": time_of([str(EHRSEQ), "config"], folder),
            "first_step": time_to("train: first step", train, folder),
            "store_reused": time_to("data:", [*train, "seed=2"], folder),
            "first_step_again": time_to("train: first step", [*train, "seed=3"], folder),
        }
        subprocess.run([*train, "trainer=debug", "explain=none"], cwd=folder, check=True, capture_output=True)
        run = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
        stays = folder / "alone" / archive.name  # no outcomes beside it
        stays.parent.mkdir()
        stays.symlink_to(archive)
        score = [str(EHRSEQ), "predict", f"run={run}", source[0], f"source.path={stays}", "output=scores.parquet"]
        times["predict"] = time_of(score, folder)
        return times


def main() -> None:
    """Run, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EHRSEQ_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("archive", nargs="?", type=Path, default=data / "physionet2012" / "set-a.tar.gz")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = [one_run(options.archive.resolve()) for _ in range(options.runs)]
    medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    for key, value in medians.items():
        low, high = min(run[key] for run in runs), max(run[key] for run in runs)
        print(f"{key:<18} {value:6.2f} s   ({low:.2f} to {high:.2f})")
    ratio = round(medians["first_step"] / medians["imports"], 2)
    print(f"first step / bare imports: {ratio}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    result = {"cpus": os.cpu_count(), "runs": runs, "median_seconds": medians, "first_step_over_imports": ratio}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
