"""How long a user waits: from set-a.tar.gz to the first training step, and again on the prepared store.

    python benchmarks/first_step.py [path of set-a.tar.gz] [--runs 5]

Each run starts `ehrseq train` in an empty folder, as a user would, and notes when its lines arrive. The yardstick, in
the same run, is the bare import of what a training needs (torch, Lightning, MLflow): nothing on this stack is faster.
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
RESULT = ROOT / "benchmarks" / "results" / "first_step.json"
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


def import_time() -> float:
    """Seconds of the bare imports."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, pytorch_lightning, mlflow.tracking"], check=True)
    return time.perf_counter() - started


def one_run(archive: Path) -> dict[str, float]:
    """One newcomer: first training on raw data, second with another seed on the store."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = [str(EHRSEQ), "train", "source=physionet2012", f"source.path={archive}"]
        first = time_to("train: first step", base, folder)
        reuse = time_to("data:", [*base, "seed=2"], folder)
        second = time_to("train: first step", [*base, "seed=3"], folder)
    return {"imports": import_time(), "first_step": first, "store_reused": reuse, "first_step_again": second}


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
