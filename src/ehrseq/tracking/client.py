"""The calls to MLflow itself."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

# Hospital data: nothing is reported to anybody. MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Text shown by git-less machines on every run.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ehrseq.files import digest_json, locked
from ehrseq.tracking.spool import Entry

# Limits of MLflow's own API for one batch.
_METRICS, _PARAMS, _PARAM_LENGTH = 1000, 100, 6000
_SQLITE = "sqlite:///"
# Opens the pages for trained models, not those for language-model traces.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class MlflowRun:
    """An open MLflow run.

    Args:
        client: Connected client.
        run_id: The run.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    @classmethod
    def open(cls, uri: str, experiment: str, name: str, run_id: str | None) -> "MlflowRun":
        """Go on with a run, or begin one where there is none.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment; made where missing.
            name: Name for a new run.
            run_id: A run to go on with, if the store still has it.
        """
        # Two processes that make the tables of a new database at once break each other, so one goes first.
        with locked(Path(gettempdir()) / f"ehrseq-mlflow-{digest_json(uri)}.lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = MlflowClient(tracking_uri=uri)
            experiment_id = _experiment(client, uri, experiment)
        if run_id is not None:
            try:
                client.get_run(run_id)
                client.set_terminated(run_id, "RUNNING")
                return cls(client, run_id)
            except MlflowException:
                pass  # the store was deleted: a new run takes its place and the spool is sent again
        run = client.create_run(experiment_id, run_name=name)
        return cls(client, run.info.run_id)

    def metrics(self, entries: Sequence[Entry]) -> None:
        """Log metrics with the times at which they were recorded."""
        metrics = [
            Metric(key, value, entry.timestamp, entry.step) for entry in entries for key, value in entry.values.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS])

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; those that the run has already are left as they are."""
        known = self.client.get_run(self.run_id).data.params
        params = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in values.items() if key not in known]
        for start in range(0, len(params), _PARAMS):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Upload files under their artifact paths."""
        for path, file in files.items():
            folder = path.rpartition("/")[0]
            self.client.log_artifact(self.run_id, str(file), folder or None)

    def table(self, columns: Mapping[str, list[Any]], path: str) -> None:
        """Log a table."""
        self.client.log_table(self.run_id, dict(columns), path)

    def finish(self, status: str) -> None:
        """Set the final status."""
        self.client.set_terminated(self.run_id, status)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; made where missing, with its files beside an SQLite database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith(_SQLITE):
        location = (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlartifacts" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
    except MlflowException:
        # Another process was faster.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def download_artifacts(uri: str, run_id: str, path: str, target: Path) -> Path:
    """Fetch a folder of a run's artifacts; an empty one where it has none of that name.

    Returns:
        Where it lies now, below `target`.
    """
    client = MlflowClient(tracking_uri=uri)
    if path not in {item.path for item in client.list_artifacts(run_id)}:
        return target / path
    return Path(client.download_artifacts(run_id, path, str(target)))
