"""How long the evaluation of 4,000 stays takes, with 1,000 replicates and all figures, and how long a report.

python benchmarks/evaluation.py          # trains one epoch first, in a temporary folder
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from ehrseq.config.load import load_settings
from ehrseq.tracking import RunTracker
from ehrseq.workflows import evaluate, prepare, report, train
from ehrseq.workflows.runs import run_folder

RESULT = Path(__file__).parent / "results" / "evaluation.json"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "source.n_subjects=20000", "trainer.max_epochs=1", "trainer.accelerator=cpu", "tracking=none",
            f"paths.data={folder}/data", f"paths.runs={folder}/runs", *sys.argv[1:],
        ]  # fmt: skip
        settings = load_settings(words)
        prepared = prepare.run(settings)
        place = run_folder(settings, prepared)
        tracker = RunTracker(place, settings.tracking, "benchmark", print)
        trained = train.run(settings, prepared, place, tracker)
        started, worked = perf_counter(), process_time()
        result = evaluate.run(settings, prepared, trained, tracker)
        seconds, cpu = perf_counter() - started, process_time() - worked
        figures = len(list(result.folder.glob("*.png")))
        started = perf_counter()
        size = report.run(settings, place).page.stat().st_size
        facts = {
            "stays": 4000,
            "replicates": settings.evaluate.replicates,
            "figures": figures,
            "evaluate_seconds": round(seconds, 1),
            "evaluate_cpu_seconds": round(cpu, 1),
            "report_seconds": round(perf_counter() - started, 2),
            "report_kilobytes": size // 1000,
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        }
    print(facts)
    RESULT.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
