"""Reading MEDS shards: whole subjects, a bounded number of rows at a time, every promise of the format checked.

The columns come as plain numpy arrays and codes as numbers, straight from the dictionaries that parquet keeps, so that
no string is touched a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehrseq.errors import DataError
from ehrseq.meds import schema

NO_TIME = int(np.iinfo(np.int64).min)  # the time of static events
_NO_TIME, _NO_VALUE = np.array(NO_TIME), np.array(np.nan, np.float32)
_ROWS = 1 << 20
_TEXT_SEPARATOR = "//"
T = TypeVar("T", bound=np.generic)


@contextmanager
def refuse_damage(path: Path) -> Iterator[None]:
    """Name the parquet file where reading it fails.

    Raises:
        DataError: If what is done inside finds the file missing, cut short or damaged.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); is it complete?") from error


@dataclass(frozen=True)
class Chunk:
    """All events of U subjects of one shard, as they stand in it.

    Attributes:
        path: The shard.
        row: Row of the first event in the shard, from 0.
        subject: (U,) ids.
        begin: (U + 1,) where each subject's events begin among the E of the chunk.
        time: (E,) microseconds since 1970; `NO_TIME` for static events.
        code: (E,) position in `codes`.
        value: (E,) float32; NaN where there is none.
        codes: The shard's codes in the order of their first use, growing from chunk to chunk.
    """

    path: Path
    row: int
    subject: NDArray[np.int64]
    begin: NDArray[np.int64]
    time: NDArray[np.int64]
    code: NDArray[np.int64]
    value: NDArray[np.float32]
    codes: list[str]

    def __len__(self) -> int:
        """The number E of events."""
        return len(self.time)


