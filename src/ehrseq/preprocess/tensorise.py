"""From MEDS events to the arrays of a store, with a count of everything that was changed on the way."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.files import write_json
from ehrseq.preprocess.fitted import Preprocessor
from ehrseq.preprocess.groups import count_kept
from ehrseq.preprocess.histories import History, HistoryReader
from ehrseq.store.format import pack_events, take_events
from ehrseq.store.search import timepoints
from ehrseq.store.writer import PartWriter

REPORT_SCHEMA = {
    "code": pl.String,
    "static": pl.Boolean,
    "entry": pl.String,
    "events": pl.Int64,
    "repaired": pl.Int64,
    "out_of_limits": pl.Int64,
    "clipped": pl.Int64,
}
REPORT, REPAIRS = "report.parquet", "repairs.json"
_COUNTS = ("events", "repaired", "out_of_limits", "clipped")


def tensorise_shard(path: Path, reader: HistoryReader, writer: PartWriter, preprocessor: Preprocessor) -> None:
    """Apply a fitted preprocessing to one shard.

    Args:
        path: The shard.
        reader: Reads it.
        writer: Takes events, subjects and statics; in its folder a report is left (a row a code: where it went, what
            was repaired, dropped, clipped; `entry` is null for codes left out), and the count of values repaired
            whatever their code.
        preprocessor: What was fitted on `train`.

    Raises:
        DataError: If the shard is not MEDS.
    """
    tensoriser = _Tensoriser(preprocessor)
    with writer:
        for history in reader.read(path):
            tensoriser.add(history, writer)
    tensoriser.report().write_parquet(writer.folder / REPORT)
    write_json(writer.folder / REPAIRS, {"infinite_values": reader.infinite_values[path]})


def merge_reports(reports: list[pl.DataFrame]) -> pl.DataFrame:
    """One report of all shards: what is in the vocabulary first, then by code."""
    merged = pl.concat(reports).group_by("code", "static", "entry").agg(pl.col(_COUNTS).sum())
    order = [pl.col("entry").is_null(), pl.col("static"), pl.col("code")]
    return merged.sort(order)


class _Tensoriser:
    """What stays the same over a shard's chunks: where each code goes, and the counts."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor
        self.codes: list[str] = []
        # By code, timed and static: entry, whether it is its own, counts.
        self.entry = np.zeros((2, 0), np.int64)
        self.own = np.zeros((2, 0), bool)
        self.counts = {name: np.zeros((2, 0), np.int64) for name in _COUNTS}
        self.columns = _static_columns(preprocessor)

    def add(self, history: History, writer: PartWriter) -> None:
        """Write one chunk."""
        self._grow(history.codes)
        entry = self.entry[0].take(history.code, mode="clip")
        own = self.own[0].take(history.code, mode="clip")
        fixed = np.flatnonzero(history.static)
        if len(fixed):
            entry[fixed] = self.entry[1].take(history.code[fixed])
            own[fixed] = self.own[1].take(history.code[fixed])
        keep = entry >= 0
        value = np.where(own, history.value, np.float32("nan"))
        outcome = self.preprocessor.apply(entry, value.astype(np.float64))
        value = np.where(own, outcome.value, value)
        dropped = np.flatnonzero(own & ~outcome.keep)
        keep[dropped] = False
        self._count("events", history.code, history.static)
        for name, rows in (
            ("repaired", np.flatnonzero(outcome.repaired)),
            ("out_of_limits", dropped),
            ("clipped", np.flatnonzero(outcome.clipped & outcome.keep)),
        ):
            self._count(name, history.code[rows], history.static[rows])
        statics = fixed[keep[fixed]]
        static = self._statics(history.row[statics], entry[statics], value[statics], len(history.subject))
        keep[fixed] = False
        count, time = history.count, history.time
        event = pack_events(time, entry, value)
        if not keep.all():
            count = count_kept(keep, count)
            kept = np.flatnonzero(keep)  # a take by position is several times as fast as one by flags
            event, time = take_events(event, kept), time.take(kept)
        writer.append(history.subject, count, static, event=event, timepoint=timepoints(count, time))

    def _grow(self, codes: list[str]) -> None:
        """Look up the codes that are new since the last chunk."""
        start, new = len(self.codes), codes[len(self.codes) :]
        if not new:
            return
        self.codes += new
        found = [[self.preprocessor.find(code, static) for code in new] for static in (False, True)]
        entry = np.array([[position for position, _ in row] for row in found], np.int64)
        own = np.array([[is_own for _, is_own in row] for row in found], bool)
        self.entry = np.concatenate([self.entry[:, :start], entry], axis=1)
        self.own = np.concatenate([self.own[:, :start], own], axis=1)
        for name, count in self.counts.items():
            self.counts[name] = np.concatenate([count, np.zeros((2, len(new)), np.int64)], axis=1)

    def _count(self, name: str, code: NDArray[np.int64], static: NDArray[np.bool_]) -> None:
        size = len(self.codes)
        if static.any():
            number = code + size * static
            self.counts[name] += np.bincount(number, minlength=2 * size).reshape(2, size)
        elif len(code):
            self.counts[name][0] += np.bincount(code, minlength=size)

    def _statics(
        self, row: NDArray[np.int64], entry: NDArray[np.int64], value: NDArray[np.float32], subjects: int
    ) -> NDArray[np.float32]:
        """Presence of each static code and the value of numeric ones; what is absent stays 0, the train centre."""
        static = np.zeros((subjects, len(self.preprocessor.static_features)), np.float32)
        for position, (presence, number) in self.columns.items():
            hit = np.flatnonzero(entry == position)
            static[row[hit], presence] = 1
            if number is not None:
                static[row[hit], number] = np.nan_to_num(value[hit])
        return static

    def report(self) -> pl.DataFrame:
        """A row for each code that was met."""
        names = [entry.code for entry in self.preprocessor.entries]
        parts = []
        for static in (False, True):
            met = np.flatnonzero(self.counts["events"][int(static)])
            entry = self.entry[int(static), met].tolist()
            columns = {
                "code": [self.codes[position] for position in met.tolist()],
                "static": [static] * len(met),
                "entry": [names[position] if position >= 0 else None for position in entry],
                **{name: count[int(static), met] for name, count in self.counts.items()},
            }
            parts.append(pl.DataFrame(columns, schema=REPORT_SCHEMA))
        return pl.concat(parts)


def _static_columns(preprocessor: Preprocessor) -> dict[int, tuple[int, int | None]]:
    """By entry: the column of its presence, and of its value where it is numeric."""
    columns, column = {}, 0
    for position, entry in enumerate(preprocessor.entries):
        if entry.static:
            columns[position] = (column, column + 1 if entry.numeric else None)
            column += 1 + entry.numeric
    return columns
