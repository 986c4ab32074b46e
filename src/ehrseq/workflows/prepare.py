"""From raw files to a store: dataset, labels, splits, fitted preprocessing, tensors."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.config.schema import Settings
from ehrseq.errors import DataError
from ehrseq.files import (
    atomic_folder,
    digest_json,
    is_current,
    locked,
    read_json,
    sweep_leftovers,
    write_json,
    write_manifest,
)
from ehrseq.meds.splits import assign_splits
from ehrseq.preprocess import Preprocessor, fit, tensorise
from ehrseq.sources.base import Source
from ehrseq.store import Store, open_store, write_store
from ehrseq.tasks.labels import read_labels, require_outcomes
from ehrseq.workflows.build import build_source
from ehrseq.workflows.console import say, timed

PREPROCESSOR, REPORT, SPLITS = "preprocessor.json", "report.csv", "subject_splits.parquet"


@dataclass(frozen=True)
class Prepared:
    """What `prepare` gives.

    Attributes:
        dataset: The MEDS dataset.
        store: The store's folder, which also holds the fitted preprocessing, the splits and the report.
        digest: Digest of everything that the store was made from.
        data_digest: Digest of the raw input.
    """

    dataset: Path
    store: Path
    digest: str
    data_digest: str

    def open(self) -> Store:
        """Map the store."""
        return open_store(self.store)

    def preprocessor(self) -> Preprocessor:
        """The fitted preprocessing."""
        return Preprocessor.from_json(read_json(self.store / PREPROCESSOR))

    def report(self) -> pl.DataFrame:
        """What was kept, repaired, dropped and clipped, a row a code."""
        return pl.read_csv(self.store / REPORT)


def run(settings: Settings) -> Prepared:
    """Prepare the data, or find them prepared.

    Both folders, dataset and store, are named by what they are made from, and appear together or not at all.

    Raises:
        DataError: If the input breaks its contract; nothing is written then.
    """
    source = build_source(settings.source)
    root = Path(settings.paths.data)
    data_key = {"source": source.fingerprint()}
    store_key = {
        **data_key,
        "task": settings.task.plain(),
        "split": settings.split.plain(),
        "preprocess": settings.preprocess.plain(),
    }
    dataset = root / "datasets" / f"{source.name}-{digest_json(data_key)}"
    store = root / "stores" / f"{source.name}-{settings.task.name}-{digest_json(store_key)}"
    prepared = Prepared(dataset, store, digest_json(store_key), digest_json(data_key))
    if not settings.force and is_current(dataset, data_key) and is_current(store, store_key):
        say(f"data: {store} is up to date")
        return prepared
    existed = root.exists()
    try:
        with locked(root / ".lock"):
            for folder in (dataset.parent, store.parent):
                sweep_leftovers(folder)
            _write(settings, source, prepared, data_key, store_key)
    except BaseException:
        if not existed:
            _remove_empty(root)
        raise
    return prepared


def _write(
    settings: Settings, source: Source, prepared: Prepared, data_key: dict[str, Any], store_key: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        dataset = prepared.dataset
        if settings.force or not is_current(dataset, data_key):
            dataset = stack.enter_context(atomic_folder(prepared.dataset))
            with timed(f"data: {source.name} written as MEDS"):
                counts = source.write(dataset)
            write_manifest(dataset, "dataset", data_key, counts=counts)
            say("data: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))
        if not settings.force and is_current(prepared.store, store_key):
            return  # another process was faster
        labels = read_labels(dataset, settings.task.name)
        require_outcomes(labels, settings.task.name)
        store = stack.enter_context(atomic_folder(prepared.store))
        with timed("data: split, fitted on train, tensorised"):
            splits = assign_splits(labels, settings.split)
            preprocessor = fit(dataset, labels, splits, settings.preprocess)
            arrays, report = tensorise(dataset, labels, splits, preprocessor)
        write_store(store, arrays, preprocessor.codes, preprocessor.static_features)
        write_json(store / PREPROCESSOR, preprocessor.to_json())
        splits.write_parquet(store / SPLITS)
        report.write_csv(store / REPORT)
        summary = summarise(labels, splits, report)
        write_manifest(store, "store", store_key, **summary)
        for line in describe(summary):
            say(f"data: {line}")


def summarise(labels: pl.DataFrame, splits: pl.DataFrame, report: pl.DataFrame) -> dict[str, Any]:
    """Counts that belong beside the data: samples a split, and what preprocessing changed."""
    parts = (
        labels.join(splits, on="subject_id")
        .group_by("split")
        .agg(pl.len().alias("samples"), pl.col("boolean_value").sum())
    )
    known = report.filter("in_vocabulary")
    return {
        "splits": {
            row["split"]: {"samples": row["samples"], "positive": row["boolean_value"]} for row in parts.to_dicts()
        },
        "codes": {"in_vocabulary": known.height, "left_out": report.height - known.height},
        "events": {
            "in_vocabulary": int(known["events"].sum()),
            "left_out": int(report["events"].sum()) - int(known["events"].sum()),
            "repaired": int(known["repaired"].sum()),
            "out_of_limits": int(known["out_of_limits"].sum()),
            "clipped": int(known["clipped"].sum()),
        },
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary in words, a line each."""
    splits, codes, events = summary["splits"], summary["codes"], summary["events"]
    order = [name for name in ("train", "tuning", "held_out") if name in splits]
    return [
        ", ".join(f"{name} {splits[name]['samples']:,} ({splits[name]['positive']:,} positive)" for name in order),
        f"{codes['in_vocabulary']} codes used, {codes['left_out']} too rare; {events['in_vocabulary']:,} events used, "
        f"{events['left_out']:,} of rare codes left out, {events['repaired']:,} values repaired, "
        f"{events['out_of_limits']:,} out of limits dropped, {events['clipped']:,} clipped",
    ]


def _remove_empty(root: Path) -> None:
    """Take away what an unsuccessful first try made: the lock and empty folders."""
    (root / ".lock").unlink(missing_ok=True)
    for folder in (root / "datasets", root / "stores", root):
        with suppress(OSError):  # not there, or something is in it
            folder.rmdir()


def check_same_data(prepared: Prepared, key: dict[str, Any]) -> None:
    """Refuse to go on with a run on other data than it was trained on.

    Raises:
        DataError: If the store is not the one that the run's manifest names.
    """
    if key.get("store") != prepared.digest:
        raise DataError(
            f"the data at source are not those that this run was trained on (store {prepared.digest}, the run has "
            f"{key.get('store')}); restore them, or train again"
        )