@dataclass
class Shard:
    """One parquet file of events.

    Attributes:
        path: Where it is.
        text_values: Whether an event with a text value and no number is of the code `<code>//<text>`; otherwise texts
            are not read.
        infinite_values: Counts infinite values so far, which are taken for missing.
    """

    path: Path
    text_values: bool = False
    infinite_values: int = 0
    _codes: list[str] = field(default_factory=list)
    _position: dict[str, int] = field(default_factory=dict)
    _pairs: dict[tuple[int, str], int] = field(default_factory=dict)

    def chunks(self, rows: int = _ROWS) -> Iterator[Chunk]:
        """Read the shard.

        Args:
            rows: About how many to hold at once; a subject with more is held whole.

        Raises:
            DataError: If the file cannot be read or is not MEDS, naming column and row.
        """
        finished: set[int] = set()
        carry: _Columns | None = None
        row = 0
        for columns in self._columns(rows):
            whole = columns if carry is None else carry.joined(columns)
            begin = whole.begins()
            last = int(begin[-1])
            carry = whole.part(last, len(whole.subject))
            if last:
                yield self._chunk(whole.part(0, last), begin, row, finished)
                row += last
        if carry is not None and len(carry.subject):
            yield self._chunk(carry, carry.begins(), row, finished)

    def _columns(self, rows: int) -> Iterator["_Columns"]:
        """The columns, batch by batch."""
        with refuse_damage(self.path):
            footer = pq.read_metadata(self.path)
            names = _check_schema(self.path, footer.schema.to_arrow_schema(), self.text_values)
            texts = [name for name in (schema.CODE, schema.TEXT_VALUE) if name in names]
            with pq.ParquetFile(self.path, metadata=footer, read_dictionary=texts) as file:
                start = 0
                for batch in file.iter_batches(batch_size=rows, columns=names):
                    if batch.num_rows:
                        yield self._convert(batch, start)
                    start += batch.num_rows

    def _convert(self, batch: pa.RecordBatch, start: int) -> "_Columns":
        """One batch as numpy arrays."""
        for name in (schema.SUBJECT_ID, schema.CODE):
            column = batch.column(name)
            if column.null_count:
                row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise DataError(f"{self.path}, row {row} (from 0), column {name}: is null; MEDS allows none there")
        time = batch.column(schema.TIME)
        if time.type != pa.timestamp("us"):
            time = time.cast(pa.timestamp("us"), safe=False)
        value = np.full(batch.num_rows, np.nan, np.float32)
        if schema.NUMERIC_VALUE in batch.schema.names:
            numbers = batch.column(schema.NUMERIC_VALUE)
            if numbers.type != pa.float32():
                numbers = numbers.cast(pa.float32(), safe=False)
            value = _filled(numbers, _NO_VALUE)
            # One pass without a temporary array, as nearly always none is.
            if np.isinf(np.fmax.reduce(value, initial=0)) or np.isinf(np.fmin.reduce(value, initial=0)):
                infinite = np.isinf(value)
                value = np.where(infinite, np.float32("nan"), value)
                self.infinite_values += int(infinite.sum())
        subject = _filled(batch.column(schema.SUBJECT_ID).cast(pa.int64()), _NO_TIME)
        return _Columns(subject, _filled(time.cast(pa.int64()), _NO_TIME), self._numbers(batch, value), value)

    def _numbers(self, batch: pa.RecordBatch, value: NDArray[np.float32]) -> NDArray[np.int64]:
        """The position in `_codes` of each row's code."""
        column = _as_dictionary(batch.column(schema.CODE))
        known = np.array([self._number(code) for code in column.dictionary.to_pylist()], np.int64)
        indices = _filled(column.indices.cast(pa.int64()), np.array(0))
        number: NDArray[np.int64] = known.take(indices, mode="clip")  # twice as fast as with a look at each index
        if schema.TEXT_VALUE not in batch.schema.names:
            return number
        text = _as_dictionary(batch.column(schema.TEXT_VALUE))
        with_text = np.flatnonzero(text.is_valid().to_numpy(zero_copy_only=False) & np.isnan(value))
        index = _filled(text.indices.cast(pa.int64()), np.array(-1))[with_text]
        words = text.dictionary.to_pylist()
        pairs, inverse = np.unique(np.stack([number[with_text], index], axis=1), axis=0, return_inverse=True)
        numbers = [self._pair(int(code), words[word]) for code, word in pairs]
        number[with_text] = np.array(numbers, np.int64)[inverse.reshape(-1)]
        return number

    def _number(self, code: str) -> int:
        found = self._position.get(code)
        if found is None:
            found = self._position[code] = len(self._codes)
            self._codes.append(code)
        return found

    def _pair(self, code: int, text: str) -> int:
        found = self._pairs.get((code, text))
        if found is None:
            found = self._pairs[code, text] = self._number(f"{self._codes[code]}{_TEXT_SEPARATOR}{text}")
        return found

    def _chunk(self, columns: "_Columns", begin: NDArray[np.int64], row: int, finished: set[int]) -> Chunk:
        """Check what MEDS promises of the order of rows."""
        begin = begin[begin < len(columns.subject)]
        subject = columns.subject[begin]
        doubled = _first_repeat(subject, finished)
        if doubled is not None:
            raise DataError(
                f"{self.path}, row {row + begin[doubled]} (from 0): subject {subject[doubled]} comes again after other "
                "subjects; MEDS keeps the events of a subject together: sort by subject_id, time"
            )
        back = columns.time[1:] < columns.time[:-1]
        back[begin[1:] - 1] = False
        if back.any():
            at = int(np.flatnonzero(back)[0]) + 1
            raise DataError(
                f"{self.path}, row {row + at} (from 0), column time: "
                f"{_show_time(columns.time[at])} comes after {_show_time(columns.time[at - 1])} of the same subject "
                f"{columns.subject[at]}; sort by subject_id, time (null first)"
            )
        ends = np.append(begin, len(columns.subject))
        return Chunk(self.path, row, subject, ends, columns.time, columns.code, columns.value, self._codes)


@dataclass(frozen=True)
class _Columns:
    """Rows as they come, a subject perhaps cut in two."""

    subject: NDArray[np.int64]
    time: NDArray[np.int64]
    code: NDArray[np.int64]
    value: NDArray[np.float32]

    def joined(self, other: "_Columns") -> "_Columns":
        if not len(self.subject):
            return other
        return _Columns(
            np.concatenate([self.subject, other.subject]),
            np.concatenate([self.time, other.time]),
            np.concatenate([self.code, other.code]),
            np.concatenate([self.value, other.value]),
        )

    def part(self, start: int, end: int) -> "_Columns":
        return _Columns(self.subject[start:end], self.time[start:end], self.code[start:end], self.value[start:end])

    def begins(self) -> NDArray[np.int64]:
        """Where each subject begins."""
        return np.append(0, np.flatnonzero(self.subject[1:] != self.subject[:-1]) + 1)


