"""Time and memory of each encoder, forward and backward, beside `torch.nn.LSTM` of the same size.

    python benchmarks/encoders.py [--steps 48 512 4096] [--sizes 64 256] [--encoders MinLSTMEncoder ...] [--device cuda]

Each case is a process of its own that runs encoder and yardstick in turn; each memory another one: VmHWM over what was
resident before the first step, on a GPU what torch allocated at most. Every encoder that `ehrseq.nn.encoders` exports
is measured with its own defaults; one that reads more of the batch gets random tensors.
"""

import argparse
import inspect
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ehrseq.nn import Encoder, encoders

RESULTS = Path(__file__).parent / "results"
BATCH = {48: 64, 512: 64, 4096: 8}
STATICS = 8
SECONDS_LIMIT = 60
MEMORY_LIMIT = 6 << 30
YARDSTICKS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


def exported() -> dict[str, type[Encoder]]:
    """The encoders that can be built: exported, and no other exported one is a kind of it."""
    found = [getattr(encoders, name) for name in encoders.__all__]
    kinds: list[type[Encoder]] = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, Encoder)]
    bases = {base for kind in kinds for base in kind.__mro__[1:]}
    return {kind.__name__: kind for kind in kinds if kind not in bases}


def random_batch(batch: int, steps: int, size: int, device: str) -> dict[str, Tensor]:
    """Embedded steps as `x`, full lengths, and all that encoders read; as many features as an embedded step has."""
    torch.manual_seed(0)
    grid = (batch, steps, size)
    tensors = {
        "x": torch.randn(grid),
        "lengths": torch.full((batch,), steps),
        "values": torch.randn(grid),
        "observed": (torch.rand(grid) < 0.3).float(),
        "hours_since": torch.rand(grid) * 12,
        "hours_before": torch.arange(steps - 1, -1, -1).float().expand(batch, -1),
        "statics": torch.randn(batch, STATICS),
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    tensors["x"].requires_grad_()
    return tensors


def build(name: str, steps: int, size: int, device: str) -> tuple[nn.Module, Callable[[], None]]:
    """A net by its name, and what runs it forward and backward once."""
    tensors = random_batch(BATCH[steps], steps, size, device)
    net: nn.Module
    if name in YARDSTICKS:
        net = yardstick = YARDSTICKS[name](size, size, batch_first=True).to(device)

        def run() -> None:
            torch.autograd.backward(yardstick(tensors["x"])[0].sum())
    else:
        kind = exported()[name]
        sizes = {"input_size": size, "hidden_size": size, "num_features": size, "num_statics": STATICS}
        taken = inspect.signature(kind).parameters
        net = encoder = kind(**{key: value for key, value in sizes.items() if key in taken}).to(device)
        read = {key: tensors[key] for key in encoder.reads}

        def run() -> None:
            torch.autograd.backward(encoder(tensors["x"], tensors["lengths"], **read).sum())

    def finished() -> None:
        net.zero_grad()
        tensors["x"].grad = None
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return net, finished


def resident(field: str) -> int:
    """VmRSS, VmHWM or VmData of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def measure_memory(name: str, steps: int, size: int, device: str) -> dict[str, float]:
    """Bytes one run needs at most, its seconds, and the number of weights; ends where a limit is reached."""
    net, run = build(name, steps, size, device)
    build(name, min(BATCH), 8, device)[1]()  # what torch sets up once
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    before = resident("VmRSS")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        limit = resident("VmData") + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.alarm(SECONDS_LIMIT)
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    weights = sum(weight.numel() for weight in net.parameters())
    return {"bytes": peak - before, "seconds": seconds, "weights": weights}


def measure_time(name: str, yardstick: str, steps: int, size: int, device: str, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, encoder and yardstick in turn, after one of each."""
    pair = {kind: build(kind, steps, size, device)[1] for kind in (name, yardstick)}
    seconds: dict[str, list[float]] = {kind: [] for kind in pair}
    for turn in range(runs + 1):
        for kind, run in pair.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[kind].append(time.perf_counter() - started)
    return seconds


def in_process(*words: Any) -> dict[str, Any]:
    """Run this file for one measurement; {"note": ...} where it reached a limit."""
    command = [sys.executable, __file__, "--measure", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGALRM:
        return {"note": f"over {SECONDS_LIMIT} s"}
    if "allocate memory" in done.stderr or "out of memory" in done.stderr:
        return {"note": f"over {MEMORY_LIMIT >> 30} GiB"}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def one_case(name: str, yardstick: str, steps: int, size: int, device: str, runs: int) -> dict[str, Any]:
    """Time and memory of an encoder over those of its yardstick, or a note why not."""
    case: dict[str, Any] = {
        "encoder": name,
        "yardstick": yardstick,
        "steps": steps,
        "size": size,
        "batch": BATCH[steps],
    }
    needs, base = (in_process("memory", kind, yardstick, steps, size, device, runs) for kind in (name, yardstick))
    if note := needs.get("note") or base.get("note"):
        return {**case, "note": note}
    if needs["seconds"] + base["seconds"] > SECONDS_LIMIT / 12:
        runs = min(runs, 3)
    seconds = in_process("time", name, yardstick, steps, size, device, runs)
    mine, other = (statistics.median(seconds[kind]) for kind in (name, yardstick))
    return {
        **case,
        "weights": needs["weights"],
        "seconds": round(mine, 4),
        "yardstick_seconds": round(other, 4),
        "time_ratio": round(mine / other, 2),
        "mebibytes": round(needs["bytes"] / 2**20, 1),
        "yardstick_mebibytes": round(base["bytes"] / 2**20, 1),
        "memory_ratio": round(needs["bytes"] / base["bytes"], 2),
    }


def table(cases: list[dict[str, Any]]) -> str:
    """Markdown: a row an encoder, a column a size, time and memory as multiples of the yardstick's."""
    columns = list(dict.fromkeys((case["steps"], case["size"]) for case in cases))
    rows = dict.fromkeys((case["encoder"], case["yardstick"]) for case in cases)
    cells = {
        (case["encoder"], case["yardstick"], case["steps"], case["size"]): case.get("note")
        or f"{case['time_ratio']:.2f} / {case['memory_ratio']:.2f}"
        for case in cases
    }
    lines = [["time / memory", *(f"T={steps}, H={size}" for steps, size in columns)], ["---"] * (len(columns) + 1)]
    for encoder, yardstick in rows:
        found = (cells.get((encoder, yardstick, steps, size), "") for steps, size in columns)
        lines.append([f"`{encoder}` over nn.{yardstick}", *found])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run all cases, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=list(BATCH), choices=list(BATCH))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--encoders", nargs="+", default=list(exported()), choices=list(exported()))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    wanted = [(name, "LSTM", t, h) for t in options.steps for h in options.sizes for name in options.encoders]
    if "GRUDEncoder" in options.encoders and 48 in options.steps and 64 in options.sizes:
        wanted.append(("GRUDEncoder", "GRU", 48, 64))
    cases = []
    for item in wanted:
        cases.append(one_case(*item, options.device, options.runs))
        print(cases[-1], file=sys.stderr, flush=True)
    print(table(cases))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("encoders.json" if options.device == "cpu" else f"encoders_{options.device}.json")
    machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    path.write_text(json.dumps({**machine, "cases": cases}, indent=2) + "\n", encoding="utf-8")


def measure(what: str, name: str, yardstick: str, *numbers: str) -> None:
    """One measurement in this process, printed as JSON."""
    steps, size, device, runs = int(numbers[0]), int(numbers[1]), numbers[2], int(numbers[3])
    if what == "memory":
        print(json.dumps(measure_memory(name, steps, size, device)))
    else:
        print(json.dumps(measure_time(name, yardstick, steps, size, device, runs)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
