"""The sweep's own run in MLflow, kept beside the work: what goes wrong there is told and never stops a trial."""

import csv
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ehrseq.config.load import load_settings
from ehrseq.config.sweep import Plan
from ehrseq.sweeps.records import GOOD, Outcome, SweepFolder
from ehrseq.tracking import Spool, reason
from ehrseq.workflows.console import say
from ehrseq.workflows.sweep_worker import link_of
from ehrseq.workflows.track import flat_params

if TYPE_CHECKING:
    from ehrseq.tracking.sweeps import Settled, SweepRuns
    from ehrseq.workflows.sweep import SweepResult

_STATUS = {"finished": "FINISHED", "pruned": "KILLED"}


class SweepTracking:
    """The parent run: begun while the data are prepared, ended when all is known.

    Args:
        plan: The sweep.
        folder: Its folder.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self._plan = plan
        self._folder = folder
        self._runs: SweepRuns | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._guard, args=(self._connect,), name="sweep", daemon=True)

    def __enter__(self) -> "SweepTracking":
        if self._plan.base.tracking.enabled:
            # Importing MLflow and making its tables takes seconds; both go on beside.
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if self._thread.ident is not None:
            self._thread.join()
        if error is not None and self._runs is not None:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            runs = self._runs
            self._guard(lambda: runs.close(status, {}, {}, []))
        if self._error:
            uri = self._plan.base.tracking.uri
            say(f"MLflow at {uri} did not take everything of the sweep ({self._error}); {self._folder.path} has it")
        return False

    @property
    def parent(self) -> str | None:
        """The MLflow run of the sweep."""
        return self._runs.parent if self._runs else None

    def begin(self) -> None:
        """Wait until the parent is there; runs of before say how they ended."""
        if self._thread.ident is not None:
            self._thread.join()
        self.settle(self._folder.outcomes())

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Make the runs of these outcomes say how they ended, also where their process could not."""
        if self._runs is not None and outcomes:
            runs = self._runs
            self._guard(lambda: runs.settle([_settled(outcome) for outcome in outcomes]))

    def end(self, result: "SweepResult") -> None:
        """Record what came of the sweep and close its run."""
        if self._runs is None:
            return
        runs = self._runs

        def close() -> None:
            for item in runs.settle([_settled(outcome) for outcome in result.outcomes]):
                self._add(runs, item)
            if len(self._plan.repeats) > 1:
                runs.close_groups()
            table = self._write_table(result.outcomes)
            best = {"ehrseq.best_trials": " ".join(map(str, result.best))}
            files = [self._folder.path / "summary.json", self._folder.path / "sweep.json", table]
            tags = {**best, "mlflow.note.content": self._note(result)}
            runs.close("FAILED" if result.failed else "FINISHED", self._figures(result), tags, files)

        self._guard(close)

    def _add(self, runs: "SweepRuns", item: "Settled") -> None:
        """Make a run that MLflow should have: its process ended, or MLflow was away, before it was made."""
        outcome = self._folder.find(item.trial, item.repeat)
        assert outcome is not None
        chosen = outcome.chosen[: len(outcome.chosen) - len(self._plan.repeats[item.repeat])]
        link = link_of(self._plan, self._folder, runs.parent, item.trial, item.repeat, chosen)
        params = flat_params(load_settings(outcome.words, self._plan.extra))
        entries = Spool(Path(outcome.folder) / "tracking" / "metrics.jsonl").read() if outcome.folder else []
        self._folder.record(replace(outcome, run_id=runs.add(link, item, params, entries)))

    def _connect(self) -> None:
        from ehrseq.tracking.sweeps import SweepRuns

        runs = SweepRuns(self._plan.base.tracking, self._plan.id, self._folder.path / ".mlflow.lock")
        sweep = self._plan.sweep.plain()
        search = {f"search.{item.key}": vars(item) for item in self._plan.space}
        runs.describe({key: value for key, value in sweep.items() if key != "search"} | search)
        self._runs = runs

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._error = self._error or reason(error)

    def _figures(self, result: "SweepResult") -> dict[str, float]:
        from ehrseq.workflows.sweep import counts

        values: dict[str, float] = {f"runs/{status}": count for status, count in counts(result.outcomes).items()}
        values["epochs"] = sum(outcome.values.get("train/epochs", 0) for outcome in result.outcomes)
        for number in result.best[:1]:
            runs = [outcome for outcome in result.outcomes if outcome.trial == number]
            for name, _ in self._plan.objectives:
                values[f"best/{name}"] = sum(run.values[name] for run in runs) / len(runs)
        return values

    def _write_table(self, outcomes: Sequence[Outcome]) -> Any:
        """`trials.csv`: a row a run."""
        figures = sorted({name for outcome in outcomes for name in outcome.values})
        path = self._folder.path / "trials.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "repeat", "status", "settings", *figures, "mlflow_run"])
            for item in outcomes:
                shown = [item.values.get(name, "") for name in figures]
                writer.writerow(
                    [item.trial, item.repeat, item.status, " ".join(item.chosen), *shown, item.run_id or ""]
                )
        return path

    def _note(self, result: "SweepResult") -> str:
        from ehrseq.workflows.sweep import counts

        parts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts(result.outcomes).items())
        rows = [outcome for outcome in result.outcomes if outcome.trial in result.best]
        lines = [f"## Sweep {result.id}", "", parts, "", "| best | settings | figures |", "| --- | --- | --- |"]
        for item in rows:
            shown = ", ".join(f"{name} {item.values[name]:.4f}" for name, _ in self._plan.objectives)
            lines.append(f"| trial {item.trial} | `{' '.join(item.chosen)}` | {shown} |")
        if result.failed:
            lines += ["", "| failed | settings | why |", "| --- | --- | --- |"]
            lines += [f"| trial {item.trial} | `{' '.join(item.chosen)}` | {item.status} |" for item in result.failed]
        return "\n".join([*lines, "", f"All runs: `trials.csv`; folder `{result.folder}`"])


def _settled(outcome: Outcome) -> "Settled":
    from ehrseq.tracking.sweeps import FAILURE, OUTCOME, Settled

    tags: dict[str, str] = {OUTCOME: outcome.status}
    if outcome.failure is not None and outcome.status not in GOOD:
        # The message may quote data; what kind of error it was never does.
        tags[FAILURE] = outcome.failure.kind
    status = _STATUS.get(outcome.status, "FAILED")
    return Settled(outcome.trial, outcome.repeat, outcome.run_id, status, tags)
