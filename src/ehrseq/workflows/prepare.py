"""From raw files to a store: dataset, labels, splits, fitted preprocessing, tensors."""

import errno
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import Part, SeveralTarget, Target, columns_of
from ehrseq.errors import DataError, EhrseqError
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
from ehrseq.meds import schema
from ehrseq.meds.external import split_by_site, split_by_time
from ehrseq.meds.read import count_rows, list_shards
from ehrseq.meds.splits import assign_splits, read_splits
from ehrseq.preprocess import Preprocessor, build_store, fit_dataset
from ehrseq.sources.base import Source
from ehrseq.store import Store, open_store
from ehrseq.tasks import LabelMaker, Labels, Outcomes, encode, encode_part
from ehrseq.workflows.build import build_auxiliary_makers, build_label_maker, build_source
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.engine import choose_engine

PREPROCESSOR, REPORT, SPLITS = "preprocessor.json", "report.csv", "subject_splits.parquet"

# Rises whenever the same input and settings come to give another store, so that older ones are not taken for it.
_GENERATION = 3


@dataclass(frozen=True)
class Prepared:
    """What `prepare` gives.

    Attributes:
        source: Name of the source.
        dataset: The MEDS dataset.
        store: The store's folder, which also holds the fitted preprocessing, the splits and the report.
        digest: Digest of everything that the store was made from.
        data_digest: Digest of the raw input.
    """

    source: str
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

    Both folders, dataset and store, are named by what they are made from. What can be known to be wrong with input and
    labels is found out before either appears. Finished shards of the store survive an interruption.

    Raises:
        DataError: If the input breaks its contract.
    """
    source = build_source(settings.source)
    maker = build_label_maker(settings.task)
    beside = {
        name: {**settings.task.auxiliary[name].plain(), "labels": own.fingerprint()}
        for name, own in build_auxiliary_makers(settings.task).items()
    }
    root = Path(settings.paths.data)
    data_key = {"source": source.fingerprint()}
    store_key = {
        **data_key,
        "task": {**settings.task.plain(), "labels": maker.fingerprint(), "auxiliary": beside},
        "split": settings.split.plain(),
        "preprocess": settings.preprocess.plain(),
        "generation": _GENERATION,
    }
    digest, data_digest = digest_json(store_key), digest_json(data_key)
    dataset = source.dataset or root / "datasets" / f"{source.name}-{data_digest}"
    store = root / "stores" / f"{source.name}-{settings.task.name}-{digest}"
    prepared = Prepared(source.name, dataset, store, digest, data_digest)
    have_dataset = source.dataset is not None or is_current(dataset, data_key)
    if not settings.force and have_dataset and is_current(store, store_key):
        say(f"data: {store} is up to date")
        return prepared
    existed = root.exists()
    try:
        with locked(root / ".lock"):
            for folder in (root / "datasets", store.parent):
                sweep_leftovers(folder)
            if settings.force or not is_current(store, store_key):  # another process may have been faster
                labelled = _write_dataset(settings, source, maker, prepared, data_key)
                _write_store(settings, prepared, labelled, store_key)
    except BaseException as error:
        if not existed:
            _remove_empty(root)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EhrseqError(
                f"paths.data={root}: {error.strerror}; make room or choose another disk, then start again: shards that "
                "are finished are kept"
            ) from error
        raise
    return prepared


def _write_dataset(
    settings: Settings, source: Source, maker: LabelMaker, prepared: Prepared, data_key: dict[str, Any]
) -> "_Labelled":
    """Write the MEDS dataset where it is missing; returns its labels and splits, which are checked first."""
    if source.dataset is not None or (not settings.force and is_current(prepared.dataset, data_key)):
        return _label(settings, maker, prepared.dataset)
    with atomic_folder(prepared.dataset) as dataset:
        with timed(f"data: {source.name} written as MEDS"):
            counts = source.write(dataset)
        labelled = _label(settings, maker, dataset)
        write_manifest(dataset, "dataset", data_key, counts=counts)
    say("data: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))
    return labelled


@dataclass(frozen=True)
class _Labelled:
    """What is to be predicted of whom: labels, the numbers they stand for, what is learned beside, and the splits."""

    labels: Labels
    outcomes: Outcomes
    parts: dict[str, Part]
    auxiliary: NDArray[np.float32]
    splits: pl.DataFrame


def _label(settings: Settings, maker: LabelMaker, dataset: Path) -> _Labelled:
    """Labels, outcomes and splits."""
    labels = maker.labels(dataset, settings.task.name)
    outcomes = encode(labels.frame, settings.task.target, settings.task.name)
    # Splits are stratified, and checked for both classes, by what is predicted, not by what else is there.
    frame = labels.frame.select(schema.SUBJECT_ID, schema.PREDICTION_TIME)
    target = outcomes.target
    first = target.parts[target.first].target if isinstance(target, SeveralTarget) else target
    if first.kind == "binary":
        value = pl.Series(outcomes.value[:, 0]).fill_nan(None)
        frame = frame.with_columns((value == 1).alias(schema.BOOLEAN_VALUE))
    if target.kind == "forecast":
        # Divided as the binary task is, which a network that begins with this one may learn.
        frame = labels.frame
    options = {"both_classes": first.kind == "binary"}
    match settings.split.method:
        case "source":
            splits = read_splits(dataset, frame, **options)
        case "time":
            splits = split_by_time(dataset, frame, settings.split, **options)
        case "site":
            splits = split_by_site(dataset, frame, settings.split, **options)
        case "hash":
            splits = assign_splits(frame, settings.split, **options)
    _check_parts(outcomes, labels.frame, splits, settings.task.name)
    parts, auxiliary = _label_beside(settings, dataset, labels.frame, splits)
    return _Labelled(labels, outcomes, parts, auxiliary, splits)


def _label_beside(
    settings: Settings, dataset: Path, labels: pl.DataFrame, splits: pl.DataFrame
) -> tuple[dict[str, Part], NDArray[np.float32]]:
    """The auxiliary targets with what their labels settle, and their outcomes for the task's histories, (M, A).

    Raises:
        DataError: If there are no such labels, or fewer than two of `train` are known.
    """
    keys = [schema.SUBJECT_ID, schema.PREDICTION_TIME]
    in_train = labels.join(splits, on=schema.SUBJECT_ID, how="left", maintain_order="left")["split"] == schema.TRAIN
    parts, values = {}, [np.zeros((labels.height, 0), np.float32)]
    for name, maker in build_auxiliary_makers(settings.task).items():
        where = f"{settings.task.name}, task.auxiliary.{name}"
        own = labels.select(keys).join(maker.labels(dataset, name).frame, on=keys, how="left", maintain_order="left")
        part = Part.model_validate(settings.task.auxiliary[name].model_dump(exclude={"labels"}))
        parts[name], value = encode_part(own, part, where)
        if (count := int((~np.isnan(value).all(axis=1) & in_train.to_numpy()).sum())) < 2:
            raise DataError(f"task.name={where}: {count} labels of histories of train are known; leave it out")
        values.append(value)
    return parts, np.concatenate(values, axis=1)


def _check_parts(outcomes: Outcomes, labels: pl.DataFrame, splits: pl.DataFrame, task: str) -> None:
    """That each of several targets is known in each split.

    Raises:
        DataError: If one is not.
    """
    if not isinstance(outcomes.target, SeveralTarget):
        return
    split = labels.join(splits, on=schema.SUBJECT_ID, how="left", maintain_order="left")["split"].to_numpy()
    for part in columns_of(outcomes.target.parts):
        known = ~np.isnan(outcomes.value[:, part.outcomes]).all(axis=1)
        for name in (schema.TRAIN, schema.TUNING, schema.HELD_OUT):
            count = int((known & (split == name)).sum())
            if count < 2:
                raise DataError(
                    f"task.name={task}, part {part.name}: {count} labels are known in split {name}; give more "
                    "subjects, or other shares (config key split)"
                )


def _write_store(settings: Settings, prepared: Prepared, labelled: _Labelled, store_key: dict[str, Any]) -> None:
    labels, splits = labelled.labels, labelled.splits
    events = sum(count_rows(list_shards(prepared.dataset)))
    # Beside the store, under a name of its own: a store of other data or settings never finds this one.
    work = prepared.store.parent / f".{prepared.store.name}.work"
    if settings.force:
        shutil.rmtree(work, ignore_errors=True)
    with atomic_folder(prepared.store) as store:
        with (
            timed(f"data: {events:,} events fitted on train, tensorised"),
            choose_engine(settings.engine, events) as engine,
        ):
            fitted = fit_dataset(prepared.dataset, labels.frame, splits, settings.preprocess, engine)
            report, counts = build_store(
                prepared.dataset,
                labels.frame,
                splits,
                fitted.preprocessor,
                store,
                work,
                engine,
                fitted,
                labelled.outcomes.value,
                labelled.auxiliary,
                target=labelled.outcomes.target.plain(),
                auxiliary={name: part.plain() for name, part in labelled.parts.items()},
            )
        write_json(store / PREPROCESSOR, fitted.preprocessor.to_json())
        splits.write_parquet(store / SPLITS)
        report.write_csv(store / REPORT)
        summary = summarise(labelled, report, counts)
        write_manifest(store, "store", store_key, **summary)
    for line in describe(summary):
        say(f"data: {line}")


def summarise(labelled: _Labelled, report: pl.DataFrame, counts: dict[str, int]) -> dict[str, Any]:
    """Counts that belong beside the data: samples a split, and what preprocessing changed."""
    positive = _positive(labelled.outcomes.target, labelled.outcomes.value)
    counts_of = [pl.len().alias("samples")] + ([] if positive is None else [pl.col("positive").sum()])
    samples = labelled.labels.frame.select("subject_id").with_columns(*([] if positive is None else [positive]))
    parts = (
        samples.join(labelled.splits.filter(pl.col("split").is_not_null()), on="subject_id")
        .group_by("split")
        .agg(counts_of)
    )
    known = report.filter(pl.col("entry").is_not_null())
    own = known.filter(pl.col("entry") == pl.col("code"))
    return {
        "splits": {row.pop("split"): row for row in parts.to_dicts()},
        "attrition": labelled.labels.attrition,
        "codes": {
            "own": own.height,
            "merged": known.height - own.height,
            "left_out": report.height - known.height,
        },
        "events": {
            "used": int(known["events"].sum()),
            "left_out": int(report["events"].sum()) - int(known["events"].sum()),
            "repaired": int(known["repaired"].sum()),
            "out_of_limits": int(known["out_of_limits"].sum()),
            "clipped": int(known["clipped"].sum()),
            **counts,
        },
    }


def _positive(target: Target, value: NDArray[np.float32]) -> pl.Series | None:
    """Who has the outcome, where having it is a question."""
    match target.kind:
        case "binary":
            positive = value[:, 0] == 1
        case "survival":
            positive = value[:, 1] > 0
        case _:
            return None
    return pl.Series("positive", positive.astype(np.int64))


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary in words, a line each."""
    splits, codes, events = summary["splits"], summary["codes"], summary["events"]
    order = [name for name in ("train", "tuning", "held_out") if name in splits]
    merged = f", {codes['merged']:,} merged into others" if codes["merged"] else ""
    lines = [f"{step}: {count:,}" for step, count in summary["attrition"]]
    lines += [
        ", ".join(f"{name} {count_samples(splits[name])}" for name in order),
        f"{codes['own']:,} codes used{merged}, {codes['left_out']:,} left out; {events['used']:,} events used, "
        f"{events['left_out']:,} of rare codes left out, {events['repaired']:,} values repaired, "
        f"{events['out_of_limits']:,} out of limits dropped, {events['clipped']:,} clipped",
    ]
    if events["infinite_values"]:
        lines.append(f"{events['infinite_values']:,} infinite values taken for missing")
    if events["empty_histories"]:
        lines.append(f"{events['empty_histories']:,} histories hold no event; they are predicted from statics alone")
    return lines


def count_samples(split: dict[str, int]) -> str:
    """How many samples a split has, in words."""
    positive = f" ({split['positive']:,} positive)" if "positive" in split else ""
    return f"{split['samples']:,}{positive}"


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
