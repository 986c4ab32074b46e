"""A MEDS dataset that is there already; it is read where it lies and never copied.

McDermott et al. 2025, "The Medical Event Data Standard", https://github.com/Medical-Event-Data-Standard/meds.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from flexible_schema.exceptions import SchemaValidationError
from meds.schema import CodeMetadataSchema, DatasetMetadataSchema, SubjectSplitSchema

from ehrseq.errors import DataError
from ehrseq.files import digest_files, read_json
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards
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
        _check_table(root / schema.CODES_FILE, CodeMetadataSchema)
        _check_table(root / schema.SPLITS_FILE, SubjectSplitSchema)
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
    try:
        DatasetMetadataSchema(**facts)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} is not MEDS dataset metadata: {error}") from error


def _check_table(path: Path, contract: Any) -> None:
    """Check a table of the metadata, which may be absent, against the `meds` package's schema."""
    if not path.is_file():
        return
    try:
        # Not pq.read_table: that imports pandas.
        with pq.ParquetFile(path) as file:
            contract.align(file.read())
    except (OSError, pa.ArrowException, ValueError, TypeError, SchemaValidationError) as error:
        raise DataError(f"{path} is not as MEDS has it: {error}") from error
