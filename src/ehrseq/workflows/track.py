"""What a run shows in MLflow: parameters, tags, files, tables, and the text at the top of its page.

No subject identifier, date or value of a single person goes there unless `evaluate.individuals` is true: by default
tables and figures of single histories stay in the run folder, and counts of a few persons are left out.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from ehrseq.config.identity import flatten_keys
from ehrseq.config.schema import Settings
from ehrseq.errors import InterruptedBySignalError, Pruned
from ehrseq.files import MANIFEST, read_json, read_manifest
from ehrseq.metrics import headline
from ehrseq.reporting import CARD, CHECKLIST, Page
from ehrseq.reporting import REPORT as PAGE
from ehrseq.reporting.page import INDIVIDUAL
from ehrseq.reporting.words import column_in_words, kept_in_words
from ehrseq.tracking import Dataset, RunLink, RunTracker
from ehrseq.workflows import evaluate, explain, report
from ehrseq.workflows.console import say
from ehrseq.workflows.ledger import Ledger
from ehrseq.workflows.prepare import Prepared, count_samples
from ehrseq.workflows.runs import AUDIT, CONFIG, EVALUATE, EXPLAIN, TRAIN, TrainedRun
from ehrseq.workflows.serving import ServedRun, example_events
from ehrseq.workflows.train import ENVIRONMENT

_TABLE_ROWS = 2000  # what MLflow's page shows without effort; the whole table is an artifact beside it


# The columns of MLflow's table of runs beside the headline metric, where a target has them.
_COLUMNS = ("auprc", "brier", "calibration_slope", "utility", "mae", "macro_auprc", "accuracy", "integrated_brier")
# Of explanations, what is told of each share that was taken away and of each pair: in verdict.json alone.
_DETAIL = re.compile(
    r"/(lost|won|comprehensiveness|sufficiency)_\d+$|/masked_|/(deletion|insertion|untrained|agreement|overlap)$"
)


@contextmanager
def tracked(settings: Settings, folder: Path, link: RunLink | None = None) -> Iterator[RunTracker]:
    """A tracker that is finished with the right status, however the block ends.

    Args:
        settings: Where MLflow is.
        folder: The run folder.
        link: The sweep that the run belongs to.
    """
    tracker = RunTracker(folder, settings.tracking, name_of_run(settings, folder), say, link)
    try:
        yield tracker
    except Exception as error:
        tracker.finish("KILLED" if isinstance(error, InterruptedBySignalError | Pruned) else "FAILED")
        raise
    except BaseException:  # an interrupt or a signal
        tracker.finish("KILLED")
        raise
    tracker.finish("FINISHED")


def name_of_run(settings: Settings, folder: Path) -> str:
    """The name of a run in MLflow: what tells it from others comes first, since tables cut names short."""
    return f"{settings.model.name} seed {settings.seed} {settings.task.name} {folder.name.rpartition('-')[2]}"


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
    return dict(flatten_keys(plain))


def log_training(tracker: RunTracker, trained: TrainedRun, prepared: Prepared) -> None:
    """The model, its settings and environment, and the data report."""
    folder = trained.folder / TRAIN
    # Everything `ehrseq predict run=<MLflow run id>` needs.
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {f"{TRAIN}/{path.relative_to(folder).as_posix()}": path for path in files}
    tracker.artifacts(named)
    minimum = trained.settings.evaluate.min_group
    _log_frame(tracker, cleaning_report(prepared.report(), minimum), "data/report")
    tracker.datasets(datasets_of(prepared))
    git = read_json(folder / ENVIRONMENT)["git"]
    if tracker.config.registry is not None:
        events = example_events(trained.preprocessor())
        told = ServedRun(trained).score(events)
        tracker.register(folder, events.to_dict(as_series=False), told.to_dict(as_series=False))
    tags = {"ehrseq.weights_digest": trained.weights_digest[:16]}
    if git:
        tags |= {"mlflow.source.git.commit": git["commit"], "ehrseq.git_changed": str(git["changed"]).lower()}
    tracker.tags(tags)


def log_evaluation(tracker: RunTracker, evaluated: evaluate.Evaluated, settings: Settings) -> None:
    """Figures, metrics.json and tables; predictions of single histories only where that was asked for."""
    folder = evaluated.folder
    if evaluated.ledger.looks:
        ledger = evaluated.ledger
        tracker.tags(
            {f"ehrseq.{ledger.split}_looks": f"models {len(ledger.looks)}, configurations {ledger.configurations}"}
        )
    files = [
        *sorted(folder.glob("*.png")),
        folder / evaluate.METRICS,
        folder / MANIFEST,  # with the digest of the predictions, by which a repetition is told to be the same
        *sorted((folder / evaluate.TABLES).glob("*.csv")),
    ]
    tracker.artifacts({f"{EVALUATE}/{path.relative_to(folder).as_posix()}": path for path in files})
    for path in sorted((folder / evaluate.TABLES).glob("*.csv")):
        _show(tracker, pl.read_csv(path, infer_schema_length=None), f"{EVALUATE}/{evaluate.TABLES}/{path.stem}")
    name = f"{settings.evaluate.split}/{headline(settings.task.target)}"
    if (estimate := evaluated.metrics.get(name)) is not None:
        words = f"{name} {number(estimate['value'])} {interval(estimate)}".strip()
        tracker.tags({"ehrseq.headline": words, "ehrseq.recalibration": settings.recalibration})
        split = settings.evaluate.split
        others = [f"{split}/{column}" for column in _COLUMNS if f"{split}/{column}" in evaluated.metrics]
        tracker.view([name, f"{name}_ci_low", f"{name}_ci_high", *others])
    names, estimates = zip(*sorted(evaluated.metrics.items()), strict=True)
    columns = {part: [estimate[part] for estimate in estimates] for part in ("value", "ci_low", "ci_high")}
    tracker.table({"metric": list(names), **columns}, f"{EVALUATE}/metrics_table.json")
    if settings.evaluate.individuals:
        _log_frame(tracker, pl.read_parquet(folder / evaluate.PREDICTIONS), f"{EVALUATE}/predictions")


def log_explanation(tracker: RunTracker, explained: explain.Explained, settings: Settings) -> None:
    """The verdict with its figures, and what matters in the cohort.

    Timelines, what events of single persons contribute, and the attention of single histories go there only where that
    was asked for.
    """
    folder = explained.folder
    # Under a name that sorts behind those of the splits: how well comes before why.
    told = {name.replace("explain/", "verdict/"): item for name, item in explained.metrics.items()}
    tracker.metrics(evaluate.flatten({name: item for name, item in told.items() if not _DETAIL.search(name)}), 0)
    files = [*sorted(folder.glob("*.png")), *sorted(folder.glob("*.json")), *sorted(folder.glob("*.csv"))]
    files += [folder / name for name in (explain.IMPORTANCE, explain.DEPENDENCE, explain.SUBGROUPS)]
    if settings.evaluate.individuals:
        files += [*sorted(folder.glob("*.html")), folder / explain.ATTRIBUTIONS]
        if (folder / explain.ATTENTION).is_file():
            _log_frame(tracker, pl.read_parquet(folder / explain.ATTENTION), f"{EXPLAIN}/attention")
    else:
        files = [path for path in files if not path.name.startswith(INDIVIDUAL)]
    tracker.artifacts({f"{EXPLAIN}/{path.name}": path for path in files if path.name != MANIFEST})
    tracker.tags({"ehrseq.verdict": explained.sentence})


def log_report(tracker: RunTracker, reported: report.Reported) -> None:
    """The report, the model card and the checklist."""
    tracker.artifacts({f"report/{name}": reported.folder / name for name in (PAGE, CARD, CHECKLIST)})


def cleaning_report(table: pl.DataFrame, minimum: int) -> pl.DataFrame:
    """What became of each code, without codes of so few events that they may be one person's."""
    return table.filter(pl.col("events") >= minimum)


