"""One batch of a table into events: ids, codes filled from templates, numbers, times in UTC."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.errors import DataError
from ehrseq.meds import schema
from ehrseq.sources.tables_read import find_files, read_batches
from ehrseq.sources.tables_spec import NULLS, EventSpec, LookupSpec, TableSpec, fields_of, split_template

_ROW = "_row"
# A date alone says that it was that day: by its last second it had happened.
_DAY_END = timedelta(hours=23, minutes=59, seconds=59)


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
                values = fill_template(frame, spec.value)
                words.update(zip(frame[spec.key].cast(pl.String).to_list(), values.to_list(), strict=True))
        return cls({key: word for key, word in words.items() if key is not None})

    def translate(self, cells: pl.Series) -> pl.Series:
        """What is known of each cell; a cell of which nothing is known stays."""
        used = cells.drop_nulls().unique().to_list()
        return cells.replace({cell: self.words[cell] for cell in used if cell in self.words})


Lookups = dict[str, Lookup]


def fill_template(frame: pl.DataFrame, template: str, lookups: Lookups | None = None) -> pl.Series:
    """What a template gives, row by row.

    Args:
        frame: Has the columns of the template.
        template: See `EventSpec.code`.
        lookups: By name; None: cells stay as they are, whatever lookup the template names.
    """
    filled = []
    for piece in split_template(template):
        if not piece.column:
            filled.append(pl.repeat(piece.text, frame.height, eager=True))
            continue
        cells = frame[piece.column].cast(pl.String)
        if piece.lookup and lookups is not None:
            cells = lookups[piece.lookup].translate(cells)
        filled.append(cells.fill_null(piece.empty))
    return pl.select(pl.concat_str(filled)).to_series()


class Converter:
    """One batch of one table.

    Args:
        frame: Its R rows.
        path: The file, for messages.
        first: Number of the first row in the file, for messages.
        table: What the columns are.
        lookups: By the name that templates use.
        drop: Whether rows that do not fit are left out; otherwise the first of them is refused.

    Attributes:
        bad: (R,) rows that do not fit, as far as they were looked at.
    """

    def __init__(
        self, frame: pl.DataFrame, path: Path, first: int, table: TableSpec, lookups: Lookups, drop: bool
    ) -> None:
        self.frame, self.path, self.first = frame, path, first
        self.table, self.lookups, self.drop = table, lookups, drop
        self.bad = np.zeros(frame.height, bool)

    def subjects(self, plain: bool, originals: dict[int, str]) -> tuple[pl.Series, pl.Series]:
        """Ids, and which rows have one.

        Args:
            plain: Whether ids are whole numbers that are kept; otherwise they become hashes.
            originals: Grows by what stands behind each hash.

        Raises:
            DataError: If a row has none, or two subjects have the same hash.
        """
        ids = self.frame[self.table.subject]
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

    def events(self, spec: EventSpec, subject: pl.Series, keep: pl.Series) -> pl.DataFrame:
        """The events of one kind, those of bad rows among them: see `without_bad_rows`.

        Args:
            spec: The kind.
            subject: (R,) ids.
            keep: (R,) rows to look at.

        Raises:
            DataError: If a row does not fit, naming file, row and column.
        """
        for column, allowed in spec.where.items():
            keep = keep & _is_among(self.frame[column], allowed)
        for column, refused in spec.where_not.items():
            keep = keep & ~_is_among(self.frame[column], refused)
        for column in spec.skip_without:
            keep = keep & self.frame[column].is_not_null()
        time = self._times(spec, keep)
        parts = []
        for code, value, text, present in self._codes(spec, keep):
            part = pl.DataFrame(
                {
                    schema.SUBJECT_ID: subject,
                    schema.TIME: time,
                    schema.CODE: code,
                    schema.NUMERIC_VALUE: value,
                    _ROW: np.arange(self.frame.height),
                    **({} if text is None else {schema.TEXT_VALUE: text}),
                }
            )
            parts.append(part.filter(present))
        return pl.concat(parts, how="diagonal")

    def without_bad_rows(self, events: pl.DataFrame) -> pl.DataFrame:
        """What `events` gave, without the rows that did not fit, be it in events of another kind."""
        return events.filter(~pl.Series(self.bad).gather(events[_ROW])).drop(_ROW)

    def _codes(
        self, spec: EventSpec, keep: pl.Series
    ) -> Iterator[tuple[pl.Series, pl.Series, pl.Series | None, pl.Series]]:
        """(code, value, text, which rows), once for a long table, once a column for a wide one."""
        if spec.wide is None:
            code = self._fill(spec.code or "")
            text = self.frame[spec.text].cast(pl.String) if spec.text else None
            value = self._values(spec, keep)
            if text is not None:
                text = pl.select(pl.when(value.is_null()).then(text)).to_series()
            yield code, value, text, keep
            return
        names = spec.wide if isinstance(spec.wide, dict) else {column: column for column in spec.wide}
        for column, template in names.items():
            filled = keep & self.frame[column].is_not_null()
            value = self._numbers(self.frame[column], column, filled, strict=True)
            yield self._fill(template), value, None, filled

    def _fill(self, template: str) -> pl.Series:
        """What a template gives, row by row."""
        return fill_template(self.frame, template, self.lookups)

    def _values(self, spec: EventSpec, keep: pl.Series) -> pl.Series:
        if spec.value is None:
            return pl.repeat(None, self.frame.height, dtype=pl.Float32, eager=True)
        if isinstance(spec.value, float):
            return pl.repeat(spec.value, self.frame.height, dtype=pl.Float32, eager=True)
        return self._numbers(self.frame[spec.value], spec.value, keep, strict=spec.text != spec.value)

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

    def _times(self, spec: EventSpec, keep: pl.Series) -> pl.Series:
        """Times without a zone: UTC where a zone is known, else as they stand."""
        time = pl.repeat(None, self.frame.height, dtype=pl.Datetime("us"), eager=True)
        columns = spec.times()
        for column in columns:
            cells = self._fill(column) if fields_of(column) else self.frame[column]
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
