"""What each epoch of `ehrseq train` takes, read where training hands its figures on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ehrseq.training.callbacks import EpochMetrics


@dataclass(frozen=True)
class Span:
    """Of a piece of work: seconds by the clock, and seconds that processors worked for this process."""

    wall: float
    cpu: float


class Stopwatch:
    """Begins when it is made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> Span:
        """What has passed."""
        return Span(time.perf_counter() - self.wall, time.process_time() - self.cpu)


@contextmanager
def timed_epochs(between: Callable[[], object] | None = None) -> Iterator[list[Span]]:
    """The epochs of all trainings within, in order; `between` runs after each and is not counted."""
    spans: list[Span] = []
    watch = Stopwatch()
    inner = EpochMetrics._hand_on

    def hand_on(self: EpochMetrics, metrics: dict[str, float], epoch: int) -> None:
        nonlocal watch
        inner(self, metrics, epoch)
        spans.append(watch.read())
        if between is not None:
            between()
        watch = Stopwatch()

    EpochMetrics._hand_on = hand_on  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        EpochMetrics._hand_on = inner  # type: ignore[method-assign]
