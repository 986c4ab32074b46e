"""A MEDS dataset that is there already; it is read where it lies and never copied.

McDermott et al. 2025, "The Medical Event Data Standard", https://github.com/Medical-Event-Data-Standard/meds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehrseq.errors import DataError
from ehrseq.files import digest_files, read_json
from ehrseq.meds import schema
from ehrseq.meds.read import is_text, list_shards
from ehrseq.sources.base import Progress, Source, require_folder

_OLDEST = (0, 4)


@dataclass(frozen=True)
class MedsSource(Source):
    """A folder with `data/**/*.parquet` and `metadata/`, as MEDS 0.4 has it.

    Attributes:
        path: The folder.
    """

    path: str | None

    name = "meds"

    @cached_property
    def dataset(self) -> Path:
        """The folder, its metadata checked; events are checked when they are read."""
        root = require_folder(self.path, "the folder of the MEDS dataset")
        list_shards(root)
        _check_dataset_json(root / schema.DATASET_FILE)
        _check_table(root / schema.CODES_FILE, text=("code", "description"), needed=("code",))
        _check_table(root / schema.SPLITS_FILE, text=("split",), whole=("subject_id",), needed=("subject_id", "split"))
        return root

    def fingerprint(self) -> dict[str, Any]:
        """Digest of events, metadata and labels."""
        root = self.dataset
        folders = (schema.DATA, schema.METADATA, schema.LABELS)
        files = [
            path for folder in folders for path in (root / folder).rglob("*") if path.suffix in (".parquet", ".json")
        ]
        return {"adapter": self.name, "version": 1, "files": digest_files(files, root)}

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Never needed: `dataset` is there."""
        raise NotImplementedError


def _check_dataset_json(path: Path) -> None:
    """Refuse datasets of versions before 0.4; the file may be absent."""
    if not path.is_file():
        return
    facts = read_json(path)
    version = str(facts.get("meds_version", "")) if isinstance(facts, dict) else ""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise DataError(f"{path}: meds_version is {version}, ehrseq reads 0.4 and later; {schema.UPGRADE_HINT}")
    if not isinstance(facts, dict):
        raise DataError(f"{path} is not MEDS dataset metadata: it holds no object")


def _check_table(path: Path, text: Sequence[str] = (), whole: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
    """Check a table of the metadata, which may be absent.

    Here and not by the `meds` package, whose JSON schemas take longer to import than a small dataset to prepare; what
    our own sources write is checked by it.
    """
    if not path.is_file():
        return
    try:
        columns = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); is it complete?") from error
    for name in needed:
        if name not in columns.names:
            raise DataError(f"{path}: no column {name}, which MEDS has there; found {', '.join(columns.names)}")
    for names, fits, kind in ((text, is_text, "string"), (whole, pa.types.is_integer, "int64")):
        for name in names:
            if name in columns.names and not fits(columns.field(name).type):
                raise DataError(f"{path}, column {name}: type {columns.field(name).type}, MEDS has {kind}; cast it")
