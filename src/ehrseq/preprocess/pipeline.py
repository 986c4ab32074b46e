"""A dataset into a store: fitted and applied shard by shard, by one process or by many, with the same bytes."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.config.schema import Preprocess
from ehrseq.errors import DataError
from ehrseq.files import atomic_folder, read_json, sweep_leftovers
from ehrseq.meds import schema
from ehrseq.meds.read import count_rows, list_shards
from ehrseq.preprocess.fit import fit, gather_shard, read_facts
from ehrseq.preprocess.fitted import Preprocessor
from ehrseq.preprocess.hierarchy import read_hierarchy
from ehrseq.preprocess.histories import HistoryReader, Subjects
from ehrseq.preprocess.samples import assemble
from ehrseq.preprocess.statistics import merge
from ehrseq.preprocess.tensorise import REPAIRS, REPORT, merge_reports, tensorise_shard
from ehrseq.store.format import EVENT_ARRAYS
from ehrseq.store.reader import map_array
from ehrseq.store.writer import PartWriter, make_room, read_part, write_store

T = TypeVar("T")
R = TypeVar("R")
# Data of so few events are held in memory between fitting and applying, where one process does both.
_REMEMBERED = 10_000_000


class Engine(Protocol):
    """Runs a function on many items, in this process or elsewhere.

    Attributes:
        in_process: Whether it is this process.
    """

    in_process: bool

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        """The results in the order of the items.

        Args:
            function: Picklable, and so are items and results.
            items: One call each.
            what: For the progress bar.
        """
        ...


@dataclass(frozen=True)
class FittedDataset:
    """What fitting gives.

    Attributes:
        preprocessor: Vocabulary and normaliser.
        events: How many events the histories of each shard hold, by shard.
        reader: What read them; it may remember them.
    """

    preprocessor: Preprocessor
    events: dict[Path, int]
    reader: HistoryReader


def fit_dataset(
    dataset: Path, labels: pl.DataFrame, splits: pl.DataFrame, config: Preprocess, engine: Engine
) -> FittedDataset:
    """Fit on the histories of `train` subjects.

    Args:
        dataset: A MEDS dataset; limits and repairs come from the extra columns `low`, `high`, `unit`, `repairs` of its
            `metadata/codes.parquet`, where it has them.
        labels: In the MEDS label schema.
        splits: `subject_id`, `split`; only `train` is looked at.
        config: How.
        engine: Who does the work.

    Raises:
        DataError: If the data are not MEDS, or no timed code is frequent enough.
    """
    subjects = Subjects.of(labels)
    train = subjects.among(splits.filter(pl.col("split") == schema.TRAIN)[schema.SUBJECT_ID].to_numpy())
    shards = list_shards(dataset)
    facts = read_facts(dataset, config)
    rows = count_rows(shards)
    remembers = engine.in_process and sum(rows) <= _REMEMBERED
    reader = HistoryReader(subjects, config.text_values == "categories", remembers)
    gather = partial(gather_shard, reader=reader, train=train, facts=facts, config=config, rows=sum(rows))
    results = list(engine.map(gather, shards, "fit"))
    statistics = merge([part for part, _ in results])
    preprocessor = fit(statistics, read_hierarchy(dataset, config.fallback), facts, len(train), config)
    events = dict(zip(shards, (count for _, count in results), strict=True))
    return FittedDataset(preprocessor, events, reader)


def build_store(
    dataset: Path,
    labels: pl.DataFrame,
    splits: pl.DataFrame | None,
    preprocessor: Preprocessor,
    folder: Path,
    work: Path,
    engine: Engine,
    fitted: FittedDataset | None = None,
    outcomes: NDArray[np.float32] | None = None,
    auxiliary_outcomes: NDArray[np.float32] | None = None,
    **meta: Any,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply a fitted preprocessing to a dataset and write the store.

    Args:
        dataset: A MEDS dataset.
        labels: In the MEDS label schema, sorted by subject and time; one sample a row.
        splits: `subject_id`, `split`; None for prediction.
        preprocessor: What was fitted on `train`.
        folder: An existing, empty folder for the store, which the caller makes appear atomically.
        work: A folder on the same disk, where the shards are written. Shards that are finished there are not done
            again: give the same folder after an interruption, and only then.
        engine: Who does the work.
        fitted: From `fit_dataset` on the same data; None where it was fitted on others.
        outcomes: (M, L) of the labels; None for prediction.
        auxiliary_outcomes: (M, A) of the auxiliary targets; None where there are none.
        **meta: Plain JSON to keep in the store's `meta.json`.

    Returns:
        The report, a row a code: what was kept, repaired, dropped, clipped; and other counts.

    Raises:
        DataError: If the data are not MEDS.
    """
    subjects = Subjects.of(labels)
    shards = list_shards(dataset)
    room = [fitted.events[shard] for shard in shards] if fitted else count_rows(shards)
    reader = fitted.reader if fitted else HistoryReader(subjects, preprocessor.text_values)
    starts = np.append(0, np.cumsum(room))
    work.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(work)
    if not make_room(work, int(starts[-1])):
        for stale in work.iterdir():
            if stale.is_dir():
                shutil.rmtree(stale)
    items = [(shard, int(start)) for shard, start in zip(shards, starts, strict=False)]
    write = partial(
        _write, dataset=dataset, work=work, events=int(starts[-1]), reader=reader, preprocessor=preprocessor
    )
    parts = [read_part(part) for part in engine.map(write, items, "tensorise")]
    _check_apart(shards, [part.subject for part in parts])
    without = np.setdiff1d(subjects.subject, np.concatenate([part.subject for part in parts]))
    nothing = np.zeros(len(without), np.int64)
    subject = np.concatenate([*(part.subject for part in parts), without])
    end = np.concatenate(
        [*(start + np.cumsum(part.count) for part, start in zip(parts, starts, strict=False)), nothing]
    )
    count = np.concatenate([*(part.count for part in parts), nothing])
    width = len(preprocessor.static_features)
    statics = [part.static for part in parts if part.static is not None]
    static = np.concatenate([*statics, np.zeros((len(without), width), np.float32)])
    for name in EVENT_ARRAYS:
        (work / f"{name}.npy").rename(folder / f"{name}.npy")
    mapped = {name: map_array(folder / f"{name}.npy", empty=not starts[-1]) for name in EVENT_ARRAYS}
    nothing_known = np.zeros((labels.height, 0), np.float32)
    known = (nothing_known if given is None else given for given in (outcomes, auxiliary_outcomes))
    arrays = assemble(labels, splits, subject, end - count, end, static, mapped, *known)
    timed = [entry for entry in preprocessor.entries if not entry.static]
    write_store(
        folder,
        arrays,
        preprocessor.codes,
        preprocessor.static_features,
        [entry.numeric for entry in timed],
        [entry.subjects for entry in timed],
        **meta,
    )
    report = merge_reports([pl.read_parquet(part.folder / REPORT) for part in parts])
    counts = {
        "infinite_values": sum(read_json(part.folder / REPAIRS)["infinite_values"] for part in parts),
        "subjects_without_events": len(without),
        "empty_histories": int((arrays.sample_end == arrays.sample_begin).sum()),
    }
    shutil.rmtree(work)
    return report, counts


def _write(
    item: tuple[Path, int], dataset: Path, work: Path, events: int, reader: HistoryReader, preprocessor: Preprocessor
) -> Path:
    """Write a shard where it is not finished."""
    shard, start = item
    target = work / hashlib.sha256(shard.relative_to(dataset).as_posix().encode()).hexdigest()[:16]
    if not target.is_dir():
        with atomic_folder(target) as folder:
            tensorise_shard(shard, reader, PartWriter(work, folder, events, start), preprocessor)
    return target


def _check_apart(shards: Sequence[Path], subjects: Sequence[Any]) -> None:
    """Refuse a subject in two files."""
    everybody = np.concatenate(subjects) if subjects else np.zeros(0, np.int64)
    ids, counts = np.unique(everybody, return_counts=True)
    if (counts > 1).any():
        doubled = int(ids[counts > 1][0])
        where = [str(path) for path, members in zip(shards, subjects, strict=True) if doubled in members]
        raise DataError(f"subject {doubled} is in two files, {where[0]} and {where[1]}; MEDS allows one")
