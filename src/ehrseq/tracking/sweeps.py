"""A sweep in MLflow: a parent run, its runs below it, none lost and none left over."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from ehrseq.config.schema import Tracking
from ehrseq.files import locked
from ehrseq.tracking.client import MlflowRun, connect, patiently
from ehrseq.tracking.link import PARENT, REPEAT, ROLE, SWEEP, TRIAL, RunLink
from ehrseq.tracking.spool import Entry, Spool

OUTCOME, FAILURE, COPY_OF = "ehrseq.outcome", "ehrseq.failure", "ehrseq.same_as"
_PAGE = 1000


@dataclass(frozen=True)
class Settled:
    """What the tracking store shall say of one run.

    Attributes:
        trial: Number of its configuration.
        repeat: Number of its repetition.
        run_id: Its MLflow run, where known.
        status: `FINISHED`, `KILLED` (pruned) or `FAILED`.
        tags: More about how it ended.
    """

    trial: int
    repeat: int
    run_id: str | None
    status: str
    tags: Mapping[str, str]


class SweepRuns:
    """All MLflow runs of one sweep.

    Args:
        config: Where MLflow is.
        sweep: Id of the sweep.
        lock: A file on which processes that begin the same sweep wait for each other.
    """

    def __init__(self, config: Tracking, sweep: str, lock: Path) -> None:
        self._sweep = sweep
        self._client, self._experiment = connect(config.uri, config.experiment)
        with locked(lock):
            found = self._search(f"tags.`{ROLE}` = 'sweep'")
            if not found:
                tags = {SWEEP: sweep, ROLE: "sweep", "mlflow.source.name": "ehrseq"}
                found = [patiently(lambda: self._client.create_run(self._experiment, run_name=sweep, tags=tags))]
        self.parent = str(found[-1].info.run_id)  # the oldest
        patiently(lambda: self._client.set_terminated(self.parent, "RUNNING"))

    def settle(self, wanted: Sequence[Settled]) -> list[Settled]:
        """Make every run say how it ended, and remove what an attempt that was cut off has left.

        Returns:
            Those that MLflow knows nothing of.
        """
        runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in self._search(f"tags.`{ROLE}` = 'run'"):
            runs[run.data.tags[TRIAL], run.data.tags[REPEAT]].append(run)
        missing = []
        for item in wanted:
            there = runs[str(item.trial), str(item.repeat)]
            kept = next((run for run in there if run.info.run_id == item.run_id), None)
            if kept is None and (item.run_id is None or item.status == "FAILED") and there:
                kept = there[0]  # the newest
            if kept is None:
                missing.append(item)
                continue
            for run in there:
                if run is not kept:
                    patiently(lambda run=run: self._client.delete_run(run.info.run_id))  # type: ignore[misc]
            self._say(kept, item.status, item.tags)
        return missing

    def add(self, link: RunLink, item: Settled, params: Mapping[str, Any], entries: Sequence[Entry]) -> str:
        """Make a run that should be there: its process ended, or MLflow was away, before it was made.

        Returns:
            Its id.
        """
        run = MlflowRun.begin(self._client, self._experiment, link.name, link)
        patiently(lambda: run.params(params))
        patiently(lambda: run.metrics(entries))
        patiently(lambda: run.tags(item.tags))
        patiently(lambda: run.finish(item.status))
        return run.run_id

    def _say(self, run: Run, status: str, tags: Mapping[str, str]) -> None:
        new = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
        if new:
            self._log(run.info.run_id, tags=new)
        if run.info.status != status:
            patiently(lambda: self._client.set_terminated(run.info.run_id, status))

    def close_groups(self) -> None:
        """Give each configuration mean and standard deviation over its repetitions, and its status."""
        below: dict[str, list[Run]] = defaultdict(list)
        for run in self._search(f"tags.`{ROLE}` = 'run'"):
            below[run.data.tags.get(PARENT, "")].append(run)
        for group in self._search(f"tags.`{ROLE}` = 'group'"):
            runs = below[group.info.run_id]
            finished = [run.data.metrics for run in runs if run.info.status == "FINISHED"]
            names = set.intersection(*map(set, finished)) if finished else set()
            values: dict[str, float] = {"finished": len(finished)}
            for name in sorted(names - {"epoch_seconds"}):
                across = [metrics[name] for metrics in finished]
                values[name] = fmean(across)
                if len(across) > 1:
                    values[f"{name}_sd"] = stdev(across)
            self._log(group.info.run_id, metrics=values)
            ended = all(run.info.status == "FINISHED" for run in runs)
            patiently(
                lambda group=group, ended=ended: self._client.set_terminated(  # type: ignore[misc]
                    group.info.run_id, "FINISHED" if ended else "FAILED"
                )
            )

    def close(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], files: Sequence[Path]) -> None:
        """The end of the sweep, for now."""
        self._log(self.parent, metrics=metrics, tags=tags)
        for file in files:
            patiently(lambda file=file: self._client.log_artifact(self.parent, str(file)))  # type: ignore[misc]
        patiently(lambda: self._client.set_terminated(self.parent, status))

    def describe(self, params: Mapping[str, Any]) -> None:
        """Record what the sweep is, once."""
        known = patiently(lambda: self._client.get_run(self.parent)).data.params
        new = [Param(key, str(value)[:6000]) for key, value in params.items() if key not in known]
        patiently(lambda: self._client.log_batch(self.parent, params=new))

    def _log(
        self, run_id: str, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        now = time.time_ns() // 1_000_000
        values = [Metric(key, value, now, 0) for key, value in (metrics or {}).items()]
        labels = [RunTag(key, value[:5000]) for key, value in (tags or {}).items()]
        patiently(lambda: self._client.log_batch(run_id, metrics=values, tags=labels))

    def _search(self, condition: str) -> list[Run]:
        """Runs of this sweep that are not in the bin, the newest first."""
        query = f"tags.`{SWEEP}` = '{self._sweep}' and {condition}"
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = patiently(
                lambda token=token: self._client.search_runs(  # type: ignore[misc]
                    [self._experiment], query, max_results=_PAGE, page_token=token
                )
            )
            runs += page
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: -run.info.start_time)


def stand_for(config: Tracking, run_id: str, link: RunLink, spool: Spool) -> str:
    """A run of the sweep in place of one that was made before it: same parameters, tags and figures.

    Returns:
        The run itself where it is of this sweep already, else the id of the copy.
    """
    client: MlflowClient = connect(config.uri, config.experiment)[0]
    original = patiently(lambda: client.get_run(run_id))
    if original.data.tags.get(SWEEP) == link.sweep:
        return run_id
    copy = MlflowRun.open(config.uri, config.experiment, link.name, None, link)
    kept = {key: value for key, value in original.data.tags.items() if key not in {SWEEP, ROLE, TRIAL, REPEAT, PARENT}}
    patiently(lambda: copy.tags({**kept, COPY_OF: run_id, "mlflow.runName": link.name}))
    patiently(lambda: copy.params(original.data.params))
    patiently(lambda: copy.metrics(spool.read()))
    patiently(lambda: copy.finish("FINISHED"))
    return copy.run_id
