"""Labels in files of their own, in the MEDS label schema."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ehrseq.errors import DataError
from ehrseq.files import digest_files
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards
from ehrseq.tasks.labels import Labels, read_label_files


@dataclass(frozen=True)
class LabelFiles:
    """A parquet file, or a folder of them, nested or not.

    Attributes:
        path: The file or folder.
    """

    path: str

    def fingerprint(self) -> dict[str, Any]:
        """Digest of the files."""
        paths = self._paths()
        root = Path(self.path).expanduser()
        return {"labels": digest_files(paths, root if root.is_dir() else root.parent)}

    def labels(self, dataset: Path, name: str) -> Labels:  # noqa: ARG002
        """Read and check them; see `LabelMaker.labels`.

        Raises:
            DataError: Also if a label is of a subject who has no events in the dataset.
        """
        frame = read_label_files(self._paths(), Path(self.path))
        subjects = frame[schema.SUBJECT_ID].unique().to_numpy()
        unknown = np.setdiff1d(subjects, _subjects(dataset))
        if len(unknown):
            raise DataError(
                f"{self.path}: {len(unknown)} of {len(subjects)} labelled subjects have no events in {dataset}, the "
                f"first is {unknown[0]}; are the labels of other data?"
            )
        return Labels(frame, [("labels read", frame.height)])

    def _paths(self) -> list[Path]:
        path = Path(self.path).expanduser()
        if not path.exists():
            raise DataError(f"task.labels.path={self.path} does not exist")
        return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


def _subjects(dataset: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All subjects with events."""
    found = [np.zeros(0, np.int64)]
    for shard in list_shards(dataset):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=1 << 20, columns=[schema.SUBJECT_ID]):
                found.append(batch.column(0).unique().to_numpy(zero_copy_only=False).astype(np.int64))
    return np.unique(np.concatenate(found))
