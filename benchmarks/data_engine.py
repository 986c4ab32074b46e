"""The data engine: building stores of 1 to 100 million events, reading raw text, serving batches; beside a peer.

    python benchmarks/data_engine.py [--events 1e6,1e7,1e8] [--peer PYTHON] [--scratch FOLDER]

Each build runs in a process of its own, as `ehrseq prepare` does, and its peak resident memory is read from the
operating system (children included: the largest of them, times their number). Batches are compared with a bare loop of
numpy slices over the same memory maps, interleaved. With `--peer`, the Python of an environment that has
meds-torch-data 0.9, the same PhysioNet 2012 MEDS dataset is given to `MTD_preprocess` and to its loader.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ehrseq.store import Arrays

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "data_engine.json"
MAX_STEPS, BATCH = 1024, 64

_BUILD = """
import json, resource, sys, time
from ehrseq.config.load import load_settings
from ehrseq.workflows import prepare
if __name__ == "__main__":
    settings = load_settings(json.loads(sys.argv[1]))
    started = time.perf_counter()
    prepared = prepare.run(settings)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a new process inherits from the one that started it.
    own = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": seconds, "store": str(prepared.store), "dataset": str(prepared.dataset),
                      "own_mib": own / 1024, "largest_child_mib": children / 1024}))
