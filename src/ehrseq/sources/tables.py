"""Tables out of a warehouse, described in YAML: CSV, TSV or Parquet, long or wide. See docs/tables.md."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.errors import DataError
from ehrseq.files import digest_file, digest_files
from ehrseq.meds import schema, write
from ehrseq.meds.build import DatasetBuilder
from ehrseq.sources.base import Progress, Source, require_folder
from ehrseq.sources.tables_convert import Converter, Lookup, Lookups
from ehrseq.sources.tables_read import find_files, read_batches
from ehrseq.sources.tables_spec import Description, TableSpec, read_description

_BYTES_A_ROW = 40  # for a guess of the number of rows, which decides the number of shards
_PLAIN_ID = r"^(0|-?[1-9][0-9]{0,17})$"
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
        folder, description, files = self._open()
        paths = [path for found in files.values() for path in found]
        paths += [path for name, spec in description.lookups.items() for path in find_files(folder, name, spec.file)]
        return {
            "adapter": self.name,
            "version": 1,
            "description": digest_file(self._description_file())[:16],
            "tables": digest_files(set(paths), folder),
        }

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset; see `Source.write`."""
        folder, description, files = self._open()
        lookups = {name: Lookup.read(folder, name, spec) for name, spec in description.lookups.items()}
        counts = write_tables(description, files, lookups, root, progress)
        write_metadata(root, sorted(counts.codes), description.name)
        return counts.numbers

    def _open(self) -> tuple[Path, Description, dict[str, list[Path]]]:
        """The folder, the description, the files of each table."""
        folder = require_folder(self.path, "the folder of the tables")
        description = read_description(self._description_file())
        files = {name: find_files(folder, name, table.file) for name, table in description.tables.items()}
        return folder, description, files

    def _description_file(self) -> Path:
        if not self.description:
            raise DataError("source.description is not set: give the YAML file that describes the tables")
        return Path(self.description).expanduser()


@dataclass
class TableCounts:
    """What came of the tables.

    Attributes:
        numbers: Subjects, events, rows left out, repairs.
        codes: All codes.
    """

    numbers: dict[str, int]
    codes: set[str] = field(default_factory=set)


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
                converter = Converter(frame, path, first, table, lookups, description.bad_rows == "drop")
                subject, keep = converter.subjects(plain, originals)
                parts = [converter.events(event, subject, keep) for event in table.events]
                for part in parts:  # only now it is known which rows do not fit
                    builder.add(converter.without_bad_rows(part))
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
