"""Finding a learning rate and a batch size by trying, before the training that counts."""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import TrainingError, is_out_of_memory
from ehrseq.training.module import SequenceModule

_SMOOTHING = 0.9  # of the loss, over steps
_UNSURE = round(1 / (1 - _SMOOTHING))  # first steps, whose loss is hardly smoothed yet
_DIVERGED = 3.0  # times the lowest loss
_WARM_UP, _TIMED = 2, 5  # steps
_GOOD = 0.9  # of the highest throughput


class RateTrial(NamedTuple):
    """A learning rate and the smoothed loss when it was reached."""

    rate: float
    loss: float


def try_rates(
    module: SequenceModule, train: DataLoader[SequenceBatch], device: torch.device, low: float, high: float, steps: int
) -> list[RateTrial]:
    """The learning-rate range test (Smith 2017): one short training whose rate grows from step to step.

    Args:
        module: What is trained; its weights are worthless afterwards.
        train: Shuffled batches, gone through as often as it takes.
        device: Where.
        low: The first rate.
        high: The last; not reached where the loss diverges before.
        steps: How many rates, evenly apart in their logarithm.
    """
    module.to(device).train()
    optimizer = module.optimizer(module.parameters())
    trials: list[RateTrial] = []
    mean = 0.0
    for step, batch in zip(range(steps), _forever(train), strict=False):
        rate = low * (high / low) ** (step / max(steps - 1, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _step(module, optimizer, batch.to(device))
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed = mean / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or (trials and smoothed > _DIVERGED * min(trial.loss for trial in trials)):
            break
        trials.append(RateTrial(rate, smoothed))
    return trials


def suggest_rate(trials: list[RateTrial]) -> float:
    """A tenth of the rate at which the loss was lowest: as large as it may be with room to spare.

    Raises:
        TrainingError: If the loss diverged at once.
    """
    if len(trials) <= _UNSURE:
        raise TrainingError("the loss diverged at the lowest learning rates; look at the data and the network first")
    return min(trials[_UNSURE:], key=lambda trial: trial.loss).rate / 10


class SizeTrial(NamedTuple):
    """A batch size, histories a second, and the memory of a GPU (GiB); None where it does not fit."""

    size: int
    throughput: float | None
    memory: float | None


def try_sizes(
    module: SequenceModule, loader: Callable[[int], DataLoader[SequenceBatch]], device: torch.device, sizes: list[int]
) -> list[SizeTrial]:
    """Train a few steps with each batch size, until one does not fit.

    Args:
        module: What is trained; its weights are worthless afterwards.
        loader: Shuffled batches of a size.
        device: Where.
        sizes: In rising order.
    """
    module.to(device).train()
    optimizer = module.optimizer(module.parameters())
    trials = []
    for size in sizes:
        batches = _forever(loader(size))
        is_gpu = device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        try:
            for _ in range(_WARM_UP):
                _step(module, optimizer, next(batches).to(device))
            chosen = [next(batches) for _ in range(_TIMED)]
            started = time.perf_counter()
            for batch in chosen:
                _step(module, optimizer, batch.to(device))
            seconds = time.perf_counter() - started
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            trials.append(SizeTrial(size, None, None))
            break
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if is_gpu else None
        trials.append(SizeTrial(size, sum(map(len, chosen)) / seconds, memory))
    return trials


def suggest_size(trials: list[SizeTrial]) -> int:
    """The smallest size that is nearly as quick as the quickest: small batches learn more from each history.

    Raises:
        TrainingError: If not even the smallest fits.
    """
    fits = [(trial.size, trial.throughput) for trial in trials if trial.throughput is not None]
    if not fits:
        raise TrainingError(f"the memory does not hold a batch of {trials[0].size} histories")
    most = max(throughput for _, throughput in fits)
    return next(size for size, throughput in fits if throughput >= _GOOD * most)


def _step(module: SequenceModule, optimizer: torch.optim.Optimizer, batch: SequenceBatch) -> float:
    optimizer.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _forever(loader: DataLoader[SequenceBatch]) -> Iterator[SequenceBatch]:
    while True:
        yield from loader