def list_shards(dataset: Path) -> list[Path]:
    """The event files of a dataset, nested folders included, in the order of their names.

    Raises:
        DataError: If there are none.
    """
    shards = sorted((dataset / schema.DATA).rglob("*.parquet"))
    shards = [path for path in shards if not path.name.startswith(".")]
    if not shards:
        raise DataError(f"{dataset / schema.DATA} holds no parquet files; a MEDS dataset keeps its events there")
    return shards


def count_rows(shards: list[Path]) -> list[int]:
    """Events of each of several shards, from their footers.

    Raises:
        DataError: If one cannot be read.
    """
    counts = []
    for path in shards:
        with refuse_damage(path):
            counts.append(pq.read_metadata(path).num_rows)
    return counts


def read_subjects(path: Path) -> NDArray[np.int64]:
    """All subjects of a shard, ascending.

    Raises:
        DataError: If the file cannot be read or is not MEDS.
    """
    found = [np.zeros(0, np.int64)]
    with refuse_damage(path), pq.ParquetFile(path) as file:
        _check_schema(path, file.schema_arrow, text_values=False)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[schema.SUBJECT_ID]):
            if batch.num_rows:
                # A null is refused, with its row, where the events are read.
                found.append(_filled(batch.column(0).unique().drop_null().cast(pa.int64()), _NO_TIME))
    return np.unique(np.concatenate(found))


def _check_schema(path: Path, found: pa.Schema, text_values: bool) -> list[str]:
    """The columns to read, after a look at their types."""
    if schema.SUBJECT_ID not in found.names and "patient_id" in found.names:
        raise DataError(
            f"{path}: column patient_id is of MEDS 0.3 or older; {schema.UPGRADE_HINT}",
        )
    for name in (schema.SUBJECT_ID, schema.TIME, schema.CODE):
        if name not in found.names:
            raise DataError(f"{path}: no column {name}; found {', '.join(found.names)}")
        if found.names.count(name) > 1:
            raise DataError(f"{path}: column {name} is there twice")
    subject, time, code = (found.field(name).type for name in (schema.SUBJECT_ID, schema.TIME, schema.CODE))
    # Unsigned 64-bit ids may not fit; floats lose digits above 2^53.
    if not pa.types.is_integer(subject) or subject == pa.uint64():
        raise DataError(f"{path}, column subject_id: type {subject}, MEDS has int64; cast it where it is written")
    if pa.types.is_timestamp(time) and time.tz is not None:
        raise DataError(
            f"{path}, column time: carries the time zone {time.tz}, MEDS times have none; convert them to one zone and "
            "drop it where they are written"
        )
    if not pa.types.is_timestamp(time) and not pa.types.is_date(time):
        raise DataError(f"{path}, column time: type {time}, MEDS has timestamp[us]; parse it where it is written")
    if not is_text(code):
        raise DataError(f"{path}, column code: type {code}, MEDS has string; name the codes where they are written")
    names = [schema.SUBJECT_ID, schema.TIME, schema.CODE]
    if schema.NUMERIC_VALUE in found.names:
        number = found.field(schema.NUMERIC_VALUE).type
        if not (pa.types.is_floating(number) or pa.types.is_integer(number)):
            raise DataError(f"{path}, column numeric_value: type {number}, MEDS has float32; cast it")
        names.append(schema.NUMERIC_VALUE)
    if text_values and schema.TEXT_VALUE in found.names:
        text = found.field(schema.TEXT_VALUE).type
        if not is_text(text):
            raise DataError(f"{path}, column text_value: type {text}, MEDS has string; cast it")
        names.append(schema.TEXT_VALUE)
    return names


def _filled(column: pa.Array, fill: NDArray[T]) -> NDArray[T]:
    """A column of numbers with its nulls filled.

    By its buffers: Arrow's own ways to numpy import pandas, for half a second.

    Args:
        column: Of the type of `fill`.
        fill: What stands for null, a scalar array.
    """
    valid, data = column.buffers()
    values = np.frombuffer(data, fill.dtype, len(column), column.offset * fill.itemsize)
    if not column.null_count:
        return values
    end = column.offset + len(column)
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), count=end, bitorder="little")[column.offset :]
    return np.where(bits, values, fill)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings, as they are or by a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as_dictionary(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)


def _first_repeat(subject: NDArray[np.int64], finished: set[int]) -> int | None:
    """The first position whose subject was met before; `finished` grows by all of them."""
    for position, identity in enumerate(subject.tolist()):
        if identity in finished:
            return position
        finished.add(identity)
    return None


def _show_time(time: int) -> str:
    return "null" if time == NO_TIME else str(np.datetime64(int(time), "us"))
