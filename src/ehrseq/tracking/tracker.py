"""One MLflow run, kept from a thread of its own.

Importing MLflow takes seconds and so does making its tables, so everything that talks to it happens on a worker thread
while the data are prepared and the network trains. What it sends was noted in the run folder before; whatever goes
wrong is told once and tried again, and never reaches the training.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ehrseq.config.schema import Tracking
from ehrseq.files import write_json
from ehrseq.tracking.link import RunLink
from ehrseq.tracking.outbox import Outbox
from ehrseq.tracking.reason import reason
from ehrseq.tracking.spool import Spool

Status = Literal["FINISHED", "FAILED", "KILLED"]
_STATE = "run.json"
_NOTHING = {"sent": 0, "delivered": 0}
_PAUSE = 20.0  # seconds after a failure
_BETWEEN = 2.0  # seconds between two sendings of metrics: short epochs would spend a tenth of Python's time on them


class Dataset(NamedTuple):
    """One split of the data: name, digest of the store, digest of the raw data, counts, and what it was used for."""

    name: str
    digest: str
    source: str
    counts: dict[str, int]
    context: str


class RunTracker:
    """Records one run in the run folder and, through it, in MLflow.

    Whatever is to be told is first noted in the folder: metrics in `tracking/metrics.jsonl`, the rest in
    `tracking/outbox.jsonl`. From there it goes to MLflow in the background. The state (`tracking/run.json`: which
    MLflow run, how much of both it has) survives the process: a later workflow on the same run folder, or `ehrseq
    tracking sync`, goes on with the same MLflow run.

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
        self.outbox = Outbox(folder)
        self._warn = warn
        self._error: str | None = None
        self._next_try = self._next_metrics = 0.0
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._client: Any = None
        self._state = describe_run_id(folder) or {}
        if self._state:
            self._state = _NOTHING | self._state
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
            fresh: Begin a new MLflow run and a new record, for a new training in this folder.
        """
        if fresh:
            self._state = {}
            self.spool.clear()
            self.outbox.clear()
        if self.config.enabled and self._worker is None:
            if not self._state:
                self._state = self._unsent()
                self._save()
            self._worker = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._worker.start()
            self._send_soon()

    def is_known(self) -> bool:
        """Whether a finished recording of this run lies where the configuration says, as far as can be told offline."""
        if not self.config.enabled:
            return True
        database = self.config.uri.removeprefix("sqlite:///")
        return self.run_id is not None and (database == self.config.uri or Path(database).is_file())

    @property
    def is_sent(self) -> bool:
        """Whether MLflow has everything that was noted."""
        return self._state.get("sent") == len(self.spool.read()) and self._state.get("delivered") == len(
            self.outbox.read()
        )

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a step (an epoch in training, 0 for final figures); sent soon or with what comes."""
        self.spool.append(values, step)
        now = time.monotonic()
        if now >= self._next_metrics:
            self._next_metrics = now + _BETWEEN
            self._send_soon()

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters."""
        self._note("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self._note("tags", values=dict(values))

    def describe(self, markdown: str) -> None:
        """Set the text that stands at the top of the run's page."""
        self.tags({"mlflow.note.content": markdown})

    def view(self, metrics: Sequence[str]) -> None:
        """Let the table of runs show these metrics, the most important first."""
        self._note("view", metrics=list(metrics))

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Upload files, under the given artifact paths."""
        if self._worker is not None:
            self.outbox.append_files(files)
            self._send_soon()

    def table(self, columns: Mapping[str, list[Any]], path: str) -> None:
        """Log a table that MLflow's page shows."""
        self._note("table", columns=dict(columns), path=path)

    def datasets(self, splits: Sequence[Dataset]) -> None:
        """Say which data the run used."""
        self._note("datasets", splits=[list(split) for split in splits])

    def register(self, folder: Path, given: Mapping[str, list[Any]], told: Mapping[str, list[Any]]) -> None:
        """Put the model into the registry, under the name in the configuration; see `registry.register_model`."""
        place, root = folder.resolve(), self.folder.parent.resolve()
        name = str(place.relative_to(root) if place.is_relative_to(root) else place)
        self._note("register", name=self.config.registry, folder=name, given=dict(given), told=dict(told))

    def wait(self) -> None:
        """Wait until everything asked for so far was sent, or is left for later."""
        if self._worker is not None:
            self._send_soon()
            self._jobs.join()

    def finish(self, status: Status) -> None:
        """Send what is left, set the run's status and stop the worker."""
        if self._worker is None:
            return
        self._note("status", status=status)
        self._next_try = 0.0
        self._jobs.put(None)
        self._worker.join()
        self._worker = None
        if self._error and not self.is_sent:
            self._warn(
                f"MLflow at {self.config.uri} did not take everything ({self._error}); it is kept in {self.folder}: "
                "`ehrseq tracking sync` sends it later"
            )
        elif self._error:
            self._warn(f"MLflow at {self.config.uri}: {self._error}")

    def sync(self) -> None:
        """Send what was noted and not sent, here and now.

        Raises:
            Exception: Whatever MLflow says.
        """
        if not self._state:
            self._state = self._unsent()
        if not self.is_sent:
            self._send()

    def _note(self, kind: str, **content: Any) -> None:
        if self._worker is not None:
            self.outbox.append(kind, **content)
            self._send_soon()

    def _send_soon(self) -> None:
        if self._worker is not None:
            self._jobs.put(self._send)

    def _work(self) -> None:
        from ehrseq.tracking.client import patiently

        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    # One last time, however recently it failed.
                    self._next_try = 0.0
                if time.monotonic() >= self._next_try:
                    patiently(job or self._send)
            except Exception as error:
                self._error = reason(error)
                # Meanwhile all is noted; what was not sent goes out with what comes next.
                self._next_try = time.monotonic() + _PAUSE
                self._client = None
            finally:
                self._jobs.task_done()
            if job is None:
                return

    def _send(self) -> None:
        """Connect where needed, and send everything that is noted and not sent, each message once it was taken."""
        if self._client is None:
            self._connect()
        entries = self.spool.read(self._state["sent"])
        if entries:
            self._client.metrics(entries)
            self._state["sent"] += len(entries)
            self._save()
        for message in self.outbox.read(self._state["delivered"]):
            self._deliver(**message)
            self._state["delivered"] += 1
            self._save()

    def _deliver(self, kind: str, **content: Any) -> None:
        match kind:
            case "params":
                self._client.params(content["values"])
            case "tags":
                self._client.tags(content["values"])
            case "view":
                self._client.view(content["metrics"])
            case "artifacts":
                files = {name: self.folder.parent / place for name, place in content["files"].items()}
                # Files that were replaced by other ones since are told of by later messages.
                self._client.artifacts({name: file for name, file in files.items() if file.is_file()})
            case "table":
                self._client.table(content["columns"], content["path"])
            case "datasets":
                self._client.datasets([Dataset(*split) for split in content["splits"]])
            case "register":
                folder = self.folder.parent / content["folder"]
                self._client.register(content["name"], folder, content["given"], content["told"])
            case "status":
                self._client.finish(content["status"])

    def _connect(self) -> None:
        from ehrseq.tracking.client import MlflowRun

        client = MlflowRun.open(self.config.uri, self.config.experiment, self.name, self.run_id, self.link)
        if client.run_id != self.run_id:
            self._state = self._unsent()
        self._state["run_id"] = client.run_id
        self._save()
        self._client = client

    def _unsent(self) -> dict[str, Any]:
        return {"uri": self.config.uri, "experiment": self.config.experiment, "name": self.name} | _NOTHING

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _STATE, self._state)


def describe_run_id(folder: Path) -> dict[str, Any] | None:
    """Which MLflow run a run folder belongs to, and how much that has; None where there is none."""
    try:
        state: dict[str, Any] = json.loads((folder / "tracking" / _STATE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return state
