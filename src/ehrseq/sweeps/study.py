"""An Optuna study as a queue of trials, for any number of workers on any number of machines.

All trials are made before the first one runs, as many as were asked for, and wait; a worker takes one by changing its
state, which only one of them can do. So there are never more than were asked for. A worker says every so
often that it is alive; the trials of one that is dead wait again, under the same number and with the same values.
"""

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from ehrseq.config.space import Assignment, Choice, matters, words_of
from ehrseq.config.sweep import Plan, Sweep
from ehrseq.errors import ConfigError
from ehrseq.files import locked
from ehrseq.sweeps.queues import Task
from ehrseq.sweeps.records import GOOD, Outcome, SweepFolder

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_ALIVE, _DEAD = 20.0, 120.0  # seconds between two signs of life; without one for so long, a worker is dead
_WORKER, _WORDS = "worker", "words"
_SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    # Trials that run are thought to fail, so that parallel workers do not all try the same.
    "tpe": lambda seed, **options: optuna.samplers.TPESampler(seed=seed, constant_liar=True, **options),
    "random": optuna.samplers.RandomSampler,
    # What CMA-ES cannot vary (choices) is drawn at random, which it need not tell every time.
    "cmaes": lambda seed, **options: optuna.samplers.CmaEsSampler(
        seed=seed, warn_independent_sampling=False, **options
    ),
    "gp": optuna.samplers.GPSampler,
    "grid": optuna.samplers.RandomSampler,  # never asked: every trial has its values from the start
}
_PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}


class SeededSampler(BaseSampler):
    """Samples each trial with random numbers of its own: a pure function of seed, trial number and what is known.

    Optuna's samplers begin their numbers anew with each process: a study that was interrupted would try the same
    values again, and so would every one of several workers.

    Args:
        make: A sampler of a seed.
        seed: Of the sweep.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._samplers: dict[int, BaseSampler] = {}

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._samplers[trial.number] = self._make(seed)
        return self._samplers[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values that are drawn together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value that is drawn alone."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tells the trial's sampler, which is not needed any more."""
        self._of(trial).after_trial(study, trial, state, values)
        del self._samplers[trial.number]