"""


def build(overrides: list[str], folder: Path) -> dict[str, Any]:
    """Prepare in a process of its own."""
    script = folder / "build.py"
    script.write_text(_BUILD)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(overrides)], cwd=folder, check=True, capture_output=True, text=True
    )
    return {**json.loads(done.stdout), "whole_process_seconds": time.perf_counter() - started}


def scaling(sizes: list[int], scratch: Path) -> list[dict[str, Any]]:
    """Stores of synthetic MEDS data of several sizes."""
    from made_meds import make

    rows = []
    for size in sizes:
        folder = scratch / f"made{size}"
        events = make(folder, size)
        os.sync()  # what was just written is not the engine's burden
        data = scratch / "data"
        overrides = ["source=meds", f"source.path={folder}", "task.name=made", f"paths.data={data}"]
        runs = []
        for _ in range(3 if size <= 10_000_000 else 2):
            shutil.rmtree(data, ignore_errors=True)
            runs.append(build(overrides, scratch))
        seconds = min(float(run["seconds"]) for run in runs)
        memory = max(float(run["own_mib"]) + (os.cpu_count() or 1) * float(run["largest_child_mib"]) for run in runs)
        rows.append(
            {
                "events": events,
                "seconds": round(seconds, 2),
                "million_events_a_second": round(events / seconds / 1e6, 2),
                "peak_mib_at_most": round(memory),
            }
        )
        print("build ", rows[-1], flush=True)
        if size != sizes[-1]:
            shutil.rmtree(folder)
    return rows


def padding(dataset: Path, scratch: Path) -> dict[str, Any]:
    """Shares of padding on the readmission histories of the MIMIC-IV demo."""
    from ehrseq.config.load import load_settings
    from ehrseq.data import ShuffledBatches, represent
    from ehrseq.data.sampler import padding_share
    from ehrseq.workflows import prepare

    words = ["source=meds", f"source.path={dataset}", "task=readmission_30d", f"paths.data={scratch / 'demo'}"]
    store = prepare.run(load_settings(words)).open()
    result: dict[str, Any] = {}
    for name in ("events", "timepoints"):
        settings = load_settings([*words, f"representation={name}", f"representation.max_steps={MAX_STEPS}"])
        lengths = represent(store, settings.representation).lengths(store.samples("train"))
        sampler = ShuffledBatches(lengths, BATCH, 0, None, settings.loader.max_padding)
        order = np.random.default_rng(0).permutation(len(lengths))
        naive = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        result[name] = {
            "naive": round(padding_share(lengths, naive), 3),
            "ehrseq": round(padding_share(lengths, list(sampler)), 3),
            "batches_naive": len(naive),
            "batches_ehrseq": len(sampler),
        }
    print("padding", result, flush=True)
    return result


def text(archive: Path, scratch: Path) -> dict[str, Any]:
    """PhysioNet 2012 text to MEDS."""
    from ehrseq.sources.physionet2012 import PhysioNet2012Source

    seconds = []
    for _ in range(3):
        folder = scratch / "text"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.perf_counter()
        counts = PhysioNet2012Source(str(archive)).write(folder)
        seconds.append(time.perf_counter() - started)
    rows = counts["events"] + counts["descriptors_unknown"] + counts["rows_without_parameter"] + counts["subjects"]
    result = {
        "rows": rows,
        "seconds": round(min(seconds), 2),
        "million_rows_a_second": round(rows / min(seconds) / 1e6, 2),
    }
    print("text  ", result, flush=True)
    return result


class Flat:
    """The arrays of a store laid out flat, one array a column, as the bare loop wants them."""

    def __init__(self, arrays: Arrays) -> None:
        self.code, self.value, self.time = (
            np.ascontiguousarray(part) for part in (arrays.code, arrays.value, arrays.time)
        )
        self.sample_begin, self.sample_end = arrays.sample_begin, arrays.sample_end


def batches(store_folder: Path) -> dict[str, Any]:
    """Shuffled padded batches, interleaved with a bare loop of slices."""
    from ehrseq.config.representation import EventsConfig, TimepointsConfig
    from ehrseq.config.schema import Loader
    from ehrseq.data import HistoryDataset, represent
    from ehrseq.store import open_store

    store = open_store(store_folder)
    samples = np.arange(min(len(store.arrays.sample_time), 20_000))
    loader = Loader(
        batch_size=BATCH, batch_tokens=None, max_padding=0.05, eval_batch_size=512, num_workers=0, cache_gib=0
    )
    datasets = {
        "events": HistoryDataset(represent(store, EventsConfig(name="events", max_steps=MAX_STEPS)), samples),
        "timepoints": HistoryDataset(
            represent(store, TimepointsConfig(name="timepoints", max_steps=MAX_STEPS)), samples
        ),
    }
    flat = Flat(store.arrays)
    times: dict[str, list[float]] = {"bare": [], "events": [], "timepoints": []}
    events = int(datasets["events"].lengths.sum())
    for repeat in range(7):
        started = time.perf_counter()
        _bare(flat, np.random.default_rng(repeat).permutation(samples))
        times["bare"].append(time.perf_counter() - started)
        for name, dataset in datasets.items():
            started = time.perf_counter()
            for _ in dataset.shuffled(loader, seed=repeat):
                pass
            times[name].append(time.perf_counter() - started)
    result = {
        name: {
            "samples_a_second": round(len(samples) / statistics.median(seconds)),
            "million_events_a_second": round(events / statistics.median(seconds) / 1e6, 1),
        }
        for name, seconds in times.items()
    }
    ratio = statistics.median(bare / ours for bare, ours in zip(times["bare"], times["events"], strict=True))
    print("batches", result, "events / bare", round(ratio, 2), flush=True)
    return {"histories": len(samples), "max_steps": MAX_STEPS, **result, "events_over_bare": round(ratio, 2)}


def _bare(arrays: Flat, order: np.ndarray) -> None:
    """The least that padded batches of codes, values and times can cost: no masks, no buckets, no tensors."""
    code, value, stamp = arrays.code, arrays.value, arrays.time
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        end = arrays.sample_end[rows]
        begin = np.maximum(arrays.sample_begin[rows], end - MAX_STEPS)
        shape = (len(rows), int((end - begin).max()))
        codes, values, times = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.int64)
        for row, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            size = last - first
            codes[row, :size] = code[first:last]
            values[row, :size] = value[first:last]
            times[row, :size] = stamp[first:last]


_PEER = """
import json, sys, time
from pathlib import Path
from meds_torchdata import MEDSPytorchDataset, MEDSTorchDataConfig
config = MEDSTorchDataConfig(tensorized_cohort_dir=sys.argv[1], max_seq_len=1024, task_labels_dir=sys.argv[2],
                             seq_sampling_strategy="to_end", static_inclusion_mode="omit", batch_mode="SM")
data = MEDSPytorchDataset(config, split="train")
loader = data.get_dataloader(batch_size=64, shuffle=True)
rates = []
for _ in range(3):
    started = time.perf_counter(); samples = events = 0
    for batch in loader:
        samples += batch.batch_size; events += int((batch.code != 0).sum())
    rates.append((samples / (time.perf_counter() - started), events / (time.perf_counter() - started)))
