"""A worker of a sweep: takes trials until there are none, each run in a process of its own.

Whoever starts it (this process, joblib, SLURM, Ray) and however many there are, the folder of the sweep and its queue
are all that they share.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ehrseq.config.composer import Composer
from ehrseq.config.sweep import Plan
from ehrseq.errors import ConfigError
from ehrseq.sweeps.isolate import Ended, Limits, Sandbox, Stopped
from ehrseq.sweeps.queues import GridQueue, Queue, Task
from ehrseq.sweeps.records import TRANSIENT, Failure, Outcome, SweepFolder
from ehrseq.tracking import RunLink
from ehrseq.workflows import trial


@dataclass(frozen=True)
class Worker:
    """What is handed to a launcher; can be pickled.

    Attributes:
        plan: The sweep.
        folder: Its folder.
        cwd: The folder in which the command was given.
        slots: Trials at a time.
        threads: Of the processor, for each trial.
        parent: MLflow run of the sweep.
    """

    plan: Plan
    folder: Path
    cwd: Path
    slots: int
    threads: int
    parent: str | None

    def __call__(self, _config: Any = None) -> int:
        """Work until there is nothing left to take; how many runs that were."""
        if Path.cwd() != self.cwd:
            os.chdir(self.cwd)
        sandbox = Sandbox(trial.PRELOAD)
        sandbox.warm_up()
        folder = SweepFolder(self.folder)
        queue = open_queue(self.plan, folder)
        composer = Composer(self.plan.extra)
        try:
            with ThreadPoolExecutor(self.slots, "slot") as pool:
                slots = [pool.submit(_Slot(self, sandbox, folder, queue, composer).work) for _ in range(self.slots)]
                try:
                    wait_for(slots)
                except BaseException:
                    sandbox.stop()
                    raise
            return sum(slot.result() for slot in slots)
        finally:
            queue.close()


def open_queue(plan: Plan, folder: SweepFolder) -> Queue:
    """The queue that the sweep's method asks for."""
    if plan.sweep.method == "grid":
        return GridQueue(plan, folder)
    from ehrseq.sweeps.study import StudyQueue

    return StudyQueue(plan, folder)


class _Slot:
    """Takes one trial after the other."""

    def __init__(self, worker: Worker, sandbox: Sandbox, folder: SweepFolder, queue: Queue, composer: Composer) -> None:
        self._worker = worker
        self._plan = worker.plan
        self._sandbox = sandbox
        self._folder = folder
        self._queue = queue
        self._composer = composer

    def work(self) -> int:
        done = 0
        while (task := self._queue.take()) is not None:
            try:
                outcomes = []
                for repeat in task.repeats:
                    outcome = self._folder.find(task.trial, repeat) or self._try(task, repeat)
                    outcomes.append(outcome)
                    done += 1
                    if outcome.status != "finished":
                        break  # the other repetitions of what is hopeless or fails are not needed
                self._queue.tell(task, outcomes)
            except Stopped:
                self._queue.release(task)
                return done
        return done

    def _try(self, task: Task, repeat: int) -> Outcome:
        """Run it, again where that may help, and keep what came of it."""
        words = (*self._plan.fixed, *task.chosen, *self._plan.repeats[repeat])
        chosen = (*task.chosen, *self._plan.repeats[repeat])
        log = self._folder.log(task.trial, repeat)
        log.unlink(missing_ok=True)
        seconds = 0.0
        attempt = 0
        while True:
            attempt += 1
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ ehrseq train {' '.join(words)}   (attempt {attempt})\n")
            ended, last = self._run(task, repeat, words)
            seconds += ended.seconds
            if ended.status not in TRANSIENT or attempt > self._plan.sweep.retries:
                break
        outcome = Outcome(
            task.trial, repeat, words, chosen, ended.status, seconds=seconds, attempts=attempt, failure=ended.failure
        )
        outcome = self._complete(outcome, ended, last)
        self._folder.record(outcome)
        return outcome

    def _run(self, task: Task, repeat: int, words: tuple[str, ...]) -> tuple[Ended, dict[str, float]]:
        """One attempt, and the figures of its last epoch."""
        sweep = self._plan.sweep
        # Only the first repetition is watched: epochs of other seeds or folds are not to be compared with it.
        pruned = sweep.method == "study" and repeat == task.repeats[0]
        last: dict[str, float] = {}

        def answer(epoch: trial.Epoch) -> bool:
            last.clear()
            last.update(epoch.metrics, **{"train/epochs": epoch.number})
            value = epoch.metrics.get(self._plan.objectives[0][0])
            return pruned and value is not None and self._queue.report(task, epoch.number, value)

        link = link_of(self._plan, self._folder, self._worker.parent, task.trial, repeat, task.chosen)
        try:
            plain = self._composer.plain(words)
        except ConfigError as error:  # a combination that cannot be; its single values can
            return Ended("failed", None, Failure("ConfigError", str(error), ""), 0.0), last
        request = trial.Request(plain, self._worker.cwd, sweep.evaluate == "all", link)
        limits = Limits(self._worker.threads, sweep.memory_gib, sweep.timeout_minutes)
        return self._sandbox.run(trial.main, request, self._folder.log(task.trial, repeat), limits, answer), last

    def _complete(self, outcome: Outcome, ended: Ended, last: dict[str, float]) -> Outcome:
        """The outcome with its figures; without a figure to judge it by, a trial has failed."""
        if ended.status != "finished":
            return replace(outcome, values=last)
        answer: trial.Answer = ended.result
        outcome = replace(outcome, values=answer.values, folder=answer.folder, run_id=answer.run_id)
        for name, _ in self._plan.objectives:
            if not math.isfinite(answer.values.get(name, math.nan)):
                failure = Failure("NoFigure", f"{name} is {answer.values.get(name)} after training", "")
                return replace(outcome, status="failed", failure=failure)
        return outcome


def link_of(
    plan: Plan, folder: SweepFolder, parent: str | None, number: int, repeat: int, chosen: tuple[str, ...]
) -> RunLink:
    """Where a run stands in its sweep: below its configuration, where that has several repetitions."""
    repeats = plan.repeats[repeat]
    own = " ".join((*chosen, *repeats))
    several = len(plan.repeats) > 1
    group = f"{number} {' '.join(chosen)}".strip() if several else None
    name = " ".join(repeats) if several else f"{number} {own}".strip()
    return RunLink(plan.id, parent, number, repeat, name, group, folder.path / ".mlflow.lock")
