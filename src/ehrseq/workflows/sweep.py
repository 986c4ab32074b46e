"""A whole sweep: one store for all, workers started, outcomes told as they come, the choice made and scored."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ehrseq.config.launch import launch
from ehrseq.config.load import compose, load_settings
from ehrseq.config.space import Dimension, examples, expand
from ehrseq.config.sweep import Plan
from ehrseq.errors import RunError
from ehrseq.files import locked, write_json
from ehrseq.sweeps.choice import choose
from ehrseq.sweeps.isolate import Limits, Sandbox
from ehrseq.sweeps.records import GOOD, Outcome, SweepFolder
from ehrseq.workflows import prepare, trial
from ehrseq.workflows.console import say
from ehrseq.workflows.engine import cpus
from ehrseq.workflows.sweep_tracking import SweepTracking
from ehrseq.workflows.sweep_worker import Worker, link_of, open_queue

# What changes the data that a run reads; only these need a store of their own.
_OF_THE_STORE = {"source", "task", "split", "preprocess", "experiment"}
_LOOK, _WAIT = 0.5, 5.0  # seconds between two looks at what is done, here and at other machines


@dataclass(frozen=True)
class SweepResult:
    """What a sweep gives.

    Attributes:
        id: Its id.
        folder: Its folder.
        outcomes: What came of each run.
        best: The chosen configurations: one, or the Pareto front of several objectives; none where all failed.
        scores: Figures of the chosen one's repetitions, by the name of the run, where it was scored here.
        run_id: The MLflow run of the sweep.
    """

    id: str
    folder: Path
    outcomes: tuple[Outcome, ...]
    best: tuple[int, ...]
    scores: dict[str, dict[str, float]]
    run_id: str | None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The runs without a result."""
        return tuple(outcome for outcome in self.outcomes if outcome.status not in GOOD)


def run(plan: Plan) -> SweepResult:
    """Run what is left of a sweep: all of it the first time, nothing where it is done.

    Raises:
        EhrseqError: If the data cannot be prepared or no worker can be started. Trials that fail are outcomes.
    """
    folder = SweepFolder(Path.cwd() / plan.base.paths.runs / "sweeps" / plan.id)
    _describe(plan, folder)
    sandbox = Sandbox(trial.PRELOAD)
    if plan.sweep.launcher == "local":
        sandbox.warm_up()  # its imports go on while the data are prepared
    with SweepTracking(plan, folder) as tracking:
        _prepare(plan)
        _renew(plan, folder)
        tracking.begin()
        with _told(plan, folder, tracking):
            _work_off(plan, folder, tracking.parent)
        outcomes = tuple(folder.outcomes())
        best = tuple(choose(outcomes, plan.objectives, len(plan.repeats)))
        scores = _score(plan, folder, sandbox, best, tracking.parent)
        result = SweepResult(plan.id, folder.path, outcomes, best, scores, tracking.parent)
        write_json(folder.path / "summary.json", _plain(result, plan))
        tracking.end(result)
    return result


def _describe(plan: Plan, folder: SweepFolder) -> None:
    """`sweep.json`: what the sweep is."""
    space = [{"kind": type(item).__name__.lower(), **vars(item)} for item in plan.space]
    plain = {
        "id": plan.id,
        "words": plan.fixed,
        "space": space,
        "repeats": plan.repeats,
        "objectives": plan.objectives,
        "sweep": plan.sweep.plain(),
    }
    with locked(folder.path / ".lock"):
        write_json(folder.path / "sweep.json", plain)


def _prepare(plan: Plan) -> None:
    """Prepare every store that the runs will read, before any of them starts."""

    def touches(key: str) -> bool:
        return key.replace("/", ".").split(".")[0] in _OF_THE_STORE

    space = [item for item in plan.space if touches(item.key)]
    kept = {item.key for item in space}
    # A condition on something else is taken as met: a store too many is better than one too few.
    space = [replace(item, when={key: value for key, value in item.when.items() if key in kept}) for item in space]
    repeats = {tuple(word for word in words if touches(word)) for words in plan.repeats}
    chosen = list(_all_or_ends(space, plan))
    if len(chosen) == 1 and len(repeats) == 1:
        prepare.run(plan.base)
        return
    for repeat in sorted(repeats):
        for assignment in chosen:
            words = (*plan.fixed, *(f"{key}={value}" for key, value in assignment.items()), *repeat)
            prepare.run(load_settings(words, plan.extra))


