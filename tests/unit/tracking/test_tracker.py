"""The spool, and what happens when MLflow is away."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ehrseq.config.schema import Tracking
from ehrseq.tracking import RunTracker, Spool


def config(uri: str) -> Tracking:
    return Tracking(enabled=True, uri=uri, experiment="test", registry=None)


def record(folder: Path, uri: str, epochs: range, warnings: list[str], fresh: bool = False) -> str | None:
    tracker = RunTracker(folder, config(uri), "name", warnings.append)
    tracker.start(fresh)
    for epoch in epochs:
        tracker.metrics({"loss": 1.0 / epoch, "auroc": 0.5}, epoch)
    tracker.finish("FINISHED")
    return tracker.run_id


def test_spool_keeps_order_and_forgives_a_cut_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl")
    assert spool.read() == []
    for step in range(3):
        spool.append({"a": step / 2}, step)
    with spool.path.open("a") as file:
        file.write('{"step": 3, "timest')
    assert [(entry.step, entry.values) for entry in spool.read()] == [(0, {"a": 0.0}), (1, {"a": 0.5}), (2, {"a": 1.0})]
    assert [entry.step for entry in spool.read(start=2)] == [2]


def test_a_later_workflow_goes_on_with_the_same_run(tmp_path: Path) -> None:
    uri, warnings = f"sqlite:///{tmp_path / 'mlflow.db'}", list[str]()
    first = record(tmp_path, uri, range(1, 4), warnings, fresh=True)
    assert record(tmp_path, uri, range(4, 6), warnings) == first
    assert first
    history = MlflowClient(tracking_uri=uri).get_metric_history(first, "loss")
    assert [(item.step, item.value) for item in history] == [(epoch, 1.0 / epoch) for epoch in range(1, 6)]
    assert warnings == []
    assert record(tmp_path, uri, range(1, 2), warnings, fresh=True) != first


def test_a_process_killed_while_it_makes_the_database_leaves_none_behind(tmp_path: Path) -> None:
    uri, place = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "run"
    script = (
        "import sys; from pathlib import Path\n"
        "from ehrseq.config.schema import Tracking; from ehrseq.tracking import RunTracker\n"
        "config = Tracking(enabled=True, uri=sys.argv[2], experiment='test', registry=None)\n"
        "tracker = RunTracker(Path(sys.argv[1]), config, 'name', print)\n"
        "tracker.start(); tracker.metrics({'loss': 1.0}, 1); tracker.finish('FINISHED')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(place), uri])
    # Somewhere while the tables are made: the file is there, and grows.
    while not any(path.stat().st_size > 400_000 for path in tmp_path.glob("*mlflow*.db")) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0, "it was done before it was killed"
    warnings = list[str]()
    run_id = record(place, uri, range(2, 4), warnings)
    assert warnings == []
    assert run_id is not None
    history = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss")
    assert sorted(item.step for item in history) == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".db"] == ["mlflow.db"]


def test_a_deleted_database_gets_everything_again(tmp_path: Path) -> None:
    uri, warnings = f"sqlite:///{tmp_path / 'mlflow.db'}", list[str]()
    first = record(tmp_path, uri, range(1, 4), warnings, fresh=True)
    (tmp_path / "mlflow.db").unlink()
    # In a process of its own: this one still holds the deleted file open.
    script = (
        "import sys; from pathlib import Path\n"
        "from ehrseq.config.schema import Tracking; from ehrseq.tracking import RunTracker\n"
        "folder, uri = Path(sys.argv[1]), sys.argv[2]\n"
        "config = Tracking(enabled=True, uri=uri, experiment='test', registry=None)\n"
        "tracker = RunTracker(folder, config, 'name', print)\n"
        "tracker.start(); tracker.finish('FINISHED')\n"
        "from mlflow.tracking import MlflowClient\n"
        "print(tracker.run_id, len(MlflowClient(tracking_uri=uri).get_metric_history(tracker.run_id, 'loss')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), uri], capture_output=True, text=True, check=True
    )
    run_id, count = done.stdout.split()
    assert run_id != first
    assert count == "3"


def test_an_unreachable_server_costs_nothing_but_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    warnings: list[str] = []
    assert record(tmp_path, "http://127.0.0.1:9", range(1, 4), warnings, fresh=True) is None
    assert len(warnings) == 1
    assert warnings[0].startswith("MLflow at http://127.0.0.1:9 did not take everything (")
    assert [entry.step for entry in Spool(tmp_path / "tracking" / "metrics.jsonl").read()] == [1, 2, 3]


def test_many_processes_on_a_new_database(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from ehrseq.config.schema import Tracking; from ehrseq.tracking import RunTracker\n"
        "config = Tracking(enabled=True, uri=sys.argv[2], experiment='e', registry=None)\n"
        "tracker = RunTracker(Path(sys.argv[1]), config, 'n', print)\n"
        "tracker.start(True); [tracker.metrics({'loss': i}, i) for i in range(20)]; tracker.finish('FINISHED')"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / str(i)), uri], stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    assert [worker.communicate(timeout=200)[0] for worker in workers] == [""] * 4
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs] == [20] * 4
