"""One MLflow run, kept from a thread of its own.

Importing MLflow takes seconds and so does making its tables, so everything that talks to it happens on a worker thread
while the data are prepared and the network trains. Metrics come from the spool. Whatever goes wrong there is
remembered and told once; it never reaches the training.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ehrseq.config.schema import Tracking
from ehrseq.files import write_json
from ehrseq.tracking.link import RunLink
from ehrseq.tracking.spool import Spool

Status = Literal["FINISHED", "FAILED", "KILLED"]
_STATE = "run.json"


class Dataset(NamedTuple):
    """One split of the data: name, digest of the store, digest of the raw data, counts, and what it was used for."""

    name: str
    digest: str
    source: str
    counts: dict[str, int]
    context: str


class RunTracker:
    """Records one run in the run folder and, through it, in MLflow.

    The state (`tracking/run.json`: which MLflow run, how many spool entries it has) survives the process, so that a
    later workflow on the same run folder goes on with the same MLflow run.

    Args:
        folder: The run folder.
        config: Where MLflow is.
        name: Name of the run in MLflow.
        warn: Told about problems with MLflow, at most once.
        link: The sweep that the run belongs to.
    """

    def __init__(
        self, folder: Path, config: Tracking, name: str, warn: Callable[[str], None], link: RunLink | None = None
    ) -> None:
        self.config = config
        self.name = link.name if link else name
        self.link = link
        self.folder = folder / "tracking"
        self.spool = Spool(self.folder / "metrics.jsonl")
        self._warn = warn
        self._error: str | None = None
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._client: Any = None
        self._state = describe_run_id(folder) or {}
        if self._state.get("uri") != config.uri or self._state.get("experiment") != config.experiment:
            self._state = {}
        self._worker: threading.Thread | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once it is known."""
        value = self._state.get("run_id")
        return str(value) if value else None

    def start(self, fresh: bool = False) -> None:
        """Connect in the background.

        Args:
            fresh: Begin a new MLflow run and a new spool, for a new training in this folder.
        """
        if fresh:
            self._state = {}
            self.spool.clear()
        if self.config.enabled and self._worker is None:
            self._worker = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._worker.start()
            self._submit(self._connect)

    def is_known(self) -> bool:
        """Whether a finished recording of this run lies where the configuration says, as far as can be told offline."""
        if not self.config.enabled:
            return True
        database = self.config.uri.removeprefix("sqlite:///")
        return self.run_id is not None and (database == self.config.uri or Path(database).is_file())

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a step (an epoch in training, 0 for final figures)."""
        self.spool.append(values, step)
        self._submit(self._drain)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters."""
        self._submit(lambda: self._client.params(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self._submit(lambda: self._client.tags(values))

    def describe(self, markdown: str) -> None:
        """Set the text that stands at the top of the run's page."""
        self.tags({"mlflow.note.content": markdown})

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Upload files, under the given artifact paths."""
        self._submit(lambda: self._client.artifacts(files))

    def table(self, columns: Mapping[str, list[Any]], path: str) -> None:
        """Log a table that MLflow's page shows."""
        self._submit(lambda: self._client.table(columns, path))

    def datasets(self, splits: Sequence[Dataset]) -> None:
        """Say which data the run used."""
        self._submit(lambda: self._client.datasets(splits))

    def register(self, folder: Path, given: Mapping[str, list[Any]], told: Mapping[str, list[Any]]) -> None:
        """Put the model into the registry, under the name in the configuration; see `registry.register_model`."""
        self._submit(lambda: self._client.register(self.config.registry, folder, given, told))

    def wait(self) -> None:
        """Wait until everything asked for so far was sent, or given up."""
        if self._worker is not None:
            self._jobs.join()

    def finish(self, status: Status) -> None:
        """Send what is left, set the run's status and stop the worker."""
        if self._worker is None:
            return
        self._submit(self._drain)
        self._submit(lambda: self._client.finish(status))
        self._jobs.put(None)
        self._worker.join()
        self._worker = None
        if self._error:
            self._warn(
                f"MLflow at {self.config.uri} did not take everything ({self._error}); "
                f"the metrics are in {self.spool.path}, the files in {self.folder.parent}"
            )

    def _submit(self, job: Callable[[], None]) -> None:
        if self._worker is not None:
            self._jobs.put(job)

    def _work(self) -> None:
        from ehrseq.tracking.client import patiently

        while (job := self._jobs.get()) is not None:
            try:
                # After a failure nothing is sent out of order; the spool has it all.
                if not self._error:
                    patiently(job)
            except Exception as error:
                self._error = " ".join(str(error).split())[:300] or type(error).__name__
            finally:
                self._jobs.task_done()
        self._jobs.task_done()

    def _connect(self) -> None:
        from ehrseq.tracking.client import MlflowRun

        self._client = MlflowRun.open(self.config.uri, self.config.experiment, self.name, self.run_id, self.link)
        if self._client.run_id != self.run_id:
            self._state = {"uri": self.config.uri, "experiment": self.config.experiment, "sent": 0}
        self._state["run_id"] = self._client.run_id
        self._save()

    def _drain(self) -> None:
        entries = self.spool.read(self._state["sent"])
        if entries:
            self._client.metrics(entries)
            self._state["sent"] += len(entries)
            self._save()

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _STATE, self._state)


def describe_run_id(folder: Path) -> dict[str, Any] | None:
    """Which MLflow run a run folder belongs to: `uri`, `experiment`, `run_id`, `sent`; None where it has none."""
    try:
        state: dict[str, Any] = json.loads((folder / "tracking" / _STATE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return state