def datasets_of(prepared: Prepared) -> list[Dataset]:
    """The splits, as MLflow has data: name, digest, how many, what for."""
    counts = (read_manifest(prepared.store) or {}).get("splits", {})
    contexts = {"train": "training", "tuning": "validation", "held_out": "testing"}
    return [
        Dataset(f"{prepared.source}-{split}", prepared.digest, prepared.data_digest, counts[split], context)
        for split, context in contexts.items()
        if split in counts
    ]


def _log_frame(tracker: RunTracker, frame: pl.DataFrame, path: str) -> None:
    """A table: whole as parquet, its beginning as a table on the page."""
    with TemporaryDirectory(prefix="ehrseq-track-") as folder:
        file = Path(folder) / f"{path.rpartition('/')[2]}.parquet"
        frame.write_parquet(file)
        tracker.artifacts({f"{path}.parquet": file})
        _show(tracker, frame, path)
        tracker.wait()  # the file lives no longer than this block


def _show(tracker: RunTracker, frame: pl.DataFrame, path: str) -> None:
    """The beginning of a table, on the page."""
    head = frame.head(_TABLE_ROWS).with_columns(pl.selectors.temporal().cast(pl.String))
    tracker.table(head.to_dict(as_series=False), f"{path}_table.json")


def describe(
    settings: Settings, prepared: Prepared, folder: Path, metrics: evaluate.Metrics, ledger: Ledger | None = None
) -> str:
    """The text at the top of the run's page, in Markdown: headline figures, and where everything else is."""
    counts = (read_manifest(prepared.store) or {}).get("splits", {})
    training = read_manifest(folder / TRAIN) or {}
    page = Page.of_run(folder, individuals=False)
    # MLflow folds all but the first lines.
    lines = [_at_a_glance(page, headline(settings.task.target)), ""]
    lines += [f"{sentence}\n" for sentence in [*page.sentences, page.verdict] if sentence]
    lines += [f"| metric | value | {settings.evaluate.level:.0%} interval |", "| --- | --- | --- |"]
    for name, estimate in metrics.items():
        if name.count("/") == 1 or "//" in name:
            # MLflow sets no space between columns.
            lines.append(f"| {name} | \u2003{number(estimate['value'])} | \u2003{interval(estimate)} |")
    if ledger is not None and ledger.looks:
        lines += ["", f"**Looks** {ledger.tell()}; what is the best of many looks flatters itself"]
    order = [name for name in ("train", "tuning", "held_out") if name in counts]
    sizes = ", ".join(f"{name} {count_samples(counts[name])}" for name in order)
    figures = ", ".join(f"`{path}`" for path in _figures(folder))
    tables = ", ".join(f"`{EVALUATE}/{evaluate.TABLES}/{name}_table.json`" for name in page.tables)
    lines += [
        "",
        f"**Report** `report/{PAGE}` (everything, interactive, can be mailed), `report/{CARD}`, `report/{CHECKLIST}`",
        "",
        f"**Figures** {figures}",
        "",
        f"**Tables** {tables}, `data/report_table.json` (cleaning)",
        "",
        f"**Data** {sizes}; digest `{prepared.data_digest}`, store `{prepared.digest}`",
        "",
        f"**Training** {kept_in_words(training)}, seed {settings.seed}",
        "",
        f"**Again** all settings are in `{TRAIN}/{CONFIG}`, packages and code version in `{TRAIN}/{ENVIRONMENT}`; "
        f"run folder `{folder}`" + (f"; control in `{AUDIT}/`" if settings.audit.shuffled_labels else ""),
    ]
    return "\n".join(lines)


def _at_a_glance(page: Page, headline_name: str) -> str:
    """The headline metrics in a line, and where the rest is."""
    names = [headline_name, *(name for name in _COLUMNS if page.metric(name)["value"] is not None)]
    figures = ", ".join(f"**{column_in_words(name)} {page.words(name)}**" for name in names[:4])
    return f"{figures} on {page.split}. Everything on one page: Artifacts, `report/{PAGE}`."


def _figures(folder: Path) -> list[str]:
    """The figures that are on the page, by their artifact paths."""
    paths = [path for part in (EVALUATE, EXPLAIN) for path in sorted((folder / part).glob("*.png"))]
    return [path.relative_to(folder).as_posix() for path in paths if not path.name.startswith(INDIVIDUAL)]


def number(value: float | None) -> str:
    """A figure for people; an undefined one says so."""
    return "undefined" if value is None else f"{value:.4f}"


def interval(estimate: Mapping[str, float | None]) -> str:
    """An interval for people."""
    low, high = estimate["ci_low"], estimate["ci_high"]
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
