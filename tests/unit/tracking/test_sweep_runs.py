"""Eight processes that write at once to one tracking store: nothing lost, nothing left over."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from ehrseq.config.schema import Tracking
from ehrseq.sweeps.isolate import Limits, Sandbox
from ehrseq.tracking import RunLink, RunTracker, Spool
from ehrseq.tracking.sweeps import OUTCOME, Settled, SweepRuns, stand_for

EPOCHS, WRITERS = 40, 8
Argument = tuple[Path, Tracking, RunLink]


def write(argument: Argument, _ask: Callable[[Any], Any]) -> tuple[str | None, list[str]]:
    """One trial, as far as MLflow is concerned."""
    folder, config, link = argument
    warnings: list[str] = []
    tracker = RunTracker(folder, config, "name", warnings.append, link)
    tracker.start(fresh=True)
    tracker.params({"lr": link.trial, **{f"p{number}": number for number in range(50)}})
    for epoch in range(1, EPOCHS + 1):
        tracker.metrics({"tuning/loss": epoch / EPOCHS, "train/loss": 1.0}, epoch)
    tracker.finish("FINISHED")
    return tracker.run_id, warnings


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(["ehrseq.tracking.sweeps", "mlflow.store.tracking.sqlalchemy_store"])


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_all_writers_are_there_whole(
    store: str, tmp_path: Path, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue("postgres") if store == "postgres" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = Tracking(enabled=True, uri=uri, experiment="test", registry=None)
    runs = SweepRuns(config, "s1", tmp_path / "lock")
    assert SweepRuns(config, "s1", tmp_path / "lock").parent == runs.parent

    def link(number: int) -> RunLink:
        # Two configurations of four repetitions each.
        trial, repeat = divmod(number, 4)
        return RunLink("s1", runs.parent, trial, repeat, f"seed={repeat}", f"trial {trial}", tmp_path / "group.lock")

    def one(number: int) -> tuple[str, list[str]]:
        argument = (tmp_path / str(number), config, link(number))
        ended = sandbox.run(write, argument, tmp_path / f"{number}.log", Limits(1), print)
        assert ended.status == "finished", ended.failure
        result: tuple[str, list[str]] = ended.result
        return result

    with ThreadPoolExecutor(WRITERS) as pool:
        written = list(pool.map(one, range(WRITERS)))
    assert [warnings for _, warnings in written] == [[]] * WRITERS
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None

    def found(role: str) -> list[Any]:
        return list(client.search_runs([experiment.experiment_id], f"tags.`ehrseq.role` = '{role}'"))

    groups = {run.info.run_id: run for run in found("group")}
    assert len(groups) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in groups.values()} == {runs.parent}
    assert {run.info.run_id for run in found("run")} == {run_id for run_id, _ in written}
    for run in found("run"):
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] in groups
        assert len(run.data.params) == 51
        for key in ("tuning/loss", "train/loss"):
            history = client.get_metric_history(run.info.run_id, key)
            assert [item.step for item in history] == list(range(1, EPOCHS + 1))
    # A second attempt whose first was cut off, a run that vanished, and one that nobody knows of.
    cut_off = client.create_run(experiment.experiment_id, tags=link(0).tags(next(iter(groups))))
    client.delete_run(written[7][0])
    wanted = [Settled(*divmod(number, 4), written[number][0], "FINISHED", {OUTCOME: "finished"}) for number in range(8)]
    assert runs.settle(wanted) == [wanted[7]]
    runs.add(link(7), wanted[7], {"lr": 1}, Spool(tmp_path / "7" / "tracking" / "metrics.jsonl").read())
    runs.close_groups()
    runs.close("FINISHED", {"runs/finished": 8}, {}, [])
    assert cut_off.info.run_id not in {run.info.run_id for run in found("run")}
    assert Counter(run.info.status for role in ("sweep", "group", "run") for run in found(role)) == {"FINISHED": 11}
    assert [run.data.metrics["tuning/loss"] for run in found("group")] == [1.0, 1.0]
    if store == "sqlite":
        # A run of before the sweep has a copy in it; one of the sweep stands for itself.
        alone = RunTracker(tmp_path / "alone", config, "alone", print)
        alone.start(fresh=True)
        alone.metrics({"tuning/loss": 0.5}, 1)
        alone.finish("FINISHED")
        assert alone.run_id is not None
        copy = stand_for(config, alone.run_id, link(9), alone.spool)
        assert client.get_run(copy).data.tags["ehrseq.same_as"] == alone.run_id
        assert client.get_run(copy).data.metrics == {"tuning/loss": 0.5}
        assert stand_for(config, copy, link(9), alone.spool) == copy
