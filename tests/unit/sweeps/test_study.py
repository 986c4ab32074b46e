"""Studies as queues: exactly as many trials as asked for, whoever takes them, whatever dies."""

import multiprocessing
import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ehrseq.config.load import compose_sweep
from ehrseq.config.schema import Settings
from ehrseq.config.space import Choice, Interval
from ehrseq.config.sweep import Plan, check_sweep
from ehrseq.errors import ConfigError
from ehrseq.sweeps.queues import GridQueue, Task
from ehrseq.sweeps.records import Failure, Outcome, SweepFolder
from ehrseq.sweeps.study import StudyQueue

SPACE = (
    Choice("model", ("lstm", "gru")),
    Interval("rate", 1e-4, 1e-2, log=True),
    Interval("layers", 1, 4, whole=True),
    Interval("dropout", 0.0, 0.5, step=0.1, when={"model": ("gru",)}),
)
BASE = Settings.model_construct()


def plan(**changes: object) -> Plan:
    sweep = check_sweep({**compose_sweep(["sweep=optuna"]), "trials": 12, **changes})
    return Plan(sweep, (), SPACE, ((),), None, (), BASE, (("tuning/loss", "minimize"),), "study")


def outcome(task: Task, value: float, status: str = "finished") -> Outcome:
    failure = None if status == "finished" else Failure("Broken", "it broke", "")
    return Outcome(task.trial, 0, task.chosen, task.chosen, status, {"tuning/loss": value}, failure=failure)  # type: ignore[arg-type]


def value_of(task: Task) -> float:
    """A bowl with its lowest point inside the space."""
    words = dict(word.split("=") for word in task.chosen)
    return abs(float(words["rate"]) - 1e-3) + 0.1 * int(words["layers"]) + (words["model"] == "lstm")


def work(queue: StudyQueue, most: int = 1000) -> list[Task]:
    done: list[Task] = []
    while len(done) < most and (task := queue.take()) is not None:
        queue.tell(task, [outcome(task, value_of(task))])
        done.append(task)
    return done