def make_sampler(sweep: Sweep) -> SeededSampler:
    """The sampler that the sweep names.

    Raises:
        ConfigError: If it does not take the options.
    """
    make = _SAMPLERS[sweep.sampler or "tpe"]

    def seeded(seed: int) -> BaseSampler:
        return make(seed=seed, **sweep.sampler_options)

    try:
        seeded(0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sweep.sampler_options: {sweep.sampler} does not take them: {error}") from error
    return SeededSampler(seeded, sweep.seed)


def make_pruner(sweep: Sweep) -> BasePruner:
    """The pruner that the sweep names.

    Raises:
        ConfigError: If it does not take the options.
    """
    try:
        return _PRUNERS[sweep.pruner or "none"](**sweep.pruner_options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sweep.pruner_options: {sweep.pruner} does not take them: {error}") from error


def open_storage(storage: str, folder: Path) -> BaseStorage:
    """Where a study is kept.

    Args:
        storage: `sqlite`, `journal` or an URL of SQLAlchemy's kind.
        folder: The sweep's folder, for the first two.

    Raises:
        ConfigError: If it cannot be opened.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage == "journal":
        return JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    url = f"sqlite:///{folder / 'study.db'}" if storage == "sqlite" else storage
    # Writers of one SQLite file wait for each other; a server's idle connections are looked at before use.
    options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        # Two that make the tables at once break each other.
        with locked(folder / ".storage.lock"):
            return RDBStorage(url, engine_kwargs=options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"sweep.storage={storage} cannot be opened: {reason}") from error


class StudyQueue:
    """The trials of a study.

    Args:
        plan: The sweep.
        folder: Its folder.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self._plan = plan
        self._lock = folder.path / ".study.lock"
        sampler, pruner = make_sampler(plan.sweep), make_pruner(plan.sweep)
        self._storage = open_storage(plan.sweep.storage or "sqlite", folder.path)
        directions = [StudyDirection[direction.upper()] for _, direction in plan.objectives]
        with locked(self._lock), suppress(optuna.exceptions.DuplicatedStudyError):
            self._storage.create_new_study(directions, plan.id)
        self._study = optuna.load_study(study_name=plan.id, storage=self._storage, sampler=sampler, pruner=pruner)
        if self._study.directions != directions:
            raise ConfigError(f"sweep.name={plan.id}: a study of this name has other objectives; give another name")
        self._trials: dict[int, Trial] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._stay_alive, name="alive", daemon=True).start()

    def fill(self) -> None:
        """Make the trials that were asked for, where they are missing."""
        with locked(self._lock):
            there = len(self._all())
            if self._plan.sweep.sampler != "grid":
                for _ in range(there, self._plan.trials):
                    self._study.add_trial(optuna.create_trial(state=TrialState.WAITING))
                return
            for chosen in self._plan.combinations[there:]:
                self._study.enqueue_trial(chosen)

    def due(self) -> int:
        """How many trials have no end yet."""
        return sum(not trial.state.is_finished() for trial in self._all())

    def recover(self) -> int:
        """Let the trials of dead workers wait again; how many those are."""
        with locked(self._lock):
            lost = [trial for trial in self._all() if trial.state == TrialState.RUNNING and not _is_alive(trial)]
            for trial in lost:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        return len(lost)

    def take(self) -> Task | None:
        """The first that waits; its values are drawn now, unless an earlier attempt has them already."""
        trial_id = self._claim()
        if trial_id is None:
            return None
        trial = Trial(self._study, trial_id)
        chosen = self._choose(trial)
        task = Task(trial.number, words_of(chosen), tuple(range(len(self._plan.repeats))))
        trial.set_user_attr(_WORDS, list(task.chosen))
        self._trials[task.trial] = trial
        return task

    def _claim(self) -> int | None:
        # SQLite lets two take the same trial, so workers that share a folder go one by one; a server sees to the rest.
        with locked(self._lock):
            for frozen in self._all():
                if frozen.state != TrialState.WAITING:
                    continue
                self._sign(frozen._trial_id)
                try:
                    if self._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING):
                        self._sign(frozen._trial_id)
                        return frozen._trial_id
                except RuntimeError:  # finished by somebody else at this very moment
                    pass
        return None

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Tell the study what an epoch gave; whether its pruner gives the trial up."""
        if len(self._plan.objectives) > 1:
            return False
        trial = self._trials[task.trial]
        trial.report(value, epoch)
        return trial.should_prune()

    def tell(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        """Tell the study: the mean over the repetitions, or that the trial was pruned or failed."""
        trial = self._trials.pop(task.trial)
        values, state = None, TrialState.FAIL
        if any(outcome.status == "pruned" for outcome in outcomes):
            state = TrialState.PRUNED
        elif outcomes and all(outcome.status == "finished" for outcome in outcomes):
            values, state = self._values(outcomes), TrialState.COMPLETE
        failed = next((outcome for outcome in outcomes if outcome.status not in GOOD), None)
        if failed is not None and failed.failure is not None:
            trial.set_user_attr("failure", f"{failed.status}: {failed.failure.message}"[:500])
        self._study.tell(trial, values, state)

    def release(self, task: Task) -> None:
        """Let it wait again."""
        trial = self._trials.pop(task.trial)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def close(self) -> None:
        """Let go of everything."""
        self._closed.set()
        for number in list(self._trials):
            self.release(Task(number, (), ()))
        self._storage.remove_session()

    def _all(self) -> list[FrozenTrial]:
        """The trials that were asked for; more there are only where two machines began the study at once."""
        # Through the study, whose cache must know a trial before it is worked on.
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.number < self._plan.trials]

    def _choose(self, trial: Trial) -> Assignment:
        chosen: Assignment = {}
        held = self._plan.held
        for item in self._plan.space:
            if not matters(item, {**held, **chosen}):
                continue
            if isinstance(item, Choice):
                chosen[item.key] = trial.suggest_categorical(item.key, item.values)
            elif item.whole:
                step = int(item.step or 1)
                number = trial.suggest_int(item.key, int(item.low), int(item.high), step=step, log=item.log)
                chosen[item.key] = item.text(number)
            else:
                value = trial.suggest_float(item.key, item.low, item.high, step=item.step, log=item.log)
                chosen[item.key] = item.text(value)
        return chosen

    def _values(self, outcomes: Sequence[Outcome]) -> list[float]:
        return [float(np.mean([outcome.values[name] for outcome in outcomes])) for name, _ in self._plan.objectives]

    def _sign(self, trial_id: int) -> None:
        """Say who works on a trial, and when that was."""
        me = {"machine": _machine(), "pid": os.getpid(), "born": _born(os.getpid()), "seen": time.time()}
        # Somebody else may have finished it at this very moment.
        with suppress(RuntimeError):
            self._storage.set_trial_user_attr(trial_id, _WORKER, me)

    def _stay_alive(self) -> None:
        while not self._closed.wait(_ALIVE):
            for trial in list(self._trials.values()):
                # A storage that is away for a moment is no reason to die; the next sign may arrive.
                with suppress(Exception):
                    self._sign(trial._trial_id)


def _is_alive(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial still lives, as far as can be told from here."""
    worker: Mapping[str, Any] | None = trial.user_attrs.get(_WORKER)
    if worker is None:
        begun = trial.datetime_start
        return begun is not None and time.time() - begun.timestamp() < _DEAD
    born = _born(worker["pid"])
    # Where it cannot be looked at (another machine, or no /proc), the last sign of life counts.
    if worker["machine"] == _machine() and worker["born"] is not None:
        return bool(worker["born"] == born)
    return bool(time.time() - worker["seen"] < _DEAD)


@cache
def _machine() -> str:
    """Names what process numbers are counted in: this system since it was started, or a container of it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        parts += [str(Path("/proc/self/ns/pid").readlink())]
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """When a process of this machine was started; None where there is no such process."""
    try:
        # After the name, which may hold anything: field 22 of proc(5) in clock ticks since the system was started.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None