def _all_or_ends(space: Sequence[Dimension], plan: Plan) -> Iterator[dict[str, str]]:
    """Every combination, or of ranges without end their ends; the rest is prepared by the first trial that needs it."""
    if all(hasattr(item, "values") for item in space):
        yield from expand(space, plan.held)
    else:
        yield from examples(space, plan.held)


def _renew(plan: Plan, folder: SweepFolder) -> None:
    """Make failed runs of a grid due again, with force=true all; a study keeps what it has learned from."""
    if plan.sweep.method != "grid":
        return
    for outcome in folder.outcomes():
        if outcome.status not in GOOD or plan.base.force:
            folder.forget(outcome)


def _work_off(plan: Plan, folder: SweepFolder, parent: str | None) -> None:
    """Start workers until no trial is due.

    Raises:
        RunError: If workers end without having done anything.
    """
    queue = open_queue(plan, folder)
    try:
        queue.fill()
        waited = False
        while due := queue.due():
            queue.recover()
            before = queue.due()
            workers = 1 if plan.sweep.launcher == "local" else min(plan.sweep.jobs, due)
            slots = min(plan.sweep.jobs, due) if plan.sweep.launcher == "local" else 1
            threads = plan.sweep.threads or _threads(plan)
            worker = Worker(plan, folder.path, Path.cwd(), slots, threads, parent)
            lost = launch(plan, worker, workers, folder.path / "workers")
            if queue.due() < before:
                continue
            if lost:
                raise RunError(f"sweep.launcher={plan.sweep.launcher}: no worker came to an end; the first: {lost[0]}")
            if not waited:
                say(f"sweep: {queue.due()} trials are at work elsewhere; waiting for them (Ctrl-C leaves them to it)")
            waited = True
            time.sleep(_WAIT)
    finally:
        queue.close()


def _threads(plan: Plan) -> int:
    """The cores of this machine, divided among the trials; of a cluster's node, what the launcher was told."""
    if plan.sweep.launcher == "submitit_slurm":
        given = [word.partition("=")[2] for word in plan.launcher_words if "cpus_per_task=" in word]
        return int(given[-1]) if given else 1
    if plan.sweep.launcher == "ray":
        given = [word.partition("=")[2] for word in plan.launcher_words if "num_cpus=" in word]
        return max(1, int(float(given[-1]))) if given else 1
    cores = cpus()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // plan.sweep.jobs, int(limit) if limit.isdigit() else cores))