print(json.dumps({"samples_a_second": max(rates)[0], "events_a_second": max(rates)[1], "samples": samples}))
"""


def peer(python: Path, archive: Path, scratch: Path) -> dict[str, Any]:
    """meds-torch-data 0.9 and ehrseq on the same MEDS dataset, one process each."""
    import polars as pl

    data = scratch / "peer-data"
    shutil.rmtree(data, ignore_errors=True)
    first = build(["source=physionet2012", f"source.path={archive}", f"paths.data={data}"], scratch)
    dataset = scratch / "peer-meds"
    shutil.rmtree(dataset, ignore_errors=True)
    # The peer wants a folder a split.
    events = pl.read_parquet(Path(str(first["dataset"])) / "data" / "*.parquet")
    # Subjects of static events alone make the peer serve other people's events, or stop: they are left out for both.
    timed = events.filter(pl.col("time").is_not_null()).select(pl.col("subject_id").unique())
    events = events.join(timed, on="subject_id", how="semi", maintain_order="left")
    splits = pl.read_parquet(Path(str(first["store"])) / "subject_splits.parquet").join(
        timed, on="subject_id", how="semi"
    )
    labels = pl.read_parquet(Path(str(first["dataset"])) / "labels" / "in_hospital_mortality" / "*.parquet")
    labels = labels.join(timed, on="subject_id", how="semi", maintain_order="left")
    for (split,), ids in splits.group_by("split"):
        folder = dataset / "data" / str(split)
        folder.mkdir(parents=True)
        events.join(ids, on="subject_id", how="semi", maintain_order="left").write_parquet(folder / "0.parquet")
        place = dataset / "labels" / "in_hospital_mortality" / str(split)
        place.mkdir(parents=True)
        labels.join(ids, on="subject_id", how="semi", maintain_order="left").write_parquet(place / "0.parquet")
    shutil.copytree(Path(str(first["dataset"])) / "metadata", dataset / "metadata")
    splits.write_parquet(dataset / "metadata" / "subject_splits.parquet")
    rows = events.height
    ours = []
    for _ in range(3):
        shutil.rmtree(data, ignore_errors=True)
        ours.append(build(["source=meds", f"source.path={dataset}", f"paths.data={data}"], scratch))
    out = scratch / "peer-out"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(
        [python.parent / "MTD_preprocess", f"MEDS_dataset_dir={dataset}", f"output_dir={out}"],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
    )
    theirs = time.perf_counter() - started
    script = scratch / "peer.py"
    script.write_text(_PEER)
    done = subprocess.run(
        [python, script, out, dataset / "labels" / "in_hospital_mortality"], check=True, capture_output=True, text=True
    )
    loader = json.loads(done.stdout.splitlines()[-1])
    mine = batches(Path(str(ours[0]["store"])))
    best = min(float(run["seconds"]) for run in ours)
    whole = min(float(run["whole_process_seconds"]) for run in ours)
    result = {
        "events": rows,
        "ehrseq_build_seconds": round(best, 2),
        "ehrseq_whole_process_seconds": round(whole, 2),
        "ehrseq_peak_mib": round(max(float(run["own_mib"]) for run in ours)),
        "peer_build_seconds": round(theirs, 2),
        "build_ratio": round(theirs / best, 1),
        "build_ratio_whole_process": round(theirs / whole, 1),
        "peer_loader": loader,
        "ehrseq_loader": mine,
        "loader_ratio": round(mine["events"]["samples_a_second"] / loader["samples_a_second"], 1),
    }
    print("peer  ", result, flush=True)
    return result


def main() -> None:
    """Run, print, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EHRSEQ_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--archive", type=Path, default=data / "physionet2012" / "set-a.tar.gz")
    parser.add_argument("--events", default="1e6,1e7,1e8")
    parser.add_argument("--peer", type=Path, help="Python of an environment with meds-torch-data 0.9")
    parser.add_argument("--scratch", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        sizes = [int(float(size)) for size in options.events.split(",")]
        result: dict[str, Any] = {"cpus": os.cpu_count(), "build": scaling(sizes, scratch)}
        store = next((scratch / "data" / "stores").iterdir())
        result["batches"] = batches(store)
        if (data / "mimic-iv-demo-meds").is_dir():
            result["padding"] = padding((data / "mimic-iv-demo-meds").resolve(), scratch)
        if options.archive.is_file():
            result["text"] = text(options.archive.resolve(), scratch)
            if options.peer:
                result["peer"] = peer(options.peer.absolute(), options.archive.resolve(), scratch)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
