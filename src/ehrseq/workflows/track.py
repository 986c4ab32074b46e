"""What a run shows in MLflow: parameters, tags, files, tables, and the text at the top of its page.

No subject identifier, prediction time or raw value goes there unless `tracking.individuals` is true: tables of single
histories carry a keyed hash instead, whose key stays in the data folder.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from ehrseq.config.schema import Settings
from ehrseq.errors import InterruptedBySignalError, Pruned
from ehrseq.files import atomic_file, read_json, read_manifest
from ehrseq.tracking import RunLink, RunTracker
from ehrseq.workflows import evaluate, explain
from ehrseq.workflows.console import say
from ehrseq.workflows.ledger import Ledger
from ehrseq.workflows.prepare import REPORT, Prepared, count_samples
from ehrseq.workflows.runs import AUDIT, CONFIG, EVALUATE, EXPLAIN, TRAIN, TrainedRun
from ehrseq.workflows.train import ENVIRONMENT

_TABLE_ROWS = 2000  # what MLflow's page shows without effort; the whole table is an artifact beside it


@contextmanager
def tracked(settings: Settings, folder: Path, link: RunLink | None = None) -> Iterator[RunTracker]:
    """A tracker that is finished with the right status, however the block ends.

    Args:
        settings: Where MLflow is.
        folder: The run folder.
        link: The sweep that the run belongs to.
    """
    tracker = RunTracker(folder, settings.tracking, folder.name, say, link)
    try:
        yield tracker
    except Exception as error:
        tracker.finish("KILLED" if isinstance(error, InterruptedBySignalError | Pruned) else "FAILED")
        raise
    except BaseException:  # an interrupt or a signal
        tracker.finish("KILLED")
        raise
    tracker.finish("FINISHED")


def log_setup(tracker: RunTracker, settings: Settings, prepared: Prepared, folder: Path) -> None:
    """Parameters, tags and data digests, before training starts."""
    tracker.params(flat_params(settings))
    tracker.tags(
        {
            "mlflow.source.name": "ehrseq",
            "ehrseq.run_folder": str(folder),
            "ehrseq.source": prepared.source,
            "ehrseq.task": settings.task.name,
            "ehrseq.model": settings.model.name,
            "ehrseq.data_digest": prepared.data_digest,
            "ehrseq.store_digest": prepared.digest,
        }
    )


def flat_params(settings: Settings) -> dict[str, Any]:
    """Every setting that says what a run is, under its dotted key."""
    of_the_command = {"run", "output", "resume", "force", "paths"}
    plain = {name: value for name, value in settings.plain().items() if name not in of_the_command}
    return dict(_flat(plain))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def log_training(tracker: RunTracker, trained: TrainedRun, prepared: Prepared) -> None:
    """The model, its settings and environment, and the data report."""
    folder = trained.folder / TRAIN
    # Everything `ehrseq predict run=<MLflow run id>` needs.
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {f"{TRAIN}/{path.relative_to(folder).as_posix()}": path for path in files}
    tracker.artifacts(named | {f"data/{REPORT}": prepared.store / REPORT})
    git = read_json(folder / ENVIRONMENT)["git"]
    tags = {"ehrseq.weights_digest": trained.weights_digest[:16]}
    if git:
        tags |= {"mlflow.source.git.commit": git["commit"], "ehrseq.git_changed": str(git["changed"]).lower()}
    tracker.tags(tags)


def log_evaluation(tracker: RunTracker, evaluated: evaluate.Evaluated, settings: Settings) -> None:
    """Figures, metrics.json and predictions."""
    folder = evaluated.folder
    if evaluated.ledger.looks:
        ledger = evaluated.ledger
        tracker.tags(
            {f"ehrseq.{ledger.split}_looks": f"models {len(ledger.looks)}, configurations {ledger.configurations}"}
        )
    tracker.artifacts(
        {f"{EVALUATE}/{path.name}": path for path in [*sorted(folder.glob("*.png")), folder / evaluate.METRICS]}
    )
    _log_table(tracker, pl.read_parquet(folder / evaluate.PREDICTIONS), f"{EVALUATE}/predictions", settings)
    names, estimates = zip(*sorted(evaluated.metrics.items()), strict=True)
    columns = {part: [estimate[part] for estimate in estimates] for part in ("value", "ci_low", "ci_high")}
    tracker.table({"metric": list(names), **columns}, f"{EVALUATE}/metrics_table.json")


def log_explanation(tracker: RunTracker, explained: explain.Explained, settings: Settings) -> None:
    """Heat map, timelines and the attention table."""
    folder = explained.folder
    files = [*sorted(folder.glob("*.png")), folder / explain.COHORT]
    tracker.artifacts({f"{EXPLAIN}/{path.name}": path for path in files})
    _log_table(tracker, pl.read_parquet(folder / explain.ATTENTION), f"{EXPLAIN}/attention", settings)


def _log_table(tracker: RunTracker, frame: pl.DataFrame, path: str, settings: Settings) -> None:
    """A table of single histories: whole as parquet, its beginning as a table on the page."""
    if not settings.tracking.individuals:
        frame = pseudonymise(frame, Path(settings.paths.data))
    with TemporaryDirectory(prefix="ehrseq-track-") as folder:
        file = Path(folder) / f"{path.rpartition('/')[2]}.parquet"
        frame.write_parquet(file)
        tracker.artifacts({f"{path}.parquet": file})
        head = frame.head(_TABLE_ROWS).with_columns(pl.selectors.temporal().cast(pl.String))
        tracker.table(head.to_dict(as_series=False), f"{path}_table.json")
        tracker.wait()  # the file lives no longer than this block


def pseudonymise(frame: pl.DataFrame, data: Path) -> pl.DataFrame:
    """Put keyed hashes in the place of subject and prediction time (BLAKE2b, 64 bits): `history` of both, `subject`.

    The key is made once for each data folder and never leaves it; without it the hashes tell nothing.
    """
    key_file = data / "pseudonym.key"
    if not key_file.is_file():
        with atomic_file(key_file) as staging:
            staging.write_bytes(secrets.token_bytes(32))
            staging.chmod(0o600)
    key = key_file.read_bytes()
    columns = ["subject_id", "prediction_time"]
    histories = frame.select(columns).unique(maintain_order=True)

    def hashes(rows: Iterable[object]) -> list[str]:
        return [hashlib.blake2b(repr(row).encode(), digest_size=8, key=key).hexdigest() for row in rows]

    names, people = hashes(histories.iter_rows()), hashes(histories["subject_id"])
    hashed = histories.with_columns(pl.Series("history", names), pl.Series("subject", people))
    rest = [name for name in frame.columns if name not in columns]
    # Sorted by the hash: the order of the rows must not give the order of the identifiers away.
    order = pl.Series("_order", np.arange(frame.height))
    joined = frame.with_columns(order).join(hashed, on=columns, how="left").sort("history", "_order")
    return joined.select("history", "subject", *rest)


def describe(
    settings: Settings, prepared: Prepared, folder: Path, metrics: evaluate.Metrics, ledger: Ledger | None = None
) -> str:
    """The text at the top of the run's page, in Markdown."""
    split = settings.evaluate.split
    counts = (read_manifest(prepared.store) or {}).get("splits", {})
    training = read_manifest(folder / TRAIN) or {}
    lines = [
        f"## {settings.model.name} on {prepared.dataset.name.rpartition('-')[0]}, {settings.task.name}",
        "",
        f"| metric ({split}) | value | {settings.evaluate.level:.0%} interval |",
        "| --- | --- | --- |",
    ]
    for name, estimate in metrics.items():
        lines.append(f"| {name} | {number(estimate['value'])} | {interval(estimate)} |")
    sizes = ", ".join(f"{name} {count_samples(part)}" for name, part in counts.items())
    if ledger is not None and ledger.looks:
        lines += ["", f"**Looks** {ledger.tell()}; what is the best of many looks flatters itself"]
    lines += [
        "",
        f"**Data** {sizes}; digest `{prepared.data_digest}`, store `{prepared.digest}`",
        "",
        f"**Training** best epoch {training.get('best_epoch')} of {training.get('epochs')} by "
        f"{training.get('monitor')}, seed {settings.seed}",
        "",
        "**Figures** `evaluate/roc.png`, `evaluate/precision_recall.png`, `evaluate/calibration.png`, "
        "`explain/cohort_attention.png`, `explain/timeline_*.png`",
        "",
        "**Tables** `evaluate/predictions_table.json`, `explain/attention_table.json`, `data/report.csv` (cleaning)",
        "",
        f"**Again** all settings are in `{TRAIN}/{CONFIG}`, packages and code version in `{TRAIN}/{ENVIRONMENT}`; "
        f"run folder `{folder}`" + (f"; control in `{AUDIT}/`" if settings.audit.shuffled_labels else ""),
    ]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A figure for people; an undefined one says so."""
    return "undefined" if value is None else f"{value:.4f}"


def interval(estimate: Mapping[str, float | None]) -> str:
    """An interval for people."""
    low, high = estimate["ci_low"], estimate["ci_high"]
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