@contextmanager
def _told(plan: Plan, folder: SweepFolder, tracking: SweepTracking) -> Iterator[None]:
    """Say a line on each run when it ends, wherever it ran, and see to it that MLflow knows."""
    total = plan.trials * len(plan.repeats)
    seen = {outcome.name for outcome in folder.outcomes()}
    what = f"{plan.trials} trials" + (f" of {len(plan.repeats)} repetitions" if len(plan.repeats) > 1 else "")
    say(f"sweep: {plan.id}, {what}" + (f", {len(seen)} runs done before" if seen else "") + f" ({folder.path})")
    done = threading.Event()

    def look() -> None:
        for path in sorted(folder.trials.glob("[0-9]*.json")):
            if path.stem not in seen:
                seen.add(path.stem)
                trial_number, _, repeat = path.stem.partition("-")
                outcome = folder.find(int(trial_number), int(repeat))
                if outcome is not None:
                    say(f"[{len(seen)}/{total}] {_line(plan, outcome)}")
                    if outcome.status != "finished":  # those that finished say so themselves
                        tracking.settle([outcome])

    def watch() -> None:
        while not done.wait(_LOOK):
            look()

    thread = threading.Thread(target=watch, name="outcomes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()


def _line(plan: Plan, outcome: Outcome) -> str:
    """What came of a run, in a line."""
    words = " ".join(outcome.chosen)
    name, _ = plan.objectives[0]
    value = outcome.values.get(name)
    figure = f"{name} {value:.4f}, " if value is not None else ""
    epochs = outcome.values.get("train/epochs")
    length = f"{epochs:.0f} epochs, " if epochs else ""
    again = f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""
    fault = (
        f": {outcome.failure.kind}: {outcome.failure.message}" if outcome.status not in GOOD and outcome.failure else ""
    )
    return f"{outcome.status.replace('_', ' ')}{again}, {figure}{length}{outcome.seconds:.1f} s: {words}{fault}"


def _score(
    plan: Plan, folder: SweepFolder, sandbox: Sandbox, best: Sequence[int], parent: str | None
) -> dict[str, dict[str, float]]:
    """Evaluate and explain the chosen configuration, which nobody has looked at on `evaluate.split` so far."""
    if plan.sweep.evaluate != "best" or len(best) != 1:
        return {}
    scores = {}
    limits = Limits(plan.sweep.threads or _threads(plan), plan.sweep.memory_gib)
    for repeat in range(len(plan.repeats)):
        outcome = folder.find(best[0], repeat)
        if outcome is None or outcome.folder is None:
            continue  # it was run on a machine that shares no folder with this one
        chosen = outcome.chosen[: len(outcome.chosen) - len(plan.repeats[repeat])]
        link = link_of(plan, folder, parent, best[0], repeat, chosen)
        request = trial.Request(compose(outcome.words, plan.extra), Path.cwd(), True, link)
        log = folder.path / f"best-{repeat}.log"
        log.unlink(missing_ok=True)
        ended = sandbox.run(trial.main, request, log, limits, lambda _: False)
        if ended.failure is not None:
            raise RunError(f"trial {best[0]} cannot be scored: {ended.failure.message} (see {log})")
        split = plan.base.evaluate.split
        scores[outcome.name] = {name: value for name, value in ended.result.values.items() if name.startswith(split)}
    return scores


def _plain(result: SweepResult, plan: Plan) -> dict[str, object]:
    """`summary.json`: all that came of the sweep."""
    return {
        "id": result.id,
        "objectives": plan.objectives,
        "counts": counts(result.outcomes),
        "best": result.best,
        "scores": result.scores,
        "mlflow_run": result.run_id,
        "runs": [asdict(outcome) for outcome in result.outcomes],
    }


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many runs ended in which way."""
    found: dict[str, int] = {}
    for outcome in outcomes:
        found[outcome.status] = found.get(outcome.status, 0) + 1
    return found


def tell(result: SweepResult, plan: Plan) -> list[str]:
    """The summary for people, a line each."""
    parts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts(result.outcomes).items())
    lines = [f"sweep:       {result.id}: {parts}"]
    by_trial: dict[int, list[Outcome]] = {}
    for outcome in result.outcomes:
        by_trial.setdefault(outcome.trial, []).append(outcome)
    for number in result.best:
        runs = by_trial[number]
        values = ", ".join(
            f"{name} {sum(item.values[name] for item in runs) / len(runs):.4f}" for name, _ in plan.objectives
        )
        words = " ".join(runs[0].chosen[: len(runs[0].chosen) - len(plan.repeats[runs[0].repeat])])
        lines.append(f"best:        trial {number}, {values}: {words}")
        lines += [f"             {item.folder}" for item in runs if item.folder]
    for values_of in result.scores.values():
        lines += [f"{name:<12} {value:.4f}" for name, value in sorted(values_of.items())]
    lines.append(f"folder:      {result.folder}")
    if result.run_id:
        lines.append(f"MLflow run:  {result.run_id} in {plan.base.tracking.uri} (look at it with `ehrseq ui`)")
    return lines


def tell_failed(result: SweepResult) -> list[str]:
    """What failed, a line each, and where its traceback is."""
    if not result.failed:
        return []
    lines = [f"{len(result.failed)} run(s) failed:"]
    for outcome in result.failed:
        failure = outcome.failure
        said = f"{outcome.status.replace('_', ' ')}: {failure.kind}: {failure.message}" if failure else outcome.status
        log = result.folder / "trials" / f"{outcome.name}.log"
        lines.append(f"  {' '.join(outcome.chosen)}: {said}\n    traceback in {log}")
    return lines
