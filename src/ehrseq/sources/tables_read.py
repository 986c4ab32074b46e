"""Reading tables batch by batch, each cell as the text that stands in the file, and nothing passed over in silence."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from ehrseq.errors import DataError, suggest
from ehrseq.meds.read import refuse_damage

_BLOCK = 1 << 24
_ROWS = 1 << 20
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".psv": "|"}
_COMPRESSED = (".gz", ".bz2", ".zst")
SUFFIXES = (*_SEPARATORS, ".parquet", *(end + more for end in _SEPARATORS for more in _COMPRESSED))


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


def read_batches(
    path: Path, columns: Sequence[str], separator: str | None, nulls: Sequence[str]
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Some columns of a table.

    Args:
        path: CSV, TSV or Parquet, CSV perhaps compressed.
        columns: Which.
        separator: Between cells; None: by the suffix.
        nulls: Cells that say that there is nothing.

    Yields:
        (number of the first row, frame). In CSV the header is row 1 and all columns are text; in Parquet the first row
        is 0.

    Raises:
        DataError: If the file cannot be read, lacks a column, or a row has too many or too few cells.
    """
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, columns)
    else:
        yield from _read_csv(path, columns, separator or _separator(path), nulls)


def column_names(path: Path, separator: str | None) -> list[str]:
    """The columns of a table.

    Raises:
        DataError: If the file cannot be read.
    """
    if path.suffix.lower() != ".parquet":
        return _header(path, separator or _separator(path))
    with refuse_damage(path):
        return list(pq.read_schema(path).names)


def _separator(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
    return _SEPARATORS.get(suffixes[-1] if suffixes else "", ",")


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    with refuse_damage(path), pq.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names, columns)
        row = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield row, frame.select(columns)
            row += frame.height


def _read_csv(
    path: Path, columns: Sequence[str], separator: str, nulls: Sequence[str]
) -> Iterator[tuple[int, pl.DataFrame]]:
    _check_columns(path, _header(path, separator), columns)
    faults: list[str] = []

    def note(row: pc.InvalidRow) -> str:
        # The reader counts rows from the header on, when it reads in one thread.
        faults.append(
            f"{path}, row {row.number}: expected {row.expected_columns} cells, found {row.actual_columns}: "
            f"{row.text[:60]!r}"
        )
        return "error"

    row = 2
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            reader = pc.open_csv(
                stream,
                pc.ReadOptions(use_threads=False, block_size=_BLOCK),
                pc.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=note),
                pc.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=list(nulls),
                    strings_can_be_null=True,
                ),
            )
            for batch in reader:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield row, frame
                row += frame.height
    except (OSError, EOFError, pa.ArrowException) as error:
        if faults:
            raise DataError(faults[0]) from error
        if "UTF8" in str(error):
            raise DataError(_find_bad_text(path)) from error
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); is it complete?") from error


def _header(path: Path, separator: str) -> list[str]:
    """The names in the first row."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            start = stream.read(1 << 16)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); is it complete?") from error
    line = start.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].strip()
    if not line:
        raise DataError(f"{path} is empty: expected a row with the names of the columns")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(_find_bad_text(path)) from error
    return [name.strip().strip('"') for name in text.split(separator)]


def _check_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            raise DataError(f"{path}, row 1: no column {name}; {suggest(name, list(found))}")
        if list(found).count(name) > 1:
            raise DataError(f"{path}, row 1: column {name} is there twice; give the columns different names")


def _find_bad_text(path: Path) -> str:
    """A message that names the first row that is not UTF-8."""
    with pa.input_stream(str(path), compression="detect") as stream:
        row, rest = 1, b""
        while block := stream.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    return f"{path}, row {row}: byte {line[error.start]:#04x} is not UTF-8; save the table as UTF-8"
                row += 1
    return f"{path}, row {row}: is not UTF-8; save the table as UTF-8"
