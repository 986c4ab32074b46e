"""Histories of unequal length: our masked LSTM and GRU beside a padded call and packed sequences of `torch.nn`.

    python benchmarks/lengths.py [--threads 1]

All three in turns, forward and backward; ratios of medians to the padded call, which is wrong at the ends of the
backward direction and is the floor of what can be reached. Lengths are log-normal. The largest difference to the packed
call, in outputs and in gradients, stands beside.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine_facts
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ehrseq.files import write_json
from ehrseq.nn.encoders import GRUEncoder, LSTMEncoder

RESULTS = Path(__file__).parent / "results"
SIZE = 64
BATCHES = {48: 64, 512: 16, 4096: 2}
KINDS = {"lstm": (nn.LSTM, LSTMEncoder), "gru": (nn.GRU, GRUEncoder)}


def measure(kind: str, bidirectional: bool, steps: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """One case."""
    torch.manual_seed(0)
    plain, own = KINDS[kind]
    rows = BATCHES[steps] * (16 if device.type == "cuda" else 1)
    lengths = torch.empty(rows).log_normal_(0, 1).mul_(steps / 4).long().clamp(1, steps)
    lengths[0] = steps
    x = torch.randn(rows, steps, SIZE, device=device, requires_grad=True)
    mask = (torch.arange(steps) < lengths[:, None]).unsqueeze(-1).to(device)
    reference = plain(SIZE, SIZE, batch_first=True, bidirectional=bidirectional).to(device)
    encoder = own(SIZE, SIZE, bidirectional=bidirectional).to(device)
    encoder.load_torch_state(reference.state_dict())
    known = lengths.to(device)

    def padded() -> Tensor:
        return reference(x)[0]  # type: ignore[no-any-return]

    def packed() -> Tensor:
        packs = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(reference(packs)[0], batch_first=True, total_length=steps)[0]

    def masked() -> Tensor:
        return encoder(x, known)  # type: ignore[no-any-return]

    def step(call: Callable[[], Tensor]) -> tuple[float, Tensor, Tensor]:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        output = call() * mask
        weights = [*reference.parameters()] if call is not masked else [*encoder.parameters()]
        gradient = torch.autograd.grad(output.sin().sum(), [x, *weights])[0]
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, output.detach(), gradient * mask

    calls = {"padded": padded, "packed": packed, "masked": masked}
    found = {name: step(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(step(call)[0])
    middle = {name: median(times) for name, times in seconds.items()}
    return {
        "encoder": ("bidirectional " if bidirectional else "") + kind,
        "steps": steps,
        "batch": rows,
        "padded_ms": 1000 * middle["padded"],
        "packed_ratio": middle["packed"] / middle["padded"],
        "masked_ratio": middle["masked"] / middle["padded"],
        "output_difference": float((found["masked"][1] - found["packed"][1]).abs().max()),
        "gradient_difference": float((found["masked"][2] - found["packed"][2]).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for steps in BATCHES:
        for kind in KINDS:
            for bidirectional in (False, True):
                rows.append(measure(kind, bidirectional, steps, options.repeats, device))
                print(rows[-1], flush=True)
    facts = machine_facts(device)
    write_json(RESULTS / f"lengths_{device.type}.json", {**facts, "rows": rows})


if __name__ == "__main__":
    main()
