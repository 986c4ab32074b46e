"""The calls to MLflow itself."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

# Hospital data: nothing is reported to anybody. MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Text shown by git-less machines on every run.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that is away is tried again later; to wait for it in each call would hold up the end of a training.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")

from mlflow.entities import Dataset as InputDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ehrseq.files import atomic_file, digest_json, locked, sweep_leftovers
from ehrseq.tracking.link import RunLink
from ehrseq.tracking.spool import Entry
from ehrseq.tracking.tracker import Dataset
from ehrseq.tracking.view import VIEW_TAG, view_tags

T = TypeVar("T")

# Limits of MLflow's own API for one batch.
_METRICS, _PARAMS, _PARAM_LENGTH = 1000, 100, 6000
_DIGEST_LENGTH = 36
_TABLES = "mlflow.loggedArtifacts"
_SQLITE = "sqlite:///"
# What a database says when many write at once; the transaction was undone, so it can be tried again.
_BUSY = (
    "database is locked",
    "deadlock detected",
    "could not serialize",
    "too many clients",
    "remaining connection slots",
)
_LONGEST_WAIT = 120.0  # seconds
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
    def open(cls, uri: str, experiment: str, name: str, run_id: str | None, link: RunLink | None = None) -> "MlflowRun":
        """Go on with a run, or begin one where there is none.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment; made where missing.
            name: Name for a new run.
            run_id: A run to go on with, if the store still has it.
            link: The sweep that a new run belongs to.
        """
        client, experiment_id = connect(uri, experiment)
        if run_id is not None:
            try:
                client.get_run(run_id)
                client.set_terminated(run_id, "RUNNING")
                return cls(client, run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                # The store was deleted: a new run takes its place and the spool is sent again.
        return cls.begin(client, experiment_id, name, link)

    @classmethod
    def begin(cls, client: MlflowClient, experiment_id: str, name: str, link: RunLink | None = None) -> "MlflowRun":
        """Begin a run; one of a sweep has its place there from the first moment."""
        tags = None
        if link is not None:
            tags = link.tags(_group(client, experiment_id, link) if link.group else link.parent)
        run = patiently(lambda: client.create_run(experiment_id, run_name=name, tags=tags))
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

    def view(self, metrics: Sequence[str]) -> None:
        """Let the experiment's table of runs show these metrics, beside those that it shows already."""
        experiment_id = self.client.get_run(self.run_id).info.experiment_id
        known = self.client.get_experiment(experiment_id).tags.get(VIEW_TAG)
        for key, value in view_tags(metrics, known, int(time.time() * 1000)).items():
            self.client.set_experiment_tag(experiment_id, key, value)

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Upload files under their artifact paths."""
        for path, file in files.items():
            folder = path.rpartition("/")[0]
            self.client.log_artifact(self.run_id, str(file), folder or None)

    def table(self, columns: Mapping[str, list[Any]], path: str) -> None:
        """Log a table in the form that `mlflow.log_table` gives it; twice the same is once."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.client.log_dict(self.run_id, {"columns": list(columns), "data": rows}, path)
        tables = json.loads(self.client.get_run(self.run_id).data.tags.get(_TABLES, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in tables:
            self.client.set_tag(self.run_id, _TABLES, json.dumps([*tables, entry]))

    def datasets(self, splits: Sequence[Dataset]) -> None:
        """Record which data were used, for what."""
        inputs = [
            DatasetInput(
                InputDataset(
                    name=split.name,
                    digest=split.digest[:_DIGEST_LENGTH],
                    source_type="ehrseq",
                    source=json.dumps({"data_digest": split.source}),
                    profile=json.dumps(split.counts),
                ),
                [InputTag("mlflow.data.context", split.context)],
            )
            for split in splits
        ]
        self.client.log_inputs(self.run_id, datasets=inputs)

    def register(self, name: str, folder: Path, given: Mapping[str, list[Any]], told: Mapping[str, list[Any]]) -> None:
        """Put the model into the registry; one that is there already with this run stays."""
        from ehrseq.tracking.registry import register_model

        if not self.client.search_model_versions(f"run_id='{self.run_id}'"):
            register_model(self.client, self.run_id, name, folder, given, told)

    def finish(self, status: str) -> None:
        """Set the final status."""
        self.client.set_terminated(self.run_id, status)


def patiently(call: Callable[[], T]) -> T:
    """Call the tracking store; where too many others do so at this moment, again a little later."""
    begun, wait = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except Exception as error:
            busy = any(word in str(error) for word in _BUSY)
            if not busy or time.monotonic() - begun > _LONGEST_WAIT:
                raise
        # Each process waits another while, so that they do not meet again.
        time.sleep(wait * (0.5 + os.getpid() % 97 / 97))
        wait = min(2 * wait, 5.0)


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client, and the id of an experiment; database and experiment are made where missing.

    Args:
        uri: Tracking URI.
        experiment: Name of the experiment.
    """
    # Two processes that make the tables of a new database at once break each other, so one goes first.
    lock = Path(gettempdir()) / f"ehrseq-mlflow-{os.getuid()}-{digest_json(_resolved(uri))}.lock"
    with locked(lock), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _make_database(uri)
        client = MlflowClient(tracking_uri=uri)
        return client, patiently(lambda: _experiment(client, uri, experiment))


def _make_database(uri: str) -> None:
    """Make a missing SQLite database, all or nothing.

    MLflow takes seconds to make its tables, one after the other. Killed meanwhile it would leave a few of them, with
    which it can neither work nor go on.
    """
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or path.is_file():
        return
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent)
    with atomic_file(path) as staging:
        store = SqlAlchemyStore(f"{_SQLITE}{staging}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def _resolved(uri: str) -> str:
    """The URI with a path that is the same from every working folder, and of every other database."""
    return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).resolve()}" if uri.startswith(_SQLITE) else uri


def _group(client: MlflowClient, experiment_id: str, link: RunLink) -> str:
    """The run of a configuration that has several repetitions; made by whoever comes first."""
    tags = link.group_tags()
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    with locked(link.lock):
        found = patiently(lambda: client.search_runs([experiment_id], query, max_results=1))
        run = found[0] if found else patiently(lambda: client.create_run(experiment_id, run_name=link.group, tags=tags))
    return str(run.info.run_id)


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
