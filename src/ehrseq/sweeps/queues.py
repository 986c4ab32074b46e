"""Which trial is next: a list of combinations, from which several processes may take."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from ehrseq.config.space import words_of
from ehrseq.config.sweep import Plan
from ehrseq.sweeps.records import Outcome, SweepFolder, run_name


@dataclass(frozen=True)
class Task:
    """What one worker does next.

    Attributes:
        trial: Number of the configuration.
        chosen: The override words that make it.
        repeats: Which of its repetitions to run.
    """

    trial: int
    chosen: tuple[str, ...]
    repeats: tuple[int, ...]


class Queue(Protocol):
    """Hands out trials, each to one worker only, and learns what came of them."""

    def fill(self) -> None:
        """Make the trials that were asked for, where they are missing."""
        ...

    def due(self) -> int:
        """How many trials have no end yet, here or elsewhere."""
        ...

    def recover(self) -> int:
        """Let the trials of dead workers wait again; how many those are."""
        ...

    def take(self) -> Task | None:
        """The next trial, or None where there is none (others may still be at work)."""
        ...

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Learn what is watched after an epoch; whether the trial is hopeless."""
        ...

    def tell(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a trial."""
        ...

    def release(self, task: Task) -> None:
        """Take a trial back, undone."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class GridQueue:
    """Every combination once; one that has an outcome already is not due.

    Args:
        plan: The sweep.
        folder: Its folder, in which workers of several machines see what others have taken.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self._folder = folder
        repeats = range(len(plan.repeats))
        self._tasks = [
            Task(number, words_of(chosen), (repeat,))
            for number, chosen in enumerate(plan.combinations)
            for repeat in repeats
        ]
        self._claims: dict[Task, ExitStack] = {}

    def fill(self) -> None:
        """They are there."""

    def due(self) -> int:
        """How many have no outcome."""
        return sum(self._folder.find(task.trial, task.repeats[0]) is None for task in self._tasks)

    def recover(self) -> int:
        """Claims of the dead are void anyway."""
        return 0

    def take(self) -> Task | None:
        """The first that has no outcome and nobody works on."""
        for task in self._tasks:
            (repeat,) = task.repeats
            if self._folder.find(task.trial, repeat) is not None:
                continue
            stack = ExitStack()
            is_ours = stack.enter_context(self._folder.claim(run_name(task.trial, repeat)))
            # Looked at again: its last holder may have finished it in between.
            if is_ours and self._folder.find(task.trial, repeat) is None:
                self._claims[task] = stack
                return task
            stack.close()
        return None

    def report(self, task: Task, epoch: int, value: float) -> bool:  # noqa: ARG002
        """Never hopeless: a grid is there to be seen whole."""
        return False

    def tell(self, task: Task, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        """The outcome is in the folder; the claim is let go."""
        self.release(task)

    def release(self, task: Task) -> None:
        """Let others have it."""
        self._claims.pop(task).close()

    def close(self) -> None:
        """Let go of all claims."""
        for task in list(self._claims):
            self.release(task)
