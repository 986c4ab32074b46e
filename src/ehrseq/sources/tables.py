"""Tables out of a warehouse, described in YAML: CSV, TSV or Parquet, long or wide. See docs/tables.md."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrseq.errors import DataError
from ehrseq.files import digest_file, digest_files
from ehrseq.meds import schema, write
from ehrseq.meds.build import DatasetBuilder
from ehrseq.sources.base import Progress, Source
from ehrseq.sources.tables_read import SUFFIXES, read_batches
from ehrseq.sources.tables_spec import (
    NULLS,
    Description,
    EventSpec,
    LookupSpec,
    TableSpec,
    fields_of,
    read_description,
    split_template,
)

_BYTES_A_ROW = 40  # for a guess of the number of rows, which decides the number of shards
_PLAIN_ID = r"^(0|-?[1-9][0-9]{0,17})$"
_ROW = "_row"
# A date alone says that it was that day: by its last second it had happened.
_DAY_END = timedelta(hours=23, minutes=59, seconds=59)
SUBJECT_IDS = "metadata/subject_ids.parquet"


@dataclass(frozen=True)
class TablesSource(Source):
    """A folder of tables and their description.

    Attributes:
        path: The folder.
        description: The YAML file.
    """

    path: str | None
    description: str | None

    name = "tables"

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the tables and of the description."""
        description, files = self._open()
        folder = Path(str(self.path)).expanduser()
        paths = [path for found in files.values() for path in found]
        paths += [path for name, spec in description.lookups.items() for path in find_files(folder, name, spec.file)]
        return {
            "adapter": self.name,
            "version": 1,
            "description": digest_file(Path(str(self.description)).expanduser())[:16],
            "tables": digest_files(set(paths), folder),
        }

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset; see `Source.write`."""
        description, files = self._open()
        folder = Path(str(self.path)).expanduser()
        lookups = {name: Lookup.read(folder, name, spec) for name, spec in description.lookups.items()}
        counts = write_tables(description, files, lookups, root, progress)
        write_metadata(root, sorted(counts.codes), description.name)
        return counts.numbers

    def _open(self) -> tuple[Description, dict[str, list[Path]]]:
        if not self.path:
            raise DataError("source.path is not set: give the folder of the tables, source.path=...")
        if not self.description:
            raise DataError("source.description is not set: give the YAML file that describes the tables")
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise DataError(f"source.path={self.path} is not a folder")
        description = read_description(Path(self.description).expanduser())
        return description, {name: find_files(folder, name, table.file) for name, table in description.tables.items()}


@dataclass(frozen=True)
class Lookup:
    """Translates cells.

    Attributes:
        words: By cell.
    """

    words: dict[str, str]

    @classmethod
    def read(cls, folder: Path, name: str, spec: LookupSpec) -> "Lookup":
        """Read a lookup's table.

        Raises:
            DataError: If it cannot be read.
        """
        words: dict[str, str] = {}
        columns = sorted({spec.key, *fields_of(spec.value)})
        for path in find_files(folder, name, spec.file):
            for _, frame in read_batches(path, columns, spec.separator, NULLS):
                pieces = [
                    frame[piece.column].cast(pl.String).fill_null(piece.empty)
                    if piece.column
                    else pl.repeat(piece.text, frame.height, eager=True)
                    for piece in split_template(spec.value)
                ]
                values = pl.select(pl.concat_str(pieces)).to_series()
                words.update(zip(frame[spec.key].cast(pl.String).to_list(), values.to_list(), strict=True))
        return cls({key: word for key, word in words.items() if key is not None})

    def translate(self, cells: pl.Series) -> pl.Series:
        """What is known of each cell; a cell of which nothing is known stays."""
        used = cells.drop_nulls().unique().to_list()
        return cells.replace({cell: self.words[cell] for cell in used if cell in self.words})


Lookups = dict[str, Lookup]


@dataclass
class TableCounts:
    """What came of the tables.

    Attributes:
        numbers: Subjects, events, rows left out, repairs.
        codes: All codes.
    """

    numbers: dict[str, int]
    codes: set[str] = field(default_factory=set)


def find_files(folder: Path, name: str, pattern: str) -> list[Path]:
    """The files of a table.

    Raises:
        DataError: If there are none, or one lies outside the folder.
    """
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        raise DataError(f"{folder} holds no {pattern} (table {name} of source.description)")
    for path in found:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path} (table {name}) points outside {folder}; put the file there")
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"{path} (table {name}) is none of {', '.join(SUFFIXES[:5])}")
    return found


def write_tables(
    description: Description,
    files: dict[str, list[Path]],
    lookups: Lookups,
    root: Path,
    progress: Progress | None = None,
) -> TableCounts:
    """Write `data/` from tables, and the table of subject ids where these are not whole numbers.

    Subjects keep their ids where all are whole numbers written plainly. Otherwise, `0012` and `12` being different
    people, ids become hashes of what stands there, and `metadata/subject_ids.parquet` says whose is whose.

    Raises:
        DataError: If a row does not fit, naming file, row and column.
    """
    size = sum(path.stat().st_size for found in files.values() for path in found)
    work = [(name, path) for name, found in files.items() for path in found]
    plain = all(_has_plain_ids(description.tables[name], path) for name, path in work)
    numbers = {"subjects": 0, "events": 0, "rows_read": 0, "rows_left_out": 0}
    originals: dict[int, str] = {}
    with DatasetBuilder(root, size // _BYTES_A_ROW) as builder:
        for done, (name, path) in enumerate(work):
            table = description.tables[name]
            bad = rows = 0
            for first, frame in read_batches(path, table.columns(), table.separator, table.nulls):
                converter = _Converter(path, first, table, lookups, description.bad_rows == "drop")
                subject, keep = converter.subjects(frame, plain, originals)
                parts = [converter.events(frame, event, subject, keep) for event in table.events]
                for part in parts:  # only now it is known which rows do not fit
                    builder.add(part.filter(~pl.Series(converter.bad).gather(part[_ROW])).drop(_ROW))
                bad += int(converter.bad.sum())
                rows += frame.height
            if bad > description.bad_share * rows:
                raise DataError(
                    f"{path} (table {name}): {bad:,} of {rows:,} rows do not fit, more than bad_share="
                    f"{description.bad_share}; with bad_rows: error the first is named"
                )
            numbers["rows_read"] += rows
            numbers["rows_left_out"] += bad
            if progress:
                progress(done + 1, len(work))
    numbers["subjects"], numbers["events"] = len(builder.subjects), builder.events
    if not builder.events:
        raise DataError(f"no table gives an event; look at `where` and `skip_without` of {', '.join(files)}")
    (root / schema.METADATA).mkdir(exist_ok=True)
    if not plain:
        ids = sorted(originals)
        frame = pl.DataFrame({schema.SUBJECT_ID: ids, "original": [originals[identity] for identity in ids]})
        frame.write_parquet(root / SUBJECT_IDS)
    return TableCounts(numbers, builder.codes)


def write_metadata(root: Path, codes: list[str], name: str) -> None:
    """`metadata/`: the codes with what is known of them, and what the dataset is."""
    rows = {"code": codes, "description": [None] * len(codes)}
    write.write_codes(
        pl.DataFrame(rows, schema={"code": pl.String, "description": pl.String}), root / schema.CODES_FILE
    )
    write.write_dataset_json(root / schema.DATASET_FILE, dataset_name=name, dataset_version="unknown")


def _has_plain_ids(table: TableSpec, path: Path) -> bool:
    """Whether all ids of a file are whole numbers, written plainly."""
    for _, frame in read_batches(path, [table.subject], table.separator, table.nulls):
        ids = frame[table.subject]
        if ids.dtype.is_integer():
            continue
        if ids.dtype != pl.String:
            raise DataError(
                f"{path}, column {table.subject}: subject ids of type {ids.dtype} lose digits; write whole numbers or "
                "text"
            )
        if not ids.str.contains(_PLAIN_ID).all():
            return False
    return True


class _Converter:
    """One batch of one table.

    Attributes:
        bad: (R,) rows that do not fit.
    """

    def __init__(self, path: Path, first: int, table: TableSpec, lookups: Lookups, drop: bool) -> None:
        self.path, self.first, self.table, self.lookups, self.drop = path, first, table, lookups, drop
        self.bad = np.zeros(0, bool)

    def subjects(self, frame: pl.DataFrame, plain: bool, originals: dict[int, str]) -> tuple[pl.Series, pl.Series]:
        """Ids, and which rows have one."""
        self.bad = np.zeros(frame.height, bool)
        ids = frame[self.table.subject]
        self._refuse(ids.is_null(), self.table.subject, ids, "is empty: every row needs a subject")
        if plain:
            whole = ids.cast(pl.Int64, strict=False) if ids.dtype == pl.String else ids.cast(pl.Int64)
            return whole.fill_null(0), ids.is_not_null()
        text = ids.cast(pl.String)
        known = {word: _hash_id(word) for word in text.drop_nulls().unique().to_list()}
        for word, identity in known.items():
            if originals.setdefault(identity, word) != word:
                raise DataError(
                    f"{self.path}: subjects {word!r} and {originals[identity]!r} have the same hash; rename one"
                )
        hashed = (
            text.replace_strict(known, default=0, return_dtype=pl.Int64)
            if known
            else pl.zeros(len(text), pl.Int64, eager=True)
        )
        return hashed, ids.is_not_null()

    def events(self, frame: pl.DataFrame, spec: EventSpec, subject: pl.Series, keep: pl.Series) -> pl.DataFrame:
        """The events of one kind."""
        for column, allowed in spec.where.items():
            keep = keep & _is_among(frame[column], allowed)
        for column, refused in spec.where_not.items():
            keep = keep & ~_is_among(frame[column], refused)
        for column in spec.skip_without:
            keep = keep & frame[column].is_not_null()
        time = self._times(frame, spec, keep)
        parts = []
        for code, value, text, present in self._codes(frame, spec, keep):
            part = pl.DataFrame(
                {
                    schema.SUBJECT_ID: subject,
                    schema.TIME: time,
                    schema.CODE: code,
                    schema.NUMERIC_VALUE: value,
                    _ROW: np.arange(frame.height),
                    **({} if text is None else {schema.TEXT_VALUE: text}),
                }
            )
            parts.append(part.filter(present))
        return pl.concat(parts, how="diagonal")

    def _codes(
        self, frame: pl.DataFrame, spec: EventSpec, keep: pl.Series
    ) -> Iterator[tuple[pl.Series, pl.Series, pl.Series | None, pl.Series]]:
        """(code, value, text, which rows), once for a long table, once a column for a wide one."""
        if spec.wide is None:
            code = self._fill(frame, spec.code or "")
            text = frame[spec.text].cast(pl.String) if spec.text else None
            value = self._values(frame, spec, keep)
            if text is not None:
                text = pl.select(pl.when(value.is_null()).then(text)).to_series()
            yield code, value, text, keep
            return
        names = spec.wide if isinstance(spec.wide, dict) else {column: column for column in spec.wide}
        for column, template in names.items():
            filled = keep & frame[column].is_not_null()
            value = self._numbers(frame[column], column, filled, strict=True)
            yield self._fill(frame, template), value, None, filled

    def _fill(self, frame: pl.DataFrame, template: str) -> pl.Series:
        """What a template gives, row by row."""
        filled = []
        for piece in split_template(template):
            if not piece.column:
                filled.append(pl.repeat(piece.text, frame.height, eager=True))
                continue
            cells = frame[piece.column].cast(pl.String)
            if piece.lookup:
                cells = self.lookups[piece.lookup].translate(cells)
            filled.append(cells.fill_null(piece.empty))
        return pl.select(pl.concat_str(filled)).to_series()

    def _values(self, frame: pl.DataFrame, spec: EventSpec, keep: pl.Series) -> pl.Series:
        if spec.value is None:
            return pl.repeat(None, frame.height, dtype=pl.Float32, eager=True)
        if isinstance(spec.value, float):
            return pl.repeat(spec.value, frame.height, dtype=pl.Float32, eager=True)
        return self._numbers(frame[spec.value], spec.value, keep, strict=spec.text != spec.value)

    def _numbers(self, cells: pl.Series, column: str, keep: pl.Series, strict: bool) -> pl.Series:
        """Cells as numbers; what is none is refused where `strict`, and infinite numbers always."""
        if cells.dtype == pl.String:
            text = cells.str.strip_chars()
            if self.table.decimal == ",":
                text = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
            number = text.cast(pl.Float64, strict=False)
        else:
            number = cells.cast(pl.Float64, strict=False)
        if strict:
            self._refuse(keep & number.is_null() & cells.is_not_null(), column, cells, "is not a number")
        self._refuse(keep & number.is_infinite().fill_null(False), column, cells, "is not a finite number")
        return number.fill_nan(None).cast(pl.Float32)

    def _times(self, frame: pl.DataFrame, spec: EventSpec, keep: pl.Series) -> pl.Series:
        """Times without a zone: UTC where a zone is known, else as they stand."""
        time = pl.repeat(None, frame.height, dtype=pl.Datetime("us"), eager=True)
        columns = spec.times()
        for column in columns:
            cells = self._fill(frame, column) if fields_of(column) else frame[column]
            if column == columns[-1]:
                self._refuse(
                    keep & cells.is_null() & time.is_null(),
                    column,
                    cells,
                    "is empty: name the column in skip_without to leave such rows out",
                )
            parsed = self._parse(cells, column, keep & time.is_null() & cells.is_not_null(), spec.date_only == "end")
            time = time.zip_with(time.is_not_null(), parsed)
        return time

    def _parse(self, cells: pl.Series, column: str, keep: pl.Series, date_at_end: bool) -> pl.Series:
        """One column of times."""
        if cells.dtype == pl.String:
            return self._parse_text(cells, column, keep, date_at_end)
        if isinstance(cells.dtype, pl.Datetime) and cells.dtype.time_zone:
            return cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(pl.Datetime("us"))
        if cells.dtype == pl.Date:
            time = cells.cast(pl.Datetime("us")) + (_DAY_END if date_at_end else timedelta(0))
            return self._in_utc(time, cells, column, keep)
        if isinstance(cells.dtype, pl.Datetime):
            return self._in_utc(cells.cast(pl.Datetime("us")), cells, column, keep)
        if cells.dtype == pl.Null:
            return cells.cast(pl.Datetime("us"))
        raise DataError(f"{self.path}, column {column}: type {cells.dtype} is not a time")

    def _parse_text(self, cells: pl.Series, column: str, keep: pl.Series, date_at_end: bool) -> pl.Series:
        naive = pl.repeat(None, len(cells), dtype=pl.Datetime("us"), eager=True)
        zoned = naive
        text = cells.str.strip_chars()
        has_offset = text.str.contains(r"(?:[+-]\d{2}:?\d{2}|Z)$") & text.str.contains(":")
        if has_offset.any():
            # An offset after the time: each of the formats may have one.
            for form in self.table.time_formats:
                with_zone = form if "%z" in form else form + "%#z"
                parsed = text.str.to_datetime(with_zone, time_unit="us", strict=False)
                zoned = zoned.zip_with(
                    zoned.is_not_null(), parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
                )
        for form in self.table.time_formats:
            if "%z" not in form and naive.null_count():
                parsed = text.str.to_datetime(form, time_unit="us", strict=False)
                if date_at_end and "%H" not in form:
                    parsed = parsed + _DAY_END
                naive = naive.zip_with(naive.is_not_null(), parsed)
        naive = naive.zip_with(
            ~has_offset.fill_null(False), pl.repeat(None, len(cells), dtype=pl.Datetime("us"), eager=True)
        )
        with_offset, without = zoned.is_not_null() & keep, naive.is_not_null() & zoned.is_null() & keep
        if with_offset.any() and without.any() and self.table.time_zone is None:
            self._refuse(
                without, column, cells, "has no offset, though other rows have one; give time_zone for such rows"
            )
        naive = self._in_utc(naive, cells, column, keep & zoned.is_null())
        time = zoned.zip_with(zoned.is_not_null(), naive)
        self._refuse(keep & time.is_null() & cells.is_not_null(), column, cells, "is not a time; give time_formats")
        return time

    def _in_utc(self, time: pl.Series, cells: pl.Series, column: str, keep: pl.Series) -> pl.Series:
        """Local times in UTC, if the zone is given; of an hour that comes twice, the first."""
        if self.table.time_zone is None:
            return time
        try:
            local = time.dt.replace_time_zone(self.table.time_zone, ambiguous="earliest", non_existent="null")
        except pl.exceptions.PolarsError as error:
            raise DataError(f"source.description: time_zone {self.table.time_zone!r} is not known: {error}") from error
        self._refuse(
            keep & local.is_null() & time.is_not_null(), column, cells, f"does not exist in {self.table.time_zone}"
        )
        return local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)

    def _refuse(self, wrong: pl.Series, column: str, cells: pl.Series, what: str) -> None:
        """Raise at the first wrong row, or leave wrong rows out."""
        rows = np.flatnonzero(wrong.fill_null(False).to_numpy() & ~self.bad)
        if not len(rows):
            return
        if not self.drop:
            cell = cells[int(rows[0])]
            raise DataError(f"{self.path}, row {self.first + int(rows[0])}, column {column}: {cell!r} {what}")
        self.bad[rows] = True


def _is_among(cells: pl.Series, words: str | tuple[str, ...]) -> pl.Series:
    """Which cells are one of some words; an empty one is none."""
    return cells.cast(pl.String).is_in([words] if isinstance(words, str) else list(words)).fill_null(False)


def _hash_id(word: str) -> int:
    """A positive 63-bit id that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 1
