"""Labels in files of their own, in the MEDS label schema."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehrseq.errors import DataError
from ehrseq.files import digest_files
from ehrseq.meds import schema
from ehrseq.meds.read import list_shards, read_subjects
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
        known = np.concatenate([read_subjects(shard) for shard in list_shards(dataset)])
        unknown = np.setdiff1d(subjects, known)
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
