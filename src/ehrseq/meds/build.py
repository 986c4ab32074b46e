"""Rows in any order to a MEDS dataset: subjects kept together, sorted by time, in shards of bounded size.

Rows that do not fit one shard are spilled to temporary files by a hash of their subject, and each file becomes a shard:
memory is bounded however large the input is.
"""

import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl

from ehrseq.meds import schema, write
from ehrseq.meds.splits import hash_subjects

SHARD_ROWS = 4_000_000
_SEED = 0
_ORDER = "_order"


class DatasetBuilder:
    """Collects events and writes `data/`.

    Args:
        root: The dataset's folder.
        expected_rows: About how many events will come; decides the number of shards.
    """

    def __init__(self, root: Path, expected_rows: int) -> None:
        self.folder = root / schema.DATA
        self.shards = max(1, -(-expected_rows // SHARD_ROWS))
        self.events = 0
        self.codes: set[str] = set()
        self._subjects: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._spill = root / ".spill"
        self._frames: list[pl.DataFrame] = []
        self._files: list[int] = [0] * self.shards

    def __enter__(self) -> "DatasetBuilder":
        self.folder.mkdir(parents=True)
        if self.shards > 1:
            self._spill.mkdir()
        return self

    def add(self, events: pl.DataFrame) -> None:
        """Take some rows; rows of one subject and time keep the order in which they come.

        Args:
            events: `subject_id`, `time` (null: static), `code`, `numeric_value`, perhaps `text_value`.
        """
        if not events.height:
            return
        number = pl.int_range(self.events, self.events + events.height, dtype=pl.Int64)
        self.events += events.height
        self.codes.update(events[schema.CODE].unique().to_list())
        events = events.with_columns(number.alias(_ORDER))
        if self.shards == 1:
            self._frames.append(events)
            return
        ids = events[schema.SUBJECT_ID].to_numpy()
        shard = (hash_subjects(ids, _SEED) % np.uint64(self.shards)).astype(np.int32)
        for (index,), part in events.with_columns(pl.Series("_shard", shard)).group_by("_shard"):
            path = self._spill / f"{index:05d}-{self._files[int(str(index))]:06d}.arrow"
            part.drop("_shard").write_ipc(path, compression="lz4")
            self._files[int(str(index))] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for shard in range(self.shards):
                self._write(shard)
        shutil.rmtree(self._spill, ignore_errors=True)

    def _write(self, shard: int) -> None:
        frames = self._frames
        if self.shards > 1:
            # By the numbers in their names: the order of arrival.
            paths = [self._spill / f"{shard:05d}-{number:06d}.arrow" for number in range(self._files[shard])]
            frames = [pl.read_ipc(path) for path in paths]
        if not frames:
            return
        events = pl.concat(frames, how="diagonal").sort(schema.SUBJECT_ID, schema.TIME, _ORDER, nulls_last=False)
        self._subjects.append(events[schema.SUBJECT_ID].unique().to_numpy())
        write.write_events(events.drop(_ORDER), self.folder / f"{shard:04d}.parquet")

    @property
    def subjects(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """All subjects, ascending; once everything is written."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._subjects]))