@pytest.mark.parametrize("storage", ["sqlite", "journal", "postgres"])
def test_many_workers_share_a_study_and_make_no_trial_too_many(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres") if storage == "postgres" else storage
    made = plan(sampler="random", trials=16, storage=url)
    folder = SweepFolder(tmp_path)
    queues = [StudyQueue(made, folder) for _ in range(2)]
    for queue in queues:
        queue.fill()
    with ThreadPoolExecutor(8) as pool:
        done = [task for tasks in pool.map(lambda number: work(queues[number % 2]), range(8)) for task in tasks]
    assert sorted(task.trial for task in done) == list(range(16))
    assert queues[0].due() == 0
    assert len({task.chosen for task in done}) == 16  # parallel workers do not try the same
    more = StudyQueue(plan(sampler="random", trials=18, storage=url), folder)
    more.fill()
    assert [task.trial for task in work(more)] == list(range(16, 18))
    for queue in (*queues, more):
        queue.close()


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_an_interrupted_study_tries_what_an_uninterrupted_one_does(sampler: str, tmp_path: Path) -> None:
    options = {"n_startup_trials": 4} if sampler in ("tpe", "cmaes", "gp") else {}
    made = plan(sampler=sampler, sampler_options=options, storage="journal", trials=7)
    folders = [SweepFolder(tmp_path / name) for name in ("whole", "parts")]
    whole = StudyQueue(made, folders[0])
    whole.fill()
    expected = work(whole)
    got = []
    for count in (2, 3, 7):
        part = StudyQueue(made, folders[1])
        part.fill()
        got += work(part, count)
        part.close()
    assert got == expected
    assert all(("dropout" in str(task.chosen)) == ("model=gru" in task.chosen) for task in got)


def test_a_grid_as_a_study_has_every_combination_once(tmp_path: Path) -> None:
    space = (Choice("model", ("lstm", "gru")), Choice("dropout", ("0.1", "0.2"), {"model": ("gru",)}))
    made = replace(plan(sampler="grid", pruner="none"), space=space)
    queue = StudyQueue(made, SweepFolder(tmp_path))
    queue.fill()
    queue.fill()
    done = []
    while (task := queue.take()) is not None:
        queue.tell(task, [outcome(task, 1.0)])
        done.append(task.chosen)
    assert done == [("model=lstm",), ("model=gru", "dropout=0.1"), ("model=gru", "dropout=0.2")]


def _take_and_die(folder: Path) -> None:
    queue = StudyQueue(plan(), SweepFolder(folder))
    assert queue.take() is not None
    os.kill(os.getpid(), signal.SIGKILL)


def test_trials_of_the_dead_wait_again_with_their_values(tmp_path: Path) -> None:
    queue = StudyQueue(plan(), SweepFolder(tmp_path))
    queue.fill()
    ours = queue.take()
    assert ours is not None
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert queue.recover() == 1  # not ours, which is alive
    again = queue.take()
    assert again is not None
    assert again.trial == 1
    rate = next(word for word in again.chosen if word.startswith("rate"))
    queue.release(again)
    fresh = StudyQueue(plan(), SweepFolder(tmp_path))
    third = fresh.take()
    assert third is not None
    assert (third.trial, rate in third.chosen) == (1, True)
    queue.tell(ours, [outcome(ours, 1.0)])
    fresh.close()
    assert queue.due() == 11


def test_hopeless_trials_are_named_and_failures_are_no_figures(tmp_path: Path) -> None:
    queue = StudyQueue(plan(pruner="median", pruner_options={"n_startup_trials": 2}), SweepFolder(tmp_path))
    queue.fill()
    states = []
    for value in (0.3, 0.2, 0.9, 0.25):
        task = queue.take()
        assert task is not None
        hopeless = [queue.report(task, epoch, value) for epoch in (1, 2, 3)][-1]
        states.append(hopeless)
        queue.tell(task, [outcome(task, value, "pruned" if hopeless else "finished")])
    assert states == [False, False, True, False]
    task = queue.take()
    assert task is not None
    queue.tell(task, [outcome(task, float("nan"), "crashed")])
    found = Counter(trial.state.name for trial in queue._all())
    assert found == {"COMPLETE": 3, "PRUNED": 1, "FAIL": 1, "WAITING": 7}
    assert queue._all()[4].user_attrs["failure"] == "crashed: it broke"


def test_options_and_storages_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    for changes, told in (
        ({"sampler_options": {"n_startup": 3}}, "sweep.sampler_options: tpe does not take them"),
        ({"pruner": "halving", "pruner_options": {"reduction": 3}}, "sweep.pruner_options: halving"),
        ({"storage": "nosuch://x"}, "sweep.storage=nosuch://x cannot be opened"),
    ):
        with pytest.raises(ConfigError, match=told.replace("?", ".")) as error:
            StudyQueue(plan(**changes), SweepFolder(tmp_path))
        assert "\n" not in str(error.value)


def test_a_grid_is_taken_by_several_and_released_by_the_dead(tmp_path: Path) -> None:
    made = replace(plan(), space=(Choice("model", ("lstm", "gru", "rnn")),), repeats=(("seed=1",), ("seed=2",)))
    made = replace(made, sweep=made.sweep.model_copy(update={"method": "grid"}))
    folder = SweepFolder(tmp_path)
    first, second = GridQueue(made, folder), GridQueue(made, folder)
    a, b = first.take(), second.take()
    assert a is not None
    assert b is not None
    assert (a.trial, a.repeats, b.trial, b.repeats) == (0, (0,), 0, (1,))
    folder.record(outcome(a, 1.0))
    first.tell(a, [])
    second.close()  # without an outcome
    again = first.take()
    assert again == b
    assert first.due() == 5
